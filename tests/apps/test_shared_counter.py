"""apps.shared_counter: the daemon of its first lines, with four processes and many clients, and with the server killed
in between."""

from __future__ import annotations

import http.client
import json
import re
import threading
from collections import Counter
from pathlib import Path
from typing import Any

from tests.services.globaldata.conftest import children
from workermand.testing import RunningServer, running_server


def documented() -> str:
    """The configuration of the module's first lines, with a free port."""
    text = Path("apps/shared_counter.py").read_text()
    found = re.search(r"    \[worker\.globaldata\].*?count = 4\n", text, re.DOTALL)
    assert found is not None
    return re.sub(r"(?m)^ {4}", "", found[0]).replace(":2351", ":0")


def ask(server: RunningServer, path: str, method: str = "GET", body: str | None = None) -> tuple[int, Any]:
    host, port = server.addresses["counter"][0]
    client = http.client.HTTPConnection(str(host), int(port), timeout=60)
    try:
        client.request(method, path, body)
        answer = client.getresponse()
        text = answer.read()
        return answer.status, json.loads(text) if text.startswith(b"{") else text
    finally:
        client.close()


def test_all_processes_count_together() -> None:
    with running_server(documented()) as server:
        answers: list[dict[str, Any]] = []

        def visit(number: int) -> None:
            for round_ in range(15):
                status, answer = ask(server, "/cats" if (number + round_) % 3 else "/dogs")
                assert status == 200
                answers.append(answer)

        threads = [threading.Thread(target=visit, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        counts = Counter(answer["page"] for answer in answers)
        assert counts == {"cats": 160, "dogs": 80}
        for page, visits in counts.items():
            assert sorted(answer["visits"] for answer in answers if answer["page"] == page) == list(
                range(1, visits + 1)
            )
        assert len({answer["process"] for answer in answers}) > 1
        assert ask(server, "/?top=1") == (200, {"cats": 160})
        assert ask(server, "/cats", "PUT", "5")[0] == 204
        assert ask(server, "/cats")[1]["visits"] == 6
        assert ask(server, "/new", "PUT", "7")[0] == 204
        assert ask(server, "/")[1] == {"dogs": 80, "new": 7, "cats": 6}


def test_it_goes_on_when_the_server_was_killed() -> None:
    text = documented().replace("reloadable = false", "reloadable = false\noptions = { persist = true }")
    with running_server(text) as server:
        assert ask(server, "/cats")[1]["visits"] == 1
        server.ctl("restart", "globaldata")
        assert ask(server, "/cats")[1]["visits"] == 2
        assert len(children(server)) == 5
