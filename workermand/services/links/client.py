"""Link: the asyncio side of a connection to a server of ours, which comes back by itself.

It proves the secret, numbers requests and finds their answers, pings, and reconnects with back-off and jitter. What a
service has to say again after that (its subscriptions) it says in ``on_up``, before anything that waits.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from workermand import AsyncTcpConnection, Connection, ConnectionStatus
from workermand.services.links import wire
from workermand.services.links.address import Address
from workermand.services.links.challenge import Asked
from workermand.services.links.errors import Dropped, ServiceError, Unreachable
from workermand.services.links.later import Later
from workermand.services.links.waiting import Waiting

logger = logging.getLogger(__name__)

BACKOFF: Final = {"initial": 0.2, "max": 10.0, "jitter": 0.5}
"""Seconds between attempts, and the part left to chance."""
FAREWELL: Final = 2.0
"""Seconds that a server which does not read has for what is unsent, when a link is closed."""
BUFFER: Final = 1024 * 1024
"""Bytes of requests that wait for the server to come back."""


class Link:
    """Process: a worker's; thread: the one that runs the loop."""

    def __init__(
        self,
        address: Address,
        service: str,
        *,
        secret: str = "",
        tls: Any = None,
        on_message: Callable[[list[Any]], None],
        on_up: Callable[[], None] = lambda: None,
        on_down: Callable[[str], None] = lambda why: None,
        ping: float = 25.0,
        timeout: float = 10.0,
        send_buffer: int = 16 * 1024 * 1024,
        package: int = 64 * 1024 * 1024,
    ) -> None:
        """``tls``: as of AsyncTcpConnection. ``ping`` and ``timeout``: seconds. ``send_buffer``: bytes that may be
        unsent while the link is up; ``package``: bytes of the largest message. Nothing happens before open()."""
        self.address = address
        self.up = False
        """It is connected, and the server has let it in."""
        self._service = service
        self._secret = secret
        self._on_message, self._on_up, self._on_down = on_message, on_up, on_down
        self._loop = asyncio.get_running_loop()
        self._ping, self._timeout = ping, timeout
        self._asked: Asked | None = None
        self._opening: Later[None] | None = None
        self._why = "not connected yet"
        self._numbers = itertools.count(1)
        self._waiting = Waiting(self._loop)
        self._queued: deque[tuple[int, bytes]] = deque()
        """Requests that wait for the server, by number."""
        self._queued_bytes = 0
        self._clock: asyncio.TimerHandle | None = None
        self._heard = True
        self._closed = False
        self._gone = asyncio.Event()
        """Set when a connection has ended."""
        self._connection = connection = AsyncTcpConnection(
            address.uri, protocol="frame", tls=tls, timeout=timeout, auto_reconnect=BACKOFF
        )
        connection.max_send_buffer_size = send_buffer
        connection.max_package_size = package
        connection.on_connect = self._connected
        connection.on_message = self._hear
        connection.on_error = self._failed
        connection.on_close = self._ended

    # ------------------------------------------------------------------ for engines

    async def open(self) -> None:
        """Waits until the server has let us in. Raises Unreachable, Unauthorized, ServiceError; then it is closed."""
        self._opening = Later(f"connect to {self.address}")
        self._connection.connect()
        try:
            async with asyncio.timeout(self._timeout):
                await self._opening
        except TimeoutError:
            await self.close()
            raise Unreachable(f"{self._service} at {self.address}: no answer within {self._timeout:g} s") from None
        except ServiceError:
            await self.close()
            raise

    def send(self, frame: bytes) -> bool:
        """A whole frame (wire.pack). False: the link is down, or its buffer full; nothing has been sent then."""
        return self.up and self._connection.send(frame, raw=True) is not False

    def request(
        self, op: int, *rest: Any, timeout: float | None = None, outcome: Later[Any] | None = None
    ) -> Later[Any]:
        """Sends ``[op, number, *rest]``: the result is the answer's. While the link is down it waits. ServiceError has
        the server's words; Unreachable: it broke meanwhile, and what was asked for may or may not have been done;
        TimedOut: no answer within ``timeout`` seconds; Dropped: too much waits. ``outcome``: told of the answer and
        returned, in place of a new one."""
        number = next(self._numbers)
        later: Later[Any] = Later(f"{self._service}: request {op}") if outcome is None else outcome
        frame = wire.pack([op, number, *rest])
        if not self.send(frame):
            if self.up or self._closed or self._queued_bytes + len(frame) > BUFFER:
                later.fail(Unreachable("closed") if self._closed else Dropped(f"{self.address}: too much is unsent"))
                return later
            self._queued.append((number, frame))
            self._queued_bytes += len(frame)
        self._waiting.add(number, later, self._timeout if timeout is None else timeout)
        return later

    @property
    def unsent(self) -> int:
        """Bytes."""
        return self._queued_bytes + self._connection.get_send_buffer_size()

    async def close(self) -> None:
        """What has been sent still goes out, within FAREWELL; what waits fails."""
        self._closed = True
        self._down("closed")
        self._connection.close()
        self._fail_queued(Unreachable("closed"))
        if self._connection.status is ConnectionStatus.CLOSING:
            try:
                async with asyncio.timeout(FAREWELL):
                    await self._gone.wait()
            except TimeoutError:
                self._connection.destroy()

    # ------------------------------------------------------------------ the connection

    def _connected(self, connection: Connection) -> None:
        self._gone.clear()
        self._asked = Asked(self._service, self._secret)
        connection.send(wire.body(self._asked.hello()))
        self._clock = self._loop.call_later(self._timeout, self._too_slow, "no welcome")

    def _hear(self, connection: Connection, packed: bytes) -> None:
        self._heard = True
        try:
            message = wire.unpack(packed)
            if self._asked is not None:
                self._shake(connection, message)
                return
        except ServiceError as error:
            self._refused(error)
            return
        op = message[0]
        if op >= wire.FIRST:
            self._on_message(message)
        elif op == wire.OK:
            self._waiting.fulfil(message[1], message[2] if len(message) > 2 else None)
        elif op == wire.FAIL:
            self._waiting.fail(message[1], ServiceError(str(message[2]) if len(message) > 2 else "refused"))
        elif op == wire.PING:
            connection.send(wire.body([wire.PONG, 0]))

    def _shake(self, connection: Connection, message: list[Any]) -> None:
        assert self._asked is not None
        if (answer := self._asked.hear(message)) is not None:
            connection.send(wire.body(answer))
        if self._asked.is_done:
            self._asked = None
            self._is_up()

    def _is_up(self) -> None:
        self.up = True
        self._tick()
        self._on_up()
        while self._queued:
            number, frame = self._queued.popleft()
            self._queued_bytes -= len(frame)
            if self._waiting.has(number):
                self._connection.send(frame, raw=True)
        if self._opening is not None:
            self._opening.fulfil(None)

    def _refused(self, error: ServiceError) -> None:
        """Wrong secret, or no server of ours: at the first connection the caller is told; later on it is tried again,
        for the other side may be mended."""
        named = type(error)(f"{self._service} at {self.address}: {error}")
        if self._opening is not None and not self._opening.done():
            self._opening.fail(named)
        else:
            logger.error("%s", named)
        self._why = str(error)
        self._again()

    def _failed(self, connection: Connection, code: int, words: str) -> None:
        self._why = words
        if self._opening is not None and not self._opening.done():
            self._opening.fail(Unreachable(words))

    def _ended(self, connection: Connection) -> None:
        self._gone.set()
        if self._opening is not None and not self._opening.done():
            self._opening.fail(Unreachable(f"{self._service} at {self.address}: {connection.close_reason}"))
        self._down(self._why if self._asked is not None else f"{connection.close_reason}")

    def _down(self, why: str) -> None:
        was_up, self.up = self.up, False
        self._asked = None
        self._why = "not connected"
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None
        queued = {number for number, _frame in self._queued}
        words = f"{self._service} at {self.address}: {why}; what was asked for may or may not have been done"
        self._waiting.fail_all(Unreachable(words), but=queued)
        if was_up:
            self._on_down(why)

    def _fail_queued(self, error: ServiceError) -> None:
        while self._queued:
            number, frame = self._queued.popleft()
            self._queued_bytes -= len(frame)
            self._waiting.fail(number, error)

    # ------------------------------------------------------------------ is it alive?

    def _tick(self) -> None:
        """Every ``ping`` seconds; whatever came since the last one proves that the server lives."""
        if self._clock is not None:
            self._clock.cancel()
        if not self._heard:
            self._too_slow("no answer to a ping")
            return
        self._heard = False
        self._connection.send(wire.body([wire.PING, 0]))
        self._clock = self._loop.call_later(self._ping, self._tick)

    def _too_slow(self, why: str) -> None:
        logger.warning("%s at %s: %s within its time; connecting again", self._service, self.address, why)
        self._again()

    def _again(self) -> None:
        """Ends it now, and connects again after a while."""
        if not self._closed:
            self._connection.destroy()
            self._connection.reconnect(BACKOFF["initial"])
