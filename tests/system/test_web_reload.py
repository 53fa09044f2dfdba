"""Reloads and stops of a daemon whose clients speak HTTP and WebSocket: no request is lost, and everybody is told."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.certs import Authority
from workermand.testing import RunningServer, running_server

HANDLER = {
    "web.py": """
def on_message(connection, data):
    connection.send(data if isinstance(data, str) else data.path)

def on_websocket_connected(connection, request):
    pass
"""
}
BROWSERS = 12
SOCKETS = 20


class Browser:
    """Asks again and again over a connection that it keeps, until it is told that an answer was the last one."""

    def __init__(self, server: RunningServer, stop: threading.Event) -> None:
        self.server = server
        self.stop = stop
        self.seen: Counter[str] = Counter()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        while not self.stop.is_set():
            with self.server.connect() as client, client.makefile("rb") as answers:
                self.seen["connections"] += 1
                while not self.stop.is_set() and self._ask(client, answers):
                    pass

    def _ask(self, client: socket.socket, answers: object) -> bool:
        path = f"/{self.seen['answers']}"
        try:
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            head = dict(line.lower().partition(b": ")[::2] for line in iter(answers.readline, b"\r\n") if line)  # type: ignore[attr-defined]
            length = int(head[b"content-length"])
            body = answers.read(length)  # type: ignore[attr-defined]
        except (OSError, KeyError) as error:
            self.seen[f"lost: {error!r}"] += 1
            return False
        self.seen["answers" if body == path.encode() else f"wrong: {body!r}"] += 1
        return head.get(b"connection") != b"close\r\n"


@contextlib.contextmanager
def browsers(server: RunningServer) -> Iterator[list[Browser]]:
    stop = threading.Event()
    made = [Browser(server, stop) for _ in range(BROWSERS)]
    try:
        yield made
    finally:
        stop.set()
        for browser in made:
            browser.thread.join()


def code_of(client: ClientConnection) -> int | None:
    """The close code that the server ends it with."""
    try:
        client.recv(timeout=60)
    except ConnectionClosed as end:
        return end.rcvd.code if end.rcvd is not None else None
    raise AssertionError("a message came")


def test_no_request_is_lost_and_websockets_are_told_to_come_back() -> None:
    with (
        running_server("web", files=HANDLER, listen="http://127.0.0.1:0", count=2, timeouts={"stop": "3s"}) as server,
        contextlib.ExitStack() as stack,
    ):
        sockets = [stack.enter_context(connect(f"ws://127.0.0.1:{server.port}/")) for _ in range(SOCKETS)]
        with browsers(server) as busy:
            for _ in range(3):
                server.reload()
            assert {code_of(client) for client in sockets} == {1012}
        seen = sum((browser.seen for browser in busy), Counter[str]())
    assert set(seen) == {"answers", "connections"}, seen
    assert seen["connections"] > BROWSERS, "some were told that it was the last answer"


def test_at_a_stop_they_are_told_that_we_go() -> None:
    with contextlib.ExitStack() as stack:
        with running_server("web", files=HANDLER, listen="websocket://127.0.0.1:0") as server:
            sockets = [stack.enter_context(connect(f"ws://127.0.0.1:{server.port}/")) for _ in range(SOCKETS)]
            idle = stack.enter_context(server.connect())
            server.stop()
        assert {code_of(client) for client in sockets} == {1001}
        assert idle.recv(10) == b""


@pytest.mark.parametrize("how", ["reload", "stop"])
def test_over_tls_too(how: str, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    cert, key = map(str, authority.issue())
    with contextlib.ExitStack() as stack:
        with running_server(
            "web", files=HANDLER, listen="wss://127.0.0.1:0", tls={"cert": cert, "key": key}, timeouts={"stop": "2s"}
        ) as server:
            client = stack.enter_context(connect(f"wss://localhost:{server.port}/", ssl=authority.client()))
            client.send("hello")
            assert client.recv(timeout=60) == "hello"
            getattr(server, how)()
            assert code_of(client) == (1012 if how == "reload" else 1001)
