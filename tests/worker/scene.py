"""A stage for tests of one process's connections: a real Worker and loop, transports in memory or real sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import msgspec
import pytest
import uvloop

from tests.conftest import PATIENCE
from workermand.protocols.base import Protocol
from workermand.protocols.text import Text
from workermand.spec import Limits, ListenSpec, WorkerSpec
from workermand.testing import MemoryTransport
from workermand.worker.connection import Connection
from workermand.worker.listener import Listener
from workermand.worker.worker import Worker

SPEC = WorkerSpec(name="echo", handler="apps.echo")
LOCALHOST = ("127.0.0.1", 0)


class Scene:
    """``log`` is what the test's callbacks write; ``failures`` what Worker.failed was told."""

    def __init__(self) -> None:
        self.loop = uvloop.new_event_loop()
        self.worker = Worker(SPEC, loop=self.loop)
        self.log: list[Any] = []
        self.failures: list[tuple[str, str]] = []
        self.worker.failed = self._failed
        self._listeners: list[Listener] = []

    def _failed(self, where: str, connection: Any, error: BaseException) -> None:
        self.worker.stats.exceptions += 1
        self.failures.append((where, f"{type(error).__name__}: {error}"))

    def limit(self, **limits: Any) -> None:
        self.worker.apply(msgspec.structs.replace(SPEC, limits=Limits(**limits)))

    def on(self, **callbacks: Callable[..., Any]) -> None:
        """The worker's callbacks."""
        for name, callback in callbacks.items():
            setattr(self.worker, name, callback)

    def note(self, *names: str) -> None:
        """Callbacks that write their name and arguments, but the connection, into the log."""
        for name in names:
            self._note(name)

    def _note(self, name: str) -> None:
        if name == "on_message":
            self.worker.on_message = lambda _connection, data: self.log.append(data)
        elif name == "on_error":
            self.worker.on_error = lambda _connection, code, text: self.log.append((int(code), text))
        else:
            setattr(self.worker, name, lambda _connection: self.log.append(name))

    def connect(self, protocol: Protocol | None = None, *, stalled: bool = False) -> tuple[Connection, MemoryTransport]:
        """A client in memory. With coroutines at work, use ``run`` to let the loop turn."""
        connection = Connection(self.worker, protocol or Text(), self.worker.next_connection_id())
        transport = MemoryTransport()
        if stalled:
            transport.stall()
        transport.connect(connection.wire)
        return connection, transport

    def listen(self, protocol: type[Protocol] = Text, *, path: str = "", start: bool = True) -> Listener:
        """A real listener; ``address_of`` gives its address."""
        sock = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
        sock.bind(path or LOCALHOST)
        sock.listen(1000)
        transport: Any = "unix" if path else "tcp"
        port = 0 if path else sock.getsockname()[1]
        spec = ListenSpec(uri="test://", transport=transport, protocol=protocol.name, path=path, port=port)
        listener = Listener(self.worker, spec, [sock], protocol)
        self._listeners.append(listener)
        if start:
            listener.start()
        return listener

    async def dial(self, listener: Listener) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if listener.spec.path:
            return await asyncio.open_unix_connection(listener.spec.path)
        return await asyncio.open_connection("127.0.0.1", listener.spec.port)

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(coroutine, PATIENCE))

    def turn(self, times: int = 5) -> None:
        """Lets the loop go round: what is ready has run then."""
        for _ in range(times):
            self.loop.run_until_complete(asyncio.sleep(0))

    def until(self, condition: Callable[[], Any]) -> None:
        """Runs the loop until it is so."""
        self.run(until(condition))

    def close(self) -> None:
        for listener in self._listeners:
            listener.stop()
        for connection in list(self.worker.connections.values()):
            connection.destroy()
            if isinstance(connection.wire.transport, MemoryTransport):
                connection.wire.transport.settle()
        self.turn()
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        self.turn()
        self.loop.close()


async def until(condition: Callable[[], Any]) -> None:
    while not condition():  # noqa: ASYNC110 -- there is no event for what is waited for
        await asyncio.sleep(0.001)


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    made.close()
