"""BlockingChannel: publish, request, enqueue, reserve for programs without an event loop: Django, scripts, cron jobs.

    from workermand.services.channel import BlockingChannel

    channel = BlockingChannel("channel:///run/workermand/channel.sock")
    channel.publish("news", {"title": "..."})

Each call waits for its outcome. There are no callbacks: what listens is a worker.
"""

from __future__ import annotations

import secrets
import ssl
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any

from workermand import ConfigError
from workermand.services.channel import names, wire
from workermand.services.channel.client import PORT, SCHEME
from workermand.services.channel.engine import ChannelError, Item
from workermand.services.links import address
from workermand.services.links.blocking import BlockingLink
from workermand.services.links.errors import ServiceError, TimedOut, Unreachable


class BlockingJob:
    """What reserve() and dead_letters() give."""

    __slots__ = ("_channel", "_item", "data")

    def __init__(self, item: Item, channel: BlockingChannel) -> None:
        self.data = wire.unpack_envelope(item.envelope).data
        self._item = item
        self._channel = channel

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

    def acknowledge(self) -> None:
        """It is done. Raises ChannelError: it was not ours any more."""
        self._channel._give_up(self._item, wire.ACKNOWLEDGE)

    def refuse(self, *, delay: float | None = None, dead: bool = False) -> None:
        """Back to its queue, in ``delay`` seconds, or to the dead letters."""
        self._channel._give_up(self._item, wire.REFUSE, delay, dead)


class BlockingChannel:
    """Process: any outside of the daemon; inside of one its calls would hold up the loop. Any thread, one call at a
    time: a thread that waits for a job makes the others wait. It connects with the first call, and again with the first
    after the connection broke. Every call raises Unreachable, Unauthorized, TimedOut; ChannelError: it is refused."""

    def __init__(self, url: str, *, secret: str = "", tls: ssl.SSLContext | None = None, timeout: float = 10.0) -> None:
        """``timeout``: seconds for connecting, and for each call. Raises ConfigError."""
        if not url.startswith(f"{SCHEME}://"):
            raise ConfigError(
                url, f"the blocking client speaks {SCHEME}:// only", "Channel.connect() has the other engines"
            )
        server, *others = address.parse(url, SCHEME, PORT)
        if others:
            raise ConfigError(url, "names several servers", "a channel has one")
        self._link = BlockingLink(server, "channel", secret=secret, tls=tls, timeout=timeout)
        self._timeout = timeout
        self._lock = threading.RLock()
        self._reply_event = names.own("reply", secrets.token_hex(8))
        self._requests = 0
        self._listens_since = 0
        """The connection that has subscribed to our answers; counted from 1."""

    def close(self) -> None:
        """The next call connects again."""
        self._link.close()

    def __enter__(self) -> BlockingChannel:
        self._link.connect()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------ events

    def publish(self, events: str | Iterable[str], data: Any, *, one: bool = False) -> int:
        """How many subscribers took it; ``one``: one of them gets it, in turn."""
        return self._publish(names.plain(events), wire.pack_envelope(data), one)

    def broadcast(self, worker: str, message: Any) -> int:
        """Every process of ``worker`` that has called Channel.connect() sends ``message`` to all its clients. How many
        processes do."""
        return self._publish([names.own("worker", worker)], wire.pack_envelope(message))

    def send_to_group(self, group: str, message: Any) -> int:
        """To every member in every process. How many processes have some."""
        return self._publish([names.own("group", group)], wire.pack_envelope(message))

    def request(self, event: str, data: Any = None, timeout: float = 5.0) -> Any:
        """What the callback of one subscriber returns. Raises ChannelError with the words of what it raised, or when
        nobody has subscribed; TimedOut."""
        name = names.one(event)
        deadline = time.monotonic() + timeout
        with self._lock:
            self._requests += 1
            number = self._requests
            envelope = wire.pack_envelope(data, self._reply_event, number)
            self._listen()
            if not self._publish([name], envelope, True):
                raise ChannelError(f"request {name}: nobody has subscribed to it")
            if self._listens_since != self._link.connects:
                raise Unreachable(f"request {name}: the connection broke; it may have arrived")
            while True:
                try:
                    message = self._link.receive(max(0.0, deadline - time.monotonic()))
                except TimedOut:
                    raise TimedOut(f"request {name}: no answer within {timeout:g} s") from None
                if message[0] == wire.EVENT and (answer := _answer_to(number, message[3])) is not None:
                    good, value = answer
                    if not good:
                        raise ChannelError(str(value))
                    return value

    def _listen(self) -> None:
        self._link.connect()
        if self._listens_since != self._link.connects:
            self._ask(wire.SUBSCRIBE, [self._reply_event])
            self._listens_since = self._link.connects

    def _publish(self, events: list[str], envelope: bytes, one: bool = False) -> int:
        with self._lock:
            self._link.send(wire.PUBLISH, events, envelope, one)
            try:
                while True:
                    message = self._link.receive(self._timeout)
                    if message[0] == wire.CONFIRMED:
                        return int(message[2][0])
            except TimedOut:
                self._link.close()  # or the next call would take its confirmation for its own
                raise TimedOut(f"publish to {events[0]}: not confirmed within {self._timeout:g} s") from None

    # ------------------------------------------------------------------ queues

    def enqueue(self, queues: str | Iterable[str], data: Any, *, delay: float = 0.0) -> None:
        """When it returns, the item is safe: on disk, where the server persists. After Unreachable or TimedOut it may
        be: who calls again may have it twice."""
        if not delay >= 0:
            raise ValueError(f"a delay must be 0 seconds or more, not {delay!r}")
        self._ask(wire.ENQUEUE, names.plain(queues), wire.pack_envelope(data), delay)

    def reserve(self, queue: str, *, deadline: float = 60.0, wait: float = 0.0) -> BlockingJob | None:
        """One item, to be acknowledged or refused within ``deadline`` seconds, over this connection; None when there is
        none within ``wait``."""
        row = self._ask(wire.RESERVE, names.one(queue), deadline, wait, timeout=wait + self._timeout)
        return None if row is None else BlockingJob(Item(*row), self)

    def dead_letters(self, queue: str, *, limit: int = 100) -> list[BlockingJob]:
        """The oldest ``limit`` of them; they stay where they are."""
        return [BlockingJob(Item(*row), self) for row in self._ask(wire.DEAD, names.one(queue), limit)]

    def replay(self, queue: str, ids: Sequence[str] | None = None) -> int:
        """Gives dead letters back to their queue, these or all, as if they were new; how many."""
        return int(self._ask(wire.REPLAY, names.one(queue), None if ids is None else list(ids)))

    def _give_up(self, item: Item, op: int, *rest: Any) -> None:
        if not self._ask(op, item.queue, item.id, *rest):
            raise ChannelError(f"item {item.id} is not this client's any more: its deadline or its connection is over")

    def _ask(self, op: int, *rest: Any, timeout: float | None = None) -> Any:
        try:
            return self._link.request(op, *rest, timeout=timeout)
        except ServiceError as error:
            raise ChannelError(str(error)) if type(error) is ServiceError else error from None


def _answer_to(number: int, envelope: bytes) -> tuple[bool, Any] | None:
    """Whether it is good, and what it says; None: it answers an earlier request, which has been given up."""
    match wire.unpack_envelope(envelope).data:
        case [int(request), bool(good), value] if request == number:
            return good, value
    return None
