"""Body: of a request handed over before all of it is there, what the protocol puts in and the handler takes out.

The handler iterates; what it has not taken waits here, and beyond MOST_WAITING the client is not read any further. How
it ends is said once: well, or with the error that the iteration then raises, behind what had come until then.
"""

from __future__ import annotations

import typing
from collections.abc import Awaitable
from typing import Final, Self

MOST_WAITING: Final = 256 * 1024
"""Bytes. What one read brings on top of that is taken."""
ANSWERED: Final = "the request is answered: what was left of its body is thrown away"


class Source(typing.Protocol):
    """What a Body needs of its connection."""

    def more(self) -> Awaitable[None]:
        """The handler waits; the future is completed by us."""

    def regulate(self) -> None:
        """Whether there is room has changed."""


class Body:
    """An asynchronous iterator over bytes. ``is_full``: no more should come for the time being. ``is_open``: not all
    of it has come."""

    __slots__ = ("_error", "_future", "_source", "_waiting", "is_full", "is_open")

    def __init__(self, source: Source | None = None, whole: bytes = b"") -> None:
        """Without a ``source`` it is ``whole``."""
        self._source = source
        self._waiting: bytes | bytearray = whole
        self._error: Exception | None = None
        self._future: typing.Any = None
        self.is_open = source is not None
        self.is_full = False

    # ------------------------------------------------------------------ in

    def put(self, piece: bytes) -> None:
        if not self._waiting:
            self._waiting = piece
        else:
            if isinstance(self._waiting, bytes):
                self._waiting = bytearray(self._waiting)
            self._waiting += piece  # pieces may be of one byte each
        self.is_full = len(self._waiting) > MOST_WAITING
        self._wake()

    def end(self, error: Exception | None = None) -> None:
        """No more comes. Only the first end counts."""
        if self.is_open:
            self.is_open = self.is_full = False
            self._error = error
            self._source = None
            self._wake()

    def drop(self) -> None:
        """Nobody will take it any more."""
        self._waiting = b""
        self.end(RuntimeError(ANSWERED))

    def _wake(self) -> None:
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    # ------------------------------------------------------------------ out

    @property
    def waiting(self) -> bytes:
        return bytes(self._waiting)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        while not self._waiting:
            if self._source is None:
                if self._error is not None:
                    raise self._error
                raise StopAsyncIteration
            await self._more(self._source)
        piece, self._waiting = bytes(self._waiting), b""
        if self.is_full:
            self.is_full = False
            assert self._source is not None
            self._source.regulate()
        return piece

    async def _more(self, source: Source) -> None:
        if self._future is not None:
            raise RuntimeError("the body of a request is read by one task at a time")
        self._future = source.more()
        try:
            await self._future
        finally:
            self._future = None
