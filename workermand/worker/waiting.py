"""Who waits until something has become of a connection: that it is drained, that its client has gone.

Kept here by connection, and not on the connections: on ten thousand of them nobody waits.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workermand.worker.connection import Connection

Waiters = dict["Connection", set[asyncio.Future[None]]]


class Waiting:
    """Process: the child; thread: the one that runs the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._for_drain: Waiters = {}
        self._for_end: Waiters = {}

    def __len__(self) -> int:
        return sum(map(len, (*self._for_drain.values(), *self._for_end.values())))

    async def until_drained(self, connection: Connection) -> None:
        """Or closed."""
        await self._wait(self._for_drain, connection)

    async def until_gone(self, connection: Connection) -> None:
        await self._wait(self._for_end, connection)

    def drained(self, connection: Connection) -> None:
        """The kernel has taken what was unsent."""
        _wake(self._for_drain, connection)

    def gone(self, connection: Connection) -> None:
        """The client sends no more."""
        _wake(self._for_end, connection)

    def closed(self, connection: Connection) -> None:
        _wake(self._for_drain, connection)
        _wake(self._for_end, connection)

    async def _wait(self, waiters: Waiters, connection: Connection) -> None:
        future: asyncio.Future[None] = self._loop.create_future()
        waiters.setdefault(connection, set()).add(future)
        try:
            await future
        finally:
            if future in (others := waiters.get(connection, set())):  # it was cancelled
                others.discard(future)
                if not others:
                    del waiters[connection]


def _wake(waiters: Waiters, connection: Connection) -> None:
    for future in waiters.pop(connection, ()):
        if not future.done():
            future.set_result(None)
