"""A server of queues and of nothing else, and a client that sees every message."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from workermand.services.channel import wire
from workermand.services.links import wire as links
from workermand.services.links.errors import ServiceError
from workermand.testing import RunningServer, running_server

HANDLER = """
from workermand.services.channel import queueing, wire
from workermand.services.channel.items import Limits


async def on_worker_start(worker):
    queueing.OWED = worker.options.get("owed", queueing.OWED)
    limits = Limits(**worker.options.get("limits", {}))
    worker.queueing = queueing.Queueing(worker, persist=worker.options.get("persist", False), limits=limits)
    await worker.queueing.start()


def on_message(connection, body):
    op, *rest = wire.decode(body)
    assert op in connection.worker.queueing.ops
    connection.worker.queueing.hear(connection, op, *rest)


def on_buffer_drain(connection):
    connection.worker.queueing.is_drained(connection)


def on_error(connection, code, message):
    pass


def on_close(connection):
    connection.worker.queueing.gone(connection)


async def on_worker_stop(worker):
    await worker.queueing.close()
"""


class Client:
    """Blocking; ServiceError for what the server refuses."""

    def __init__(self, server: RunningServer) -> None:
        self.socket = server.connect()
        self.items: list[tuple[str, str, int, bytes]] = []
        """That have come while an answer was waited for: queue, id, attempt, envelope."""
        self._numbers = iter(range(1, 10**9))
        self._buffer = b""

    def ask(self, op: int, *rest: Any) -> Any:
        return self.answer_to(self.send(op, *rest))

    def send(self, op: int, *rest: Any) -> int:
        number = next(self._numbers)
        self.socket.sendall(links.pack((op, number, *rest)))
        return number

    def answer_to(self, number: int) -> Any:
        while True:
            op, to, *rest = self._read()
            if op == wire.ITEM:
                self.items.append(tuple(rest))  # type: ignore[arg-type]
            elif op == links.FAIL and to == number:
                raise ServiceError(rest[0])
            elif to == number:
                return rest[0]

    def item(self) -> tuple[str, str, int, bytes]:
        """The next one."""
        while not self.items:
            op, _, *rest = self._read()
            assert op == wire.ITEM
            self.items.append(tuple(rest))  # type: ignore[arg-type]
        return self.items.pop(0)

    def enqueue(self, *queues: str, envelope: bytes = b"data", delay: float = 0.0) -> None:
        self.ask(wire.ENQUEUE, queues, envelope, delay)

    def watch(
        self, queue: str = "jobs", credit: int = 1, deadline: float = 60.0, retries: int = 5, retry_delay: float = 0.0
    ) -> None:
        self.ask(wire.WATCH, queue, credit, deadline, retries, retry_delay)

    def acknowledge(self, item: tuple[str, str, int, bytes]) -> bool:
        return bool(self.ask(wire.ACKNOWLEDGE, item[0], item[1]))

    def refuse(self, item: tuple[str, str, int, bytes], delay: float | None = None, dead: bool = False) -> bool:
        return bool(self.ask(wire.REFUSE, item[0], item[1], delay, dead))

    def _read(self) -> list[Any]:
        while len(self._buffer) < 4 or len(self._buffer) < int.from_bytes(self._buffer[:4], "big"):
            piece = self.socket.recv(1 << 20)
            if not piece:
                raise ConnectionError("the server has closed")
            self._buffer += piece
        length = int.from_bytes(self._buffer[:4], "big")
        body, self._buffer = self._buffer[4:length], self._buffer[length:]
        return links.unpack(body)

    def close(self) -> None:
        self.socket.close()


@contextlib.contextmanager
def serving(**worker: Any) -> Iterator[RunningServer]:
    with running_server(
        "handler",
        listen="frame://127.0.0.1:0",
        files={"handler.py": HANDLER},
        reloadable=False,
        timeouts={"stop": 2},
        **worker,
    ) as server:
        yield server


def pid_of(server: RunningServer) -> int:
    (process,) = server.status()["processes"]
    return int(process["pid"])
