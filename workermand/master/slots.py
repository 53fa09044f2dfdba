"""The slots: worker "echo" with count 4 has slots 0 to 3, each with a child that serves, and perhaps one that comes and
some that go. A slot outlives its children; it remembers crashes and when the next child may start.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator

from workermand.master.child import Child, Phase

BACKOFF_MAX = 30.0
HEALTHY = 60.0
"""Seconds after READY after which a crash counts as the first again."""
PROMPT = 1.0
"""Seconds a child must have been READY for its stop() to be followed at once: stop() in a loop is a crash loop."""


class Slot:
    """Process: the master's. ``current`` serves, ``incoming`` is to follow it, ``draining`` have been told to stop."""

    def __init__(self, worker: str, index: int) -> None:
        self.worker = worker
        self.index = index
        self.current: Child | None = None
        self.incoming: Child | None = None
        self.draining: list[Child] = []
        self.crashes = 0
        self.next_start: float | None = None
        """When an empty slot is to be filled (monotonic); None: not by the clock."""

    def __str__(self) -> str:
        return f"{self.worker}#{self.index}"

    def children(self) -> Iterator[Child]:
        yield from (child for child in (self.current, self.incoming) if child is not None)
        yield from self.draining

    @property
    def serving(self) -> bool:
        return self.current is not None and self.current.phase is Phase.RUNNING

    def dismiss(self, child: Child) -> None:
        """The slot's serving child serves no more (it drains or is gone)."""
        if self.current is child:
            self.current = None
        if self.incoming is child:
            self.incoming = None
        if child.phase is not Phase.GONE and child not in self.draining:
            self.draining.append(child)

    def forget(self, child: Child) -> None:
        """The child is gone."""
        self.dismiss(child)
        if child in self.draining:
            self.draining.remove(child)

    def promote(self) -> Child | None:
        """The incoming child is the slot's from now on; returns the one it follows."""
        before, self.current, self.incoming = self.current, self.incoming, None
        self.next_start = None
        if before is not None:
            self.draining.append(before)
        return before

    def schedule(self, child: Child, jitter: Callable[[], float] = random.random) -> float:
        """The child has ended unasked: when the next may start. Returns the delay in seconds: 0 for the first crash
        and for a child that left by itself after serving, then 1, 2, 4 ... 30, each with up to a fifth more."""
        now = time.monotonic()
        served = now - child.ready_at if child.ready_at is not None else 0.0
        if served >= HEALTHY:
            self.crashes = 0
        if (child.leaving or child.recycle) and served >= PROMPT:
            delay = 0.0
        else:
            delay = backoff(self.crashes) * (1 + jitter() / 5)
            self.crashes += 1
        self.next_start = now + delay
        return delay


def backoff(crashes: int) -> float:
    """Seconds: 0, 1, 2, 4, 8, 16, 30, 30 ..."""
    return 0.0 if crashes == 0 else float(min(2 ** min(crashes - 1, 10), BACKOFF_MAX))
