"""BusMesh: the links of one process to all gateways, over the bus instead of sockets.

What is asked of all gateways, or of several for the sake of one uid or group, is published once: on ``all``, or on
the subject of that uid or group. It names the pipes that it is for, so that nobody does it twice; answers come there.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgspec

from workermand.services.gateway import messages
from workermand.services.gateway.bus import pipes
from workermand.services.gateway.bus.connection import FIRST, LAST, Bus
from workermand.services.gateway.bus.pipes import PACKAGE, Pipe
from workermand.services.gateway.bus.roster import Roster
from workermand.services.gateway.commands import WATCHABLE
from workermand.services.gateway.inner import Asked, Finder, Gate, Mesh, Outcome
from workermand.services.gateway.messages import Place
from workermand.services.gateway.plans import Plan
from workermand.services.gateway.table import UID
from workermand.services.links import subjects
from workermand.services.links import wire as links
from workermand.services.links.errors import Dropped, ServiceError, Unreachable
from workermand.services.links.later import Later
from workermand.services.links.waiting import Waiting

SCHEME: Final = "bus:"
"""Before the name of a gateway, in place of its address."""
ALL: Final = "all"
OFFER: Final = "offer"
"""Where a gateway offers a client: [its uri, client_id], to one of the queue group"""
VOLUNTEERS: Final = "business"
LONGEST: Final = 200
"""Signs of the subject of a uid or group; those with longer ones have none."""

_read_offer = msgspec.msgpack.Decoder(tuple[str, str]).decode
_encode = msgspec.msgpack.Encoder().encode


def subject_of(kind: str, key: str) -> str:
    """Of a uid or group; "" for none."""
    subject = f"{'u' if kind == UID else 'g'}.{subjects.subject(key)}"
    return subject if len(subject) <= LONGEST else ""


class BusLink:
    """To one gateway: what Kept is over TCP. It takes the gateway for reachable until it hears that it is not."""

    def __init__(
        self,
        bus: Bus,
        place: Place,
        numbers: Iterator[int],
        lines: dict[str, BusLink],
        *,
        on_nobody: Callable[[], None],
        on_message: Callable[[list[Any]], None],
        on_up: Callable[[], None],
        on_down: Callable[[], None],
        ping: float,
        timeout: float,
        send_buffer: int,
    ) -> None:
        """``numbers``: of requests; ``lines``: by the names of their pipes; those of one process share them.
        ``on_nobody``: the gateway is not connected to nats."""
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
            f"p.{self._bus.id}.{self.name}",
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
        return f"gateway {self._gateway}"


class BusGate(Gate):
    """One gateway."""

    link: BusLink

    def __init__(self, mesh: Mesh, place: Place) -> None:
        self._told: set[tuple[str, str]] = set()
        """Keys that somebody there has, and whose subject it therefore listens to."""
        super().__init__(mesh, place)

    def has_told(self, kind: str, key: str) -> bool:
        """It listens to the subject of this key."""
        if (kind, key) not in self._told:
            return False
        self._known.move_to_end((kind, key))
        return True

    def call(self, command: str, arguments: tuple[Any, ...], outcome: Outcome[Any], watch: Sequence[str] = ()) -> None:
        if not watch:
            super().call(command, arguments, outcome)
            return
        keys = [(WATCHABLE[command], key) for key in watch]
        later = self.link.request(messages.CALL, command, arguments, watch)
        later.add_done_callback(lambda later: self._answered(keys, later))
        later.add_done_callback(outcome.follow)

    def _answered(self, keys: list[tuple[str, str]], later: asyncio.Future[Any]) -> None:
        if not later.cancelled() and later.exception() is None:
            # Of what nobody has there, the news came before the answer.
            self._told.update(key for key in keys if self._known.get(key))

    def _forget(self, kind: str, key: str) -> None:
        self._told.discard((kind, key))
        super()._forget(kind, key)

    def _hear(self, message: list[Any]) -> None:
        super()._hear(message)
        match message:
            case [messages.NEWS, _, str(kind), str(key), bool(present)]:
                if present and (kind, key) in self._known:
                    self._told.add((kind, key))
                else:
                    self._told.discard((kind, key))

    def _down(self) -> None:
        self._told.clear()
        super()._down()


class BusMesh(Mesh):
    """Of one process. Thread: the one that runs the loop."""

    gates: dict[Place, BusGate]  # type: ignore[assignment]
    _roster: Roster

    def __init__(
        self,
        url: str,
        *,
        ping: float = 5.0,
        timeout: float = 10.0,
        send_buffer: int = 16 * 1024 * 1024,
        **callbacks: Any,
    ) -> None:
        """As Mesh has it. Raises ConfigError."""
        self.bus = Bus(url)
        self._ping, self._timeout, self._send_buffer = ping, timeout, send_buffer
        self._numbers = itertools.count(1)
        self._lines: dict[str, BusLink] = {}
        super().__init__([], ping=ping, **callbacks)
        self.bus.route("p", self._hear)
        self.bus.route(OFFER, self._on_offer)
        self.bus.listen(f"p.{self.bus.id}.*")
        self.bus.on_down.append(self._is_down)

    def volunteer(self, *, yes: bool) -> None:
        """One of those who do is offered each client of a gateway whose router is "queue"."""
        (self.bus.listen if yes else self.bus.forget)(OFFER, VOLUNTEERS)

    def _on_offer(self, rest: str, reply: str, data: bytes, nobody: bool) -> None:
        try:
            uri, id = _read_offer(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return  # nothing of ours
        for place, gate in self.gates.items():
            if place.uri == uri:
                gate.link.send(links.pack([messages.CLAIM, 0, id]))

    async def close(self) -> None:
        await super().close()
        await self.bus.close()

    # ------------------------------------------------------------------ the gateways

    def _find(self, *_: Any) -> list[Finder]:
        self._roster = Roster(self.bus, on_places=self._update, on_here=self._is_here, ping=self._ping)
        return [self._roster]

    def _make(self, place: Place) -> BusGate:
        for gate in self.gates.values():
            gate.link.probe()  # it may be in the place of one that has died
        return BusGate(self, place)

    def connect(self, place: Place, **callbacks: Any) -> BusLink:
        """A link for a gate."""
        return BusLink(
            self.bus,
            place,
            self._numbers,
            self._lines,
            on_nobody=lambda: self._roster.forget(place),
            ping=self._ping,
            timeout=self._timeout,
            send_buffer=self._send_buffer,
            **callbacks,
        )

    def _hear(self, rest: str, reply: str, data: bytes, nobody: bool) -> None:
        _id, _, name = rest.partition(".")
        if (link := self._lines.get(name)) is not None:
            link.hear(data, nobody)

    def _is_here(self, place: Place) -> None:
        """Nats has come back, and this gateway with it."""
        if (gate := self.gates.get(place)) is not None:
            gate.link.open()

    def _is_down(self) -> None:
        for gate in list(self.gates.values()):
            gate.link.lose("the bus is gone")

    # ------------------------------------------------------------------ plans

    def _send(self, plan: Plan[Any], asked: list[Asked], outcome: Outcome[Any]) -> None:
        super()._send(plan, asked if plan.clients is not None else self._publish(plan, asked, outcome), outcome)

    def _publish(self, plan: Plan[Any], asked: list[Asked], outcome: Outcome[Any]) -> list[Asked]:
        """To those who hear it on one subject. The others."""
        subject = ALL
        to = [gate for gate in self.gates.values() if gate.link.has_room]
        if plan.keys is not None:
            if len(plan.keys) > 1:  # a client may have several of them, and shall get it once
                return asked
            (key,) = plan.keys
            subject = subject_of(plan.kind, key)
            to = [gate for gate in to if gate.has_told(plan.kind, key)]
        if len(to) < 2 or not subject:
            return asked
        number = next(self._numbers)
        arguments = plan.arguments if plan.keys is None else (plan.keys, *plan.arguments)
        body = links.body([messages.CALL, number, plan.command, arguments])
        data = _encode(([gate.link.name for gate in to], body))
        if len(data) > self.bus.piece:  # pipes do it in pieces
            return asked
        self.bus.publish(subject, data)
        for gate in to:
            gate.link.expect(number, len(body)).add_done_callback(outcome.follow)
        return [one for one in asked if one[0] not in to]
