"""Channel: what users hold. It knows data, callbacks, requests, groups and jobs; bytes are the engine's, engine.py.

    from workermand.services.channel import Channel

    async def on_worker_start(worker):
        worker.channel = await Channel.connect()
        worker.channel.on("news", lambda data: worker.broadcast(data))

publish, enqueue, on and all the others that give an awaitable may be called without ``await``, from sync callbacks:
they take effect in the order in which they are called, and an error that nobody waits for is logged.
"""

from __future__ import annotations

import asyncio
import importlib
import itertools
import logging
import secrets
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final

from workermand import ConfigError, Connection, Worker
from workermand.services.channel import names, wire
from workermand.services.channel.callbacks import Answer, Callback, Failures, Listener
from workermand.services.channel.embedded import EVENT_BUFFER, ITEM_BUFFER, Embedded
from workermand.services.channel.engine import ChannelError, Engine, Item, Promise
from workermand.services.channel.groups import Groups
from workermand.services.channel.jobs import Job, Watcher
from workermand.services.channel.topics import Topics
from workermand.services.links import address
from workermand.services.links.address import Server
from workermand.services.links.errors import ServiceError, TimedOut
from workermand.services.links.later import Later

logger = logging.getLogger(__name__)

SCHEME: Final = "channel"
PORT: Final = 2206
"""Workerman's."""
SERVER: Final = "workermand.services.channel.server"
OTHERS: Final = {
    "redis": ("redis", "RedisEngine"),
    "rediss": ("redis", "RedisEngine"),
    "nats": ("nats", "NatsEngine"),
}
"""By scheme: the module beside this one, and its engine."""
PENDING: Final = 1000
"""Events that may wait for one async callback."""


class Channel:
    """Events and queues between processes and machines (Workerman's Channel\\Client). Process: any with a running loop;
    thread: the one that runs it."""

    def __init__(self, engine: Engine, *, pending: int = PENDING) -> None:
        """Made by connect()."""
        self.engine = engine
        self.id = secrets.token_hex(8)
        self.on_message: Callback | None = None
        """Called with (data) or (data, event) for what was subscribed to without a callback."""
        self.on_lost: Callable[[], object] | None = None
        """The server has gone. Called without arguments, like on_regained."""
        self.on_regained: Callable[[], object] | None = None
        """It is back, and everything is subscribed and watched again."""
        self.on_dropped: Callable[[str, int], object] | None = None
        """Called with (what and why, how many): events or items have been lost. Without it that is logged."""
        self.dropped = 0
        """Events and items lost so far."""
        self.unheard = 0
        """Events that came, and nothing was there to be called."""
        self._failures = Failures()
        self._pending = pending
        self._listeners: dict[str, Listener | None] = {}
        """By name; None: on_message."""
        self._index: Topics[Listener] = Topics()
        self._catch_all: Listener | None = None
        self._own: dict[str, Callable[[Any], object]] = {}
        """By event of our own: who gets its data."""
        self._watchers: dict[str, Watcher] = {}
        self._groups = Groups(self._group_is_empty)
        self._requests = itertools.count(1)
        self._answers: dict[int, Later[Any]] = {}
        self._reply_event = names.own("reply", self.id)
        self._listening: asyncio.Future[None] | None = None
        """To answers: while the first request waits for that."""
        self._broadcasts_of = ""

    @classmethod
    async def connect(
        cls,
        url: str | None = None,
        *,
        secret: str = "",
        require: Iterable[Promise | str] = (),
        tls: Any = None,
        buffer: int = EVENT_BUFFER,
        item_buffer: int = ITEM_BUFFER,
        pending: int = PENDING,
    ) -> Channel:
        """A channel that is connected, and that comes back by itself from then on.

        ``url``: "channel://127.0.0.1:2206", "channel:///run/x/channel.sock", "redis://...", "nats://..."; None: the
        server of this daemon, with its secret. ``require``: promises that the engine has to keep ("queues",
        "persistence"). ``buffer`` and ``item_buffer``: bytes of events and of items that wait while the server is away;
        ``pending``: events that wait for one async callback.

        Raises ConfigError for a URL that cannot be, or an engine that does not keep what is required; Unreachable,
        Unauthorized.
        """
        promises = [_promise(name) for name in require]
        engine = _engine(url, secret, buffer, item_buffer, tls)
        channel = cls(engine, pending=pending)
        await engine.start(Ears(channel))
        missing = [str(promise) for promise in promises if promise not in engine.promises]
        if missing:
            await engine.close()
            where = url or "this daemon's channel"
            raise ConfigError(where, f"does not promise: {', '.join(missing)}", "docs/channel.md says who does")
        channel._take_broadcasts(url or SCHEME)
        return channel

    @property
    def promises(self) -> frozenset[Promise]:
        """What this engine keeps."""
        return self.engine.promises

    async def close(self) -> None:
        """What has been published still goes out; callbacks are not called any more."""
        for listener in filter(None, self._listeners.values()):
            listener.close()
        self._listeners.clear()
        self._index = Topics()
        self._own.clear()
        self._watchers.clear()
        _broadcasting().discard(self._broadcasts_of)
        await self.engine.close()

    async def __aenter__(self) -> Channel:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # ------------------------------------------------------------------ events

    def on(self, event: str, callback: Callback) -> Awaitable[None]:
        """Subscribes to ``event``, or to a pattern ("room.*"), and calls ``callback`` with (data) or (data, event) for
        each; what it returns answers a request. A second one replaces the first (Workerman's Client::on)."""
        return self.subscribe(event, callback)

    def subscribe(self, events: str | Iterable[str], callback: Callback | None = None) -> Awaitable[None]:
        """Like on() for several; without ``callback``, on_message is called."""
        found = names.any_of(events)
        new = [name for name in found if name not in self._listeners]
        for name in found:
            listener = None if callback is None else self._listener(name, callback)
            self._forget(name)
            self._listeners[name] = listener
            if listener is not None:
                self._index.subscribe(listener, name)
        return self.engine.subscribe(new) if new else Later.of("subscribe", None)

    def unsubscribe(self, events: str | Iterable[str]) -> Awaitable[None]:
        """Its callback is not called any more from here on."""
        found = [name for name in names.any_of(events) if name in self._listeners]
        for name in found:
            self._forget(name)
            self._listeners.pop(name, None)
        return self.engine.unsubscribe(found) if found else Later.of("unsubscribe", None)

    def publish(self, events: str | Iterable[str], data: Any, *, one: bool = False) -> Awaitable[int | None]:
        """To all subscribers of each event, oneself included; ``one``: to one of them, in turn. Awaiting it waits until
        the server has passed it on, and gives how many took it; None where the engine does not count. Nobody keeps
        what nobody has subscribed to: for that there are queues."""
        return self.engine.publish(names.plain(events), wire.pack_envelope(data), one=one)

    def publish_loop(self, events: str | Iterable[str], data: Any) -> Awaitable[int | None]:
        """publish(one=True), by Workerman's name."""
        return self.publish(events, data, one=True)

    async def request(self, event: str, data: Any = None, timeout: float = 5.0) -> Any:  # noqa: ASYNC109 -- a message's
        """What the callback of one subscriber returns. Raises ChannelError with the words of what it raised, or when
        nobody has subscribed; TimedOut after ``timeout`` seconds."""
        name = names.one(event)
        number = next(self._requests)
        envelope = wire.pack_envelope(data, self._reply_event, number)
        answer = self._answers[number] = Later(f"request {name}")
        try:
            async with asyncio.timeout(timeout):
                await self._listen()
                count = await self.engine.publish([name], envelope, one=Promise.ONE_OF_MANY in self.promises)
                if count == 0:
                    raise ChannelError(f"request {name}: nobody has subscribed to it")
                return await answer
        except TimeoutError:
            raise TimedOut(f"request {name}: no answer within {timeout:g} s") from None
        finally:
            del self._answers[number]

    async def _listen(self) -> None:
        if self._reply_event not in self._own:
            self._own[self._reply_event] = self._answered
            self._listening = asyncio.ensure_future(self.engine.subscribe([self._reply_event]))
        if self._listening is not None:
            await asyncio.shield(self._listening)
            self._listening = None

    # ------------------------------------------------------------------ queues

    def enqueue(self, queues: str | Iterable[str], data: Any, *, delay: float = 0.0) -> Awaitable[None]:
        """One item into each queue, to be had in ``delay`` seconds. Awaiting it waits until it is safe: on disk, where
        the server persists."""
        if not delay >= 0:
            raise ValueError(f"a delay must be 0 seconds or more, not {delay!r}")
        return self.engine.enqueue(names.plain(queues), wire.pack_envelope(data), delay=delay)

    def watch(
        self,
        queue: str,
        callback: Callback,
        *,
        credit: int = 1,
        deadline: float = 60.0,
        retries: int = 5,
        retry_delay: float = 1.0,
    ) -> Awaitable[None]:
        """Calls ``callback`` with (data) or (data, queue) for each item, ``credit`` async ones at once. When it returns
        the item is done; when it raises, or has not returned after ``deadline`` seconds, it comes back: after
        ``retry_delay`` seconds, and to the dead letters from more than ``retries`` attempts. An item may come twice."""
        name = names.one(queue)
        if credit < 1 or retries < 0 or not deadline > 0 or not retry_delay >= 0:
            raise ValueError(f"watch {name}: credit from 1, retries and retry_delay from 0, deadline above 0")
        self._watchers[name] = Watcher(name, callback, self.engine, self._failures)
        settings: dict[str, Any] = {"deadline": deadline, "retries": retries, "retry_delay": retry_delay}
        return self.engine.watch(name, credit=credit, **settings)

    def unwatch(self, queue: str) -> Awaitable[None]:
        """No further items; those at work come to their end."""
        if self._watchers.pop(queue, None) is None:
            return Later.of(f"unwatch {queue}", None)
        return self.engine.unwatch(queue)

    async def reserve(self, queue: str, *, deadline: float = 60.0, wait: float = 0.0) -> Job | None:
        """One item, to be acknowledged or refused within ``deadline`` seconds; None when there is none within
        ``wait``."""
        name = names.one(queue)
        item = await self.engine.reserve(name, deadline=deadline, wait=wait)
        return None if item is None else Job(item, self.engine)

    async def dead_letters(self, queue: str, *, limit: int = 100) -> list[Job]:
        """The oldest ``limit`` of them; they stay where they are."""
        name = names.one(queue)
        return [Job(item, self.engine) for item in await self.engine.dead_letters(name, limit=limit)]

    def replay(self, queue: str, ids: Sequence[str] | None = None) -> Awaitable[int]:
        """Gives dead letters back to their queue, these or all, as if they were new; how many."""
        name = names.one(queue)
        return self.engine.replay(name, ids)

    # ------------------------------------------------------------------ connections of other processes

    def broadcast(self, worker: str, message: Any) -> Awaitable[int | None]:
        """Every process of ``worker`` that has called Channel.connect() sends ``message`` to all its clients. How many
        processes do."""
        return self.engine.publish([names.own("worker", worker)], wire.pack_envelope(message))

    def join_group(self, group: str, connection: Connection) -> Awaitable[None]:
        """From here on, until it leaves or closes, ``connection`` gets what is sent to the group by whomever."""
        event = names.own("group", group)
        if not self._groups.join(group, connection) or event in self._own:
            return Later.of(f"join {group}", None)
        self._own[event] = lambda message: self._groups.send(group, message)
        return self.engine.subscribe([event])

    def leave_group(self, group: str, connection: Connection) -> bool:
        """False: it was no member."""
        return self._groups.leave(group, connection)

    def send_to_group(self, group: str, message: Any) -> Awaitable[int | None]:
        """To every member in every process. How many processes have some."""
        return self.engine.publish([names.own("group", group)], wire.pack_envelope(message))

    def group_size(self, group: str) -> int:
        """Members in this process."""
        return len(self._groups.members(group))

    def groups_of(self, connection: Connection) -> frozenset[str]:
        return self._groups.of(connection)

    # ------------------------------------------------------------------ within

    def _listener(self, name: str, callback: Callback) -> Listener:
        return Listener(name, callback, self._failures, self._pending, self._has_dropped)

    def _forget(self, name: str) -> None:
        if (former := self._listeners.get(name)) is not None:
            former.close()
            self._index.gone(former)

    def _take_broadcasts(self, url: str) -> None:
        """The first channel of a worker process to each server does."""
        taken = _broadcasting()
        if self._failures.worker is None or url in taken:
            return
        taken.add(url)
        self._broadcasts_of = url
        event = names.own("worker", self._failures.worker.name)
        self._own[event] = self._failures.worker.broadcast
        self.engine.subscribe([event])

    def _group_is_empty(self, group: str) -> None:
        event = names.own("group", group)
        if self._own.pop(event, None) is not None:
            self.engine.unsubscribe([event])

    def _heard(self, event: str, envelope: bytes) -> None:
        try:
            data, reply_event, request = wire.unpack_envelope(envelope)
        except ServiceError as error:
            logger.warning("%s: %s", event, error)
            return
        if event.startswith(names.OWN):
            self._heard_own(event, data)
            return
        answer = self._answering(reply_event, request) if reply_event else None
        listeners = self._index.matching(event)
        if not listeners and (listener := self._catching()) is not None:
            listeners = (listener,)
        if not listeners:
            self.unheard += 1
        for listener in listeners:
            listener.hear(data, event, answer)
            answer = None  # one answer is enough

    def _heard_own(self, event: str, data: Any) -> None:
        if (taker := self._own.get(event)) is None:
            return
        try:
            taker(data)
        except Exception as error:  # what somebody else has sent may be nothing for this protocol
            self._failures.report(event, error)

    def _catching(self) -> Listener | None:
        """on_message, as it is now."""
        if self.on_message is None:
            return None
        if self._catch_all is None or self._catch_all.callback is not self.on_message:
            self._catch_all = self._listener("on_message", self.on_message)
        return self._catch_all

    def _answering(self, reply_event: str, request: int) -> Answer:
        def answer(good: bool, value: Any) -> None:
            try:
                envelope = wire.pack_envelope([request, good, value])
            except TypeError as error:
                envelope = wire.pack_envelope([request, False, f"its answer: {error}"])
            self.engine.publish([reply_event], envelope)

        return answer

    def _answered(self, data: Any) -> None:
        match data:
            case [int(request), bool(good), value] if request in self._answers:
                if good:
                    self._answers[request].fulfil(value)
                else:
                    self._answers[request].fail(ChannelError(str(value)))

    def _has_dropped(self, what: str, count: int) -> None:
        self.dropped += count
        if self.on_dropped is None:
            logger.warning("%d dropped: %s", count, what)
        else:
            self._tell(self.on_dropped, what, count)

    def _tell(self, callback: Callable[..., object] | None, *arguments: object) -> None:
        if callback is None:
            return
        try:
            callback(*arguments)
        except Exception as error:
            self._failures.report(getattr(callback, "__qualname__", repr(callback)), error)


class Ears:
    """What the engine tells."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.on_event = channel._heard

    def on_item(self, item: Item) -> None:
        if (watcher := self._channel._watchers.get(item.queue)) is not None:
            watcher.take(item)
        else:  # unwatched meanwhile
            self._channel.engine.refuse(item, delay=0.0)

    def on_lost(self) -> None:
        self._channel._tell(self._channel.on_lost)

    def on_regained(self) -> None:
        self._channel._tell(self._channel.on_regained)

    def on_dropped(self, what: str, count: int) -> None:
        self._channel._has_dropped(what, count)


def _engine(url: str | None, secret: str, buffer: int, item_buffer: int, tls: Any) -> Engine:
    if url is None:
        server = address.of_this_daemon(SERVER)
        return Embedded(server._replace(secret=secret or server.secret), buffer=buffer, item_buffer=item_buffer)
    scheme = url.partition("://")[0]
    if scheme == SCHEME:
        found = address.parse(url, SCHEME, PORT)
        if len(found) > 1:
            raise ConfigError(url, "names several servers", "a channel has one; redis:// and nats:// have clusters")
        return Embedded(Server(found[0], secret), buffer=buffer, item_buffer=item_buffer, tls=tls)
    if scheme not in OTHERS:
        raise ConfigError(url, f'no engine for "{scheme}://"', f"there are {SCHEME}, {', '.join(OTHERS)}")
    module, kind = OTHERS[scheme]
    if secret or tls is not None:
        raise ConfigError(url, "secret and tls are for channel://", "write user, password and options into the URL")
    make = getattr(importlib.import_module(f"workermand.services.channel.{module}"), kind)
    engine: Engine = make(url, buffer=buffer, item_buffer=item_buffer)
    return engine


def _broadcasting() -> set[str]:
    """The servers from which this worker process takes broadcasts already."""
    try:
        attributes = vars(Worker.current())
    except RuntimeError:
        return set()
    servers: set[str] = attributes.setdefault("servers_of_broadcasts", set())
    return servers


def _promise(name: Promise | str) -> Promise:
    try:
        return Promise(name)
    except ValueError:
        raise ConfigError("require", f'no promise "{name}"', f"there are {', '.join(Promise)}") from None
