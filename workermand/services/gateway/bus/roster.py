"""Roster: which gateways there are on the bus: what a Register is elsewhere (registry.py), without one.

Each gateway says ``here`` every ping seconds, and ``gone`` when it ends; who is silent for MISSED pings is gone. Each
hears the others, too, so that one of them can tell a newcomer of all: they are a queue group.

    here            [VERSION, place, ping]      gone    [VERSION, place]
    who             nothing; the answer goes to its reply, list.ID: [VERSION, [[place, ping], ...]]
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

import msgspec

from workermand.services.gateway.bus.connection import Bus
from workermand.services.gateway.bus.pipes import MISSED
from workermand.services.gateway.messages import Place

logger = logging.getLogger(__name__)

VERSION: Final = 1
"""Of all that is said on the bus. Who says another one is not heard."""
QUEUE: Final = "gateways"
TICK: Final = 1.0
"""Seconds between two looks, at most."""

_encode = msgspec.msgpack.Encoder().encode
_here = msgspec.msgpack.Decoder(tuple[int, Place, float]).decode
_gone = msgspec.msgpack.Decoder(tuple[int, Place]).decode
_list = msgspec.msgpack.Decoder(tuple[int, list[tuple[Place, float]]]).decode


class Roster:
    """Process: any; thread: the one that runs the loop."""

    def __init__(
        self,
        bus: Bus,
        *,
        announce: Place | None = None,
        on_places: Callable[[set[Place]], None] = lambda places: None,
        on_here: Callable[[Place], None] = lambda place: None,
        ping: float = 5.0,
    ) -> None:
        """``announce`` this gateway, and tell ``on_places`` which there are, whenever that changes, and ``on_here``
        whenever it hears of one."""
        self.places: set[Place] = set()
        self._bus = bus
        self._announce = announce
        self._on_places = on_places
        self._tell = on_here
        self._ping = ping
        self._until: dict[Place, tuple[float, float]] = {}
        """Its ping, and when it is gone unless something comes."""
        self._first = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._said = 0.0
        bus.route("here", self._on_here)
        bus.route("gone", self._on_gone)
        bus.route("list", self._on_list)
        bus.route("who", self._on_who)
        for subject in ("here", "gone", f"list.{bus.id}"):
            bus.listen(subject)
        bus.on_up.append(self._greet)
        self._timer = self._loop.call_later(min(TICK, ping), self._tick)
        if bus.up:
            self._greet()

    async def first(self) -> None:
        """Waits until somebody has told which there are, or it is sure that nobody can. Raises Unauthorized."""
        await self._bus.opened()
        await self._first.wait()

    def forget(self, place: Place) -> None:
        """Nobody listens there."""
        self._until.pop(place, None)
        self._update()

    async def close(self) -> None:
        """It says good-bye."""
        self._timer.cancel()
        if self._announce is not None:
            self._bus.forget("who", QUEUE)
            self._bus.publish("gone", _encode((VERSION, self._announce)))

    # ------------------------------------------------------------------ what is said

    def _greet(self) -> None:
        now = self._loop.time()
        for place, (ping, _until) in self._until.items():
            self._until[place] = ping, now + MISSED * ping + TICK  # nobody could be heard
        self._ask()
        self._say()

    def _ask(self) -> None:
        self._bus.publish("who", b"", f"list.{self._bus.id}")

    def _say(self) -> None:
        if self._announce is not None:
            self._said = self._loop.time()
            self._bus.publish("here", _encode((VERSION, self._announce, self._ping)))

    def _tick(self) -> None:
        self._timer = self._loop.call_later(min(TICK, self._ping), self._tick)
        if not self._bus.up:
            return
        now = self._loop.time()
        if not self._first.is_set():
            self._ask()
        if now - self._said >= self._ping:
            self._say()
        silent = [place for place, (_ping, until) in self._until.items() if until < now]
        for place in silent:
            del self._until[place]
            logger.warning("the gateway %s is silent: it is gone", place.uri)
        self._update()

    def _on_who(self, rest: str, reply: str, data: bytes, nobody: bool) -> None:
        beginning, _, id = reply.partition(".")
        if beginning == "list" and id.isalnum() and not nobody:
            known = [(place, ping) for place, (ping, _until) in self._until.items()]
            self._bus.publish(reply, _encode((VERSION, known)))

    # ------------------------------------------------------------------ what is heard

    def _on_here(self, rest: str, reply: str, data: bytes, nobody: bool) -> None:
        if (found := _read(_here, data)) is not None:
            self._take([(found[1], found[2])])

    def _on_gone(self, rest: str, reply: str, data: bytes, nobody: bool) -> None:
        if (found := _read(_gone, data)) is not None:
            self._until.pop(found[1], None)
            self._update()

    def _on_list(self, rest: str, reply: str, data: bytes, nobody: bool) -> None:
        if nobody:
            self._is_first()
        elif (found := _read(_list, data)) is not None:
            self._take(found[1])
            self._is_first()

    def _is_first(self) -> None:
        self._first.set()
        if self._announce is not None:
            self._bus.listen("who", QUEUE)

    def _take(self, found: list[tuple[Place, float]]) -> None:
        heard = [(place, ping) for place, ping in found if place.uri and 0 < ping < 3600]
        for place, ping in heard:
            self._until[place] = ping, self._loop.time() + MISSED * ping + TICK
        self._update()
        for place, _ping in heard:
            self._tell(place)

    def _update(self) -> None:
        places = set(self._until)
        if places != self.places:
            self.places = places
            self._on_places(places)


def _read(decode: Callable[[bytes], Any], data: bytes) -> Any:
    """None for what is nothing of ours."""
    try:
        found = decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        logger.warning("bus: something that is none of ours: %s", error)
        return None
    if found[0] != VERSION:
        logger.warning("bus: a gateway of another version is not heard: %s instead of %s", found[0], VERSION)
        return None
    return found
