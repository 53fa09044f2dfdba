"""Later: the outcome of a call that takes effect in order whether anybody waits for it or not."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, TypeVar

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Later(asyncio.Future[T]):
    """A future that may be dropped: an error that nobody has fetched is logged in a line, for a sync callback has no
    way to wait for it. Thread: the one that runs the loop."""

    __slots__ = ("what",)

    def __init__(self, what: str) -> None:
        """``what`` was tried, for the log: "publish to room.1"."""
        super().__init__()
        self.what = what

    @classmethod
    def of(cls, what: str, value: T) -> Later[T]:
        """One that is fulfilled already."""
        later = cls(what)
        later.set_result(value)
        return later

    @classmethod
    def failed(cls, what: str, error: Exception) -> Later[T]:
        """One that has failed already."""
        later = cls(what)
        later.set_exception(error)
        return later

    def fulfil(self, value: T) -> None:
        """Unless it has been cancelled, or has an outcome."""
        if not self.done():
            self.set_result(value)

    def fail(self, error: Exception) -> None:
        """Likewise."""
        if not self.done():
            self.set_exception(error)

    def __del__(self) -> None:
        # In place of asyncio's own words, which come with a traceback of the loop.
        if self._log_traceback:
            error: Any = self.exception()  # which also marks it as fetched
            logger.error("%s failed, and nobody waited for it: %s", self.what, error)
