"""BusLink: a link of one process to a gateway or an outbox on the bus: what Kept is over TCP, on a pipe."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from typing import Any, Final

from workermand.services.gateway.bus import pipes
from workermand.services.gateway.bus.connection import FIRST, LAST, Bus
from workermand.services.gateway.bus.pipes import PACKAGE, Pipe
from workermand.services.gateway.messages import Place
from workermand.services.links import wire as links
from workermand.services.links.errors import Dropped, ServiceError, Unreachable
from workermand.services.links.later import Later
from workermand.services.links.waiting import Waiting

SCHEME: Final = "bus:"
"""Before the name of who is there, in place of its address."""


class BusLink:
    """Thread: the one that runs the loop. It takes the other side for reachable until it hears that it is not."""

    def __init__(
        self,
        bus: Bus,
        place: Place,
        numbers: Iterator[int],
        lines: dict[str, BusLink],
        *,
        beginning: str,
        on_nobody: Callable[[], None],
        on_message: Callable[[list[Any]], None],
        on_up: Callable[[], None],
        on_down: Callable[[], None],
        ping: float,
        timeout: float,
        send_buffer: int,
    ) -> None:
        """``numbers``: of requests; ``lines``: by the names of their pipes; those of one kind in a process share them,
        and the ``beginning`` of the subjects on which they hear. ``on_nobody``: the other side is not connected to
        nats."""
        self._beginning = beginning
        self._bus = bus
        self._lines = lines
        self._on_nobody = on_nobody
        self._place = place
        self._gateway = place.uri.removeprefix(SCHEME)
        self._numbers = numbers
        self._on_message, self._on_up, self._on_down = on_message, on_up, on_down
        self._ping, self._timeout, self._send_buffer = ping, timeout, send_buffer
        self._loop = asyncio.get_running_loop()
        self._waiting = Waiting(self._loop)
        self._tried = asyncio.Event()
        self._pipe: Pipe | None = None
        self.name = ""
        """Of the pipe."""
        self._delay = FIRST
        self._retry: asyncio.TimerHandle | None = None
        self._cast = 0
        """Bytes that were cast, and are unanswered."""
        self._closed = False
        self.open()

    @property
    def up(self) -> bool:
        return self._pipe is not None

    def open(self) -> None:
        """Unless it is, or nats is away."""
        if self._closed or self._pipe is not None or not self._bus.up:
            return
        self.name = pipes.new_name()
        self._lines[self.name] = self
        self._pipe = Pipe(
            self._bus,
            f"{self._beginning}.{self._bus.id}.{self.name}",
            f"gate.{self._gateway}.{self.name}",
            window=self._send_buffer,
            ping=self._ping,
            on_message=self._take,
            on_broken=self._broken,
        )
        self._pipe.open()
        self._loop.call_soon(self._on_up)  # whoever makes this link has it first

    def request(
        self, op: int, *rest: Any, timeout: float | None = None, outcome: Later[Any] | None = None
    ) -> Later[Any]:
        """As Link has it, but that nothing waits for a link that is down: Unreachable."""
        number = next(self._numbers)
        later: Later[Any] = Later(f"gateway: request {op}") if outcome is None else outcome
        body = links.body([op, number, *rest])
        if self._pipe is None:
            later.fail(Unreachable(f"{self}: not connected"))
        elif len(body) > PACKAGE:
            later.fail(ServiceError(f"{self}: {len(body)} bytes: a message has at most {PACKAGE}"))
        elif not self.has_room or not self._pipe.send(body):
            later.fail(Dropped(f"{self}: too much is unsent"))
        else:
            self._waiting.add(number, later, self._timeout if timeout is None else timeout)
        return later

    def send(self, frame: bytes) -> bool:
        """See Link.send."""
        return self._pipe is not None and self._pipe.send(frame[links.HEAD :])

    @property
    def has_room(self) -> bool:
        """It is up, and something may be sent."""
        return self._pipe is not None and self._cast + self._pipe.unsent < self._send_buffer

    def expect(self, number: int, size: int) -> Later[Any]:
        """The answer to a request of ``size`` bytes that goes another way."""
        later: Later[Any] = Later("gateway: request")
        self._cast += size

        def settled(_later: asyncio.Future[Any]) -> None:
            self._cast -= size

        later.add_done_callback(settled)
        self._waiting.add(number, later, self._timeout)
        return later

    def probe(self) -> None:
        """Is it there?"""
        if self._pipe is not None:
            self._pipe.probe()

    def hear(self, data: bytes, nobody: bool) -> None:
        """What was published to our subject."""
        if nobody:
            self._on_nobody()
        if self._pipe is not None:
            self._pipe.hear(data, nobody)
            self._tried.set()

    async def tried(self) -> None:
        """Waits for the first sign of life, or of its absence."""
        await self._tried.wait()

    async def close(self) -> None:
        self._closed = True
        if self._retry is not None:
            self._retry.cancel()
        if self._pipe is not None:
            self._pipe.end()
            self._down("closed")

    def lose(self, why: str) -> None:
        """Nats has gone."""
        if self._pipe is not None:
            self._pipe.end_with(why)

    def _take(self, body: bytes) -> None:
        self._delay = FIRST
        try:
            message = links.unpack(body)
        except ServiceError:
            return  # nothing of ours
        op = message[0]
        if op >= links.FIRST:
            self._on_message(message)
        elif op == links.OK:
            self._waiting.fulfil(message[1], message[2] if len(message) > 2 else None)
        elif op == links.FAIL:
            self._waiting.fail(message[1], ServiceError(str(message[2]) if len(message) > 2 else "refused"))

    def _broken(self, why: str) -> None:
        self._tried.set()
        if not self._closed and self._bus.up:
            self._retry = self._loop.call_later(self._delay * random.uniform(0.5, 1.0), self.open)
            self._delay = min(LAST, self._delay * 2)
        self._down(why)

    def _down(self, why: str) -> None:
        self._pipe = None
        self._lines.pop(self.name, None)
        words = f"{self}: {why}; what was asked for may or may not have been done"
        self._waiting.fail_all(Unreachable(words))
        self._on_down()

    def __str__(self) -> str:
        return f"{self._place.uri} ({self._place.prefix})"
