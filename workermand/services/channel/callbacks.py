"""Callbacks of a channel: called with as much as they take, one event after the other, and none of them can do harm.

A callback takes (data) or (data, name), sync or async; what it takes is found out once. An async one gets its next
event when it is done with the last one; meanwhile events wait, up to a limit.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final

from workermand import Worker

logger = logging.getLogger(__name__)

Callback = Callable[..., Any]
Answer = Callable[[bool, Any], None]
"""Gets (True, what a callback has returned) or (False, what went wrong, in words)."""

USERS: Final = (Exception, SystemExit, KeyboardInterrupt)
"""What user code may raise."""


def takes_name(callback: Callback) -> bool:
    """Whether it is called with (data, name). Raises TypeError for what takes neither one nor two arguments."""
    if not callable(callback):
        raise TypeError(f"a callback must be callable, not {type(callback).__name__}")
    try:
        signature = inspect.signature(callback)
    except ValueError:  # print and the like
        return False
    for count in (1, 2):  # one that needs no name keeps its defaults: lambda data, room=room: ...
        try:
            signature.bind(*range(count))
        except TypeError:
            continue
        return count == 2
    raise TypeError(f"{callback!r} takes {signature}: a callback is called with (data) or (data, name)")


class Failures:
    """Exceptions of callbacks, told and counted."""

    def __init__(self) -> None:
        self.count = 0
        try:
            self.worker: Worker | None = Worker.current()
        except RuntimeError:
            self.worker = None

    def report(self, where: str, error: BaseException) -> None:
        """In a worker process it counts for the worker as well."""
        self.count += 1
        if self.worker is not None:
            self.worker.failed(where, None, error)
        else:
            logger.error("exception in %s", where, exc_info=(type(error), error, error.__traceback__))


class Listener:
    """One callback, and what waits for it. Thread: the one that runs the loop."""

    def __init__(
        self, name: str, callback: Callback, failures: Failures, pending: int, dropped: Callable[[str, int], None]
    ) -> None:
        """``pending``: how many events may wait; ``dropped``: who is told of those that may not."""
        self.name = name
        self.callback = callback
        self._takes_name = takes_name(callback)
        self._failures = failures
        self._pending = pending
        self._dropped = dropped
        self._waiting: deque[tuple[Any, str, Answer | None]] = deque()
        self._task: asyncio.Task[None] | None = None

    def hear(self, data: Any, event: str, answer: Answer | None = None) -> None:
        """Raises nothing."""
        if self._task is not None:
            self._wait(data, event, answer)
            return
        result = self._call(data, event, answer)
        if result is not None:
            self._task = asyncio.get_running_loop().create_task(self._go_on(result, event, answer))

    def close(self) -> None:
        """What waits is forgotten; the call that runs comes to its end."""
        self._waiting.clear()

    def _wait(self, data: Any, event: str, answer: Answer | None) -> None:
        if len(self._waiting) < self._pending:
            self._waiting.append((data, event, answer))
            return
        words = f"the callback of {self.name} has {self._pending} events waiting"
        self._dropped(f"events: {words}", 1)
        if answer is not None:
            answer(False, words)

    def _call(self, data: Any, event: str, answer: Answer | None) -> Awaitable[Any] | None:
        """What there is to wait for."""
        try:
            result = self.callback(data, event) if self._takes_name else self.callback(data)
        except USERS as error:
            self._fail(event, answer, error)
            return None
        if inspect.isawaitable(result):
            return result
        if answer is not None:
            answer(True, result)
        return None

    async def _go_on(self, result: Awaitable[Any] | None, event: str, answer: Answer | None) -> None:
        try:
            while True:
                if result is not None:
                    await self._finish(result, event, answer)
                if not self._waiting:
                    return
                data, event, answer = self._waiting.popleft()
                result = self._call(data, event, answer)
        finally:
            self._task = None

    async def _finish(self, result: Awaitable[Any], event: str, answer: Answer | None) -> None:
        try:
            value = await result
        except USERS as error:
            self._fail(event, answer, error)
        else:
            if answer is not None:
                answer(True, value)

    def _fail(self, event: str, answer: Answer | None, error: BaseException) -> None:
        self._failures.report(f"the callback of {event}", error)
        if answer is not None:
            answer(False, f"{type(error).__name__}: {error}")
