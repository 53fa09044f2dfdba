"""Corks: connections that collect what they are sent until the turn of the loop ends, and then write it once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from workermand.worker.status import CLOSED, ESTABLISHED

if TYPE_CHECKING:
    from workermand.worker.wire import Wire


class Corks:
    """Of one process. Thread: the one that runs the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._wires: list[Wire] = []

    def put(self, wire: Wire) -> None:
        """A turn of the wire's own begins, unless there is one; the next that begins ends it early."""
        if wire.out is None and wire.status is ESTABLISHED:
            wire.out = []
            if not self._wires:
                self._loop.call_soon(self._pull)
            self._wires.append(wire)

    def _pull(self) -> None:
        wires, self._wires = self._wires, []
        for wire in wires:
            if wire.out is not None and wire.status is not CLOSED:
                wire.end_turn()
