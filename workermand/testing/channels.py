"""The conformance suite of Channel's engines: each check shows one promise of an engine on a real server.

    for check in channels.CHECKS:
        if check.needs <= engine.promises: await check(make)

``make()`` gives a new engine, not started, of the same server each time. A check raises AssertionError.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from workermand.services.channel.engine import Engine, Item, Promise
from workermand.testing.probes import Probe, clients, fresh, soon, until

Make = Callable[[], Engine]


class Check(NamedTuple):
    """One check, and the promises without which it means nothing."""

    run: Callable[[Make], Awaitable[None]]
    needs: frozenset[Promise]

    @property
    def name(self) -> str:
        return self.run.__name__

    async def __call__(self, make: Make) -> None:
        await self.run(make)


CHECKS: list[Check] = []


def check(*needs: Promise) -> Callable[[Callable[[Make], Awaitable[None]]], Callable[[Make], Awaitable[None]]]:
    """Adds it to CHECKS."""

    def add(run: Callable[[Make], Awaitable[None]]) -> Callable[[Make], Awaitable[None]]:
        CHECKS.append(Check(run, frozenset(needs)))
        return run

    return add


# ---------------------------------------------------------------------------------------------------- events


@check()
async def an_event_reaches_every_subscriber_and_nobody_else(make: Make) -> None:
    event, other = fresh("news"), fresh("other")
    async with clients(make, 3) as (first, second, third):
        await first.engine.subscribe([event])
        await second.engine.subscribe([event, other])
        await third.engine.subscribe([other])
        await third.engine.publish([event], b"hello\x00\xff")
        for probe in (first, second):
            assert await probe.event() == (event, b"hello\x00\xff")
        await first.has_no_event(event)
        assert (await second.event())[0] == event  # the mark of the first
        await second.has_no_event(other)
        assert (await third.event())[0] == other
        await third.has_no_event(other)


@check()
async def the_publisher_gets_its_own_event(make: Make) -> None:
    event = fresh("echo")
    async with clients(make, 1) as (probe,):
        probe.engine.subscribe([event])
        probe.engine.publish([event], b"mine")
        assert await probe.event() == (event, b"mine")


@check()
async def several_events_in_one_call(make: Make) -> None:
    events = [fresh("one"), fresh("two")]
    async with clients(make, 1) as (probe,):
        await probe.engine.subscribe(events)
        await probe.engine.publish(events, b"both")
        assert sorted([await probe.event(), await probe.event()]) == sorted((event, b"both") for event in events)


@check()
async def who_unsubscribes_gets_no_more(make: Make) -> None:
    event, other = fresh("news"), fresh("other")
    async with clients(make, 1) as (probe,):
        await probe.engine.subscribe([event, other])
        await probe.engine.unsubscribe([event])
        await probe.engine.publish([event], b"late")
        await probe.has_no_event(other)


@check()
async def names_are_any_text(make: Make) -> None:
    names = [
        fresh(name) for name in ("käse und brot", "a..b", ".a.", "x>y", "q?[a-z]", "back\\slash", "%41=41", "$own", "/")
    ]
    async with clients(make, 1) as (probe,):
        await probe.engine.subscribe(names)
        for name in names:
            await probe.engine.publish([name], name.encode())
            assert await probe.event() == (name, name.encode())


@check()
async def large_and_empty_envelopes(make: Make) -> None:
    event = fresh("size")
    async with clients(make, 2) as (sender, probe):
        await probe.engine.subscribe([event])
        for envelope in (b"", b"\x00", b"x" * 500_000):
            await sender.engine.publish([event], envelope)
            assert await probe.event() == (event, envelope)


@check(Promise.PATTERNS)
async def a_star_stands_for_any_run_of_characters(make: Make) -> None:
    root = fresh("room")
    patterns = [f"{root}.*", f"{root}*end", f"*{root}.x", f"{root}[1].?*"]
    expected = {
        f"{root}.1": True,
        f"{root}.1.2.3": True,
        f"{root}.": True,
        f"{root}": False,
        f"{root}-end": True,
        f"{root}-ende": False,
        f"ante.{root}.x": True,
        f"{root}[1].?": True,
        f"{root}1.a": False,
    }
    async with clients(make, 2) as (sender, probe):
        await probe.engine.subscribe(patterns)
        for event in expected:
            await sender.engine.publish([event], event.encode())
        for event in (event for event, matches in expected.items() if matches):
            assert await probe.event() == (event, event.encode())
        await probe.has_no_event(f"{root}.end")


@check(Promise.PATTERNS)
async def an_event_comes_once_however_many_names_match(make: Make) -> None:
    root = fresh("room")
    async with clients(make, 2) as (sender, probe):
        await probe.engine.subscribe([f"{root}.*", f"{root}.a.*", f"{root}.a.b", "*" + root + "*"])
        for count in range(100):
            sender.engine.publish([f"{root}.a.b"], b"%d" % count)
        for count in range(100):
            assert await probe.event() == (f"{root}.a.b", b"%d" % count)
        await probe.engine.unsubscribe([f"{root}.a.b", f"{root}.*"])
        await sender.engine.publish([f"{root}.a.b"], b"still")
        assert await probe.event() == (f"{root}.a.b", b"still")
        await probe.has_no_event(f"{root}.a.c")


@check(Promise.ORDER)
async def one_publishers_events_keep_their_order(make: Make) -> None:
    root, count = fresh("order"), 2000
    async with clients(make, 3) as (first, second, probe):
        await probe.engine.subscribe([f"{root}.0", f"{root}.1", f"{root}.2*"])
        for number in range(count):
            for mark, sender in ((b"a", first), (b"b", second)):
                sender.engine.publish([f"{root}.{number % 3}"], b"%s%d" % (mark, number))
        found: dict[bytes, list[int]] = {b"a": [], b"b": []}
        for _ in range(2 * count):
            _, envelope = await probe.event()
            found[envelope[:1]].append(int(envelope[1:]))
        assert found == {b"a": list(range(count)), b"b": list(range(count))}


@check(Promise.ONE_OF_MANY)
async def one_subscriber_of_many_gets_it(make: Make) -> None:
    event, count = fresh("one"), 120
    async with clients(make, 4) as (sender, *others):
        for probe in others:
            await probe.engine.subscribe([event])
        for number in range(count):
            await sender.engine.publish([event], b"%d" % number, one=True)
        shares = [await _drain(probe, event) for probe in others]
        assert sorted(itertools.chain(*shares)) == list(range(count))
        assert all(shares), f"somebody had no turn: {list(map(len, shares))}"


@check(Promise.ONE_OF_MANY)
async def whoever_has_gone_has_no_turn(make: Make) -> None:
    event = fresh("one")
    async with clients(make, 2) as (sender, stays):
        await stays.engine.subscribe([event])
        async with clients(make, 2) as (leaves, ends):
            await leaves.engine.subscribe([event])
            await ends.engine.subscribe([event])
            await leaves.engine.unsubscribe([event])
            await leaves.engine.publish([event], b"flush")
            assert await stays.event() == (event, b"flush")
        for number in range(30):
            await sender.engine.publish([event], b"%d" % number, one=True)
        for number in range(30):
            assert await stays.event() == (event, b"%d" % number)


@check(Promise.ONE_OF_MANY, Promise.PATTERNS)
async def patterns_take_part_in_one_of_many(make: Make) -> None:
    root, count = fresh("one"), 60
    async with clients(make, 3) as (sender, exact, pattern):
        await exact.engine.subscribe([f"{root}.a"])
        await pattern.engine.subscribe([f"{root}.*"])
        for number in range(count):
            await sender.engine.publish([f"{root}.a"], b"%d" % number, one=True)
        shares = [await _drain(probe, f"{root}.a") for probe in (exact, pattern)]
        assert sorted(itertools.chain(*shares)) == list(range(count))
        assert all(shares)


@check(Promise.COUNTS)
async def publish_says_how_many_took_it(make: Make) -> None:
    root = fresh("count")
    async with clients(make, 3) as (sender, first, second):
        assert await sender.engine.publish([f"{root}.a"], b"") == 0
        await first.engine.subscribe([f"{root}.a", f"{root}.*"])
        await second.engine.subscribe([f"{root}.*"])
        assert await sender.engine.publish([f"{root}.a"], b"") == 2
        assert await sender.engine.publish([f"{root}.a"], b"", one=True) == 1
        assert await sender.engine.publish([f"{root}.a", f"{root}.b"], b"") == 4


async def _drain(probe: Probe, event: str) -> list[int]:
    """The numbers that have come."""
    await probe.engine.publish([event], b"end")
    found = []
    while (envelope := (await probe.event())[1]) != b"end":
        found.append(int(envelope))
    return found


# ---------------------------------------------------------------------------------------------------- queues


@check(Promise.QUEUES)
async def an_item_is_one_consumers(make: Make) -> None:
    queue, count = fresh("jobs"), 200
    async with clients(make, 4) as (producer, *consumers):
        for probe in consumers:
            await probe.engine.watch(queue, credit=2)
        for number in range(count):
            producer.engine.enqueue([queue], b"%d" % number)
        found: list[int] = []
        done = asyncio.Event()

        async def work(probe: Probe) -> None:
            while True:
                item = await probe.items.get()
                assert (item.queue, item.attempt) == (queue, 1)
                found.append(int(item.envelope))
                await probe.engine.acknowledge(item)
                if len(found) == count:
                    done.set()

        workers = [asyncio.create_task(work(probe)) for probe in consumers]
        try:
            await soon("every item", done.wait())
        finally:
            for worker in workers:
                worker.cancel()
        assert sorted(found) == list(range(count))


@check(Promise.QUEUES)
async def items_come_in_order_and_no_more_than_the_credit(make: Make) -> None:
    queue = fresh("jobs")
    async with clients(make, 1) as (probe,):
        for number in range(6):
            probe.engine.enqueue([queue], b"%d" % number)
        await probe.engine.watch(queue, credit=2)
        in_hand = [await probe.item(), await probe.item()]
        assert await probe.engine.reserve(fresh("empty"), wait=0.2) is None  # a moment in which a third could come
        assert probe.items.empty()
        found = []
        while in_hand:
            item = in_hand.pop(0)
            found.append(int(item.envelope))
            await probe.engine.acknowledge(item)
            if len(found) <= 4:
                in_hand.append(await probe.item())
        assert found == list(range(6))


@check(Promise.QUEUES)
async def items_wait_for_their_first_consumer(make: Make) -> None:
    queue = fresh("jobs")
    async with clients(make, 1) as (probe,):
        await probe.engine.enqueue([queue], b"early")
    async with clients(make, 1) as (probe,):
        item = await soon("the item", probe.engine.reserve(queue, wait=5.0))
        assert item is not None
        assert item.envelope == b"early"
        await probe.engine.acknowledge(item)
        assert await probe.engine.reserve(queue) is None


@check(Promise.QUEUES)
async def reserve_waits_for_an_item(make: Make) -> None:
    queue = fresh("jobs")
    async with clients(make, 2) as (producer, consumer):
        assert await consumer.engine.reserve(queue, wait=0.05) is None
        waiting = consumer.engine.reserve(queue, wait=20.0)
        await producer.engine.enqueue([queue], b"now")
        item = await soon("the item", waiting)
        assert item is not None
        assert item.envelope == b"now"
        await consumer.engine.acknowledge(item)


@check(Promise.QUEUES)
async def one_call_for_several_queues(make: Make) -> None:
    queues = [fresh("jobs"), fresh("jobs")]
    async with clients(make, 1) as (probe,):
        await probe.engine.enqueue(queues, b"both")
        for queue in queues:
            item = await probe.engine.reserve(queue, wait=5.0)
            assert item is not None
            await probe.engine.acknowledge(item)


@check(Promise.QUEUES)
async def who_unwatches_gets_no_more(make: Make) -> None:
    queue = fresh("jobs")
    async with clients(make, 2) as (first, second):
        await first.engine.watch(queue)
        await first.engine.unwatch(queue)
        await second.engine.watch(queue, credit=10)
        for number in range(10):
            await second.engine.enqueue([queue], b"%d" % number)
        found = [await second.item() for _ in range(10)]
        assert sorted(int(item.envelope) for item in found) == list(range(10))
        assert first.items.empty()
        for item in found:
            await second.engine.acknowledge(item)


@check(Promise.QUEUES)
async def a_refused_item_comes_back(make: Make) -> None:
    queue = fresh("jobs")
    async with clients(make, 1) as (probe,):
        await probe.engine.enqueue([queue], b"again")
        await probe.engine.watch(queue, retry_delay=0.1)
        for attempt, delay in ((1, None), (2, 0.0), (3, 0.2)):
            item = await probe.item()
            assert (item.attempt, item.envelope) == (attempt, b"again")
            await probe.engine.refuse(item, delay=delay)
        item = await probe.item()
        assert item.attempt == 4
        await probe.engine.acknowledge(item)


@check(Promise.QUEUES)
async def an_item_comes_back_after_its_deadline(make: Make) -> None:
    queue = fresh("jobs")
    async with clients(make, 2) as (first, second):
        await first.engine.enqueue([queue], b"slow")
        item = await soon("the item", first.engine.reserve(queue, deadline=0.5, wait=5.0))
        assert item is not None
        assert item.attempt == 1
        back = await soon("it again", second.engine.reserve(queue, deadline=0.5, wait=20.0))
        assert back is not None
        assert (back.attempt, back.envelope) == (2, b"slow")
        await second.engine.acknowledge(back)


@check(Promise.QUEUES)
async def an_item_comes_back_when_its_consumer_ends(make: Make) -> None:
    queue = fresh("jobs")
    async with clients(make, 1) as (survivor,):
        async with clients(make, 1) as (ends,):
            await ends.engine.enqueue([queue], b"orphan")
            await ends.engine.watch(queue, deadline=600.0)
            assert (await ends.item()).attempt == 1
        await survivor.engine.watch(queue, deadline=600.0)
        item = await survivor.item()
        assert (item.attempt, item.envelope) == (2, b"orphan")
        await survivor.engine.acknowledge(item)


@check(Promise.QUEUES)
async def an_item_is_acknowledged_once(make: Make) -> None:
    queue = fresh("jobs")
    async with clients(make, 1) as (probe,):
        await probe.engine.enqueue([queue], b"once")
        item = await probe.engine.reserve(queue, wait=5.0)
        assert item is not None
        await probe.engine.acknowledge(item)
        assert await probe.engine.reserve(queue, wait=0.3) is None


@check(Promise.QUEUES, Promise.DELAY)
async def a_delayed_item_comes_when_it_is_due(make: Make) -> None:
    queue = fresh("jobs")
    async with clients(make, 1) as (probe,):
        await probe.engine.watch(queue, credit=3)
        loop = asyncio.get_running_loop()
        begin = loop.time()
        for delay in (1.2, 0.6, 0.0):
            await probe.engine.enqueue([queue], b"%g" % delay, delay=delay)
        for delay in (0.0, 0.6, 1.2):
            item = await probe.item()
            assert item.envelope == b"%g" % delay
            assert item.attempt == 1
            assert loop.time() - begin >= delay - 0.05, "too early"
            await probe.engine.acknowledge(item)


@check(Promise.QUEUES, Promise.DEAD_LETTERS)
async def what_was_tried_too_often_is_dead(make: Make) -> None:
    queue = fresh("jobs")
    async with clients(make, 1) as (probe,):
        await probe.engine.enqueue([queue], b"poison")
        await probe.engine.watch(queue, retries=2, retry_delay=0.05)
        for attempt in (1, 2, 3):
            item = await probe.item()
            assert item.attempt == attempt
            await probe.engine.refuse(item)
        (dead,) = await _dead(probe, queue, 1)
        assert (dead.queue, dead.envelope) == (queue, b"poison")
        assert probe.items.empty()
        assert await probe.engine.replay(queue) == 1
        item = await probe.item()
        assert (item.attempt, item.envelope) == (1, b"poison")
        await probe.engine.acknowledge(item)
        assert await probe.engine.dead_letters(queue) == []


@check(Promise.QUEUES, Promise.DEAD_LETTERS)
async def what_passes_too_many_deadlines_is_dead(make: Make) -> None:
    queue = fresh("jobs")
    async with clients(make, 1) as (probe,):
        await probe.engine.enqueue([queue], b"stuck")
        await probe.engine.watch(queue, credit=5, deadline=0.3, retries=1)
        assert [(await probe.item()).attempt, (await probe.item()).attempt] == [1, 2]
        (dead,) = await _dead(probe, queue, 1)
        assert dead.envelope == b"stuck"


@check(Promise.QUEUES, Promise.DEAD_LETTERS)
async def the_dead_are_listed_and_replayed_one_by_one(make: Make) -> None:
    queue = fresh("jobs")
    async with clients(make, 1) as (probe,):
        await probe.engine.watch(queue, credit=3)
        for number in range(3):
            await probe.engine.enqueue([queue], b"%d" % number)
            await probe.engine.refuse(await probe.item(), dead=True)
        dead = await _dead(probe, queue, 3)
        assert [item.envelope for item in dead] == [b"0", b"1", b"2"]
        assert len(await probe.engine.dead_letters(queue, limit=2)) == 2
        assert await probe.engine.replay(queue, [dead[1].id, "no such one"]) == 1
        item = await probe.item()
        assert item.envelope == b"1"
        await probe.engine.acknowledge(item)
        assert [item.envelope for item in await probe.engine.dead_letters(queue)] == [b"0", b"2"]
        assert await probe.engine.replay(queue, []) == 0


async def _dead(probe: Probe, queue: str, count: int) -> list[Item]:
    found: list[Item] = []

    async def there() -> bool:
        found[:] = await probe.engine.dead_letters(queue)
        return len(found) >= count

    await until(f"{count} dead items", there)
    return found
