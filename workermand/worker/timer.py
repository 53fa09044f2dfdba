"""Timers of the running process: every so many seconds, or once.

A persistent timer keeps to a grid from the moment it was added: the time a callback takes does not shift it, and ticks
missed meanwhile are skipped, never made up for. An async callback never overlaps itself. An exception is reported and
the timer lives on. Timers does the work; Timer is the door for user code, which process.py opens with install().
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from workermand.worker.guard import Failed

FINEST = 0.001
"""Seconds; the loop's clock counts milliseconds. An interval of 0 means as often as this."""

Callback = Callable[..., Any]


class Timer:
    """Timers (Workerman's Timer). Process: the child; thread: the one that runs the loop. Ids are per process."""

    _timers: ClassVar[Timers | None] = None

    @classmethod
    def add(cls, seconds: float, callback: Callback, args: Iterable[Any] = (), persistent: bool = True) -> int:
        """Calls ``callback(*args)``, sync or async, every ``seconds``, or once when not ``persistent``.

        Returns the id for delete(). Raises RuntimeError outside a worker process, ValueError for a negative interval.
        """
        return cls._installed("add").add(seconds, callback, args, persistent)

    @classmethod
    def delete(cls, id: int) -> bool:
        """Stops a timer, also from inside its own callback (Workerman's Timer::del). False when there is none. A
        callback at work is not cancelled."""
        return cls._installed("delete").delete(id)

    @classmethod
    def delete_all(cls) -> None:
        """Stops every timer of this process."""
        cls._installed("delete_all").delete_all()

    @staticmethod
    async def sleep(seconds: float) -> None:
        """Waits without holding anybody up: for ``async def`` callbacks."""
        await asyncio.sleep(seconds)

    @classmethod
    def _installed(cls, method: str) -> Timers:
        if cls._timers is None:
            raise RuntimeError(f"Timer.{method}: only a worker process has timers; call it from the handler")
        return cls._timers


def install(timers: Timers | None) -> None:
    """Opens Timer in this process. Called by process.py; by tests with None to close it again."""
    Timer._timers = timers


class Timers:
    """All timers of one process."""

    def __init__(self, loop: asyncio.AbstractEventLoop, failed: Failed) -> None:
        self._loop = loop
        self._failed = failed
        self._entries: dict[int, _Entry] = {}
        self._last_id = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        """Async callbacks at work: the loop alone would keep them only weakly."""

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, seconds: float, callback: Callback, args: Iterable[Any], persistent: bool) -> int:
        if not callable(callback):
            raise TypeError(f"a timer's callback must be callable, not {type(callback).__name__}")
        if not 0 <= seconds < math.inf:
            raise ValueError(f"a timer's interval must be 0 seconds or more, not {seconds!r}")
        self._last_id += 1
        entry = _Entry(self._last_id, max(float(seconds), FINEST), callback, tuple(args), persistent, self._loop.time())
        self._entries[entry.id] = entry
        self._schedule(entry)
        return entry.id

    def delete(self, id: int) -> bool:
        entry = self._entries.pop(id, None)
        if entry is None:
            return False
        if entry.handle is not None:
            entry.handle.cancel()
        return True

    def delete_all(self) -> None:
        for id in list(self._entries):
            self.delete(id)

    def _schedule(self, entry: _Entry) -> None:
        """The next point of the grid that lies ahead. The loop may wake us a millisecond early, so that the count of
        points must also move on."""
        passed = math.floor((self._loop.time() - entry.start) / entry.seconds)
        entry.ticks = max(entry.ticks, passed) + 1
        entry.handle = self._loop.call_at(entry.start + entry.ticks * entry.seconds, self._run, entry)

    def _run(self, entry: _Entry) -> None:
        if not entry.persistent:
            del self._entries[entry.id]
        try:
            result = entry.callback(*entry.args)
        except BaseException as error:  # a CancelledError too: future.result() raises it
            self._failed(f"timer {entry.name}", None, error)
        else:
            if asyncio.iscoroutine(result):
                self._await(entry, self._loop.create_task(result))
                return
        self._go_on(entry)

    def _await(self, entry: _Entry, task: asyncio.Task[Any]) -> None:
        self._tasks.add(task)

        def done(task: asyncio.Task[Any]) -> None:
            self._tasks.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                self._failed(f"timer {entry.name}", None, error)
            self._go_on(entry)

        task.add_done_callback(done)

    def _go_on(self, entry: _Entry) -> None:
        if entry.id in self._entries:
            self._schedule(entry)


@dataclass(slots=True, eq=False)
class _Entry:
    id: int
    seconds: float
    callback: Callback
    args: tuple[Any, ...]
    persistent: bool
    start: float
    ticks: int = 0
    """How many points of its grid are behind, the next one included."""
    handle: asyncio.TimerHandle | None = None

    @property
    def name(self) -> str:
        return str(getattr(self.callback, "__qualname__", self.callback))
