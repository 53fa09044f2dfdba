"""Backlog: calls in the order in which they were made, handed on in batches, kept while the server is away.

For engines whose servers have clients of their own (redis.py, nats.py): those send what they are given; here is which
call comes next, what waits, what no longer fits, and what becomes of a batch whose connection broke.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeVar

from workermand.services.links.errors import Dropped, ServiceError, TimedOut, Unreachable
from workermand.services.links.later import Later

logger = logging.getLogger(__name__)

C = TypeVar("C", bound="Call")

BATCH: Final = 512
"""Calls handed on at a time ..."""
BATCH_BYTES: Final = 1024 * 1024
"""... and their bytes, from which on no further one joins."""


class Call:
    """One call. An engine's own calls derive from it."""

    __slots__ = ("deadline", "kind", "later", "repeats", "size")

    def __init__(self, later: Later[Any], *, kind: str = "", size: int = 0, repeats: bool = False) -> None:
        """``kind``: the limit it counts for, "" for none; ``size``: in bytes; ``repeats``: it is done again when the
        connection breaks before its answer."""
        self.later = later
        self.kind = kind
        self.size = size
        self.repeats = repeats
        self.deadline = 0.0


class Backlog:
    """Thread: the one that runs the loop. Between resume() and pause() calls flow."""

    def __init__(
        self,
        run: Callable[[list[Any]], Awaitable[None]],
        *,
        limits: Mapping[str, int],
        on_dropped: Callable[[str, int], None] = lambda what, count: None,
        timeout: float | None = None,
    ) -> None:
        """``run(calls)`` settles each of them, or raises Unreachable; ``limits``: bytes by kind, of what waits;
        ``timeout``: seconds that a call may wait for the server, None: until it comes."""
        self._run = run
        self._limits = limits
        self._on_dropped = on_dropped
        self._timeout = timeout
        self._waiting: deque[Call] = deque()
        self._bytes = dict.fromkeys(limits, 0)
        self._flows = False
        self._closed = ""
        self._runner: asyncio.Task[None] | None = None
        self._expiry: asyncio.TimerHandle | None = None

    def add(self, call: Call) -> None:
        """In its turn. It fails at once when its kind is full."""
        if self._closed:
            call.later.fail(Unreachable(self._closed))
            return
        if call.kind and self._bytes[call.kind] + call.size > self._limits[call.kind]:
            what = f"{call.kind}: no room, {self._limits[call.kind]} bytes wait for the server"
            call.later.fail(Dropped(what))
            self._on_dropped(what, 1)
            return
        self._count(call, 1)
        if self._timeout is not None:
            call.deadline = asyncio.get_running_loop().time() + self._timeout
        self._waiting.append(call)
        if self._flows and self._runner is None:
            self._start()
        elif self._timeout is not None and self._expiry is None:
            self._expiry = asyncio.get_running_loop().call_at(call.deadline, self._expire)

    def put_first(self, call: Call) -> None:
        """Before all that waits: what a new connection needs."""
        if self._timeout is not None:
            call.deadline = asyncio.get_running_loop().time() + self._timeout
        self._waiting.appendleft(call)
        self._count(call, 1)

    def resume(self) -> None:
        """The server is there."""
        self._flows = True
        if self._waiting and self._runner is None:
            self._start()

    def pause(self) -> None:
        """It has gone: what it has not answered is done again, or fails."""
        self._flows = False
        if self._runner is not None:
            self._runner.cancel()

    async def close(self, why: str) -> None:
        """What still waits fails with ``why``."""
        self._closed = why
        self._flows = False
        if self._expiry is not None:
            self._expiry.cancel()
        if (runner := self._runner) is not None:
            runner.cancel()
            await asyncio.wait([runner])
        while self._waiting:
            self._waiting.popleft().later.fail(Unreachable(why))

    async def drained(self) -> None:
        """All that waits has been answered, as long as the server is there."""
        while self._flows and (runner := self._runner) is not None:
            await asyncio.wait([runner])

    # ------------------------------------------------------------------ batches

    def _start(self) -> None:
        self._runner = asyncio.get_running_loop().create_task(self._flow())
        self._runner.add_done_callback(self._ended)

    def _ended(self, runner: asyncio.Task[None]) -> None:
        self._runner = None
        if self._waiting and self._flows:
            self._start()
        elif self._waiting and self._timeout is not None and not self._closed and self._expiry is None:
            self._expiry = asyncio.get_running_loop().call_at(self._waiting[0].deadline, self._expire)

    async def _flow(self) -> None:
        while self._waiting and self._flows:
            batch = self._take()
            try:
                await self._run(batch)
            except ServiceError as error:
                if isinstance(error, Unreachable):
                    self._flows = False  # until resume()
                self._settle(batch, error)
            except asyncio.CancelledError:
                self._settle(batch, Unreachable("the connection to the server broke: it may not have arrived"))
                raise
            except Exception as error:
                logger.exception("a batch of %d calls failed", len(batch))
                self._settle(batch, ServiceError(f"{type(error).__name__}: {error}"))

    def _take(self) -> list[Call]:
        batch: list[Call] = []
        size = 0
        while self._waiting and len(batch) < BATCH and size < BATCH_BYTES:
            call = self._waiting.popleft()
            self._count(call, -1)
            size += call.size
            batch.append(call)
        return batch

    def _settle(self, batch: list[Call], error: ServiceError) -> None:
        """What has no answer goes back to the front, in its order, or fails."""
        for call in reversed(batch):
            if call.later.done():
                continue
            if call.repeats and isinstance(error, Unreachable) and not self._closed:
                self._waiting.appendleft(call)
                self._count(call, 1)
            else:
                call.later.fail(error)

    def _count(self, call: Call, sign: int) -> None:
        if call.kind:
            self._bytes[call.kind] += sign * call.size

    def _expire(self) -> None:
        self._expiry = None
        now = asyncio.get_running_loop().time()
        while self._waiting and self._waiting[0].deadline <= now:
            call = self._waiting.popleft()
            self._count(call, -1)
            call.later.fail(TimedOut(f"the server was not there for {self._timeout:g} seconds"))
        if self._waiting:
            self._expiry = asyncio.get_running_loop().call_at(self._waiting[0].deadline, self._expire)
