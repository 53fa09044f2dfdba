"""The redis:// engine: events are Pub/Sub, queues are Streams with a consumer group (redis_scripts.py has the keys).

Redis delivers an event once for each name of a client that matches it; which of them counts is decided by what redis
has confirmed, which it says on the same connection. Consumers do not poll: who puts an item into a queue says so on
wm:w:QUEUE. How durable a confirmed item is is redis's own setting: PERSISTENCE is promised with appendfsync always.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Callable, Sequence
from typing import Any, Final

from workermand.services.channel.engine import ChannelError, Item, Promise, Receiver
from workermand.services.channel.redis_queues import RedisQueues
from workermand.services.channel.redis_scripts import LEASE, SCRIPTS
from workermand.services.channel.topics import is_pattern, matcher
from workermand.services.links.backlog import Backlog, Call
from workermand.services.links.errors import Unreachable
from workermand.services.links.later import Later
from workermand.services.links.redis import Command, RedisLink, Send, Step, is_durable, perform

logger = logging.getLogger(__name__)

PROMISES: Final = frozenset(
    {Promise.ONE_OF_MANY, Promise.PATTERNS, Promise.ORDER, Promise.QUEUES, Promise.DELAY, Promise.DEAD_LETTERS}
)
"""Not COUNTS: redis counts deliveries, and a client with two names that match is two."""
FAREWELL: Final = 2.0
"""Seconds that close() has for what still waits."""


class RedisEngine:
    """Process: any; thread: the one that runs the loop. ``promises`` is complete when start() is."""

    def __init__(self, url: str, *, buffer: int = 1024 * 1024, item_buffer: int = 16 * 1024 * 1024) -> None:
        """``buffer``, ``item_buffer``: bytes of events and of items that wait while redis is away. Raises
        ConfigError."""
        self.promises = PROMISES
        self._link = RedisLink(
            url,
            scripts=SCRIPTS,
            on_push=self._on_push,
            on_connect=self._restore,
            on_up=self._on_up,
            on_down=self._on_down,
        )
        self.receiver: Receiver
        self.client = ""
        """This connection's name; another one after each reconnect."""
        self._names: dict[str, None] = {}
        """What is subscribed, as far as the facade is concerned."""
        self._exact: set[bytes] = set()
        """Channels that redis has confirmed."""
        self._matchers: dict[bytes, re.Pattern[str]] = {}
        """Likewise patterns."""
        self._backlog = Backlog(self._run, limits={"events": buffer, "items": item_buffer}, on_dropped=self._on_dropped)
        self._queues = RedisQueues(self)
        self._lease: asyncio.TimerHandle | None = None

    async def start(self, receiver: Receiver) -> None:
        self.receiver = receiver
        await self._link.open()
        if await is_durable(self._link):
            self.promises |= {Promise.PERSISTENCE}
        self._backlog.resume()
        self._renew()

    async def close(self) -> None:
        """What has been called is done first, if redis is there."""
        if self._lease is not None:
            self._lease.cancel()
        self._queues.close()
        try:
            async with asyncio.timeout(FAREWELL):
                await self._backlog.drained()
                if self._link.up:  # whose turn it would be has gone, and what is in hand is free
                    await self._link.listen("UNSUBSCRIBE", [f"wm:c:{self.client}"])
        except (TimeoutError, Unreachable):
            pass
        await self._backlog.close("the channel is closed")
        await self._link.close()

    # ------------------------------------------------------------------ events

    def publish(self, events: Sequence[str], envelope: bytes, *, one: bool = False) -> Later[int | None]:
        if one:
            commands = [self.script("one", event, envelope) for event in events]
        else:
            commands = [("PUBLISH", f"wm:e:{event}", envelope) for event in events]
        size = sum(len(event) + len(envelope) for event in events)
        return self.send(f"publish to {', '.join(events)}", lambda: commands, sum, kind="events", size=size)

    def subscribe(self, patterns: Sequence[str]) -> Later[None]:
        self._names.update(dict.fromkeys(patterns))
        return self._listen("SUBSCRIBE", patterns)

    def unsubscribe(self, patterns: Sequence[str]) -> Later[None]:
        for pattern in patterns:
            self._names.pop(pattern, None)
        return self._listen("UNSUBSCRIBE", patterns)

    def _listen(self, verb: str, patterns: Sequence[str]) -> Later[None]:
        later: Later[None] = Later(f"{verb.lower()} {', '.join(patterns)}")
        self._backlog.add(Step(later, lambda: self._subscribe(verb, patterns)))
        return later

    # ------------------------------------------------------------------ queues: see RedisQueues

    def enqueue(self, queues: Sequence[str], envelope: bytes, *, delay: float = 0.0) -> Later[None]:
        commands = [self.script("put", queue, round(delay * 1000), envelope) for queue in queues]
        size = sum(len(queue) + len(envelope) for queue in queues)
        what = f"enqueue to {', '.join(queues)}"
        return self.send(what, lambda: commands, kind="items", size=size, repeats=True)

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

    # ------------------------------------------------------------------ what is sent

    def send(
        self,
        what: str,
        make: Callable[[], list[Command]],
        finish: Callable[[list[Any]], Any] = lambda answers: None,
        **options: Any,
    ) -> Later[Any]:
        """In its turn; its outcome is what ``finish`` makes of the answers."""
        later: Later[Any] = Later(what)
        self._backlog.add(Send(later, make, finish, **options))
        return later

    def hear(self, verb: str, queue: str) -> Later[None]:
        """SUBSCRIBE, or UNSUBSCRIBE: whether there is work."""
        later: Later[None] = Later(f"{verb.lower()} queue {queue}")
        self._backlog.add(Step(later, lambda: self._link.listen(verb, [f"wm:w:{queue}"])))
        return later

    def script(self, name: str, *arguments: Any) -> Command:
        return self._link.script(name, (), *arguments)

    async def _run(self, calls: list[Call]) -> None:
        await perform(self._link, calls, ChannelError)

    async def _subscribe(self, verb: str, names: Sequence[str]) -> None:
        # "$": the facade's own names, which never mean one of many
        own = [name for name in names if not name.startswith("$")]
        if verb == "UNSUBSCRIBE" and own:
            await self._link.run([self.script("leave", self.client, *own)])
        await self._link.listen(verb, [_channel(name) for name in names if not is_pattern(name)])
        await self._link.listen("P" + verb, [_glob(name) for name in names if is_pattern(name)])
        if verb == "SUBSCRIBE" and own:
            await self._link.run([self.script("join", self.client, *own)])

    # ------------------------------------------------------------------ what comes

    def _on_push(self, message: list[Any]) -> None:
        kind, name = message[0], message[1]
        if kind == b"message":
            mark, rest = name[:5], name[5:]
            if mark == b"wm:e:":
                self.receiver.on_event(rest.decode(), message[2])
            elif mark == b"wm:w:":
                self._queues.wake(rest.decode())
            elif mark == b"wm:c:":
                end = 2 + int.from_bytes(message[2][:2])
                self.receiver.on_event(message[2][2:end].decode(), message[2][end:])
        elif kind == b"pmessage":
            event = message[2][5:].decode()
            if message[2] not in self._exact and self._is_first(name, event):
                self.receiver.on_event(event, message[3])
        elif kind == b"subscribe":
            self._exact.add(name)
        elif kind == b"unsubscribe":
            self._exact.discard(name)
        elif kind == b"psubscribe":
            self._matchers[name] = matcher(_pattern(name))
        elif kind == b"punsubscribe":
            self._matchers.pop(name, None)

    def _is_first(self, glob: bytes, event: str) -> bool:
        """Redis delivers once for each pattern: the first of them counts."""
        if len(self._matchers) > 1:
            for other, expression in self._matchers.items():
                if other == glob:
                    break
                if expression.fullmatch(event):
                    return False
        return glob in self._matchers

    # ------------------------------------------------------------------ the connection

    async def _restore(self) -> None:
        self.client = secrets.token_hex(8)
        self._exact.clear()
        self._matchers.clear()
        await self._link.listen("SUBSCRIBE", [f"wm:c:{self.client}", *self._queues.channels()])
        if self._names:
            await self._subscribe("SUBSCRIBE", list(self._names))

    def _on_up(self) -> None:
        self._backlog.resume()
        self._queues.regained()
        self.receiver.on_regained()

    def _on_down(self) -> None:
        logger.warning("redis at %s is gone: %s", self._link.where, self._link.reason)
        self._backlog.pause()
        self._queues.lost()
        self.receiver.on_lost()

    def _on_dropped(self, what: str, count: int) -> None:
        self.receiver.on_dropped(what, count)

    def _renew(self) -> None:
        """Before the lease on the names ends."""
        if self._lease is not None and self._names and self._link.up:
            names = [name for name in self._names if not name.startswith("$")]
            self.send("renew subscriptions", lambda: [self.script("join", self.client, *names)])
        self._lease = asyncio.get_running_loop().call_later(LEASE / 4, self._renew)


def _channel(name: str) -> str:
    return f"wm:e:{name}"


def _glob(pattern: str) -> str:
    """Of redis's signs the star alone is one of ours."""
    return "wm:e:" + re.sub(r"[\\?\[\]^]", r"\\\g<0>", pattern)


def _pattern(glob: bytes) -> str:
    return re.sub(r"\\(.)", r"\1", glob[5:].decode())
