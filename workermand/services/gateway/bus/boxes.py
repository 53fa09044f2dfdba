"""Boxes: the links of one process to the outboxes on the bus. The other side: outbox.py.

They are in the roster as gateways are, with a prefix that no client_id begins with.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import Any, Final

from workermand.services.gateway import messages
from workermand.services.gateway.bus.connection import Bus
from workermand.services.gateway.bus.link import BusLink
from workermand.services.gateway.messages import Place
from workermand.services.gateway.outbox.posting import Outboxes

PREFIX: Final = "outbox"
TIMEOUT: Final = 10.0
"""Seconds for an answer."""
BUFFER: Final = 16 * 1024 * 1024
"""Bytes that may be on the way to one."""


def is_box(place: Place) -> bool:
    """It is no gateway."""
    return place.prefix == PREFIX


class Boxes:
    """Of one process. Thread: the one that runs the loop."""

    def __init__(self, bus: Bus, outboxes: Outboxes, *, ping: float, timeout: float = TIMEOUT) -> None:
        """``outboxes`` hears of them. ``ping``, ``timeout``: seconds."""
        self._bus = bus
        self._outboxes = outboxes
        self._ping, self._timeout = ping, timeout
        self._numbers = itertools.count(1)
        self._lines: dict[str, BusLink] = {}
        self._links: dict[Place, BusLink] = {}
        self._endings: set[asyncio.Task[None]] = set()
        bus.route("o", self._hear)
        bus.listen(f"o.{bus.id}.*")
        bus.on_down.append(self._is_down)

    def update(self, places: set[Place]) -> None:
        """These are there, gateways among them."""
        for place in filter(is_box, places - self._links.keys()):
            self._links[place] = self._make(place)
        for place in self._links.keys() - places:
            ending = asyncio.get_running_loop().create_task(self._links.pop(place).close())
            self._endings.add(ending)
            ending.add_done_callback(self._endings.discard)

    def is_here(self, place: Place) -> None:
        """Nats has come back, and this one with it."""
        if (link := self._links.get(place)) is not None:
            link.open()

    async def close(self) -> None:
        await asyncio.gather(*(link.close() for link in self._links.values()), *self._endings)
        self._links.clear()

    def _make(self, place: Place) -> BusLink:
        link: BusLink = BusLink(
            self._bus,
            place,
            self._numbers,
            self._lines,
            beginning="o",
            on_nobody=lambda: None,
            on_message=self._on_message,
            on_up=lambda: self._is_up(link),
            on_down=lambda: self._has_gone(link),
            ping=self._ping,
            timeout=self._timeout,
            send_buffer=BUFFER,
        )
        return link

    def _is_up(self, link: BusLink) -> None:
        links = [self._links[place] for place in sorted(self._links)]
        if link.up and link in links:
            self._outboxes.add(link, links)

    def _has_gone(self, link: BusLink) -> None:
        """Nothing waits for a link on the bus that is down: it would be lost."""
        if link in self._outboxes.ways:
            self._outboxes.ways.remove(link)

    def _on_message(self, message: list[Any]) -> None:
        if message[0] == messages.KEPT and len(message) > 2 and isinstance(message[2], list):
            self._outboxes.hear(message[2])

    def _hear(self, rest: str, reply: str, data: bytes, nobody: bool) -> None:
        _id, _, name = rest.partition(".")
        if (link := self._lines.get(name)) is not None:
            link.hear(data, nobody)

    def _is_down(self) -> None:
        for link in list(self._links.values()):
            link.lose("the bus is gone")
