"""The consumer's side of redis:// queues: who wants how many items, and when to ask for them.

There is one question, "take", which also brings back what is due, overdue, or in the hands of the dead. It is put when
redis says that there is work, when an item in hand is done, when the next one is due, and once a second for the dead.
"""

from __future__ import annotations

import asyncio
import logging
import re
from typing import TYPE_CHECKING, Any, Final

from workermand.services.channel.engine import ChannelError, Item
from workermand.services.links.later import Later

if TYPE_CHECKING:
    from workermand.services.channel.redis import RedisEngine

logger = logging.getLogger(__name__)

PATROL: Final = 1.0
"""Seconds after which a consumer that waits looks for consumers that died."""
RETRIES: Final = 5
"""Of an item that is reserved: reserve() has no word for it."""
RETRY_DELAY: Final = 1.0
ID: Final = re.compile(r"\d+-\d+", re.ASCII)


class _Consumer:
    """Somebody who wants items: a watch, or one reserve()."""

    def __init__(self, queue: str, credit: int, deadline: float, retries: int, retry_delay: float) -> None:
        self.queue = queue
        self.credit = credit
        self.deadline = deadline
        self.retries = retries
        self.retry_delay = retry_delay
        self.in_hand: set[str] = set()
        self.reserved: Later[Item | None] | None = None
        """None: this is a watch."""
        self.ends = 0.0
        """When a reserve() gives up."""
        self.asks = False
        """An answer is on its way ..."""
        self.again = False
        """... and there may be more since."""
        self.timer: asyncio.TimerHandle | None = None

    @property
    def wanted(self) -> int:
        return self.credit - len(self.in_hand)


class RedisQueues:
    """Thread: the one that runs the loop."""

    def __init__(self, engine: RedisEngine) -> None:
        self._engine = engine
        self._watches: dict[str, _Consumer] = {}
        self._waiting: dict[str, set[_Consumer]] = {}
        """By queue: all that want items, now or later."""
        self._holders: dict[tuple[str, str], _Consumer] = {}

    def channels(self) -> list[str]:
        """What to listen to on a new connection."""
        return [f"wm:w:{queue}" for queue in self._waiting]

    def close(self) -> None:
        for consumers in list(self._waiting.values()):
            for consumer in list(consumers):
                self._end(consumer).add_done_callback(lambda ended: ended.cancelled() or ended.exception())

    def lost(self) -> None:
        """What is in hand goes back to its queue: our name in redis is gone."""
        self._holders.clear()
        for consumers in self._waiting.values():
            for consumer in consumers:
                consumer.in_hand.clear()
                consumer.asks = False

    def regained(self) -> None:
        for queue in list(self._waiting):
            self.wake(queue)

    # ------------------------------------------------------------------ consumers

    def watch(self, queue: str, credit: int, deadline: float, retries: int, retry_delay: float) -> Later[None]:
        if (former := self._watches.pop(queue, None)) is not None:
            self._stop(former)
        consumer = self._watches[queue] = _Consumer(queue, credit, deadline, retries, retry_delay)
        later = self._begin(consumer)
        self._ask(consumer, patrols=True)
        return later

    def unwatch(self, queue: str) -> Later[None]:
        consumer = self._watches.pop(queue, None)
        if consumer is None:
            return Later.of(f"unwatch {queue}", None)
        return self._end(consumer)

    def reserve(self, queue: str, deadline: float, wait: float) -> Later[Item | None]:
        consumer = _Consumer(queue, 1, deadline, RETRIES, RETRY_DELAY)
        later = consumer.reserved = Later(f"reserve from {queue}")
        consumer.ends = asyncio.get_running_loop().time() + wait
        if wait > 0:
            self._begin(consumer)
        self._ask(consumer, patrols=True)
        return later

    def wake(self, queue: str) -> None:
        """There may be work."""
        for consumer in tuple(self._waiting.get(queue, ())):
            self._ask(consumer)

    def _begin(self, consumer: _Consumer) -> Later[None]:
        consumers = self._waiting.setdefault(consumer.queue, set())
        consumers.add(consumer)
        if len(consumers) > 1:
            return Later.of(f"watch {consumer.queue}", None)
        return self._engine.hear("SUBSCRIBE", consumer.queue)

    def _stop(self, consumer: _Consumer) -> bool:
        """Whether nobody else wants anything of that queue."""
        if consumer.timer is not None:
            consumer.timer.cancel()
        consumers = self._waiting.get(consumer.queue, set())
        consumers.discard(consumer)
        return not consumers and self._waiting.pop(consumer.queue, None) is not None

    def _end(self, consumer: _Consumer) -> Later[None]:
        if consumer.reserved is not None:
            consumer.reserved.fulfil(None)
        if self._stop(consumer):
            return self._engine.hear("UNSUBSCRIBE", consumer.queue)
        return Later.of(f"unwatch {consumer.queue}", None)

    # ------------------------------------------------------------------ the question

    def _ask(self, consumer: _Consumer, patrols: bool = False) -> None:
        if consumer.asks:
            consumer.again = True
            return
        if consumer.wanted <= 0:
            return
        if consumer.timer is not None:
            consumer.timer.cancel()
        consumer.asks, consumer.again = True, False

        def take() -> list[Any]:
            milliseconds = max(1, round(consumer.deadline * 1000))
            settings = (consumer.wanted, milliseconds, consumer.retries, int(patrols))
            return [self._engine.script("take", consumer.queue, self._engine.client, *settings)]

        taken = self._engine.send(f"take from {consumer.queue}", take, lambda answers: answers[0])
        taken.add_done_callback(lambda later: self._answered(consumer, later))

    def _answered(self, consumer: _Consumer, taken: Later[Any]) -> None:
        error = taken.exception()
        consumer.asks = False
        if isinstance(error, ChannelError):
            logger.error("%s", error)
            if consumer.reserved is not None:
                consumer.reserved.fail(error)
        if error is not None:
            self._wait(consumer, PATROL)
            return
        milliseconds, found = taken.result()
        for id, attempt, envelope in found:
            self._give(consumer, Item(consumer.queue, id.decode(), attempt, envelope))
        if consumer.again and consumer in self._waiting.get(consumer.queue, ()):
            self._ask(consumer)
        else:
            self._wait(consumer, milliseconds / 1000)

    def _give(self, consumer: _Consumer, item: Item) -> None:
        self._holders[(item.queue, item.id)] = consumer
        if consumer.reserved is None:
            if self._watches.get(item.queue) is consumer:
                consumer.in_hand.add(item.id)
                self._engine.receiver.on_item(item)
            else:  # unwatched meanwhile
                self.refuse(item, 0.0, False)
        elif not consumer.reserved.done():
            consumer.reserved.fulfil(item)
            self._end(consumer)
        else:  # nobody waits for it any more
            self.refuse(item, 0.0, False)

    def _wait(self, consumer: _Consumer, seconds: float) -> None:
        """For the next item that is due, or the dead."""
        loop = asyncio.get_running_loop()
        if consumer.reserved is not None:
            left = consumer.ends - loop.time()
            if consumer.reserved.done() or left <= 0:
                self._end(consumer)
                return
            seconds = min(seconds, left)
        elif self._watches.get(consumer.queue) is not consumer:
            return
        if consumer.wanted > 0:
            consumer.timer = loop.call_later(min(max(seconds, 0.001), PATROL), self._ask, consumer, True)

    # ------------------------------------------------------------------ items in hand

    def acknowledge(self, item: Item) -> Later[None]:
        command = self._engine.script("done", item.queue, item.id, item.attempt)
        return self._let_go(item, "acknowledge", command)

    def refuse(self, item: Item, delay: float | None, dead: bool) -> Later[None]:
        holder = self._holders.get((item.queue, item.id))
        if delay is None:
            delay = holder.retry_delay if holder is not None else RETRY_DELAY
        dead = dead or item.attempt > (holder.retries if holder is not None else RETRIES)
        milliseconds = round(delay * 1000)
        command = self._engine.script("refuse", item.queue, item.id, item.attempt, milliseconds, int(dead))
        return self._let_go(item, "refuse", command)

    def _let_go(self, item: Item, what: str, command: Any) -> Later[None]:
        words = f"{what} {item.id} of {item.queue}"

        def finish(answers: list[Any]) -> None:
            if not answers[0]:
                raise ChannelError(f"{words}: it is not in these hands any more")

        later = self._engine.send(words, lambda: [command], finish, repeats=True)
        holder = self._holders.pop((item.queue, item.id), None)
        if holder is not None:
            holder.in_hand.discard(item.id)
            if holder.reserved is None:
                self._ask(holder)
        return later

    # ------------------------------------------------------------------ the dead

    def dead_letters(self, queue: str, limit: int) -> Later[list[Item]]:
        def finish(answers: list[Any]) -> list[Item]:
            return [Item(queue, id.decode(), int(fields[1]), fields[3]) for id, fields in answers[0]]

        command = ("XRANGE", f"wm:d:{queue}", "-", "+", "COUNT", limit)
        return self._engine.send(f"dead letters of {queue}", lambda: [command], finish)

    def replay(self, queue: str, ids: Any) -> Later[int]:
        known = [id for id in ids if ID.fullmatch(id)] if ids is not None else []
        if ids is not None and not known:
            return Later.of(f"replay {queue}", 0)
        command = self._engine.script("replay", queue, *known)
        return self._engine.send(f"replay {queue}", lambda: [command], lambda answers: int(answers[0]))
