"""apps.group_send: the daemon of its first lines, and browsers in all of its processes."""

from __future__ import annotations

import json
import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

from tests.conftest import PATIENCE, wait_until
from workermand.testing import running_server


def documented() -> str:
    text = Path("apps/group_send.py").read_text()
    found = re.search(r"    \[worker\.channel\].*?count = 4\n", text, re.DOTALL)
    assert found is not None
    return re.sub(r"(?m)^ {4}", "", found[0]).replace(":4238", ":0") + "reuse_port = true\n"


def say(browser: ClientConnection, **command: Any) -> None:
    browser.send(json.dumps(command))


def hear(browser: ClientConnection) -> Any:
    return json.loads(browser.recv(timeout=PATIENCE))


def test_what_is_sent_to_a_group_comes_to_its_members() -> None:
    with running_server(documented()) as server, ExitStack() as stack:
        host, port = server.addresses["groups"][0]
        tea, coffee = ([stack.enter_context(connect(f"ws://{host}:{port}/")) for _ in range(12)] for _ in range(2))
        for group, members in (("tea", tea), ("coffee", coffee)):
            for browser in members:
                say(browser, cmd="join", group=group)
                assert hear(browser)["joined"] == group
        for number, browser in enumerate(tea):
            say(browser, cmd="send", group="coffee", text=f"milk {number}?")
        for browser in coffee:
            heard = sorted((hear(browser)["text"] for _ in tea), key=lambda text: int(text[5:-1]))
            assert heard == [f"milk {number}?" for number in range(len(tea))]
        for browser in tea[1:]:
            say(browser, cmd="leave", group="tea")
            assert hear(browser) == {"left": "tea", "was_in": True}
        say(tea[1], cmd="send", group="tea", text="anybody?")
        assert hear(tea[0]) == {"group": "tea", "text": "anybody?"}
        coffee[0].close()

        def is_out() -> bool:
            say(tea[0], cmd="join", group="coffee")
            hear(tea[0])
            say(tea[0], cmd="leave", group="coffee")
            return bool(hear(tea[0])["was_in"])

        wait_until("it goes on", is_out)
        for wrong in ("{", "[]", "{}", '{"cmd": "join", "group": 7}', '{"cmd": "dance", "group": "tea"}'):
            tea[0].send(wrong)
            assert "error" in hear(tea[0])
