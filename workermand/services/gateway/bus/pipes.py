"""Pipe: one end of an inner link over the bus: messages in their order, without a gap, or it breaks.

Each end has a subject; what is published to the other's names ours as the one to answer to, so that we hear at once
when nobody listens there any more. A message is sent in as many pieces as nats takes (max_payload). How much may be on
the way is limited: whoever does not read is sent no more, and nats need not throw anything away for us.

    PART, LAST      number, a piece: counted from 0, both together
    ALIVE           how many bytes of pieces have been taken. Every PROBE seconds; nothing for MISSED pings: it is gone
    OPEN            from the side that calls, with nothing
    BYE             this pipe is no more, or never was
"""

from __future__ import annotations

import asyncio
import secrets
import struct
from collections.abc import Callable
from typing import Final

from workermand.services.gateway.bus.connection import Bus

OPEN: Final = 1
PART: Final = 2
LAST: Final = 3
ALIVE: Final = 4
BYE: Final = 5
KINDS: Final = (OPEN, PART, LAST, ALIVE, BYE)
HEAD: Final = struct.Struct(">BQ")
"""Kind and number."""

PROBE: Final = 1.0
"""Seconds between two signs of life, at most."""
MISSED: Final = 2.5
"""Pings: who is silent for so long is gone."""
SAY: Final = 64 * 1024
"""Bytes that are taken before it is said, unless it is time for a sign of life."""
PACKAGE: Final = 64 * 1024 * 1024
"""Bytes of the largest message."""


def new_name() -> str:
    """Of one pipe: the last part of both its subjects."""
    return secrets.token_hex(8)


class Pipe:
    """Thread: the one that runs the loop."""

    def __init__(
        self,
        bus: Bus,
        own: str,
        other: str,
        *,
        window: int,
        ping: float,
        on_message: Callable[[bytes], None],
        on_broken: Callable[[str], None],
        on_drain: Callable[[], None] = lambda: None,
    ) -> None:
        """``own``, ``other``: the subjects; messages for ``own`` are to be given to hear(). ``window``: bytes that may
        be on the way. ``ping``: seconds. ``on_broken`` is not called after end()."""
        self.other = other
        self._bus = bus
        self._own = own
        self._window = window
        self._on_message, self._on_broken, self._on_drain = on_message, on_broken, on_drain
        self._sent = self._arrived = 0
        """Bytes."""
        self._next_out = self._next_in = 0
        self._taken = self._said = 0
        self._pieces: list[bytes] = []
        self._size = 0
        self._is_full = False
        self._loop = asyncio.get_running_loop()
        self._ping = ping
        self._heard = self._loop.time()
        self._ended = False
        self._timer = self._loop.call_later(min(PROBE, ping), self._tick)

    @property
    def unsent(self) -> int:
        """Bytes that the other side has not taken."""
        return self._sent - self._arrived

    def open(self) -> None:
        """By the side that calls."""
        self._say(OPEN, 0)

    def send(self, body: bytes) -> bool:
        """False: it has ended, there is no room, or it is too large; nothing has been sent then."""
        if self.unsent >= self._window:
            self._is_full = True
            return False
        if self._ended or len(body) > PACKAGE:
            return False
        size = self._bus.piece - HEAD.size
        start = 0
        while len(body) - start > size:
            self._send(PART, body[start : start + size])
            start += size
        self._send(LAST, body[start:] if start else body)
        return True

    def end(self) -> None:
        """Behind what has been sent."""
        if not self._ended:
            self._say(BYE, 0)
            self._end()

    def probe(self) -> None:
        """Is anybody there?"""
        self._said = self._taken
        self._say(ALIVE, self._taken)

    # ------------------------------------------------------------------ what comes

    def hear(self, data: bytes, nobody: bool) -> None:
        """Whatever was published to our subject."""
        if self._ended:
            return
        if nobody:
            self._break("it is gone")
            return
        if len(data) < HEAD.size:
            return  # nothing of ours
        kind, number = HEAD.unpack_from(data)
        if kind not in KINDS:
            return
        self._heard = self._loop.time()
        if kind in (PART, LAST):
            self._take(kind, number, data[HEAD.size :])
        elif kind == ALIVE:
            self._arrived = max(self._arrived, min(number, self._sent))
            if self._is_full and self.unsent < self._window:
                self._is_full = False
                self._on_drain()
        elif kind == BYE:
            self._break("it has ended the link")

    def _take(self, kind: int, number: int, piece: bytes) -> None:
        if number < self._next_in:
            return
        if number > self._next_in:
            self.end_with(f"message {self._next_in} is missing")
            return
        self._next_in += 1
        self._taken += len(piece)
        self._size += len(piece)
        if self._size > PACKAGE:
            self.end_with(f"a message of more than {PACKAGE} bytes")
            return
        if self._taken - self._said >= SAY:
            self.probe()
        if kind == PART:
            self._pieces.append(piece)
            return
        if self._pieces:
            piece = b"".join((*self._pieces, piece))
            self._pieces.clear()
        self._size = 0
        self._on_message(piece)

    # ------------------------------------------------------------------ the bus

    def _send(self, kind: int, piece: bytes) -> None:
        self._bus.publish(self.other, HEAD.pack(kind, self._next_out) + piece, self._own)
        self._next_out += 1
        self._sent += len(piece)

    def _say(self, kind: int, number: int) -> None:
        self._bus.publish(self.other, HEAD.pack(kind, number), self._own)

    def _tick(self) -> None:
        if self._loop.time() - self._heard > MISSED * self._ping + 2 * PROBE:
            self.end_with("it is silent")
            return
        self.probe()
        self._timer = self._loop.call_later(min(PROBE, self._ping), self._tick)

    def end_with(self, why: str) -> None:
        """And the owner is told."""
        if not self._ended:
            self._say(BYE, 0)
            self._break(why)

    def _break(self, why: str) -> None:
        self._end()
        self._on_broken(why)

    def _end(self) -> None:
        self._ended = True
        self._timer.cancel()
        self._pieces.clear()
