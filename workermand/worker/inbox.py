"""Inbox: how the async callbacks of one connection run: in order, one at a time, bounded.

One task per connection, made at the first message, never one per message (683,000 messages a second against 276,000).
What waits is bounded by limits.inbox: beyond it the connection is not read, so that a client faster than its handler
is slowed down by TCP. What one read brings on top of that is taken: 250 kB at most.

The task runs the Inbox itself, as a coroutine: each step, from one suspension to the next, is a turn of the wire, so
that what a handler sends before it awaits is written when it awaits, once. on_connect and on_close come through here
too when they are async: the one before all messages, the other after the last. Closing a connection does not cancel
the callback at work; what only waits is dropped.
"""

from __future__ import annotations

import asyncio
import collections
import functools
import sys
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any

from workermand.protocols.base import Protocol
from workermand.worker import intake
from workermand.worker.callbacks import Callbacks
from workermand.worker.handlers import is_async

if TYPE_CHECKING:
    from workermand.worker.connection import Connection
    from workermand.worker.wire import Wire

AsyncCallback = Callable[..., Awaitable[object]]


async def _call(callback: Callable[..., object], *arguments: object) -> None:
    """A sync callback that has to wait for an async one."""
    callback(*arguments)


class Inbox(Coroutine[Any, Any, None]):
    """Process: the child; thread: the one that runs the loop."""

    __slots__ = (
        "_bytes",
        "_bytes_limit",
        "_is_at_work",
        "_limit",
        "_on_message",
        "_queue",
        "_steps",
        "_task",
        "_wake",
        "_wire",
    )

    _on_message: AsyncCallback

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._queue: collections.deque[tuple[str, AsyncCallback, tuple[Any, ...], int]] = collections.deque()
        """Name, callback, arguments, size. The first is at work, if any is."""
        self._is_at_work = False
        self._bytes = 0
        self._bytes_limit = wire.worker.limits.inbox.bytes or sys.maxsize
        self._wake: asyncio.Future[None] | None = None
        self.bound_by(wire.protocol)
        self._steps = self._run()
        # Not by create_task: its factory contains the exits of user code, which is done here already.
        self._task: asyncio.Task[None] | None = asyncio.Task(self, loop=wire.worker.loop)

    def bound_by(self, protocol: Protocol) -> None:
        """A stepwise protocol parses its next message when the handler is done with this one."""
        self._limit = 1 if protocol.stepwise else self._wire.worker.limits.inbox.messages

    def use(self, callbacks: Callbacks) -> None:
        """What on_message is from the next message on."""
        assert callbacks.on_message is not None
        if (around := self._wire.protocol.around) is not None:
            self._on_message = functools.partial(around, callbacks.on_message)
        elif "on_message" in callbacks.asynchronous:
            self._on_message = callbacks.on_message
        else:
            self._on_message = functools.partial(_call, callbacks.on_message)

    @property
    def is_busy(self) -> bool:
        return bool(self._queue)

    @property
    def is_full(self) -> bool:
        return len(self._queue) >= self._limit or self._bytes >= self._bytes_limit

    def put(self, connection: Connection, message: Any) -> None:
        """A message for on_message."""
        try:
            size = len(message)
        except TypeError:  # an http Request, or what a custom protocol makes of its bytes
            size = len(getattr(message, "whole", None) or b"")
        self._bytes += size
        self._queue.append(("on_message", self._on_message, (connection, message), size))
        if self.is_full:
            intake.regulate(self._wire)
        self.wake()

    def add(self, name: str, callback: Callable[..., Any], connection: Connection, *arguments: object) -> None:
        """Another callback that must keep to the order: on_connect, on_close, those of a WebSocket."""
        waiting = callback if is_async(callback) else functools.partial(_call, callback)
        self._queue.append((name, waiting, (connection, *arguments), 0))
        self.wake()

    def take_back(self) -> list[Any]:
        """The messages that nobody has seen yet; they are the caller's from here on."""
        first = [self._queue.popleft()] if self._is_at_work else []
        messages = [arguments[1] for name, _, arguments, _ in self._queue if name == "on_message"]
        others = [entry for entry in self._queue if entry[0] != "on_message"]
        self._queue.clear()
        self._queue.extend(first + others)
        self._bytes = sum(size for _, _, _, size in self._queue)
        return messages

    def wake(self) -> None:
        """There is something to do, or nothing ever again."""
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def _run(self) -> None:
        wire, queue = self._wire, self._queue
        try:
            while True:
                while queue and not wire.paused:
                    await self._run_first()
                if not queue and intake.idle(wire):
                    return
                if not queue or wire.paused:
                    self._wake = wire.worker.loop.create_future()
                    await self._wake
                    self._wake = None
        finally:
            self._task = None
            intake.lose_inbox(wire)

    async def _run_first(self) -> None:
        name, callback, arguments, size = self._queue[0]
        self._is_at_work = True
        try:
            await callback(*arguments)
        except BaseException as error:
            self._wire.failed(name, error)
            if self._task is not None and self._task.cancelling():
                raise
        finally:
            self._is_at_work = False
            self._queue.popleft()
            self._bytes -= size
        if len(self._queue) == self._limit // 2:
            intake.regulate(self._wire)

    # ------------------------------------------------------------------ what its task calls

    def send(self, value: None) -> Any:
        self._begin_turn()
        try:
            return self._steps.send(value)
        finally:
            self._wire.end_turn()

    def throw(self, *error: Any) -> Any:
        self._begin_turn()
        try:
            return self._steps.throw(*error)
        finally:
            self._wire.end_turn()

    def _begin_turn(self) -> None:
        if self._wire.out is not None:  # it is corked
            self._wire.end_turn()
        self._wire.out = []

    def close(self) -> None:
        self._steps.close()

    def __await__(self) -> Generator[Any, None, None]:
        return self._steps.__await__()
