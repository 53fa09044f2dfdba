"""Waiting: requests whose answers are on their way, with their deadlines under one timer."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Container
from typing import Any

from workermand.services.links.errors import ServiceError, TimedOut
from workermand.services.links.later import Later


class Waiting:
    """Thread: the one that runs the loop. A timer for each request would cost more than the request: there is one, for
    the nearest deadline, and who it wakes looks through all."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._laters: dict[int, tuple[Later[Any], float, float]] = {}
        """By number: the outcome, the deadline, the seconds it had."""
        self._timer: asyncio.TimerHandle | None = None
        self._next = math.inf

    def __len__(self) -> int:
        return len(self._laters)

    def has(self, number: int) -> bool:
        """It still waits."""
        return number in self._laters

    def add(self, number: int, later: Later[Any], seconds: float) -> None:
        deadline = self._loop.time() + seconds
        self._laters[number] = (later, deadline, seconds)
        if deadline < self._next:
            self._wake_at(deadline)

    def fulfil(self, number: int, result: Any) -> None:
        """An answer that nobody waits for any more is nothing."""
        if (waiting := self._laters.pop(number, None)) is not None:
            waiting[0].fulfil(result)

    def fail(self, number: int, error: ServiceError) -> None:
        """Likewise."""
        if (waiting := self._laters.pop(number, None)) is not None:
            waiting[0].fail(error)

    def fail_all(self, error: ServiceError, but: Container[int] = ()) -> None:
        for number in [number for number in self._laters if number not in but]:
            self.fail(number, error)

    def _wake_at(self, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._next = deadline
        self._timer = self._loop.call_at(deadline, self._wake)

    def _wake(self) -> None:
        self._timer, self._next = None, math.inf
        now = self._loop.time()
        for number, (later, deadline, seconds) in list(self._laters.items()):
            if deadline <= now:
                self.fail(number, TimedOut(f"{later.what}: no answer within {seconds:g} s"))
            elif deadline < self._next:
                self._next = deadline
        if self._next < math.inf:
            self._wake_at(self._next)
