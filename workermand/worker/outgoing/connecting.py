"""How an outgoing connection comes about: name, socket, proxy, TLS, WebSocket, within one deadline for all of it.

One task per attempt, which client.py begins and may cancel. Whatever goes wrong becomes words for on_error: which of
the steps it was, and why.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from workermand.errors import ConfigError, ConnectError
from workermand.worker.outgoing import dialing, proxies
from workermand.worker.outgoing.encryption import ClientStream

if TYPE_CHECKING:
    from workermand.worker.outgoing.client import AsyncTcpConnection
    from workermand.worker.outgoing.wire import ClientWire


class Attempt:
    """Process: the child; thread: the one that runs the loop."""

    def __init__(self, connection: AsyncTcpConnection, wire: ClientWire) -> None:
        self._connection = connection
        self._wire = wire
        self._loop = wire.worker.loop
        self.opened: asyncio.Future[None] = self._loop.create_future()
        """Messages may flow; or the exception that says why they never will."""
        self.step = ""
        """What is under way."""
        self._transport: asyncio.BaseTransport | None = None
        self._task = self._loop.create_task(self._run())

    def give_up(self) -> None:
        self._task.cancel()

    def succeed(self) -> None:
        if not self.opened.done():
            self.opened.set_result(None)

    def fail(self, words: str) -> None:
        """Whoever awaits connect() is told. Nobody need."""
        if not self.opened.done():
            self.opened.set_exception(ConnectError(words))
            self.opened.exception()  # retrieved, so that nobody complains that it never was

    async def _run(self) -> None:
        deadline = asyncio.timeout(self._connection.timeout or None)
        try:
            async with deadline:
                await self._go_through()
        except (OSError, ConnectError, ConfigError) as error:
            self._abort()
            late = deadline.expired()
            why = f"no answer within {self._connection.timeout:g} s" if late else dialing.words(error)
            self._wire.fail(self._connection.complaint(f"{self.step}: {why}" if self.step else why))
        except BaseException:
            self._abort()
            raise

    async def _go_through(self) -> None:
        connection, target, proxy = self._connection, self._connection.target, self._connection.proxy
        if target.transport == "unix":
            sock = await dialing.dial_unix(self._loop, target.path, connection.prepare)
        else:
            host, port = (target.host, target.port) if proxy is None else (proxy.host, proxy.port)
            self.step = "" if proxy is None else f"proxy {proxy!r}"
            sock = await dialing.dial(self._loop, connection.clients.names, host, port, connection.prepare)
        try:
            if proxy is not None:
                await proxies.negotiate(self._loop, sock, proxies.steps(proxy, target.host, target.port))
            self.step = ""
            await self._hand_over(sock)
        except BaseException:
            if self._transport is None:
                sock.close()
            raise
        await asyncio.shield(self.opened)

    async def _hand_over(self, sock: socket.socket) -> None:
        """The socket becomes uvloop's, and the wire begins, now or behind TLS."""
        wire, encryption = self._wire, self._connection.encryption
        lower: asyncio.Protocol = wire
        if encryption is not None:
            self.step = "TLS"
            lower = ClientStream(wire, encryption, self._tls_failed)
        if sock.family == socket.AF_UNIX:
            self._transport, _ = await self._loop.create_unix_connection(lambda: lower, sock=sock)
        else:
            self._transport, _ = await self._loop.create_connection(lambda: lower, sock=sock)

    def _tls_failed(self, why: str) -> None:
        self._wire.fail(self._connection.complaint(f"TLS: {why}"))

    def _abort(self) -> None:
        """What the wire does not know of yet; it aborts its own."""
        if self._transport is not None and not self._wire.has_begun:
            self._transport.abort()  # type: ignore[attr-defined]
