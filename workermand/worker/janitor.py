"""Once a second, all that needs a clock: idle connections, stalled writers, the Status to the master, the limits.

One sweep with a coarse clock stands for a timer per connection and message (``call_later`` and its ``cancel`` cost
1.5 us, an attribute 0.025). The sweep keeps to a grid, and by how much it is late is the loop's lag. Nothing here runs
user code.
"""

from __future__ import annotations

import asyncio
import random
import resource
from collections.abc import Callable
from email.utils import formatdate
from typing import TYPE_CHECKING

from workermand.http import answers
from workermand.link import Status
from workermand.spec import Limits
from workermand.worker.deadlines import Deadlines

if TYPE_CHECKING:
    from workermand.worker.listening import Listeners
    from workermand.worker.timer import Timers
    from workermand.worker.worker import Worker

PERIOD = 1.0
MEMORY_EVERY = 10
"""Sweeps between looks at our memory."""
JITTER = 0.1
"""So that the children of a worker, started together and equally busy, are not replaced together."""


class Janitor:
    """Process: the child; thread: the one that runs the loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        worker: Worker,
        listeners: Listeners,
        timers: Timers,
        tell: Callable[[Status], None],
        recycle: Callable[[str], None],
        flush: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._worker = worker
        self._listeners = listeners
        self._timers = timers
        self._tell = tell
        self._recycle = recycle
        self._flush = flush
        self._next = loop.time()
        self._sweeps = 0
        self._lag = 0.0
        self._deadlines = Deadlines(worker)
        self._quota = Quota(worker.limits)

    def start(self) -> None:
        answers.set_date(formatdate(usegmt=True).encode())
        self._next += PERIOD
        self._loop.call_at(self._next, self._sweep)

    def renew_limits(self) -> None:
        """After a Refresh."""
        self._quota = Quota(self._worker.limits)

    def status(self, asked: int = 0) -> Status:
        stats = self._worker.stats
        return Status(
            asked=asked,
            connections=stats.connection_count,
            outgoing=stats.outgoing,
            total_request=stats.total_request,
            send_fail=stats.send_fail,
            exceptions=stats.exceptions,
            timers=len(self._timers),
            accepted=stats.accepted,
            loop_lag=self._lag,
            paused=self._listeners.paused,
            closed={reason.value: count for reason, count in stats.closed.items()},
            note=self._worker.note,
            figures=self._worker.figures,
        )

    def _sweep(self) -> None:
        now = self._loop.time()
        self._lag = max(0.0, now - self._next)
        self._next += PERIOD * (1 + int(self._lag / PERIOD))
        self._loop.call_at(self._next, self._sweep)
        self._sweeps += 1
        answers.set_date(formatdate(usegmt=True).encode())
        self._flush()
        self._deadlines.sweep(now)
        self._tell(self.status())
        if reason := self._quota.exceeded(self._worker.stats.total_request, look=self._sweeps % MEMORY_EVERY == 0):
            self._recycle(reason)


class Quota:
    """The limits after which a child is replaced, requests with jitter; says so once."""

    def __init__(self, limits: Limits) -> None:
        self._requests = limits.requests * random.uniform(1 - JITTER, 1 + JITTER)
        self._memory = limits.memory

    def exceeded(self, requests: int, *, look: bool) -> str:
        """The reason to be replaced, or "". ``look``: at the memory too."""
        reason = ""
        if self._requests and requests >= self._requests:
            reason = "requests limit"
        elif look and self._memory and resident_memory() > self._memory:
            reason = "memory limit"
        if reason:
            self._requests = self._memory = 0
        return reason


def resident_memory() -> int:
    """Bytes of this process in memory, those it shares included."""
    with open("/proc/self/statm", "rb") as statm:
        pages = int(statm.read().split()[1])
    return pages * resource.getpagesize()
