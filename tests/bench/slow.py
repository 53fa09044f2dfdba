"""How long others wait beside clients that are slow on purpose: the one measure here that is a time."""

from __future__ import annotations

import contextlib
import itertools
import socket
import statistics
import threading
import time
from collections.abc import Iterator

from tests.conftest import wait_until
from workermand.testing import RunningServer, running_server

HANDLER = {
    "slow.py": """
import socket

LARGE = "x" * 400_000

def on_connect(connection):
    # The kernel would take up to 4 MB for each reader, and all of them more than it has for TCP.
    connection.get_socket().setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)

def on_message(connection, request):
    connection.send(LARGE if request.path == "/large" else "hello")
"""
}
GREETINGS = (
    b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n",
    b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n",
)
"""Of a slow header, a slow body and a slow reader."""
CLIENTS = 2_000
"""A third of each kind."""
READERS = len(range(2, CLIENTS, len(GREETINGS)))
PROBES = 1_000
SETTINGS = {
    "timeouts": {"header": "10m", "body": "10m", "write_stall": "10m"},
    "limits": {"http": {"body_rate": 1, "requests": 0}, "connections": 0},
}
"""None of them ends while it is measured: it is the worst minute that is looked at, not the one after it."""


@contextlib.contextmanager
def slow_clients(server: RunningServer) -> Iterator[None]:
    """The headers and bodies go on, each by a byte a second."""
    with contextlib.ExitStack() as stack:
        dripping: list[socket.socket] = []
        for greeting in itertools.islice(itertools.cycle(GREETINGS), CLIENTS):
            client = stack.enter_context(server.connect())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # a slow reader's answer stays with the server
            client.sendall(greeting)
            if greeting is not GREETINGS[2]:
                dripping.append(client)
        wait_until("all are there", lambda: server.status()["processes"][0]["connections"] >= CLIENTS)
        wait_until("all readers are stalled", lambda: _stalled(server) == READERS)
        stop = threading.Event()
        thread = threading.Thread(target=_drip, args=(dripping, stop))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def _stalled(server: RunningServer) -> int:
    return sum(row["send_queue"] > 0 for row in server.ask("connections")["connections"])


def _drip(clients: list[socket.socket], stop: threading.Event) -> None:
    while not stop.wait(1):
        for client in clients:
            client.send(b"a")


def probe(server: RunningServer) -> float:
    """Milliseconds from connect to the end of the answer."""
    began = time.monotonic()
    with server.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        with client.makefile("rb") as answer:
            assert answer.read().endswith(b"\r\n\r\nhello")
    return (time.monotonic() - began) * 1e3


def latency() -> tuple[float, float, float]:
    """Milliseconds: the median, the 99th percentile, and the longest of all probes."""
    with running_server("slow", files=HANDLER, listen="http://127.0.0.1:0", **SETTINGS) as server:
        with slow_clients(server):
            took = [probe(server) for _ in range(PROBES)]
            assert _stalled(server) == READERS
            left = server.status()["processes"][0]["connections"]
            assert left >= CLIENTS, f"{CLIENTS - left} slow clients were closed while it was measured"
    return statistics.median(took), statistics.quantiles(took, n=100)[98], max(took)
