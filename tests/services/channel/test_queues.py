"""Queues: rules one by one, and all of them at once against a model, with crashes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from workermand.services.channel import queues as module
from workermand.services.channel.items import Changed, Done, Limits, Put, QueueFull, Record
from workermand.services.channel.queues import Queues


class Bench:
    """Queues without a disk: what is admitted is settled."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.queues = Queues(limits)
        self.now = 1000.0

    def enqueue(self, *names: str, envelope: bytes = b"x", delay: float = 0.0) -> list[int]:
        entries = self.queues.admit(names, envelope, self.now, delay)
        self.queues.settle(entries, self.now)
        return [entry.number for entry in entries]

    def watch(self, consumer: str, name: str = "jobs", **numbers: Any) -> None:
        self.queues.watch(consumer, name, self.now, **numbers)

    def acknowledge(self, consumer: str, number: int) -> bool:
        return self.queues.acknowledge(consumer, number, self.now)

    def refuse(self, consumer: str, number: int, **how: Any) -> bool:
        return self.queues.refuse(consumer, number, self.now, **how)

    def later(self, seconds: float) -> None:
        self.now += seconds
        self.queues.advance(self.now)

    @property
    def delivered(self) -> list[tuple[Any, int, int]]:
        """(consumer, number, attempt), since the last look."""
        given = [(one.consumer, one.entry.number, one.attempt) for one in self.queues.deliveries if one.entry]
        self.queues.deliveries.clear()
        return given

    @property
    def written(self) -> list[Record]:
        records, self.queues.journal = self.queues.journal, []
        return records


@pytest.fixture
def bench() -> Bench:
    return Bench()


# ---------------------------------------------------------------------------------------------------- the plain way


def test_an_item_is_written_settled_delivered_and_done(bench: Bench) -> None:
    entries = bench.queues.admit(["jobs"], b"data", bench.now)
    assert bench.written == [Put(1, "jobs", b"data", 0.0)]
    bench.watch("a")
    assert bench.delivered == []
    bench.queues.settle(entries, bench.now)
    assert bench.delivered == [("a", 1, 1)]
    assert bench.acknowledge("a", 1)
    assert bench.written == [Done(1)]
    assert not bench.queues.entries and not bench.queues.bytes


def test_what_could_not_be_written_was_never_there(bench: Bench) -> None:
    bench.watch("a")
    bench.queues.withdraw(bench.queues.admit(["jobs", "more"], b"data", bench.now))
    assert bench.delivered == [] and not bench.queues.entries and not bench.queues.bytes
    assert list(bench.queues.queues) == ["jobs"]


def test_items_leave_in_the_order_in_which_they_came(bench: Bench) -> None:
    numbers = [bench.enqueue("jobs")[0] for _ in range(5)]
    bench.watch("a", credit=3)
    assert [number for _, number, _ in bench.delivered] == numbers[:3]
    bench.acknowledge("a", numbers[1])
    bench.acknowledge("a", numbers[0])
    assert [number for _, number, _ in bench.delivered] == numbers[3:]


def test_consumers_take_turns(bench: Bench) -> None:
    for name in ("a", "b", "c"):
        bench.watch(name, credit=2)
    numbers = [bench.enqueue("jobs")[0] for _ in range(7)]
    assert [consumer for consumer, _, _ in bench.delivered] == ["a", "b", "c", "a", "b", "c"]
    bench.acknowledge("b", numbers[1])
    assert bench.delivered == [("b", numbers[6], 1)]


def test_an_item_in_several_queues_is_several_items(bench: Bench) -> None:
    first, second = bench.enqueue("one", "two", "one")
    bench.watch("a", "one")
    bench.watch("a", "two")
    assert bench.delivered == [("a", first, 1), ("a", second, 1)]


def test_what_one_has_nobody_else_can_answer(bench: Bench) -> None:
    (number,) = bench.enqueue("jobs")
    bench.watch("a")
    bench.watch("b")
    assert not bench.acknowledge("b", number) and not bench.refuse("b", number)
    assert not bench.acknowledge("nobody", number) and not bench.acknowledge("a", number + 1)
    assert bench.acknowledge("a", number) and not bench.acknowledge("a", number)


# ---------------------------------------------------------------------------------------------------- what comes back


def test_a_consumer_that_goes_leaves_its_items_to_others_ahead_of_younger_ones(bench: Bench) -> None:
    numbers = [bench.enqueue("jobs")[0] for _ in range(3)]
    bench.watch("a", credit=2)
    assert len(bench.delivered) == 2
    bench.queues.gone("a", bench.now)
    bench.watch("b", credit=3)
    assert bench.delivered == [("b", numbers[0], 2), ("b", numbers[1], 2), ("b", numbers[2], 1)]
    assert not bench.acknowledge("a", numbers[0])


def test_a_refused_item_comes_back_after_the_delay_of_the_watch_or_its_own(bench: Bench) -> None:
    (number,) = bench.enqueue("jobs")
    bench.watch("a", retry_delay=2.0)
    assert bench.delivered == [("a", number, 1)]
    assert bench.refuse("a", number)
    assert bench.delivered == [] and bench.queues.wake == bench.now + 2.0
    bench.later(2.0)
    assert bench.delivered == [("a", number, 2)]
    bench.refuse("a", number, delay=0.0)
    assert bench.delivered == [("a", number, 3)]
    bench.refuse("a", number, delay=5.0)
    bench.later(4.9)
    assert bench.delivered == []
    bench.later(0.1)
    assert bench.delivered == [("a", number, 4)]


def test_a_deadline_that_passes_gives_the_item_to_somebody_else(bench: Bench) -> None:
    (number,) = bench.enqueue("jobs")
    bench.watch("a", deadline=10.0)
    bench.watch("b")
    assert bench.delivered == [("a", number, 1)]
    bench.later(9.9)
    assert bench.delivered == []
    bench.later(0.1)
    assert bench.delivered == [("b", number, 2)]


def test_a_consumer_that_hangs_gets_nothing_more_until_it_answers(bench: Bench) -> None:
    first, second = bench.enqueue("jobs"), bench.enqueue("jobs")
    bench.watch("a", deadline=10.0)
    bench.later(10.0)
    bench.later(100.0)
    assert bench.delivered == [("a", *first, 1)]
    assert not bench.acknowledge("a", *first), "too late"
    assert bench.delivered == [("a", *first, 2)]
    assert bench.acknowledge("a", *first)
    assert bench.delivered == [("a", *second, 1)]


def test_a_late_answer_counts_for_the_later_attempt_of_the_same_consumer(bench: Bench) -> None:
    (number,) = bench.enqueue("jobs")
    bench.watch("a", credit=2, deadline=10.0)
    bench.later(10.0)
    assert bench.delivered == [("a", number, 1), ("a", number, 2)]
    assert bench.acknowledge("a", number)
    assert not bench.acknowledge("a", number)
    more = [bench.enqueue("jobs")[0] for _ in range(3)]
    assert bench.delivered == [("a", more[0], 1), ("a", more[1], 1)], "both of its credit are free"


def test_it_is_heard_late_in_a_queue_that_was_empty_meanwhile(bench: Bench) -> None:
    (number,) = bench.enqueue("jobs")
    bench.watch("a", deadline=10.0)
    bench.later(10.0)
    bench.watch("b")
    bench.acknowledge("b", number)
    bench.queues.gone("b", bench.now)
    bench.acknowledge("a", number)
    bench.delivered.clear()
    assert bench.enqueue("jobs") and bench.delivered == [("a", number + 1, 1)]


# ---------------------------------------------------------------------------------------------------- the dead


def die(bench: Bench, retries: int = 1) -> int:
    (number,) = bench.enqueue("jobs")
    bench.watch("a", retries=retries)
    for _ in range(retries + 1):
        bench.refuse("a", number, delay=0.0)
    return number


def test_more_attempts_than_retries_are_the_end(bench: Bench) -> None:
    number = die(bench, retries=2)
    assert [attempt for _, _, attempt in bench.delivered] == [1, 2, 3]
    assert bench.written[-1] == Changed(number, 0.0, 3, True)
    assert [entry.number for entry in bench.queues.dead_letters("jobs")] == [number]


def test_a_consumer_can_send_an_item_to_the_dead(bench: Bench) -> None:
    (number,) = bench.enqueue("jobs")
    bench.watch("a")
    assert bench.refuse("a", number, dead=True)
    assert [entry.number for entry in bench.queues.dead_letters("jobs")] == [number]


def test_an_item_that_kills_its_consumers_dies_too(bench: Bench) -> None:
    (number,) = bench.enqueue("jobs")
    for consumer in range(6):
        bench.watch(f"c{consumer}")
        assert bench.delivered == [(f"c{consumer}", number, consumer + 1)]
        bench.queues.gone(f"c{consumer}", bench.now)
    assert [entry.number for entry in bench.queues.dead_letters("jobs")] == [number]


def test_the_dead_are_listed_up_to_a_limit_and_replayed(bench: Bench) -> None:
    numbers = [die(bench) for _ in range(4)]
    assert bench.delivered and bench.written
    assert [entry.number for entry in bench.queues.dead_letters("jobs", 2)] == numbers[:2]
    assert bench.queues.dead_letters("nothing") == []
    assert bench.queues.replay("jobs", [numbers[1], 99, numbers[1]], bench.now) == 1
    assert bench.delivered == [("a", numbers[1], 1)]
    assert bench.written == [Changed(numbers[1], 0.0, 0, False)]
    assert bench.queues.replay("jobs", None, bench.now) == 3
    assert bench.queues.replay("jobs", None, bench.now) == bench.queues.replay("nothing", None, bench.now) == 0


# ---------------------------------------------------------------------------------------------------- delays


def test_a_delayed_item_comes_when_it_is_due(bench: Bench) -> None:
    bench.watch("a", credit=9)
    (late,), (early,) = bench.enqueue("jobs", delay=20.0), bench.enqueue("jobs", delay=10.0)
    assert isinstance(put := bench.written[0], Put) and put.due == bench.now + 20.0
    assert bench.queues.wake == bench.now + 10.0
    bench.later(10.0)
    assert bench.delivered == [("a", early, 1)]
    bench.later(10.0)
    assert bench.delivered == [("a", late, 1)]


# ---------------------------------------------------------------------------------------------------- reservations


def test_a_reservation_takes_one_or_nothing(bench: Bench) -> None:
    bench.queues.reserve("a", "jobs", bench.now, token=7)
    (answer,) = bench.queues.deliveries
    assert (answer.consumer, answer.token, answer.entry) == ("a", 7, None)
    bench.queues.deliveries.clear()
    numbers = [bench.enqueue("jobs")[0] for _ in range(2)]
    bench.queues.reserve("a", "jobs", bench.now, token=8)
    (answer,) = bench.queues.deliveries
    assert answer.token == 8 and answer.entry and answer.entry.number == numbers[0]
    assert bench.acknowledge("a", numbers[0])
    assert not bench.queues.consumers


def test_a_reservation_waits_in_line_with_the_watches(bench: Bench) -> None:
    bench.watch("a", credit=2)
    bench.queues.reserve("b", "jobs", bench.now, token=1, wait=5.0)
    bench.enqueue("jobs"), bench.enqueue("jobs"), bench.enqueue("jobs")
    assert [consumer for consumer, _, _ in bench.delivered] == ["a", "b", "a"]


def test_a_wait_ends(bench: Bench) -> None:
    bench.queues.reserve("a", "jobs", bench.now, token=1, wait=5.0)
    bench.later(4.9)
    assert not bench.queues.deliveries
    bench.later(0.1)
    assert bench.queues.deliveries[0][:3] == ("a", 1, None)
    assert not bench.queues.consumers and not bench.queues.queues


def test_a_reserved_item_has_a_deadline_beyond_the_wait(bench: Bench) -> None:
    bench.queues.reserve("a", "jobs", bench.now, token=1, wait=5.0, deadline=10.0)
    bench.later(4.0)
    (number,) = bench.enqueue("jobs")
    bench.later(9.9)
    assert bench.acknowledge("a", number)
    bench.queues.reserve("a", "jobs", bench.now, token=2, wait=5.0, deadline=10.0)
    (number,) = bench.enqueue("jobs")
    bench.later(10.0)
    assert not bench.acknowledge("a", number)
    assert bench.queues.entries[number].taker is None and not bench.queues.consumers


def test_a_token_waits_once(bench: Bench) -> None:
    assert bench.queues.reserve("a", "jobs", bench.now, token=1, wait=5.0)
    assert not bench.queues.reserve("a", "jobs", bench.now, token=1, wait=5.0)
    assert bench.queues.reserve("b", "jobs", bench.now, token=1, wait=5.0)
    bench.enqueue("jobs")
    assert bench.queues.reserve("a", "jobs", bench.now, token=1, wait=5.0)


def test_reservations_end_with_their_consumer(bench: Bench) -> None:
    bench.queues.reserve("a", "jobs", bench.now, token=1, wait=5.0)
    bench.queues.gone("a", bench.now)
    bench.queues.gone("a", bench.now)
    assert not bench.queues.queues
    (number,) = bench.enqueue("jobs")
    bench.queues.reserve("b", "jobs", bench.now, token=1, deadline=5.0)
    bench.queues.gone("b", bench.now)
    bench.later(5.0)
    assert bench.delivered == [("b", number, 1)] and bench.queues.entries[number].taker is None


# ---------------------------------------------------------------------------------------------------- watches change


def test_unwatch_leaves_what_is_in_the_hands(bench: Bench) -> None:
    numbers = [bench.enqueue("jobs")[0] for _ in range(3)]
    bench.watch("a", credit=2)
    assert bench.queues.unwatch("a", "jobs") and not bench.queues.unwatch("a", "jobs")
    assert not bench.queues.unwatch("b", "jobs")
    assert bench.acknowledge("a", numbers[0])
    assert len(bench.delivered) == 2
    bench.watch("a", credit=2)
    assert bench.delivered == [("a", numbers[2], 1)], "one of the two is in its hands still"
    assert bench.queues.unwatch("a", "jobs")
    assert bench.acknowledge("a", numbers[1]) and bench.acknowledge("a", numbers[2])
    assert not bench.queues.consumers and not bench.queues.queues


def test_watching_again_changes_the_numbers(bench: Bench) -> None:
    numbers = [bench.enqueue("jobs")[0] for _ in range(4)]
    bench.watch("a", credit=2, deadline=100.0)
    bench.watch("a", credit=1, deadline=10.0)
    assert len(bench.delivered) == 2
    bench.acknowledge("a", numbers[0])
    assert bench.delivered == []
    bench.watch("a", credit=2, deadline=10.0)
    assert bench.delivered == [("a", numbers[2], 1)]
    bench.later(10.0)
    assert bench.queues.entries[numbers[2]].taker is None, "the new deadline"
    assert bench.queues.entries[numbers[1]].taker, "the old one"


def test_consumers_that_come_and_go_leave_nothing_behind(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STALE", 10)
    bench.enqueue("jobs")
    for consumer in range(200):
        bench.watch(f"c{consumer}", deadline=86400.0, retries=1000)
        bench.watch(f"c{consumer}", "more", deadline=86400.0)
        bench.queues.gone(f"c{consumer}", bench.now)
    timetable = bench.queues._timetable
    assert len(timetable) < 25 and not bench.queues.consumers and list(bench.queues.queues) == ["jobs"]


# ---------------------------------------------------------------------------------------------------- limits


@pytest.mark.parametrize(
    ("limits", "names", "words"),
    [
        (Limits(items=3), ["a", "b"], "the queues are full: 3 items"),
        (Limits(bytes=30), ["a", "b"], "the queues are full: 30 bytes"),
        (Limits(items_per_queue=1), ["new", "jobs"], "queue jobs is full: 1 items, 0 of them dead"),
        (Limits(bytes_per_queue=19), ["new", "jobs"], "queue jobs is full: 19 bytes"),
        (Limits(bytes_per_queue=9), ["new"], "queue new is full: 9 bytes"),
    ],
)
def test_beyond_a_limit_all_of_it_is_refused(limits: Limits, names: list[str], words: str) -> None:
    bench = Bench(limits)
    for name in ("jobs", "other"):
        if limits.bytes_per_queue > 10:
            bench.enqueue(name, envelope=b"0123456789")
    before = (dict(bench.queues.entries), bench.queues.bytes, list(bench.queues.queues))
    with pytest.raises(QueueFull) as caught:
        bench.enqueue(*names, envelope=b"0123456789")
    assert str(caught.value) == words
    assert (bench.queues.entries, bench.queues.bytes, list(bench.queues.queues)) == before


def test_the_dead_count_and_the_refusal_says_so() -> None:
    bench = Bench(Limits(items=1))
    die(bench)
    with pytest.raises(QueueFull, match="1 items, 1 of the items dead"):
        bench.enqueue("jobs")


# ---------------------------------------------------------------------------------------------------- all at once

NAMES = st.sampled_from(["jobs", "mail"])
CONSUMERS = st.sampled_from(["a", "b", "c"])
DELAYS = st.sampled_from([0.0, 0.0, 1.0, 3.0])


@dataclass
class Model:
    """An item as the model sees it."""

    queue: str
    state: str = "written"
    """written, ready, delayed, held, dead"""
    due: float = 0.0
    attempt: int = 0
    holder: str = ""
    token: int | None = None
    until: float = 0.0
    retries: int = 5


@dataclass
class Watching:
    credit: int
    deadline: float
    retries: int
    retry_delay: float
    late: list[int] = field(default_factory=list)


class QueuesAgainstAModel(RuleBasedStateMachine):
    """At least once; in order within a queue; nobody holds more than its credit; nothing waits that could be had; and
    what was confirmed is not lost in a crash, which leaves any beginning of what the journal had not confirmed yet."""

    @initialize()
    def begin(self) -> None:
        self.now = 1000.0
        self.queues = Queues()
        self.items: dict[int, Model] = {}
        self.watches: dict[tuple[str, str], Watching] = {}
        self.waiting: dict[int, tuple[str, str, float, float]] = {}
        """token -> consumer, queue, deadline, end of the wait"""
        self.disk: dict[int, Put] = {}
        self.unsaved: list[Record] = []
        self.unsettled: list[Any] = []
        self.tokens = itertools.count()

    # ------------------------------------------------------------------ what the model expects

    def credit_in_use(self, consumer: str, queue: str) -> int:
        held = [m for m in self.items.values() if m.holder == consumer and m.queue == queue and m.token is None]
        return len(held) + len(self.watches[consumer, queue].late)

    def ready(self, queue: str) -> list[int]:
        return sorted(n for n, m in self.items.items() if m.queue == queue and m.state == "ready")

    def back(self, number: int, delay: float = 0.0, dead: bool = False) -> None:
        item = self.items[number]
        item.holder, item.token = "", None
        if dead or item.attempt > item.retries:
            item.state = "dead"
        elif delay:
            item.state, item.due = "delayed", self.now + delay
        else:
            item.state = "ready"

    def look(self) -> None:
        """Every delivery is one that the model allows."""
        self.unsaved += self.queues.journal
        self.queues.journal = []
        for consumer, token, entry, attempt in self.queues.deliveries:
            if entry is None:
                assert self.waiting.pop(token)[3] <= self.now
                continue
            item = self.items[entry.number]
            assert entry.number == self.ready(item.queue)[0], "in order"
            item.state, item.holder, item.token, item.attempt = "held", consumer, token, item.attempt + 1
            assert attempt == item.attempt
            if token is None:
                watch = self.watches[consumer, item.queue]
                assert self.credit_in_use(consumer, item.queue) <= watch.credit
                item.until, item.retries = self.now + watch.deadline, watch.retries
            else:
                _, queue, deadline, _ = self.waiting.pop(token)
                assert queue == item.queue
                item.until, item.retries = self.now + deadline, 5
        self.queues.deliveries.clear()

    # ------------------------------------------------------------------ rules

    @rule(names=st.lists(NAMES, min_size=1, max_size=2, unique=True), delay=DELAYS)
    def enqueue(self, names: list[str], delay: float) -> None:
        entries = self.queues.admit(names, b"data", self.now, delay)
        for entry in entries:
            assert entry.number not in self.items
            self.items[entry.number] = Model(entry.queue.name, due=entry.due)
        self.unsettled.append(entries)
        self.look()

    @rule()
    def confirm(self) -> None:
        self.write(len(self.unsaved))
        for entries in self.unsettled:
            for entry in entries:
                item = self.items[entry.number]
                item.state = "delayed" if item.due else "ready"
            self.queues.settle(entries, self.now)
            self.look()
        self.unsettled.clear()
        self.time_passes(0.0)

    @rule()
    def disk_full(self) -> None:
        for entries in self.unsettled:
            self.queues.withdraw(entries)
            for entry in entries:
                del self.items[entry.number]
        self.unsettled.clear()
        self.unsaved = [record for record in self.unsaved if not isinstance(record, Put)]

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.0, 2.0, 10.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        for number, item in self.items.items():
            if item.state == "held" and item.until <= self.now:
                if item.token is None:
                    self.watches[item.holder, item.queue].late.append(number)
                self.back(number)
            elif item.state == "delayed" and item.due <= self.now:
                item.state = "ready"
        self.queues.advance(self.now)
        self.look()

    @rule(
        consumer=CONSUMERS,
        name=NAMES,
        credit=st.integers(1, 3),
        deadline=st.sampled_from([1.0, 5.0]),
        retries=st.integers(0, 2),
        retry_delay=DELAYS,
    )
    def watch(self, consumer: str, name: str, **numbers: Any) -> None:
        late = self.watches[consumer, name].late if (consumer, name) in self.watches else []
        self.watches[consumer, name] = Watching(**numbers, late=late)
        for item in self.items.values():
            if item.holder == consumer and item.queue == name and item.token is None:
                item.retries = numbers["retries"]
        self.queues.watch(consumer, name, self.now, **numbers)
        self.look()

    @rule(consumer=CONSUMERS, name=NAMES)
    def unwatch(self, consumer: str, name: str) -> None:
        watch = self.watches.get((consumer, name))
        assert self.queues.unwatch(consumer, name) == (watch is not None and watch.credit > 0)
        if watch is not None:
            watch.credit = 0
        self.look()

    @rule(consumer=CONSUMERS, name=NAMES, deadline=st.sampled_from([1.0, 5.0]), wait=DELAYS)
    def reserve(self, consumer: str, name: str, deadline: float, wait: float) -> None:
        token = next(self.tokens)
        self.waiting[token] = (consumer, name, deadline, self.now + wait)
        self.queues.reserve(consumer, name, self.now, token=token, deadline=deadline, wait=wait)
        self.look()

    def answered(self, consumer: str, data: st.DataObject, how: Callable[[int], bool]) -> tuple[int, bool]:
        """One that it holds, or has held for too long, or that is none of its business."""
        number = data.draw(st.sampled_from(sorted(self.items)))
        item = self.items[number]
        held = item.holder == consumer
        if not held:
            for (who, _), watch in self.watches.items():
                if who == consumer and number in watch.late:
                    watch.late.remove(number)
        assert how(number) == held
        return number, held

    @precondition(lambda self: self.items)
    @rule(consumer=CONSUMERS, data=st.data())
    def acknowledge(self, consumer: str, data: st.DataObject) -> None:
        number, held = self.answered(consumer, data, lambda n: self.queues.acknowledge(consumer, n, self.now))
        if held:
            del self.items[number]
        self.look()

    @precondition(lambda self: self.items)
    @rule(consumer=CONSUMERS, data=st.data(), delay=st.none() | DELAYS, dead=st.booleans())
    def refuse(self, consumer: str, data: st.DataObject, delay: float | None, dead: bool) -> None:
        number, held = self.answered(
            consumer, data, lambda n: self.queues.refuse(consumer, n, self.now, delay=delay, dead=dead)
        )
        if held:
            item = self.items[number]
            usual = 1.0 if item.token is not None else self.watches[consumer, item.queue].retry_delay
            self.back(number, usual if delay is None else delay, dead)
        self.look()

    @rule(consumer=CONSUMERS)
    def gone(self, consumer: str) -> None:
        for number, item in self.items.items():
            if item.holder == consumer:
                self.back(number)
        self.watches = {key: watch for key, watch in self.watches.items() if key[0] != consumer}
        self.waiting = {token: one for token, one in self.waiting.items() if one[0] != consumer}
        self.queues.gone(consumer, self.now)
        self.look()

    @rule(name=NAMES, all=st.booleans())
    def replay(self, name: str, all: bool) -> None:
        dead = [n for n, m in self.items.items() if m.queue == name and m.state == "dead"]
        assert sorted(entry.number for entry in self.queues.dead_letters(name)) == dead
        chosen = dead if all else dead[:1]
        for number in chosen:
            self.items[number].state, self.items[number].attempt = "ready", 0
        assert self.queues.replay(name, None if all else [*chosen, 10**9], self.now) == len(chosen)
        self.look()

    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        self.write(data.draw(st.integers(0, len(self.unsaved))))
        self.unsaved.clear()
        self.unsettled.clear()
        self.watches.clear()
        self.waiting.clear()
        confirmed = {n for n, item in self.items.items() if item.state != "written"}
        assert confirmed <= self.disk.keys()
        first = max(self.items, default=0) + 1
        self.items = {
            row.number: Model(
                row.queue,
                "dead" if row.dead else "delayed" if row.due else "ready",
                row.due,
                row.attempt,
            )
            for row in self.disk.values()
        }
        self.queues = Queues()
        self.queues.begin_at(first)
        self.queues.load(sorted(self.disk.values()))
        self.time_passes(0.0)

    def write(self, count: int) -> None:
        for record in self.unsaved[:count]:
            match record:
                case Put():
                    self.disk[record.number] = record
                case Done(number):
                    del self.disk[number]
                case Changed(number, due, attempt, dead):
                    self.disk[number] = self.disk[number]._replace(due=due, attempt=attempt, dead=dead)
        del self.unsaved[:count]

    # ------------------------------------------------------------------ what always holds

    @invariant()
    def nothing_waits_that_could_be_had(self) -> None:
        for name in {item.queue for item in self.items.values()}:
            if self.ready(name):
                assert not [token for token, one in self.waiting.items() if one[1] == name]
                for (consumer, queue), watch in self.watches.items():
                    assert queue != name or self.credit_in_use(consumer, queue) >= watch.credit

    @invariant()
    def it_wakes_in_time(self) -> None:
        times = [item.due for item in self.items.values() if item.state == "delayed"]
        times += [item.until for item in self.items.values() if item.state == "held"]
        times += [one[3] for one in self.waiting.values()]
        assert not times or (self.queues.wake is not None and self.queues.wake <= min(times))

    @invariant()
    def the_books_are_right(self) -> None:
        queues = self.queues
        assert queues.entries.keys() == self.items.keys()
        assert queues.bytes == 4 * len(self.items) == sum(queue.bytes for queue in queues.queues.values())
        for number, item in self.items.items():
            taker = queues.entries[number].taker
            assert (taker.consumer if taker else "") == item.holder
        used = {item.queue for item in self.items.values()} | {one[1] for one in self.waiting.values()}
        used |= {key[1] for key, watch in self.watches.items() if watch.credit or watch.late}
        assert used == queues.queues.keys()
        present = {key[0] for key, watch in self.watches.items() if watch.credit or watch.late}
        present |= {item.holder for item in self.items.values() if item.holder}
        assert present | {one[0] for one in self.waiting.values()} == queues.consumers.keys()
        stale = [one for one in queues._timetable if hasattr(one[2], "wake") and one[2].wake != one[0]]
        assert len(stale) == queues._stale

    def teardown(self) -> None:
        """Whoever takes everything gets everything."""
        if not hasattr(self, "queues"):
            return
        self.confirm()
        self.time_passes(100.0)
        self.watch("z", "jobs", credit=10**6, deadline=1e6, retries=10**6, retry_delay=0.0)
        self.watch("z", "mail", credit=10**6, deadline=1e6, retries=10**6, retry_delay=0.0)
        for consumer in "abc":
            self.gone(consumer)
        self.replay("jobs", True)
        self.replay("mail", True)
        assert all(item.holder == "z" for item in self.items.values())


TestQueuesAgainstAModel = QueuesAgainstAModel.TestCase
