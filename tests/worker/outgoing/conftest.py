"""A stage for outgoing connections: the Scene of tests/worker with the process's Clients, and played servers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from tests.worker.outgoing.nameserver import NameServer
from tests.worker.scene import Scene
from workermand import AsyncTcpConnection
from workermand.errors import SendError
from workermand.worker.outgoing import clients
from workermand.worker.outgoing.clients import Clients
from workermand.worker.outgoing.names import Names

Play = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class ClientScene(Scene):
    """``log`` has what the callbacks of ``client()`` were told."""

    def __init__(self) -> None:
        super().__init__()
        self.clients = Clients(self.worker, {})
        clients.install(self.clients)
        self._asking: list[tuple[NameServer, Names]] = []

    async def names_of(self, server: NameServer) -> Names:
        """What asks it."""
        await server.start()
        names = Names(self.loop, [server.address])
        self._asking.append((server, names))
        return names

    def client(self, uri: str, **settings: Any) -> AsyncTcpConnection:
        """Its callbacks write into the log."""
        connection = AsyncTcpConnection(uri, **settings)
        connection.on_connect = lambda _connection: self.log.append("on_connect")
        connection.on_message = lambda _connection, data: self.log.append(data)
        connection.on_close = lambda connection: self.log.append(("on_close", connection.close_reason.name))
        connection.on_error = self._on_error
        return connection

    def _on_error(self, _connection: Any, code: SendError, words: str) -> None:
        self.log.append((code.name, words))

    def heard(self, *expected: Any) -> None:
        """Waits for so many entries of the log, which must be these."""
        self.until(lambda: len(self.log) >= len(expected))
        assert self.log == list(expected)

    async def see(self, expected: list[Any]) -> None:
        """The same in a coroutine."""
        while len(self.log) < len(expected):  # noqa: ASYNC110 -- there is no event for what is waited for
            await asyncio.sleep(0.001)
        assert self.log == expected

    async def see_any_order(self, expected: list[Any]) -> None:
        while len(self.log) < len(expected):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        assert sorted(map(repr, self.log)) == sorted(map(repr, expected))

    def reinstall(self) -> ClientScene:
        clients.install(self.clients)
        return self

    def close(self) -> None:
        self.run(self.clients.close(1.0))
        clients.install(None)
        assert not self.worker.outgoing
        for server, names in self._asking:
            server.transport.close()
            self.run(names.close())
        self.turn()
        super().close()


@pytest.fixture
def scene() -> Iterator[ClientScene]:
    made = ClientScene()
    yield made
    made.close()
    assert not made.failures


@contextlib.asynccontextmanager
async def playing(play: Play, path: str = "", **options: Any) -> AsyncIterator[int]:
    """A server on a port of its own, or on ``path``, which plays its part for every client."""
    tasks: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await play(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
            tasks.discard(task)

    if path:
        server = await asyncio.start_unix_server(serve, path)
    else:
        server = await asyncio.start_server(serve, options.pop("host", "127.0.0.1"), 0, **options)
    try:
        yield 0 if path else server.sockets[0].getsockname()[1]
    finally:
        server.close()
        while tasks:
            for task in list(tasks):  # also those that were accepted in the meantime
                task.cancel()
            await asyncio.sleep(0)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)


async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Takes all, says nothing."""
    while await reader.read(65536):
        pass
