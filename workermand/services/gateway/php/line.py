"""Line: one TCP connection to a gateway in PHP. Packages go out, answers come back in the order of the questions, and
between them events, once it is a business worker's.

As answers and events are one stream, it is known of every event which changes were made before it was sent: those whose
answers came before it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import msgspec

from workermand import AsyncTcpConnection, CloseReason, Connection
from workermand.services.gateway import wire
from workermand.services.gateway.php.commands import IS_ALIVE, Asked, OutOfStep
from workermand.services.gateway.sessions import SessionError
from workermand.services.gateway.wire import Command, Package
from workermand.services.links.address import Address
from workermand.services.links.errors import Dropped, ServiceError, Unauthorized, Unreachable
from workermand.services.links.later import Later
from workermand.services.links.serialize import SerializeError, unserialize

KEY: Final = "is options.php.secret_key its secretKey?"

Done = Callable[[Any, ServiceError | None], None]
"""The result of a command, or why there is none."""


class Open(msgspec.Struct):
    """A command whose answers are on their way."""

    asked: Asked
    done: Done
    missing: int
    """Answers."""
    stamp: int
    answers: list[bytes] = []


class Line:
    """Process: any; thread: the one that runs the loop."""

    def __init__(
        self,
        address: Address,
        service: str,
        *,
        on_event: Callable[[Line, Package], None],
        on_end: Callable[[Line, str], None],
        timeout: float,
        send_buffer: int,
        package: int,
    ) -> None:
        """``on_end``: it has ended, and why; not before open() has returned. Nothing happens before that."""
        self.applied = 0
        """The stamp of the last change that was answered."""
        self.heard = False
        """Something has come since this was set to False."""
        self._where = f"{service} at {address}"
        self._on_event, self._on_end = on_event, on_end
        self._timeout = timeout
        self._limit = package
        self._open: deque[Open] = deque()
        self._opened = False
        self._idle: asyncio.Event | None = None
        self._gone = asyncio.Event()
        self._connection = connection = AsyncTcpConnection(address.uri, protocol=wire.Talk, timeout=timeout)
        connection.max_send_buffer_size = send_buffer
        connection.max_package_size = package
        connection.on_message = self._hear
        connection.on_error = self._failed
        connection.on_close = self._ended
        self._why = ""

    async def open(self, secret: str) -> None:
        """Waits until the gateway has answered something: so it has let us in. Raises Unreachable, Unauthorized; then
        it is closed."""
        first = Later[None](f"connect to {self._where}")
        hello = [Package(Command.GATEWAY_CLIENT_CONNECT, wire.json_bytes({"secret_key": secret}))] if secret else []
        self.ask(is_alive(hello), lambda _result, error: first.fail(error) if error else first.fulfil(None))
        self._connection.connect()
        try:
            async with asyncio.timeout(self._timeout):
                await first
        except TimeoutError:
            self.destroy()
            raise Unreachable(f"{self._where}: no answer within {self._timeout:g} s") from None
        except BaseException:
            self.destroy()
            raise
        if self.is_gone:
            raise Unreachable(f"{self._where}: {self._why}")
        self._opened = True

    @property
    def is_gone(self) -> bool:
        return self._gone.is_set()

    def ask(self, asked: Asked, done: Done, stamp: int = 0) -> None:
        """``done`` is called in any case; ``stamp`` is that of a change."""
        if self.is_gone:
            done(None, Unreachable(f"{self._where}: closed"))
            return
        if self._connection.send(b"".join(map(wire.pack, asked.packages)), raw=True) is False:
            done(None, Dropped(f"{self._where}: too much is unsent"))
            return
        waiting = Open(asked, done, asked.questions, stamp)
        if waiting.missing:
            self._open.append(waiting)
        else:
            self._settle(waiting)

    async def idle(self) -> None:
        """Waits until everything has been answered, or it has ended."""
        if self._open and not self.is_gone:
            self._idle = asyncio.Event()
            await self._idle.wait()

    async def leave(self, seconds: float) -> None:
        """Says that nothing more comes, and waits for what the gateway still has sent, until it closes."""
        if not self.is_gone:
            self._connection.wire.end_output()
            try:
                async with asyncio.timeout(seconds):
                    await self._gone.wait()
            except TimeoutError:
                self.destroy()

    def close(self) -> None:
        """What has been sent still goes out."""
        self._why = self._why or "closed"
        self._connection.close()

    def destroy(self, why: str = "closed") -> None:
        self._why = self._why or why
        self._connection.destroy()

    # ------------------------------------------------------------------ what comes

    def _hear(self, connection: Connection, message: Package | bytes) -> None:
        self.heard = True
        if isinstance(message, Package):
            if message.command in wire.EVENTS:
                self._on_event(self, message)
            return
        if not self._open:
            self.destroy("an answer that nobody has asked for")
            return
        waiting = self._open[0]
        waiting.answers.append(message)
        waiting.missing -= 1
        if not waiting.missing:
            self._open.popleft()
            self._settle(waiting)
            if self._idle is not None and not self._open:
                self._idle.set()

    def _settle(self, waiting: Open) -> None:
        self.applied = max(self.applied, waiting.stamp)
        try:
            result = waiting.asked.read([unserialize(answer, size=self._limit) for answer in waiting.answers])
        except (SerializeError, SessionError) as error:
            waiting.done(None, ServiceError(f"{self._where}: an answer that cannot be read: {error}"))
        except OutOfStep as error:
            waiting.done(None, ServiceError(f"{self._where}: {error}, and something else came"))
            self.destroy("its answers belong to other questions")
        else:
            waiting.done(result, None)

    # ------------------------------------------------------------------ how it ends

    def _failed(self, connection: Connection, code: int, words: str) -> None:
        self._why = self._why or words

    def _ended(self, connection: Connection) -> None:
        reason = connection.close_reason
        why = self._why or str(reason)
        error: ServiceError
        if not self._opened and reason is CloseReason.PEER_CLOSED:
            error = Unauthorized(f"{self._where} has closed the connection at once: {KEY}")
        elif not self._opened:
            error = Unreachable(f"{self._where}: {why}")
        else:
            error = Unreachable(f"{self._where}: {why}; what was asked for may or may not have been done")
        self._gone.set()
        if self._idle is not None:
            self._idle.set()
        while self._open:
            self._open.popleft().done(None, error)
        if self._opened:
            self._on_end(self, why)


def is_alive(packages: list[Package]) -> Asked:
    """These, and a question whose answer shows that they were taken."""
    return Asked([*packages, IS_ALIVE], _read_alive)


def _read_alive(answers: list[Any]) -> None:
    if answers != [None]:
        raise OutOfStep("nothing was asked for")
