"""apps.push_by_uid: a browser with a name, and a program that pushes to it."""

from __future__ import annotations

import contextlib
import json
import socket

from websockets.sync.client import ClientConnection, connect

from tests.conftest import wait_until
from workermand.testing import running_server


def test_a_push_reaches_whom_it_is_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    options = {"listen": f"text://127.0.0.1:{port}"}
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(
            running_server("apps.push_by_uid", listen="websocket://127.0.0.1:0", options=options)
        )
        program = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        answers = stack.enter_context(program.makefile("r"))

        def push(uid: object, **values: str) -> str:
            program.sendall(json.dumps({"uid": uid, **values}).encode() + b"\n")
            return answers.readline()

        def browser(uid: str) -> ClientConnection:
            client = stack.enter_context(connect(f"ws://127.0.0.1:{server.port}/"))
            client.send(uid)
            return client

        anne, bert = browser("anne"), browser("bert")
        wait_until("both are known", lambda: push("anne") == push("bert") == "ok\n")
        assert push("anne", percent="88%") == "ok\n"
        heard = iter(anne)
        assert next(message for message in heard if "percent" in str(message)) == '{"uid": "anne", "percent": "88%"}'
        assert push("nobody") == push(["x"]) == "fail\n"
        program.sendall(b"no JSON\n")
        assert answers.readline() == "fail\n"
        bert.close()
        wait_until("bert is gone", lambda: push("bert") == "fail\n")
        assert push("anne") == "ok\n"
