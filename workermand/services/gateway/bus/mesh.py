"""BusMesh: the links of one process to all gateways, over the bus instead of sockets.

What is asked of all gateways, or of several for the sake of one uid or group, is published once: on ``all``, or on
the subject of that uid or group. It names the pipes that it is for, so that nobody does it twice; answers come there.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from workermand.services.gateway import messages
from workermand.services.gateway.bus.boxes import Boxes, is_box
from workermand.services.gateway.bus.connection import Bus
from workermand.services.gateway.bus.link import BusLink
from workermand.services.gateway.bus.roster import Roster
from workermand.services.gateway.commands import WATCHABLE
from workermand.services.gateway.inner import Asked, Finder, Gate, Mesh, Outcome
from workermand.services.gateway.messages import Place
from workermand.services.gateway.outbox.posting import Outboxes
from workermand.services.gateway.plans import Plan
from workermand.services.gateway.table import UID
from workermand.services.links import subjects
from workermand.services.links import wire as links

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
        await self._boxes.close()
        await self.bus.close()

    # ------------------------------------------------------------------ the gateways

    def _find(self, _registers: Any, outboxes: Outboxes, *_: Any) -> list[Finder]:
        self._boxes = Boxes(self.bus, outboxes, ping=self._ping, timeout=self._timeout)
        self._roster = Roster(self.bus, on_places=self._update, on_here=self._is_here, ping=self._ping)
        return [self._roster]

    def _update(self, said: set[Place]) -> None:
        self._boxes.update(said)
        super()._update(said)

    def _places(self) -> set[Place]:
        return {place for place in super()._places() if not is_box(place)}

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
            beginning="p",
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
        self._boxes.is_here(place)
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
            if len(plan.keys) != 1:  # a client may have several of them, and shall get it once
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
