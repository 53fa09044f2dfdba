"""Queues: who gets which item, and what becomes of it. Pure: no clock, no socket, no disk.

An item is admitted (a number, a place within the limits), and settled once it is safe on disk: only then can anybody
get it. It is in one consumer's hands until that one acknowledges or refuses it, goes, or lets its deadline pass; then
it comes back, and what comes back from more than ``retries`` attempts is dead: kept, listed, replayed.

Ready items leave in the order of their numbers, so that one that comes back is ahead of all that are younger. Consumers
take turns. One whose deadline has passed does not get another item in place of the one that it still works on: its
credit is free again when it answers, however late. Otherwise a consumer that hangs would eat the queue, an item at each
deadline, and kill them all.

Time is passed in, in seconds of any clock that goes forward. What is to be sent collects in ``deliveries``, what is to
be written in ``journal``; whoever calls takes both away after each call.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Hashable, Iterable, Sequence

from workermand.services.channel.items import (
    RETRIES,
    RETRY_DELAY,
    Changed,
    Consumer,
    Delivery,
    Done,
    Entry,
    Limits,
    Put,
    Queue,
    QueueFull,
    Record,
    Taker,
)  # fmt: skip

STALE = 1000
"""Entries of the timetable that may be void before they are looked for."""


class Queues:
    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.deliveries: list[Delivery] = []
        self.journal: list[Record] = []
        self.entries: dict[int, Entry] = {}
        """Every item, by its number."""
        self.bytes = 0
        self.queues: dict[str, Queue] = {}
        self.consumers: dict[Hashable, Consumer] = {}
        self._next = 1
        self._timetable: list[tuple[float, int, Entry | Taker]] = []
        """A heap: delayed items; takers by the earliest deadline of what they hold, or the end of their wait."""
        self._tick = 0
        self._stale = 0

    def begin_at(self, number: int) -> None:
        """The next item has this number, or a greater one."""
        self._next = max(self._next, number)

    def load(self, rows: Iterable[Put]) -> None:
        """What the journal has, at the start, in the order of the numbers. The limits do not hold for it: none of it
        was refused when it came."""
        for row in rows:
            entry = self._new(row.number, row.queue, row.envelope, row.due)
            entry.attempt = row.attempt
            entry.dead = row.dead
            self.begin_at(row.number + 1)
            if row.dead:
                entry.queue.dead[row.number] = entry
            else:
                self._wait(entry)

    # ------------------------------------------------------------------ producers

    def admit(self, names: Sequence[str], envelope: bytes, now: float, delay: float = 0.0) -> list[Entry]:
        """An item for each of these queues, for the journal first: nobody gets it before settle(). All of them or none.
        Raises QueueFull."""
        names = list(dict.fromkeys(names))
        self._check(names, len(envelope))
        due = now + delay if delay > 0 else 0.0
        entries = [self._new(self._next + n, name, envelope, due) for n, name in enumerate(names)]
        self._next += len(entries)
        self.journal += [Put(entry.number, entry.queue.name, envelope, due) for entry in entries]
        return entries

    def settle(self, entries: Iterable[Entry], now: float) -> None:
        """They are safe."""
        for entry in entries:
            self._wait(entry)
            self._deliver(entry.queue, now)

    def withdraw(self, entries: Iterable[Entry]) -> None:
        """They could not be made safe: whoever sent them is told."""
        for entry in entries:
            self._forget(entry)

    def _check(self, names: list[str], size: int) -> None:
        limits = self.limits
        if len(self.entries) + len(names) > limits.items:
            raise QueueFull(f"the queues are full: {limits.items} items{self._of_the_dead()}")
        if self.bytes + size * len(names) > limits.bytes:
            raise QueueFull(f"the queues are full: {limits.bytes} bytes{self._of_the_dead()}")
        for name in names:
            queue = self.queues.get(name)
            if queue is not None and queue.entries + 1 > limits.items_per_queue:
                raise QueueFull(f"queue {name} is full: {limits.items_per_queue} items, {len(queue.dead)} of them dead")
            if (queue.bytes if queue is not None else 0) + size > limits.bytes_per_queue:
                raise QueueFull(f"queue {name} is full: {limits.bytes_per_queue} bytes")

    def _of_the_dead(self) -> str:
        dead = sum(len(queue.dead) for queue in self.queues.values())
        return f", {dead} of the items dead" if dead else ""

    # ------------------------------------------------------------------ consumers

    def watch(
        self,
        consumer: Hashable,
        name: str,
        now: float,
        *,
        credit: int = 1,
        deadline: float = 60.0,
        retries: int = RETRIES,
        retry_delay: float = RETRY_DELAY,
    ) -> None:
        """From now on up to ``credit`` items at once. Again for the same queue: these numbers in place of the old."""
        watches = self._consumer(consumer).watches
        taker = watches.get(name)
        if taker is None:
            taker = watches[name] = Taker(consumer, self._queue(name))
            taker.queue.watches += 1
        taker.credit = credit
        taker.deadline = deadline
        taker.retries = retries
        taker.retry_delay = retry_delay
        if taker.has_credit:
            taker.queue.takers.setdefault(taker)
        else:
            taker.queue.takers.pop(taker, None)
        self._deliver(taker.queue, now)

    def unwatch(self, consumer: Hashable, name: str) -> bool:
        """No more of them; what it holds stays in its hands. Whether it was watched."""
        known = self.consumers.get(consumer)
        taker = known.watches.get(name) if known is not None else None
        if taker is None or not taker.credit:
            return False
        taker.credit = 0
        taker.queue.takers.pop(taker, None)
        self._leave(taker)
        return True

    def reserve(
        self, consumer: Hashable, name: str, now: float, *, token: int, deadline: float = 60.0, wait: float = 0.0
    ) -> bool:
        """One item, delivered with this token, or None when there is none within ``wait`` seconds. False: a reservation
        with this token waits already."""
        reservations = self._consumer(consumer).reservations
        if token in reservations:
            return False
        queue = self._queue(name)
        taker = reservations[token] = Taker(consumer, queue, token)
        taker.deadline = deadline
        queue.takers[taker] = None
        self._deliver(queue, now)
        if taker in queue.takers:
            if wait > 0:
                self._wake(taker, now + wait)
            else:
                self._give_up(taker)
        return True

    def acknowledge(self, consumer: Hashable, number: int, now: float) -> bool:
        """False: it was not in this one's hands, or not any more."""
        entry = self._release(consumer, number, now)
        if entry is None or entry.taker is None:
            return False
        self.journal.append(Done(number))
        self._has_answered(entry.taker, now)
        self._forget(entry)
        return True

    def refuse(
        self, consumer: Hashable, number: int, now: float, *, delay: float | None = None, dead: bool = False
    ) -> bool:
        """Back, after ``delay`` seconds (None: the watch's retry_delay), or to the dead. False as acknowledge()."""
        entry = self._release(consumer, number, now)
        if entry is None or entry.taker is None:
            return False
        taker = entry.taker
        self._put_back(entry, taker.retry_delay if delay is None else delay, now, dead=dead)
        self._has_answered(taker, now)
        return True

    def gone(self, consumer: Hashable, now: float) -> None:
        """Its connection has ended: what it held comes back at once."""
        known = self.consumers.pop(consumer, None)
        if known is None:
            return
        takers = dict.fromkeys([*known.watches.values(), *known.reservations.values()])
        takers |= dict.fromkeys(entry.taker for entry in known.held.values() if entry.taker is not None)
        for entry in known.held.values():
            self._put_back(entry, 0.0, now)
        for taker in takers:
            taker.held.clear()
            taker.queue.takers.pop(taker, None)
            taker.queue.watches -= taker.token is None
            self._never_wake(taker)
        for queue in dict.fromkeys(taker.queue for taker in takers):
            self._deliver(queue, now)
        self._tidy()

    # ------------------------------------------------------------------ the dead

    def dead_letters(self, name: str, limit: int = 100) -> list[Entry]:
        """Those that died first."""
        queue = self.queues.get(name)
        return [entry for entry, _ in zip(queue.dead.values(), range(limit), strict=False)] if queue is not None else []

    def replay(self, name: str, numbers: Iterable[int] | None, now: float) -> int:
        """These, or all, begin again. How many there were."""
        queue = self.queues.get(name)
        if queue is None:
            return 0
        chosen = list(queue.dead) if numbers is None else list(dict.fromkeys(n for n in numbers if n in queue.dead))
        for number in chosen:
            entry = queue.dead.pop(number)
            entry.dead, entry.attempt, entry.due = False, 0, 0.0
            self.journal.append(Changed(number, 0.0, 0, False))
            self._wait(entry)
        self._deliver(queue, now)
        return len(chosen)

    # ------------------------------------------------------------------ time

    @property
    def wake(self) -> float | None:
        """When advance() has something to do, at the earliest."""
        return self._timetable[0][0] if self._timetable else None

    def advance(self, now: float) -> None:
        """Delays, deadlines and waits that are over."""
        touched: dict[Queue, None] = {}
        timetable = self._timetable
        while timetable and timetable[0][0] <= now:
            when, _, thing = heapq.heappop(timetable)
            if isinstance(thing, Entry):
                heapq.heappush(thing.queue.ready, (thing.number, thing))
                touched[thing.queue] = None
            elif when == thing.wake:
                self._wake_up(thing, now)
                touched[thing.queue] = None
            else:
                self._stale -= 1
        for queue in touched:
            self._deliver(queue, now)

    def _wake_up(self, taker: Taker, now: float) -> None:
        taker.wake = math.inf
        if taker.token is not None and not taker.held and taker in taker.queue.takers:
            self._give_up(taker)
            return
        known = self.consumers[taker.consumer]
        for number in [number for number, until in taker.held.items() if until <= now]:
            del taker.held[number]
            entry = known.held.pop(number)
            if taker.token is None:
                taker.late += 1
                known.late.setdefault(number, []).append(taker)
            self._put_back(entry, 0.0, now)
        if taker.held:
            self._wake(taker, min(taker.held.values()))
        elif not taker.late:
            self._leave(taker)

    def _wake(self, taker: Taker, when: float) -> None:
        """At this time at the latest; it may look earlier than it needs to."""
        if when < taker.wake:
            self._never_wake(taker)
            taker.wake = when
            self._note(when, taker)

    def _never_wake(self, taker: Taker) -> None:
        self._stale += taker.wake < math.inf
        taker.wake = math.inf

    def _note(self, when: float, thing: Entry | Taker) -> None:
        self._tick += 1
        heapq.heappush(self._timetable, (when, self._tick, thing))

    def _tidy(self) -> None:
        """What is void is not kept until its time comes: that may be hours, and every consumer leaves one behind."""
        if self._stale > STALE and self._stale > len(self._timetable) // 2:
            kept = [one for one in self._timetable if isinstance(one[2], Entry) or one[2].wake == one[0]]
            heapq.heapify(kept)
            self._timetable = kept
            self._stale = 0

    # ------------------------------------------------------------------ moves of an item

    def _new(self, number: int, name: str, envelope: bytes, due: float) -> Entry:
        queue = self._queue(name)
        entry = self.entries[number] = Entry(number, queue, envelope, due)
        queue.entries += 1
        queue.bytes += len(envelope)
        self.bytes += len(envelope)
        return entry

    def _forget(self, entry: Entry) -> None:
        del self.entries[entry.number]
        queue = entry.queue
        queue.entries -= 1
        queue.bytes -= len(entry.envelope)
        self.bytes -= len(entry.envelope)
        self._drop_if_unused(queue)

    def _wait(self, entry: Entry) -> None:
        """For its time, which advance() sees to, or for a consumer."""
        if entry.due:
            self._note(entry.due, entry)
        else:
            heapq.heappush(entry.queue.ready, (entry.number, entry))

    def _put_back(self, entry: Entry, delay: float, now: float, *, dead: bool = False) -> None:
        """Out of a consumer's hands. It is not delivered here: who calls is not done yet."""
        taker, entry.taker = entry.taker, None
        assert taker is not None
        entry.dead = dead or entry.attempt > taker.retries
        entry.due = now + delay if delay > 0 and not entry.dead else 0.0
        self.journal.append(Changed(entry.number, entry.due, entry.attempt, entry.dead))
        if entry.dead:
            entry.queue.dead[entry.number] = entry
        else:
            self._wait(entry)

    def _release(self, consumer: Hashable, number: int, now: float) -> Entry | None:
        """The item is answered: out of the books of the consumer, if it was in them."""
        known = self.consumers.get(consumer)
        if known is None:
            return None
        entry = known.held.pop(number, None)
        if entry is not None:
            assert entry.taker is not None
            del entry.taker.held[number]
            return entry
        takers = known.late.get(number)
        if takers is not None:
            taker = takers.pop()
            if not takers:
                del known.late[number]
            taker.late -= 1
            self._has_answered(taker, now)
        return None

    def _has_answered(self, taker: Taker, now: float) -> None:
        if taker.token is None and taker.has_credit:
            taker.queue.takers.setdefault(taker)
        if not taker.held and not taker.late:
            self._leave(taker)
        self._deliver(taker.queue, now)

    def _deliver(self, queue: Queue, now: float) -> None:
        """Ready items to those whose turn it is."""
        ready, takers = queue.ready, queue.takers
        while ready and takers:
            taker = next(iter(takers))
            _, entry = heapq.heappop(ready)
            known = self.consumers[taker.consumer]
            entry.taker = taker
            entry.due = 0.0
            entry.attempt += 1
            until = now + taker.deadline
            taker.held[entry.number] = until
            known.held[entry.number] = entry
            if taker.token is not None:
                del takers[taker]
                del known.reservations[taker.token]
            elif taker.has_credit:
                takers.move_to_end(taker)
            else:
                del takers[taker]
            self._wake(taker, until)
            self.deliveries.append(Delivery(taker.consumer, taker.token, entry, entry.attempt))
        self._drop_if_unused(queue)

    # ------------------------------------------------------------------ queues and consumers come and go

    def _queue(self, name: str) -> Queue:
        queue = self.queues.get(name)
        if queue is None:
            queue = self.queues[name] = Queue(name)
        return queue

    def _drop_if_unused(self, queue: Queue) -> None:
        if queue.is_unused and self.queues.get(queue.name) is queue:
            del self.queues[queue.name]

    def _consumer(self, consumer: Hashable) -> Consumer:
        known = self.consumers.get(consumer)
        if known is None:
            known = self.consumers[consumer] = Consumer()
        return known

    def _give_up(self, taker: Taker) -> None:
        """Nothing came while it waited."""
        assert taker.token is not None
        taker.queue.takers.pop(taker, None)
        self.deliveries.append(Delivery(taker.consumer, taker.token, None))
        self.consumers[taker.consumer].reservations.pop(taker.token, None)
        self._leave(taker)

    def _leave(self, taker: Taker) -> None:
        """It is forgotten once it has no credit and nothing in its hands; its consumer too, when this was all."""
        known = self.consumers.get(taker.consumer)
        if taker.token is None and (taker.credit or taker.held or taker.late):
            return
        self._never_wake(taker)
        if known is not None:
            if taker.token is None and known.watches.pop(taker.queue.name, None) is not None:
                taker.queue.watches -= 1
            if not (known.watches or known.reservations or known.held or known.late):
                del self.consumers[taker.consumer]
        self._drop_if_unused(taker.queue)
        self._tidy()
