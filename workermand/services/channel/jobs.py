"""Jobs: items of queues in the hands of user code; done when a callback returns, back in the queue when it raises."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable
from typing import Any

from workermand.services.channel import wire
from workermand.services.channel.callbacks import USERS, Callback, Failures, takes_name
from workermand.services.channel.engine import Engine, Item
from workermand.services.links.errors import ServiceError

logger = logging.getLogger(__name__)


class Job:
    """What reserve() and dead_letters() give."""

    __slots__ = ("_engine", "_item", "data")

    def __init__(self, item: Item, engine: Engine) -> None:
        self.data = wire.unpack_envelope(item.envelope).data
        self._item = item
        self._engine = engine

    @property
    def queue(self) -> str:
        return self._item.queue

    @property
    def id(self) -> str:
        return self._item.id

    @property
    def attempt(self) -> int:
        """From 1."""
        return self._item.attempt

    def acknowledge(self) -> Awaitable[None]:
        """It is done. ChannelError, when awaited: it was not ours any more."""
        return self._engine.acknowledge(self._item)

    def refuse(self, *, delay: float | None = None, dead: bool = False) -> Awaitable[None]:
        """Back to its queue, in ``delay`` seconds, or to the dead letters."""
        return self._engine.refuse(self._item, delay=delay, dead=dead)

    def __repr__(self) -> str:
        return f"<Job {self.id} of {self.queue}, attempt {self.attempt}>"


class Watcher:
    """The callback of one queue. The server sees to how many are at work at once."""

    def __init__(self, queue: str, callback: Callback, engine: Engine, failures: Failures) -> None:
        self._queue = queue
        self._callback = callback
        self._takes_name = takes_name(callback)
        self._engine = engine
        self._failures = failures
        self._tasks: set[asyncio.Task[None]] = set()

    def take(self, item: Item) -> None:
        """Raises nothing."""
        try:
            data = wire.unpack_envelope(item.envelope).data
        except ServiceError as error:
            logger.error("item %s of %s: %s", item.id, self._queue, error)
            self._engine.refuse(item, dead=True)
            return
        try:
            result = self._callback(data, self._queue) if self._takes_name else self._callback(data)
        except USERS as error:
            self._fail(item, error)
            return
        if inspect.isawaitable(result):
            task = asyncio.get_running_loop().create_task(self._finish(item, result))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            self._engine.acknowledge(item)

    async def _finish(self, item: Item, result: Awaitable[Any]) -> None:
        try:
            await result
        except USERS as error:
            self._fail(item, error)
        else:
            self._engine.acknowledge(item)

    def _fail(self, item: Item, error: BaseException) -> None:
        self._failures.report(f"the callback of queue {self._queue}, item {item.id}, attempt {item.attempt}", error)
        self._engine.refuse(item)
