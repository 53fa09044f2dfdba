"""PhpLink: a gateway in PHP, as if it were one of ours: what Link of links/client.py is to those, with messages.py on
our side and GatewayWorker's wire on the other.

CALL and CHANGE become what commands.py says. ENLIST makes a business worker's connection of the one there is, so
that answers and events are one stream, see line.py. LEAVE, for which PHP has no word, half-closes it behind the last
answer, reads what was on the way, and goes on with another connection. DONE and UNWATCH are nothing to PHP, and NEWS it
has none.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from workermand.services.gateway import ids, messages, wire
from workermand.services.gateway.php import events as phpevents
from workermand.services.gateway.php.commands import Asked, PhpCommands
from workermand.services.gateway.php.line import Line, is_alive
from workermand.services.gateway.wire import Command, Package
from workermand.services.links.address import Address
from workermand.services.links.client import BUFFER
from workermand.services.links.errors import Dropped, ServiceError, Unreachable
from workermand.services.links.later import Later
from workermand.services.links.serialize import SerializeError
from workermand.services.links.waiting import Waiting

logger = logging.getLogger(__name__)

LAST_EVENTS: Final = 3.0
"""Seconds that a gateway which was told that we leave has to hang up."""

Request = tuple[int, Asked, int]
"""Number, what is asked, and the stamp of a change."""


class PhpLink:
    """Process: any; thread: the one that runs the loop."""

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
        """As Link has it. ``secret`` is its secretKey, which travels as it is; ``tls``: PHP has none. Raises ValueError
        when ``address`` is not IPv4."""
        self.address = address
        self.up = False
        self.refused = 0
        """Events that could not be read."""
        self._service = service
        self._secret = secret
        self._prefix = ids.php_prefix(address.host, address.port)
        self._commands = PhpCommands(self._prefix)
        self._on_message, self._on_up, self._on_down = on_message, on_up, on_down
        self._loop = asyncio.get_running_loop()
        self._ping, self._timeout = ping, timeout
        self._limits: dict[str, Any] = {"timeout": timeout, "send_buffer": send_buffer, "package": package}
        self._line: Line | None = None
        """Where questions go; None: they wait."""
        self._numbers = itertools.count(1)
        self._waiting = Waiting(self._loop)
        self._queued: deque[Request] = deque()
        self._queued_bytes = 0
        self._clock: asyncio.TimerHandle | None = None
        self._leaving: asyncio.Task[None] | None = None
        self._closed = False

    # ------------------------------------------------------------------ as Link

    async def open(self) -> None:
        """Raises Unreachable, Unauthorized; then it is closed."""
        try:
            line = await self._connect()
        except ServiceError as error:
            self._end(error)
            raise
        self.up = True
        self._tick(None)
        self._on_up()
        self._go_on(line)

    def send(self, frame: bytes) -> bool:
        """PHP's gateways do not care when an event has been handled, nor who watches what."""
        return self.up

    def request(
        self, op: int, *rest: Any, timeout: float | None = None, outcome: Later[Any] | None = None
    ) -> Later[Any]:
        """See Link.request."""
        later: Later[Any] = Later(f"{self._service}: request {op}") if outcome is None else outcome
        if self._closed:
            later.fail(Unreachable("closed"))
            return later
        number = next(self._numbers)
        if op == messages.LEAVE:
            self._waiting.add(number, later, (timeout or self._timeout) + LAST_EVENTS)
            self._leaving = self._leaving or self._loop.create_task(self._leave(number))
            return later
        try:
            request = self._translate(number, op, rest)
        except ServiceError as error:
            later.fail(error)
            return later
        self._waiting.add(number, later, self._timeout if timeout is None else timeout)
        if self._line is not None:
            self._ask(self._line, request)
        else:
            self._queue(request)
        return later

    async def close(self) -> None:
        """What has been sent still goes out; what waits fails."""
        self._end(Unreachable("closed"))
        if self._leaving is not None:
            self._leaving.cancel()
            await asyncio.wait([self._leaving])

    # ------------------------------------------------------------------ requests

    def _translate(self, number: int, op: int, rest: tuple[Any, ...]) -> Request:
        match op, rest:
            case messages.CALL, (str(name), arguments, *_watch):
                return number, self._commands.ask(name, arguments), 0
            case messages.CHANGE, (int(stamp), str(name), arguments):
                return number, self._commands.ask(name, arguments), stamp
            case messages.ENLIST, (str(key), _ping):
                body = wire.json_bytes({"worker_key": key, "secret_key": self._secret})
                return number, is_alive([Package(Command.WORKER_CONNECT, body)]), 0
        raise ServiceError(f"a gateway in PHP has nothing for request {op}")

    def _ask(self, line: Line, request: Request) -> None:
        number, asked, stamp = request

        def done(result: Any, error: ServiceError | None) -> None:
            if error is None:
                self._waiting.fulfil(number, result)
            else:
                self._waiting.fail(number, error)

        line.ask(asked, done, stamp)

    def _queue(self, request: Request) -> None:
        number, asked, _stamp = request
        size = _size(asked)
        if self._queued_bytes + size > BUFFER:
            self._waiting.fail(number, Dropped(f"{self.address}: too much is unsent"))
            return
        self._queued.append(request)
        self._queued_bytes += size

    def _go_on(self, line: Line) -> None:
        """What waits goes over this one."""
        if line.is_gone:
            self._down("it has ended at once")
            return
        while self._queued:
            request = self._queued.popleft()
            if self._waiting.has(request[0]):
                self._ask(line, request)
        self._queued_bytes = 0
        self._line = line

    # ------------------------------------------------------------------ the connection

    async def _connect(self) -> Line:
        line = Line(self.address, self._service, on_event=self._take, on_end=self._ended, **self._limits)
        await line.open(self._secret)
        return line

    def _take(self, line: Line, package: Package) -> None:
        client_id = f"{self._prefix}{package.connection:08x}"
        try:
            event = phpevents.read(package, client_id, line.applied)
        except SerializeError as error:
            # Not the gateway's fault: it hands on what a client has sent.
            self.refused += 1
            if self.refused & (self.refused - 1) == 0:  # 1, 2, 4, 8 ...: nobody fills the log
                what = f"event {package.command} of {client_id}, which is dropped ({self.refused} so far)"
                logger.warning("%s at %s: %s: %s", self._service, self.address, what, error)
            return
        self._on_message(event)

    async def _leave(self, number: int) -> None:
        former, self._line = self._line, None
        if former is None:
            self._waiting.fulfil(number, None)
            return
        try:
            line = await self._connect()
        except ServiceError as error:
            former.destroy(str(error))
            self._down(str(error))
            return
        await former.idle()
        self._go_on(line)
        await former.leave(LAST_EVENTS)
        self._waiting.fulfil(number, None)

    def _ended(self, line: Line, why: str) -> None:
        if line is self._line:
            self._down(why)

    def _down(self, why: str) -> None:
        was_up = self.up
        self._end(Unreachable(f"{self._service} at {self.address}: {why}"))
        if was_up:
            self._on_down(why)

    def _end(self, error: ServiceError) -> None:
        self.up, self._closed = False, True
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None
        line, self._line = self._line, None
        if line is not None:
            line.close()
        self._queued.clear()
        self._waiting.fail_all(error)

    # ------------------------------------------------------------------ is it alive?

    def _tick(self, former: Line | None) -> None:
        """Every ``ping`` seconds; whatever came since the last one proves that the gateway lives."""
        line = self._line
        if line is not None and line is former and not line.heard:
            logger.warning("%s at %s: no answer to a ping within its time", self._service, self.address)
            line.destroy("no answer to a ping")
            return
        if line is not None:
            line.heard = False
            line.ask(is_alive([]), lambda result, error: None)
        self._clock = self._loop.call_later(self._ping, self._tick, line)


def _size(asked: Asked) -> int:
    return sum(wire.SIZE + len(package.extra) + len(package.body) for package in asked.packages)
