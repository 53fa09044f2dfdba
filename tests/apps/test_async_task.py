"""apps.async_task: both workers in one daemon, and a browser that is not made to wait."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

from tests.conftest import PATIENCE
from workermand.testing import RunningServer, running_server

HELD = """
import os

from apps.async_task import Task

class Held(Task):
    def primes(self, below):
        if below == 1000:
            with open(os.environ["GATE"]) as gate:  # until the test opens it, too
                gate.read()
        return super().primes(below)
"""


def documented(front: str = "", task: str = "apps.async_task:Task") -> str:
    """The configuration of the module's first lines, with free ports."""
    text = Path("apps/async_task.py").read_text()
    found = re.search(r"    \[worker\.front\].*?count = 4\n", text, re.DOTALL)
    assert found is not None
    text = re.sub(r"(?m)^ {4}", "", found[0])
    return text.replace("apps.async_task:Task", task).replace("seconds = 60", f"seconds = 60{front}")


def with_ports(text: str, free_port: Any) -> str:
    return text.replace(":8282", ":0").replace(":12345", f":{free_port()}")


def front(server: RunningServer) -> ClientConnection:
    host, port = server.addresses["front"][0]
    return connect(f"ws://{host}:{port}/")


def ask(browser: ClientConnection, **job: int) -> None:
    browser.send(json.dumps(job))


def answer(browser: ClientConnection) -> Any:
    return json.loads(browser.recv(timeout=PATIENCE))


def test_answers(free_port: Any) -> None:
    with running_server(with_ports(documented(), free_port)) as server, front(server) as browser:
        for number, below in enumerate([10, 1_000_000, 3] * 3):
            ask(browser, id=number, below=below)
        got = sorted((answer(browser) for _ in range(9)), key=lambda job: int(job["id"]))
        assert [job["primes"] for job in got] == [4, 78498, 1] * 3
        for wrong in ("{", "[]", "{}", '{"below": -1}'):
            browser.send(wrong)
            assert "error" in answer(browser)


def test_nobody_waits_for_a_heavy_job(free_port: Any, tmp_path: Path) -> None:
    """One task worker is at work until this test says otherwise; meanwhile the others answer, and so does the front."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    text = with_ports(documented(task="held:Held"), free_port)
    with running_server(text, files={"held.py": HELD}, env={"GATE": str(gate)}) as server, front(server) as browser:
        ask(browser, id=1, below=1000)
        with gate.open("w"):  # the job has begun
            ask(browser, id=2, below=100)
            assert answer(browser) == {"id": 2, "below": 100, "primes": 25}
            with front(server) as another:
                ask(another, id=3, below=10)
                assert answer(another)["primes"] == 4
        assert answer(browser) == {"id": 1, "below": 1000, "primes": 168}


@pytest.mark.parametrize("kept", [False, True])
def test_a_job_that_is_not_done(free_port: Any, tmp_path: Path, kept: bool) -> None:
    """No task worker is there; or one that keeps the job for longer than is waited."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    text = with_ports(documented(task="held:Held"), free_port)
    if kept:
        text = text.replace("seconds = 60", "seconds = 0.2")
    else:
        text = text.replace('tasks = "text', 'tasks = "text://127.0.0.1:1", unused = "text')
    with running_server(text, files={"held.py": HELD}, env={"GATE": str(gate)}) as server, front(server) as browser:
        ask(browser, id=1, below=1000)
        got = answer(browser)
        assert got == {"job": '{"id": 1, "below": 1000}', "error": "no answer"}
        if kept:
            gate.open("w").close()
