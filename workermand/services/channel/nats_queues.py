"""Queues by nats://: one JetStream stream for all items, one for the dead, a durable pull consumer for each queue.

    wm.q.QUEUE   in the stream wm_queues: items; acknowledged, they go
    wm.d.QUEUE   in the stream wm_dead

The server redelivers what was not acknowledged within the deadline, which is one for all consumers of a queue: whoever
watches or reserves last sets it. It does not know of connections: what a client that was killed had in hand comes back
after that deadline; close() gives it back at once. Who is given an item that has been tried too often buries it.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from workermand.services.channel.engine import ChannelError, Item, Promise
from workermand.services.links.errors import ServiceError, Unsupported
from workermand.services.links.later import Later
from workermand.services.links.nats import ApiError
from workermand.services.links.subjects import name, subject

if TYPE_CHECKING:
    from workermand.services.channel.nats import NatsEngine

logger = logging.getLogger(__name__)

QUEUES: Final = "wm_queues"
DEAD: Final = "wm_dead"
RETRIES: Final = 5
"""Of an item that is reserved: reserve() has no word for it."""
RETRY_DELAY: Final = 1.0
PULL: Final = 30.0
"""Seconds that the server keeps a request for items."""
RENEWAL: Final = 1.0
"""Seconds until a consumer that is gone is made again."""
GRACE: Final = 5.0
"""Seconds that it may be late with its end."""
SECOND: Final = 1_000_000_000
DELAY: Final = "Wm-Delay"
"""Header: seconds from when the item was stored."""
ATTEMPTS: Final = "Wm-Attempts"
"""Header of the dead: how many there were."""


class _Delivery(NamedTuple):
    """What the server says of an item, in the subject that it is acknowledged to."""

    attempt: int
    sequence: int
    stored: float
    """Seconds since the epoch, by the server's clock."""


def _delivery(reply: str) -> _Delivery:
    """$JS.ACK.stream.consumer.count.sequence..., or with a domain and an account before the stream."""
    tokens = reply.split(".")
    count, sequence, _, stored = tokens[4:8] if len(tokens) < 11 else tokens[6:10]
    return _Delivery(int(count), int(sequence), int(stored) / SECOND)


class _Consumer:
    """Somebody who wants items: a watch, or one reserve()."""

    def __init__(self, queue: str, credit: int, deadline: float, retries: int, retry_delay: float) -> None:
        self.queue = queue
        self.credit = credit
        self.deadline = deadline
        self.retries = retries
        self.retry_delay = retry_delay
        self.in_hand: set[str] = set()
        self.pulls: dict[str, int] = {}
        """By inbox: items that were asked for and have not come."""
        self.timers: dict[str, asyncio.TimerHandle] = {}
        self.reserved: Later[Item | None] | None = None
        """None: this is a watch."""
        self.ends = 0.0
        """When a reserve() gives up."""

    @property
    def wanted(self) -> int:
        return self.credit - len(self.in_hand) - sum(self.pulls.values())


class _Held(NamedTuple):
    """An item in hand."""

    reply: str
    consumer: _Consumer
    timer: asyncio.TimerHandle


class NatsQueues:
    """Thread: the one that runs the loop."""

    def __init__(self, engine: NatsEngine) -> None:
        self._engine = engine
        self._link = engine.link
        self._link.route("wm.q.", self._on_item)
        self._watches: dict[str, _Consumer] = {}
        self._consumers: dict[str, list[_Consumer]] = {}
        """By queue: all that want items."""
        self._held: dict[tuple[str, str], _Held] = {}
        self._ready: dict[str, int] = {}
        """By queue: the deadline of its consumer, in ns, as far as we know."""
        self._has_streams = False
        self._numbers = itertools.count(1)

    def close(self) -> None:
        """What is in hand goes back at once."""
        for consumers in list(self._consumers.values()):
            for consumer in list(consumers):
                self._end(consumer).add_done_callback(_drop)
        for queue, id in list(self._held):
            self._write(f"give back {id} of {queue}", self._let_go(queue, id).reply, b"-NAK").add_done_callback(_drop)

    def lost(self) -> None:
        """What is in hand stays there: the server has forgotten nothing but what was asked for."""
        self._has_streams = False
        self._ready.clear()
        for consumer in itertools.chain(*self._consumers.values()):
            for inbox in list(consumer.pulls):
                self._pulled(consumer, inbox)

    def regained(self) -> None:
        for consumer in list(itertools.chain(*self._consumers.values())):
            self._renew(consumer)

    # ------------------------------------------------------------------ producing

    def enqueue(self, queues: Sequence[str], envelope: bytes, delay: float) -> Later[None]:
        key = f"{self._link.client_id}-{next(self._numbers)}"

        async def do() -> Any:
            await self._make_streams()
            answers = []
            for queue in queues:
                headers = {"Nats-Msg-Id": f"{key}-{queue.encode().hex()}"}  # done again, it is stored once
                if delay > 0:
                    headers[DELAY] = f"{delay:.3f}"
                answers.append(await self._link.request(f"wm.q.{subject(queue)}", envelope, headers))
            return answers

        size = sum(len(queue) + len(envelope) for queue in queues)
        what = f"enqueue to {', '.join(queues)}"
        later: Later[None] = self._engine.send(what, do, kind="items", size=size, repeats=True)
        return later

    async def _make_streams(self) -> None:
        if Promise.QUEUES not in self._engine.promises:
            raise Unsupported(f"nats at {self._link.where} has no JetStream, hence no queues: nats-server --jetstream")
        if not self._has_streams:
            await self._link.create_stream(QUEUES, ["wm.q.>"], retention="workqueue", storage="file")
            await self._link.create_stream(DEAD, ["wm.d.>"], storage="file")
            self._has_streams = True

    # ------------------------------------------------------------------ consumers

    def watch(self, queue: str, credit: int, deadline: float, retries: int, retry_delay: float) -> Later[None]:
        if (former := self._watches.pop(queue, None)) is not None:
            self._end(former)
        consumer = self._watches[queue] = _Consumer(queue, credit, deadline, retries, retry_delay)
        return self._begin(f"watch {queue}", consumer)

    def unwatch(self, queue: str) -> Later[None]:
        what = f"unwatch {queue}"
        consumer = self._watches.pop(queue, None)
        return Later.of(what, None) if consumer is None else self._end(consumer)

    def reserve(self, queue: str, deadline: float, wait: float) -> Later[Item | None]:
        consumer = _Consumer(queue, 1, deadline, RETRIES, RETRY_DELAY)
        reserved = consumer.reserved = Later(f"reserve from {queue}")
        consumer.ends = asyncio.get_running_loop().time() + wait
        self._begin(reserved.what, consumer).add_done_callback(lambda begun: self._begun(consumer, begun))
        return reserved

    def _begin(self, what: str, consumer: _Consumer) -> Later[None]:
        self._consumers.setdefault(consumer.queue, []).append(consumer)

        async def do() -> None:
            await self._make_consumer(consumer)
            await self._link.listen(self._inbox(consumer) + "*")
            self._link.route(self._inbox(consumer), lambda *message: self._on_status(consumer, *message))
            self._ask(consumer)

        begun: Later[None] = self._engine.step(what, do, repeats=True)
        return begun

    def _renew(self, consumer: _Consumer) -> None:
        """The server may have lost it."""

        async def do() -> None:
            await self._make_consumer(consumer)
            self._ask(consumer)

        if consumer in self._consumers.get(consumer.queue, ()):
            self._engine.step(f"watch {consumer.queue} again", do, repeats=True)

    def _begun(self, consumer: _Consumer, begun: Later[None]) -> None:
        error = begun.exception()
        if consumer.reserved is not None and isinstance(error, ServiceError):
            consumer.reserved.fail(error)
            self._end(consumer)

    def _end(self, consumer: _Consumer) -> Later[None]:
        if consumer.reserved is not None:
            consumer.reserved.fulfil(None)
        consumers = self._consumers.get(consumer.queue, [])
        if consumer in consumers:
            consumers.remove(consumer)
            if not consumers:
                del self._consumers[consumer.queue]
        for timer in consumer.timers.values():
            timer.cancel()

        async def do() -> None:
            await self._link.forget(self._inbox(consumer) + "*")  # and with it goes what it asked for

        ended: Later[None] = self._engine.send(f"unwatch {consumer.queue}", do, repeats=True)
        return ended

    def _inbox(self, consumer: _Consumer) -> str:
        return f"{self._link.inbox}.p{id(consumer)}."

    async def _make_consumer(self, consumer: _Consumer) -> None:
        await self._make_streams()
        deadline = max(1, int(consumer.deadline * SECOND))
        if self._ready.get(consumer.queue) == deadline:
            return
        durable = _durable(consumer.queue)
        config = {
            "durable_name": durable,
            "filter_subject": f"wm.q.{subject(consumer.queue)}",
            "ack_policy": "explicit",
            "ack_wait": deadline,
            "deliver_policy": "all",
            "max_deliver": -1,
            "max_ack_pending": -1,  # what is for later is pending, too
            "max_waiting": 8192,
        }
        await self._link.api(f"CONSUMER.DURABLE.CREATE.{QUEUES}.{durable}", stream_name=QUEUES, config=config)
        self._ready[consumer.queue] = deadline

    # ------------------------------------------------------------------ asking

    def _ask(self, consumer: _Consumer) -> None:
        wanted = consumer.wanted
        if wanted <= 0 or not self._link.up or consumer not in self._consumers.get(consumer.queue, ()):
            return
        loop = asyncio.get_running_loop()
        seconds = PULL
        if consumer.reserved is not None:
            if consumer.reserved.done():
                self._end(consumer)
                return
            seconds = min(PULL, consumer.ends - loop.time())
        inbox = f"{self._inbox(consumer)}{next(self._numbers)}"
        consumer.pulls[inbox] = wanted
        consumer.timers[inbox] = loop.call_later(max(seconds, 0.0) + GRACE, self._pulled, consumer, inbox)
        request: dict[str, Any] = {"batch": wanted}
        request |= {"no_wait": True} if seconds <= 0.001 else {"expires": int(seconds * SECOND)}

        async def do() -> None:
            target = f"$JS.API.CONSUMER.MSG.NEXT.{QUEUES}.{_durable(consumer.queue)}"
            await self._link.publish(target, msgspec.json.encode(request), inbox)

        self._engine.send(f"ask {consumer.queue}", do).add_done_callback(_drop)

    def _on_status(self, consumer: _Consumer, inbox: str, reply: str, data: bytes, headers: Mapping[str, str]) -> None:
        """Why no more will come."""
        status = headers.get("Status", "")
        if status in ("404", "408"):  # none is there, the time is over
            self._pulled(consumer, inbox)
        elif inbox in consumer.pulls and status != "100":
            logger.warning("nats: queue %s: %s %s", consumer.queue, status, headers.get("Description", ""))
            self._ready.pop(consumer.queue, None)
            consumer.timers[inbox].cancel()
            loop = asyncio.get_running_loop()
            consumer.timers[inbox] = loop.call_later(RENEWAL, self._renew_after, consumer, inbox)

    def _renew_after(self, consumer: _Consumer, inbox: str) -> None:
        consumer.pulls.pop(inbox, None)
        consumer.timers.pop(inbox, None)
        self._renew(consumer)

    def _pulled(self, consumer: _Consumer, inbox: str) -> None:
        """What was asked for by it will not come any more."""
        if consumer.pulls.pop(inbox, None) is None:
            return
        consumer.timers.pop(inbox).cancel()
        if consumer.reserved is not None and consumer.ends - asyncio.get_running_loop().time() <= 0.001:
            self._end(consumer)
        else:
            self._ask(consumer)

    def _on_item(self, subject: str, reply: str, data: bytes, headers: Mapping[str, str]) -> None:
        queue = name(subject[5:])
        delivery = _delivery(reply)
        consumer = self._taker(queue)
        attempt = delivery.attempt
        if DELAY in headers:
            early = delivery.stored + float(headers[DELAY]) - self._link.now()
            if early > 0:
                self._write(f"put off {delivery.sequence} of {queue}", reply, _nak(early))
                if consumer is not None:
                    self._ask(consumer)
                return
            attempt = max(1, attempt - 1)  # the first time it came too early
        if consumer is None:
            self._write(f"give back {delivery.sequence} of {queue}", reply, b"-NAK")
            return
        item = Item(queue, str(delivery.sequence), attempt, data)
        if attempt - 1 > consumer.retries:
            item.attempt -= 1
            self._bury(f"bury {item.id} of {queue}", item, reply)
            self._ask(consumer)
            return
        timer = asyncio.get_running_loop().call_later(consumer.deadline, self._overdue, item)
        self._held[(queue, item.id)] = _Held(reply, consumer, timer)
        if consumer.reserved is not None:
            consumer.reserved.fulfil(item)
            self._end(consumer)
        else:
            consumer.in_hand.add(item.id)
            self._engine.receiver.on_item(item)

    def _taker(self, queue: str) -> _Consumer | None:
        """Somebody who has asked for it, now with one less to come."""
        for consumer in self._consumers.get(queue, ()):
            if consumer.reserved is not None and consumer.reserved.done():
                continue  # cancelled
            for inbox in consumer.pulls:
                consumer.pulls[inbox] -= 1
                if not consumer.pulls[inbox]:
                    del consumer.pulls[inbox]
                    consumer.timers.pop(inbox).cancel()
                return consumer
        return None

    # ------------------------------------------------------------------ items in hand

    def acknowledge(self, item: Item) -> Later[None]:
        words = f"acknowledge {item.id} of {item.queue}"
        if (item.queue, item.id) not in self._held:
            return Later.failed(words, ChannelError(f"{words}: it is not in these hands any more"))
        held = self._let_go(item.queue, item.id)
        later = self._write(words, held.reply, b"+ACK", confirmed=True)
        self._ask(held.consumer)
        return later

    def refuse(self, item: Item, delay: float | None, dead: bool) -> Later[None]:
        words = f"refuse {item.id} of {item.queue}"
        if (item.queue, item.id) not in self._held:
            return Later.failed(words, ChannelError(f"{words}: it is not in these hands any more"))
        held = self._let_go(item.queue, item.id)
        if dead or item.attempt > held.consumer.retries:
            later = self._bury(words, item, held.reply)
        else:
            seconds = held.consumer.retry_delay if delay is None else delay
            later = self._write(words, held.reply, _nak(seconds))
        self._ask(held.consumer)
        return later

    def _let_go(self, queue: str, id: str) -> _Held:
        held = self._held.pop((queue, id))
        held.timer.cancel()
        held.consumer.in_hand.discard(id)
        return held

    def _overdue(self, item: Item) -> None:
        """The server gives it to somebody else."""
        self._ask(self._let_go(item.queue, item.id).consumer)

    def _write(self, what: str, reply: str, words: bytes, *, confirmed: bool = False) -> Later[None]:
        """To the server, about an item."""

        async def do() -> Any:
            if confirmed:
                return [await self._link.request(reply, words)]
            return await self._link.publish(reply, words)

        later: Later[None] = self._engine.send(what, do, repeats=True)
        return later

    # ------------------------------------------------------------------ the dead

    def _bury(self, what: str, item: Item, reply: str) -> Later[None]:
        async def do() -> None:
            headers = {"Nats-Msg-Id": f"dead-{item.id}", ATTEMPTS: str(item.attempt)}
            await self._link.ask(f"wm.d.{subject(item.queue)}", item.envelope, headers)
            await self._link.publish(reply, b"+TERM")

        later: Later[None] = self._engine.step(what, do, repeats=True)
        return later

    def dead_letters(self, queue: str, limit: int) -> Later[list[Item]]:
        async def do() -> list[Item]:
            await self._make_streams()
            return [item async for item in self._dead(queue, limit)]

        later: Later[list[Item]] = self._engine.step(f"dead letters of {queue}", do, repeats=True)
        return later

    async def _dead(self, queue: str, limit: int | None = None) -> Any:
        sequence, count = 1, 0
        while limit is None or count < limit:
            try:
                found = await self._link.api(
                    f"STREAM.MSG.GET.{DEAD}", seq=sequence, next_by_subj=f"wm.d.{subject(queue)}"
                )
            except ApiError as error:
                if error.code == 10037:  # no more of them
                    return
                raise
            message = msgspec.convert(found["message"], _Stored)
            sequence, count = message.seq + 1, count + 1
            yield Item(queue, str(message.seq), message.attempts, message.data)

    def replay(self, queue: str, ids: Sequence[str] | None) -> Later[int]:
        async def do() -> int:
            await self._make_streams()
            count = 0
            async for item in self._dead(queue):
                if ids is None or item.id in ids:
                    headers = {"Nats-Msg-Id": f"replay-{item.id}"}
                    await self._link.ask(f"wm.q.{subject(queue)}", item.envelope, headers)
                    await self._link.api(f"STREAM.MSG.DELETE.{DEAD}", seq=int(item.id))
                    count += 1
            return count

        later: Later[int] = self._engine.step(f"replay {queue}", do)
        return later


class _Stored(msgspec.Struct):
    """A message of a stream."""

    seq: int
    data: bytes = b""
    hdrs: bytes = b""

    @property
    def attempts(self) -> int:
        for line in self.hdrs.split(b"\r\n"):
            key, _, value = line.partition(b":")
            if key == ATTEMPTS.encode():
                return int(value)
        return 0


def _durable(queue: str) -> str:
    """The name of its consumer, which may have neither dots nor stars."""
    return f"q_{hashlib.sha256(queue.encode()).hexdigest()[:32]}"


def _nak(seconds: float) -> bytes:
    return b"-NAK" if seconds <= 0 else b'-NAK {"delay": %d}' % int(seconds * SECOND)


def _drop(later: Any) -> None:
    """Whatever becomes of it."""
    later.cancelled() or later.exception()
