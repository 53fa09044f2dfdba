"""What engines have to do when their server is killed, the same for each of them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest

from tests.services.servers import Server
from workermand.services.channel.engine import Engine
from workermand.services.links.errors import Dropped, ServiceError
from workermand.testing.probes import Probe, clients, fresh, soon, until


async def publishers_learn_what_was_lost(make: Callable[..., Engine], server: Server) -> None:
    """Everything is subscribed again; what waits meanwhile arrives, in order; what has no room fails."""
    event = fresh("news")
    async with clients(lambda: make(buffer=10_000), 2) as (sender, probe):
        await probe.engine.subscribe([event, f"{event}.*"])
        await sender.engine.publish([event], b"before")
        assert await probe.event() == (event, b"before")
        server.kill()
        await soon("on_lost", sender.lost.wait())
        await soon("on_lost", probe.lost.wait())
        late = fresh("late")
        subscribed = probe.engine.subscribe([late])
        waiting = [sender.engine.publish([f"{event}.x"], b"%04d" % number + b"." * 900) for number in range(20)]
        with pytest.raises(Dropped, match="events"):
            await waiting[-1]
        assert sender.dropped
        server.start()
        await soon("on_regained", probe.regained.wait())
        await soon("subscribe", subscribed)
        # Who publishes may be back before who listens: events are for those who are there.
        outcomes = await soon("what waited", asyncio.gather(*waiting, return_exceptions=True))
        kept = [number for number, outcome in enumerate(outcomes) if not isinstance(outcome, Dropped)]
        assert 5 <= len(kept) < 20
        assert kept == list(range(len(kept)))
        await soon("on_regained", sender.regained.wait())
        await sender.engine.publish([late], b"after")
        found = []
        while (got := await probe.event()) != (late, b"after"):
            found.append(int(got[1][:4]))
        assert found == sorted(set(found)), "out of order, or twice"
        assert set(found) <= set(kept)


async def items_survive(make: Callable[..., Engine], server: Server, rounds: int) -> None:
    """kill -9 while a producer confirms and consumers acknowledge: every confirmed item arrives at least once, and each
    producer's events keep their order."""
    async with clients(make, 3) as (producer, *consumers):
        work = _Work(producer)
        for probe in consumers:
            await probe.engine.subscribe([work.event])
            await probe.engine.watch(work.queue, credit=10, deadline=2.0, retries=1000, retry_delay=0.1)
        tasks = [asyncio.create_task(work.consume(probe)) for probe in consumers]
        tasks.append(asyncio.create_task(work.listen(consumers[0])))
        for _ in range(rounds):
            enough = len(work.confirmed) + random.randint(20, 200)
            producing = asyncio.create_task(work.produce())
            await until("items are confirmed", lambda enough=enough: _true(len(work.confirmed) >= enough))
            server.kill()
            await soon("on_lost", producer.lost.wait())
            producer.lost.clear()
            producer.regained.clear()
            server.start()
            await soon("on_regained", producer.regained.wait())
            producing.cancel()
        await until("every confirmed item arrives", lambda: _true(work.confirmed <= work.found))
        assert work.heard == sorted(set(work.heard)), "out of order, or twice"
        for task in tasks:
            task.cancel()


class _Work:
    """A producer that counts, and what arrives of it."""

    def __init__(self, producer: Probe) -> None:
        self.producer = producer
        self.queue, self.event = fresh("jobs"), fresh("news")
        self.confirmed: set[int] = set()
        self.found: set[int] = set()
        self.heard: list[int] = []
        self._numbers = itertools.count()
        self._calls: set[asyncio.Task[None]] = set()

    async def produce(self) -> None:
        while True:
            number = next(self._numbers)
            _drop(self.producer.engine.publish([self.event], b"%d" % number))
            call = asyncio.create_task(self._enqueue(number))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)
            await asyncio.sleep(0.002)

    async def _enqueue(self, number: int) -> None:
        with contextlib.suppress(ServiceError):
            await self.producer.engine.enqueue([self.queue], b"%d" % number)
            self.confirmed.add(number)

    async def consume(self, probe: Probe) -> None:
        while True:
            item = await probe.items.get()
            self.found.add(int(item.envelope))
            _drop(probe.engine.acknowledge(item))

    async def listen(self, probe: Probe) -> None:
        while True:
            self.heard.append(int((await probe.events.get())[1]))


async def _true(condition: bool) -> bool:
    return condition


def _drop(later: Any) -> None:
    """It may fail, and nobody minds."""
    later.add_done_callback(lambda outcome: outcome.cancelled() or outcome.exception())
