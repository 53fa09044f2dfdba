"""apps.cluster_push: the daemon of its first lines, browsers in each of its processes, and curl's requests."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

from tests.conftest import PATIENCE
from workermand.testing import RunningServer, running_server


def documented() -> str:
    """The configuration of the module's first lines, with free ports; the kernel shares the browsers out."""
    text = Path("apps/cluster_push.py").read_text()
    found = re.search(r"    \[worker\.channel\].*?count = 2\n", text, re.DOTALL)
    assert found is not None
    text = re.sub(r"(?m)^ {4}", "", found[0]).replace(":4236", ":0").replace(":4237", ":0")
    return text.replace("count = 4", "count = 4\nreuse_port = true")


def push(server: RunningServer, text: str, to: str = "") -> tuple[int, Any]:
    host, port = server.addresses["push"][0]
    client = http.client.HTTPConnection(str(host), int(port), timeout=PATIENCE)
    try:
        client.request("POST", f"/?to={to}" if to else "/", text)
        answer = client.getresponse()
        body = answer.read()
        return answer.status, json.loads(body) if answer.status == 200 else None
    finally:
        client.close()


@contextlib.contextmanager
def browsers(server: RunningServer) -> Iterator[dict[str, ClientConnection]]:
    """By what they are told that they are: some in each of the four processes."""
    host, port = server.addresses["browsers"][0]
    found: dict[str, ClientConnection] = {}
    with contextlib.ExitStack() as stack:
        while len({name.partition("-")[0] for name in found}) < 4:
            browser = stack.enter_context(connect(f"ws://{host}:{port}/"))
            found[str(browser.recv(timeout=PATIENCE)).removeprefix("you are ")] = browser
        yield found


def test_to_all_and_to_one() -> None:
    with running_server(documented()) as server, browsers(server) as found:
        for round_ in range(3):
            assert push(server, f"news {round_}") == (200, {"processes": 4})
            for browser in found.values():
                assert browser.recv(timeout=PATIENCE) == f"news {round_}"
            for name, browser in found.items():
                assert push(server, f"for {name}", name) == (200, {"sent": True})
                assert browser.recv(timeout=PATIENCE) == f"for {name}"


def test_nobody_by_that_name() -> None:
    with running_server(documented()) as server, browsers(server) as found:
        process, _, number = next(iter(found)).partition("-")
        for name in (f"{process}-{int(number) + 1000}", f"9-{number}", "-", "x", "0-x", "*-1"):
            assert push(server, "hello?", name)[0] == 404
        assert push(server, "hello!", next(iter(found)))[0] == 200
