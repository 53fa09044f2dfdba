"""The engine behind channel://: our own server, over a link.

The link comes back by itself; then everything is subscribed and watched again, before anything that waited goes out.
What was published and not confirmed when it broke fails, for it may have arrived, and twice is worse than not knowing;
an item that was not confirmed is sent again, for once is what was promised at least.
"""

from __future__ import annotations

import asyncio
import functools
import heapq
import itertools
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from workermand.services.channel import wire
from workermand.services.channel.engine import ChannelError, Item, Promise, Receiver
from workermand.services.links import wire as links
from workermand.services.links.address import Server
from workermand.services.links.client import Link
from workermand.services.links.errors import Dropped, ServiceError, TimedOut, Unreachable
from workermand.services.links.later import Later

logger = logging.getLogger(__name__)

EVENT_BUFFER: Final = 1024 * 1024
ITEM_BUFFER: Final = 16 * 1024 * 1024
"""Bytes that wait while the server is away."""
PATIENCE: Final = 30.0
"""Seconds that the server has for an answer: a disk may be slow to sync."""
AT_ONCE: Final = 1000
"""Names in one message, when all are subscribed again."""
RETRY: Final = 0.02
"""Seconds until a full send buffer is looked at again."""


class _Event(NamedTuple):
    """A publish that waits."""

    frame: bytes
    later: Later[int | None]


class _Item(NamedTuple):
    """An enqueue that waits, or is under way."""

    number: int
    queues: Sequence[str]
    envelope: bytes
    delay: float
    later: Later[None]


class Embedded:
    """Process: a worker's, or any with a loop; thread: the one that runs it."""

    def __init__(
        self, server: Server, *, buffer: int = EVENT_BUFFER, item_buffer: int = ITEM_BUFFER, tls: Any = None
    ) -> None:
        """``buffer`` and ``item_buffer``: bytes of events and of items that wait while the server is away."""
        self.promises: frozenset[Promise] = frozenset()
        self._loop = asyncio.get_running_loop()
        self._link = Link(
            server.address,
            "channel",
            secret=server.secret,
            tls=tls,
            on_message=self._hear,
            on_up=self._up,
            on_down=self._down,
        )
        self._buffer, self._item_buffer = buffer, item_buffer
        self._numbers = itertools.count(1)
        self._unconfirmed: deque[Later[int | None]] = deque()
        """Publishes that are under way."""
        self._events: deque[_Event] = deque()
        self._event_bytes = 0
        self._items: list[_Item] = []
        """A heap by number: what is sent again goes before what is younger."""
        self._item_bytes = 0
        self._subscribed: dict[str, None] = {}
        self._watched: dict[str, tuple[int, float, int, float]] = {}
        self._returning: list[Later[None]] = []
        """Subscriptions, and ends of them, that hold as soon as the server is back."""
        self._regaining: asyncio.Task[None] | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._is_back = False
        """This is not the first connection."""
        self._closed = False

    async def start(self, receiver: Receiver) -> None:
        """Raises Unreachable, Unauthorized, ServiceError."""
        self._receiver = receiver
        await self._link.open()
        known = {str(promise): promise for promise in Promise}
        self.promises = frozenset(known[name] for name in await self._link.request(wire.ABOUT) if name in known)

    async def close(self) -> None:
        """What has been sent still goes out; what waits fails."""
        self._closed = True
        if self._regaining is not None:
            self._regaining.cancel()
        await self._link.close()
        gone = Unreachable("the channel is closed")
        laters: list[Later[Any]] = [event.later for event in self._events] + [item.later for item in self._items]
        for later in (*laters, *self._unconfirmed, *self._returning):
            later.fail(gone)
        self._events.clear()
        self._items.clear()

    # ------------------------------------------------------------------ events

    def publish(self, events: Sequence[str], envelope: bytes, *, one: bool = False) -> Later[int | None]:
        later: Later[int | None] = Later(f"publish to {events[0]}")
        frame = links.pack((wire.PUBLISH, next(self._numbers), events, envelope, one))
        if not self._events and self._link.send(frame):
            self._unconfirmed.append(later)
        elif self._has_room(later, len(frame), self._event_bytes, self._buffer, "events"):
            self._events.append(_Event(frame, later))
            self._event_bytes += len(frame)
            self._look_again()
        return later

    def subscribe(self, patterns: Sequence[str]) -> Later[None]:
        new = [pattern for pattern in patterns if pattern not in self._subscribed]
        self._subscribed.update(dict.fromkeys(new))
        forget = functools.partial(_forget, self._subscribed, new)
        return self._lasting("subscribe", forget, wire.SUBSCRIBE, list(patterns))

    def unsubscribe(self, patterns: Sequence[str]) -> Later[None]:
        for pattern in patterns:
            self._subscribed.pop(pattern, None)
        return self._lasting("unsubscribe", _keep, wire.UNSUBSCRIBE, list(patterns))

    # ------------------------------------------------------------------ queues

    def enqueue(self, queues: Sequence[str], envelope: bytes, *, delay: float = 0.0) -> Later[None]:
        later: Later[None] = Later(f"enqueue to {queues[0]}")
        item = _Item(next(self._numbers), queues, envelope, delay, later)
        if not self._items and self._send_item(item):
            return later
        if self._has_room(later, len(envelope), self._item_bytes, self._item_buffer, "items"):
            self._keep_item(item)
        return later

    def watch(
        self, queue: str, *, credit: int = 1, deadline: float = 60.0, retries: int = 5, retry_delay: float = 1.0
    ) -> Later[None]:
        settings = (credit, deadline, retries, retry_delay)
        forget = functools.partial(_forget, self._watched, [] if queue in self._watched else [queue])
        self._watched[queue] = settings
        return self._lasting(f"watch {queue}", forget, wire.WATCH, queue, *settings)

    def unwatch(self, queue: str) -> Later[None]:
        self._watched.pop(queue, None)
        return self._lasting(f"unwatch {queue}", _keep, wire.UNWATCH, queue)

    def reserve(self, queue: str, *, deadline: float = 60.0, wait: float = 0.0) -> Later[Item | None]:
        later: Later[Item | None] = Later(f"reserve from {queue}")
        asked = self._link.request(wire.RESERVE, queue, deadline, wait, timeout=wait + PATIENCE)
        asked.add_done_callback(functools.partial(_pass_on, later, _item_or_none))
        return later

    def acknowledge(self, item: Item) -> Later[None]:
        return self._give_up(item, f"acknowledge {item.queue}", wire.ACKNOWLEDGE, item.queue, item.id)

    def refuse(self, item: Item, *, delay: float | None = None, dead: bool = False) -> Later[None]:
        return self._give_up(item, f"refuse {item.queue}", wire.REFUSE, item.queue, item.id, delay, dead)

    def dead_letters(self, queue: str, *, limit: int = 100) -> Later[list[Item]]:
        later: Later[list[Item]] = Later(f"dead letters of {queue}")
        asked = self._link.request(wire.DEAD, queue, limit, timeout=PATIENCE)
        asked.add_done_callback(functools.partial(_pass_on, later, lambda rows: [Item(*row) for row in rows]))
        return later

    def replay(self, queue: str, ids: Sequence[str] | None = None) -> Later[int]:
        later: Later[int] = Later(f"replay {queue}")
        asked = self._link.request(wire.REPLAY, queue, None if ids is None else list(ids), timeout=PATIENCE)
        asked.add_done_callback(functools.partial(_pass_on, later, int))
        return later

    def _give_up(self, item: Item, what: str, op: int, *rest: Any) -> Later[None]:
        later: Later[None] = Later(what)
        if not self._link.up:
            later.fail(Unreachable(f"the server has gone, and takes item {item.id} back"))
            return later

        def check(was_ours: bool) -> None:
            if not was_ours:
                raise ChannelError(f"item {item.id} is not this client's any more: its deadline has passed")

        self._link.request(op, *rest, timeout=PATIENCE).add_done_callback(functools.partial(_pass_on, later, check))
        return later

    # ------------------------------------------------------------------ what lasts

    def _lasting(self, what: str, forget: Callable[[], None], op: int, *rest: Any) -> Later[None]:
        """What has been noted already, and will be said again at every connection: it holds then, if not now; unless
        the server refuses it."""
        later: Later[None] = Later(what)
        if not self._link.up and not self._closed:
            self._returning.append(later)
            return later

        def answered(asked: Later[Any]) -> None:
            error = asked.exception()
            if isinstance(error, (Unreachable, Dropped)) and not self._closed:
                self._returning.append(later)
                return
            if error is not None:
                forget()
            _pass_on(later, lambda result: None, asked)

        self._link.request(op, *rest, timeout=PATIENCE).add_done_callback(answered)
        return later

    def _up(self) -> None:
        names = list(self._subscribed)
        asked = [
            self._link.request(wire.SUBSCRIBE, names[start : start + AT_ONCE], timeout=PATIENCE)
            for start in range(0, len(names), AT_ONCE)
        ]
        for queue, settings in self._watched.items():
            asked.append(self._link.request(wire.WATCH, queue, *settings, timeout=PATIENCE))
        if self._is_back:
            self._regaining = self._loop.create_task(self._regain(asked))
        self._is_back = True
        self._flush()

    async def _regain(self, asked: list[Later[Any]]) -> None:
        for outcome in await asyncio.gather(*asked, return_exceptions=True):
            if isinstance(outcome, Unreachable):
                return  # it has gone again
            if isinstance(outcome, ServiceError):
                logger.error("not everything is subscribed and watched again: %s", outcome)
        returned, self._returning = self._returning, []
        for later in returned:
            later.fulfil(None)
        self._receiver.on_regained()

    def _down(self, why: str) -> None:
        broken = Unreachable(f"{why}: it may not have arrived")
        while self._unconfirmed:
            self._unconfirmed.popleft().fail(broken)
        if not self._closed:
            self._receiver.on_lost()

    # ------------------------------------------------------------------ what waits

    def _has_room(self, later: Later[Any], size: int, waiting: int, limit: int, what: str) -> bool:
        if self._closed:
            later.fail(Unreachable("the channel is closed"))
        elif waiting + size > limit:
            words = f"{what}: {waiting} bytes wait for the server, and {limit} is the limit"
            later.fail(Dropped(words))
            self._receiver.on_dropped(words, 1)
        else:
            return True
        return False

    def _send_item(self, item: _Item) -> bool:
        if not self._link.up:
            return False
        asked = self._link.request(wire.ENQUEUE, item.queues, item.envelope, item.delay, timeout=PATIENCE)
        if asked.done() and isinstance(asked.exception(), Dropped):
            return False
        asked.add_done_callback(functools.partial(self._enqueued, item))
        return True

    def _enqueued(self, item: _Item, asked: Later[Any]) -> None:
        if isinstance(asked.exception(), Unreachable) and not self._closed:
            self._keep_item(item)
        else:
            _pass_on(item.later, lambda result: None, asked)

    def _keep_item(self, item: _Item) -> None:
        heapq.heappush(self._items, item)
        self._item_bytes += len(item.envelope)
        self._look_again()

    def _flush(self) -> None:
        """As much as there is room for."""
        while self._items and self._send_item(self._items[0]):
            self._item_bytes -= len(heapq.heappop(self._items).envelope)
        while self._events and self._link.send(self._events[0].frame):
            frame, later = self._events.popleft()
            self._event_bytes -= len(frame)
            self._unconfirmed.append(later)
        self._look_again()

    def _look_again(self) -> None:
        """It is up, but its buffer is full."""
        if self._link.up and self._retry is None and (self._events or self._items):
            self._retry = self._loop.call_later(RETRY, self._retry_now)

    def _retry_now(self) -> None:
        self._retry = None
        self._flush()

    # ------------------------------------------------------------------ what the server says

    def _hear(self, message: list[Any]) -> None:
        op = message[0]
        if op == wire.EVENT:
            self._receiver.on_event(message[2], message[3])
        elif op == wire.CONFIRMED:
            unconfirmed = self._unconfirmed
            for count in message[2]:
                unconfirmed.popleft().fulfil(count)
        elif op == wire.ITEM:
            self._receiver.on_item(Item(*message[2:]))
        elif op == wire.DROPPED:
            self._receiver.on_dropped("events: this client did not read them in time", message[2])


def _item_or_none(row: list[Any] | None) -> Item | None:
    return None if row is None else Item(*row)


def _pass_on(later: Later[Any], read: Any, asked: Later[Any]) -> None:
    """The outcome of a request, as the caller is to see it."""
    error = asked.exception()
    if error is None:
        try:
            later.fulfil(read(asked.result()))
        except ChannelError as refusal:
            later.fail(refusal)
    elif isinstance(error, (Unreachable, TimedOut, Dropped)):
        later.fail(error)
    else:
        later.fail(ChannelError(str(error)))


def _forget(noted: dict[str, Any], names: list[str]) -> None:
    """What the server does not want is not asked for again."""
    for name in names:
        noted.pop(name, None)


def _keep() -> None:
    """There is nothing to forget."""
