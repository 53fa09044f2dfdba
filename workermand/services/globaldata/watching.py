"""Watching: the callback of one watched key, and what it is told of all that the engine says."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import msgspec


class Change(msgspec.Struct, frozen=True):
    """What a watch's callback gets."""

    key: str
    value: Any
    """None when it is gone."""
    version: int
    """0 where a deletion has none, see Promise.VERSIONS."""
    gone: bool = False
    """Deleted, or ended by its ttl."""


Callback = Callable[[Change], Any]


class Watcher:
    """One key. Thread: the one that runs the loop. A callback that awaits is called again when it has returned, and
    then with the last change: those between are left out, so that nothing piles up."""

    def __init__(self, key: str, callback: Callback, failed: Callable[[str, BaseException], None]) -> None:
        """``failed`` is told what the callback raises."""
        self.key = key
        self._callback = callback
        self._failed = failed
        self._version = 0
        self._there = False
        self._next: Change | None = None
        self._task: asyncio.Task[None] | None = None
        self.is_over = False

    def is_news(self, gone: bool, version: int) -> bool:
        """An engine may say a thing twice, and an older one behind a newer one."""
        if version and version <= self._version:
            return False
        was_there, self._there = self._there, not gone
        self._version = max(version, self._version)
        return was_there or not gone

    def tell(self, change: Change) -> None:
        """Of what is_news()."""
        if self._task is not None:
            self._next = change
            return
        try:
            result = self._callback(change)
        except Exception as error:  # of whatever kind: it is the user's
            self._failed(self.key, error)
            return
        if inspect.isawaitable(result):
            self._task = asyncio.ensure_future(self._go_on(result))

    async def _go_on(self, result: Any) -> None:
        try:
            await result
        except Exception as error:
            self._failed(self.key, error)
        finally:
            self._task = None
        change, self._next = self._next, None
        if change is not None and not self.is_over:
            self.tell(change)
