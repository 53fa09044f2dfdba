"""The nats:// engine: events are core subjects, one of many is a queue group, queues are JetStream's (nats_queues.py).

A client whose names overlap is sent an event once for each. Every event therefore begins with who sent it and its
number; nats keeps the order of one sender's messages, so that whatever does not count on is a copy.
"""

from __future__ import annotations

import asyncio
import logging
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from workermand.services.channel.engine import ChannelError, Item, Promise, Receiver
from workermand.services.channel.nats_queues import NatsQueues
from workermand.services.channel.topics import is_pattern, matcher
from workermand.services.links.backlog import Backlog, Call
from workermand.services.links.later import Later
from workermand.services.links.nats import NatsLink, Send, Step, perform
from workermand.services.links.subjects import cover, name, subject

logger = logging.getLogger(__name__)

PROMISES: Final = frozenset({Promise.ONE_OF_MANY, Promise.PATTERNS, Promise.ORDER})
WITH_JETSTREAM: Final = frozenset({Promise.QUEUES, Promise.DELAY, Promise.DEAD_LETTERS, Promise.PERSISTENCE})
GROUP: Final = "wm"
MARK: Final = struct.Struct(">8sQ")
"""Before each envelope: the sender, and the number of the event."""
REMEMBERED: Final = 10_000
"""Senders whose last number is known; events that are known to match."""
FAREWELL: Final = 2.0
"""Seconds that close() has for what still waits."""


class NatsEngine:
    """Process: any; thread: the one that runs the loop. ``promises`` is complete when start() is."""

    def __init__(self, url: str, *, buffer: int = 1024 * 1024, item_buffer: int = 16 * 1024 * 1024) -> None:
        """``buffer``, ``item_buffer``: bytes of events and of items that wait while nats is away. Raises
        ConfigError."""
        self.promises = PROMISES
        self.link = NatsLink(url, on_up=self._on_up, on_down=self._on_down)
        self.receiver: Receiver
        self._sender = bytes.fromhex(self.link.client_id)
        self._number = 0
        self._numbers: dict[bytes, int] = {}
        """By sender: the last event that has come."""
        self._matchers: dict[str, re.Pattern[str]] = {}
        self._names: set[str] = set()
        self._covers: dict[tuple[str, str], set[str]] = {}
        """By subject and group: the names that want it."""
        self._known: dict[str, bool] = {}
        """By event: whether a name of ours matches it."""
        self._backlog = Backlog(self._run, limits={"events": buffer, "items": item_buffer}, on_dropped=self._on_dropped)
        self._queues = NatsQueues(self)

    async def start(self, receiver: Receiver) -> None:
        self.receiver = receiver
        self.link.route("wm.e.", self._on_event)
        self.link.route("wm.o.", self._on_event)
        await self.link.open()
        if await self.link.has_jetstream():
            await self.link.set_clock()
            self.promises |= WITH_JETSTREAM
        self._backlog.resume()

    async def close(self) -> None:
        """What has been called is done first, if nats is there; what is in hand goes back."""
        self._queues.close()
        try:
            async with asyncio.timeout(FAREWELL):
                await self._backlog.drained()
        except TimeoutError:
            pass
        await self._backlog.close("the channel is closed")
        await self.link.close()

    # ------------------------------------------------------------------ events

    def publish(self, events: Sequence[str], envelope: bytes, *, one: bool = False) -> Later[int | None]:
        later: Later[int | None] = Later(f"publish to {', '.join(events)}")
        prefix = "wm.o." if one else "wm.e."

        async def do() -> None:
            for event in events:
                self._number += 1
                await self.link.publish(prefix + subject(event), MARK.pack(self._sender, self._number) + envelope)

        size = sum(len(event) + len(envelope) for event in events)
        self._backlog.add(Send(later, do, kind="events", size=size))
        return later

    def subscribe(self, patterns: Sequence[str]) -> Later[None]:
        async def do() -> None:
            for pattern in patterns:
                self._names.add(pattern)
                if is_pattern(pattern):
                    self._matchers[pattern] = matcher(pattern)
                self._known.clear()
                for key in _keys(pattern):
                    self._covers.setdefault(key, set()).add(pattern)
                    await self.link.listen(*key)

        later: Later[None] = self.send(f"subscribe {', '.join(patterns)}", do, repeats=True)
        return later

    def unsubscribe(self, patterns: Sequence[str]) -> Later[None]:
        async def do() -> None:
            for pattern in patterns:
                self._names.discard(pattern)
                self._matchers.pop(pattern, None)
                self._known.clear()
                for key in _keys(pattern):
                    wanted = self._covers.get(key, set())
                    wanted.discard(pattern)
                    if not wanted and self._covers.pop(key, None) is not None:
                        await self.link.forget(*key)

        later: Later[None] = self.send(f"unsubscribe {', '.join(patterns)}", do, repeats=True)
        return later

    def _on_event(self, subject: str, reply: str, data: bytes, headers: Mapping[str, str]) -> None:
        sender, number = MARK.unpack_from(data)
        if number <= self._numbers.get(sender, 0):
            return  # by another of our names
        if sender not in self._numbers and len(self._numbers) >= REMEMBERED:
            del self._numbers[next(iter(self._numbers))]
        self._numbers[sender] = number
        event = name(subject[5:])
        known = self._known.get(event)
        if known is None:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            known = self._known[event] = event in self._names or any(
                matches.fullmatch(event) for matches in self._matchers.values()
            )
        if known:
            self.receiver.on_event(event, data[MARK.size :])

    # ------------------------------------------------------------------ queues: see NatsQueues

    def enqueue(self, queues: Sequence[str], envelope: bytes, *, delay: float = 0.0) -> Later[None]:
        return self._queues.enqueue(queues, envelope, delay)

    def watch(
        self, queue: str, *, credit: int = 1, deadline: float = 60.0, retries: int = 5, retry_delay: float = 1.0
    ) -> Later[None]:
        return self._queues.watch(queue, credit, deadline, retries, retry_delay)

    def unwatch(self, queue: str) -> Later[None]:
        return self._queues.unwatch(queue)

    def reserve(self, queue: str, *, deadline: float = 60.0, wait: float = 0.0) -> Later[Item | None]:
        return self._queues.reserve(queue, deadline, wait)

    def acknowledge(self, item: Item) -> Later[None]:
        return self._queues.acknowledge(item)

    def refuse(self, item: Item, *, delay: float | None = None, dead: bool = False) -> Later[None]:
        return self._queues.refuse(item, delay, dead)

    def dead_letters(self, queue: str, *, limit: int = 100) -> Later[list[Item]]:
        return self._queues.dead_letters(queue, limit)

    def replay(self, queue: str, ids: Sequence[str] | None = None) -> Later[int]:
        return self._queues.replay(queue, ids)

    # ------------------------------------------------------------------ calls, and the connection

    def send(self, what: str, do: Callable[[], Any], finish: Callable[[Any], Any] | None = None, **options: Any) -> Any:
        """See links.nats.Send."""
        later: Later[Any] = Later(what)
        self._backlog.add(Send(later, do, finish or (lambda answer: None), **options))
        return later

    def step(self, what: str, do: Callable[[], Any], **options: Any) -> Any:
        """See links.nats.Step."""
        later: Later[Any] = Later(what)
        self._backlog.add(Step(later, do, **options))
        return later

    async def _run(self, calls: list[Call]) -> None:
        await perform(self.link, calls, ChannelError)

    def _on_up(self) -> None:
        # nats-py has subscribed to everything again.
        self._backlog.resume()
        self._queues.regained()
        self.receiver.on_regained()

    def _on_down(self) -> None:
        logger.warning("nats at %s is gone: %s", self.link.where, self.link.reason)
        self._backlog.pause()
        self._queues.lost()
        self.receiver.on_lost()

    def _on_dropped(self, what: str, count: int) -> None:
        self.receiver.on_dropped(what, count)


def _keys(pattern: str) -> list[tuple[str, str]]:
    """What to subscribe to. A queue group gives an event to one member for good: who cannot be sure that it is one of
    its own must not be in it, nor are the facade's names ("$...")."""
    covered = cover(pattern)
    keys = [(f"wm.e.{covered.subject}", "")]
    if covered.is_exact and not pattern.startswith("$"):
        keys.append((f"wm.o.{covered.subject}", GROUP))
    return keys
