"""Two thousand clients that are slow on purpose: others are served meanwhile, and each slow one is closed in time."""

from __future__ import annotations

import contextlib
import resource
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.conftest import wait_until
from workermand.testing import RunningServer, running_server

HANDLER = {
    "web.py": """
import socket

def on_connect(connection):  # else the kernel would take megabytes for each that does not read
    connection.get_socket().setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)

def on_message(connection, request):
    connection.send("x" * 400_000 if request.path == "/large" else "hello")
"""
}
EACH = 667
"""Of each kind."""
SETTINGS = {
    "timeouts": {"header": "3s", "body": "3s", "write_stall": "3s"},
    "limits": {"http": {"body_rate": 500}, "connections": 0},
}
GREETINGS = {
    "header timeout": b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ",
    "body timeout": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n",
    "write stall": b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n",
}


@pytest.fixture(autouse=True)
def many_files() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def ask(server: RunningServer) -> bytes:
    """A client like any other."""
    with server.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        return client.makefile("rb").read()


def drip(clients: list[socket.socket], stop: threading.Event) -> None:
    """A byte a second from each: enough to be no idle client."""
    while not stop.wait(1):
        for client in clients:
            with contextlib.suppress(OSError):
                client.send(b"a")


def test_slow_headers_slow_bodies_and_slow_readers() -> None:
    with (
        running_server("web", files=HANDLER, listen="http://127.0.0.1:0", count=2, **SETTINGS) as server,
        contextlib.ExitStack() as stack,
    ):

        def closed() -> dict[str, int]:
            counts = dict.fromkeys(GREETINGS, 0)
            for process in server.status()["processes"]:
                for reason in counts:
                    counts[reason] += process["closed"].get(reason, 0)
            return counts

        dripping: list[socket.socket] = []
        for reason, greeting in GREETINGS.items():
            for _ in range(EACH):
                client = stack.enter_context(server.connect())
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                client.sendall(greeting)
                if reason != "write stall":
                    dripping.append(client)
        stop = threading.Event()
        thread = threading.Thread(target=drip, args=(dripping, stop))
        thread.start()
        try:
            while (now := closed()) != dict.fromkeys(GREETINGS, EACH):
                assert ask(server).endswith(b"\r\n\r\nhello"), now
        finally:
            stop.set()
            thread.join()
        wait_until("all are gone", lambda: sum(one["connections"] for one in server.status()["processes"]) == 0)
