"""apps.job_queue: the daemon of its first lines; mailers and the queues' server are killed, and every mail is sent."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from websockets.sync.client import connect

from tests.conftest import PATIENCE, wait_until
from workermand.testing import RunningServer, running_server


def documented() -> str:
    text = Path("apps/job_queue.py").read_text()
    found = re.search(r"    \[worker\.channel\].*?count = 2\n", text, re.DOTALL)
    assert found is not None
    text = re.sub(r"(?m)^ {4}", "", found[0]).replace(":4239", ":0").replace(":4240", ":0")
    return text.replace("retry_delay = 5", "retry_delay = 0.01")


def ask(server: RunningServer, method: str, path: str, body: str = "") -> tuple[int, Any]:
    host, port = server.addresses["page"][0]
    client = http.client.HTTPConnection(str(host), int(port), timeout=PATIENCE)
    try:
        client.request(method, path, body)
        answer = client.getresponse()
        text = answer.read()
        return answer.status, json.loads(text) if text.startswith((b"[", b"{")) else None
    finally:
        client.close()


def test_sent_and_shown() -> None:
    with running_server(documented()) as server, ExitStack() as stack:
        host, port = server.addresses["board"][0]
        boards = [stack.enter_context(connect(f"ws://{host}:{port}/")) for _ in range(4)]
        names = {f"{number}@example.com" for number in range(40)}
        for name in names:
            assert ask(server, "POST", "/mails", json.dumps({"to": name}))[0] == 202
        for board in boards:
            shown = [json.loads(board.recv(timeout=PATIENCE)) for _ in names]
            assert {mail["sent"] for mail in shown} == names
            assert len({mail["by"] for mail in shown}) > 1
        assert ask(server, "POST", "/mails", "{")[0] == 400
        assert ask(server, "GET", "/nothing")[0] == 404


def test_what_cannot_be_sent_is_dead_and_may_be_replayed() -> None:
    with running_server(documented()) as server:
        assert ask(server, "POST", "/mails", '{"to": "nobody"}')[0] == 202
        wait_until("it is given up", lambda: ask(server, "GET", "/dead")[1])
        _status, (letter,) = ask(server, "GET", "/dead")
        assert letter["mail"] == {"to": "nobody"} and letter["attempts"] == 3
        assert ask(server, "POST", "/replay") == (200, {"replayed": 1})
        wait_until("it is given up again", lambda: ask(server, "GET", "/dead")[1])


MAILING = """
import os
from apps.job_queue import Mailer as Sender

class Mailer(Sender):
    async def send(self, address):
        await super().send(address)
        with open(os.environ["SENT"], "a") as sent:
            sent.write(address + "\\n")
"""


def test_killed_processes_lose_nothing(tmp_path: Path) -> None:
    """Every mail that the page has taken is sent: mailers die, and the queues' server with its memory."""
    sent = tmp_path / "sent"
    text = documented().replace("apps.job_queue:Mailer", "mailing:Mailer").replace("retries = 2", "retries = 20")
    with running_server(text, files={"mailing.py": MAILING}, env={"SENT": str(sent)}) as server:
        taken: set[str] = set()
        for round_ in range(4):
            for number in range(20):
                name = f"{round_}.{number}@example.com"
                if ask(server, "POST", "/mails", json.dumps({"to": name}))[0] == 202:
                    taken.add(name)
                if number == 10:
                    kill(server, "channel" if round_ % 2 else "mailer")
        assert len(taken) >= 60
        wait_until("all are sent", lambda: taken <= set(sent.read_text().splitlines()))
        assert ask(server, "GET", "/dead") == (200, [])


def kill(server: RunningServer, worker: str) -> None:
    for process in server.status()["processes"]:
        if process["worker"] == worker and process["pid"]:
            os.kill(process["pid"], signal.SIGKILL)
