"""Clients of one worker that come back to a server which comes and goes: nothing of a former connection is left."""

from __future__ import annotations

import contextlib
import json
import resource
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import wait_until
from workermand.testing import RunningServer, running_server

HANDLER = """
import asyncio
import collections
import gc
import json
import os

from workermand import AsyncTcpConnection, ConnectionStatus

KEPT = ("AsyncTcpConnection", "ClientWire", "Attempt", "TimerHandle")
clients = []
seen = collections.Counter()


def on_worker_start(worker):
    for _ in range(worker.options["clients"]):
        client = AsyncTcpConnection(worker.options["url"], auto_reconnect={"initial": 0.1, "max": 1})
        client.on_error = lambda *_: seen.update(["failed"])
        clients.append(client)


def on_message(connection, verb):
    connection.send(json.dumps(globals()[verb]()))


def connect():
    for client in clients:
        client.connect()


def destroy():
    for client in clients:
        client.destroy()


def state():
    opened = sum(client.status is ConnectionStatus.ESTABLISHED for client in clients)
    return {"open": opened, "failed": seen["failed"]}


def census():
    gc.collect()
    kinds = collections.Counter(type(each).__name__ for each in gc.get_objects())
    counted = {"descriptors": len(os.listdir("/proc/self/fd")), "tasks": len(asyncio.all_tasks())}
    return counted | {kind: kinds[kind] for kind in KEPT}
"""


class Asker:
    """The worker's listener, over one connection that stays."""

    def __init__(self, server: RunningServer, stack: contextlib.ExitStack) -> None:
        self._client = stack.enter_context(server.connect())
        self._answers = stack.enter_context(self._client.makefile())

    def __call__(self, verb: str) -> Any:
        self._client.sendall(f"{verb}\n".encode())
        return json.loads(self._answers.readline())


@contextlib.contextmanager
def upstream(port: int) -> Iterator[None]:
    """It accepts, and says nothing. It goes from one half with a FIN, from the other with a RST."""
    accepted: list[socket.socket] = []

    def accept() -> None:
        while True:
            try:
                accepted.append(listening.accept()[0])
            except OSError:
                return

    with socket.create_server(("127.0.0.1", port), backlog=65_535) as listening:
        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()
    for index, client in enumerate(accepted):
        if index % 2:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()


@pytest.fixture
def clients(full: bool) -> Iterator[int]:
    number = 10_000 if full else 1_000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < number + 1000:
        pytest.skip("this machine has too few descriptors for the clients")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield number
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_nothing_is_left_of_former_connections(clients: int, full: bool) -> None:
    # The port is below those of clients, and so none can meet itself there while the server is away.
    options = {"url": "tcp://127.0.0.1:0", "clients": clients}
    handler = {"crowd.py": HANDLER}
    with running_server("crowd", files=handler, options=options) as server, contextlib.ExitStack() as stack:
        port = int(server.spec.workers["main"].options["url"].rpartition(":")[2])
        ask = Asker(server, stack)
        before = ask("census")
        ask("connect")
        connected = {**before, "descriptors": before["descriptors"] + clients}
        for _ in range(10 if full else 4):
            with upstream(port):
                wait_until("all are connected", lambda: ask("state")["open"] == clients, 120)
                wait_until("nothing but the connections", lambda: is_equal(ask("census"), connected), 60)
            refused_so_often(ask, clients)
        ask("destroy")
        wait_until("nothing is left", lambda: is_equal(ask("census"), before), 60)


def refused_so_often(ask: Asker, often: int) -> None:
    before = ask("state")["failed"]
    wait_until("they try in vain", lambda: ask("state")["failed"] >= before + often, 120)


def is_equal(found: Any, expected: Any) -> bool:
    assert found == expected
    return True
