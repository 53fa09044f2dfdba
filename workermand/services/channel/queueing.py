"""The queues of a server: what clients ask goes to Queues, its journal to the store, its deliveries to the wire.

A producer is answered when its item is on disk, a consumer when that it is done is. Nothing here waits: the store calls
back on the loop, a timer wakes Queues for what is due.

No answer and no item is dropped. What a client's full send buffer does not take waits for it here: items, which are in
its hands and as many as its credit, and answers, up to OWED bytes; beyond that its connection ends.
"""

from __future__ import annotations

import functools
import gc
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from workermand import Connection, ConnectionStatus, Worker
from workermand.services.channel import wire
from workermand.services.channel.engine import Promise
from workermand.services.channel.items import Delivery, Entry, Limits, QueueFull, Record
from workermand.services.channel.queues import Queues
from workermand.services.channel.store import Memory, SqliteStore, Store
from workermand.services.links import wire as links
from workermand.services.links.errors import ServiceError

logger = logging.getLogger(__name__)

FILE: Final = "queues.sqlite3"
"""In worker.state_dir."""
OWED: Final = 16 * 1024 * 1024
LONGEST: Final = 366 * 86400.0
"""Seconds of any delay, deadline or wait."""
MOST_CREDIT: Final = 100_000
MOST_RETRIES: Final = 1_000_000
MOST_QUEUES: Final = 1000
"""In one enqueue."""
MOST_WATCHES: Final = 10_000
MOST_RESERVATIONS: Final = 1000
"""That wait, of one client."""
LETTERS: Final = 1024 * 1024
"""Bytes of dead letters in one answer, at which it ends: the first is there whatever its size."""
HEAD: Final = 64
"""Bytes of an ITEM beside the queue's name and the envelope, at most."""
ROUNDING: Final = 0.001
"""Seconds that a timer may be early: the loop's clock counts milliseconds."""
HOUR: Final = 3600.0
"""A timer's longest run."""


class Counters:
    """What the status says."""

    __slots__ = ("closed", "confirmed", "delivered", "done", "enqueued", "refused")

    def __init__(self) -> None:
        self.enqueued = 0
        """Items that came in."""
        self.confirmed = 0
        """Of them, those that are safe and whose producer knows."""
        self.refused = 0
        """For a limit, or by the disk."""
        self.delivered = 0
        """Attempts."""
        self.done = 0
        """Items that were acknowledged."""
        self.closed = 0
        """Clients that did not read."""


class Queueing:
    """Of one process. Thread: the one that runs the loop."""

    def __init__(self, worker: Worker, *, persist: bool = False, limits: Limits | None = None) -> None:
        """``persist``: in worker.state_dir; else the items end with the process. start() comes first of all."""
        self.counters = Counters()
        self.queues = Queues(limits)
        self.promises = (Promise.QUEUES, Promise.DELAY, Promise.DEAD_LETTERS) + (
            (Promise.PERSISTENCE,) if persist else ()
        )
        self.store: Store = Memory()
        if persist:
            self.store = SqliteStore(os.path.join(worker.state_dir, FILE), worker.loop, self._has_trouble)
        self._worker = worker
        self._loop = worker.loop
        # As the system's clock was at the start, and even from then on: what is due is on disk in it, and nobody who
        # sets the clock makes a deadline pass.
        self._offset = time.time() - time.monotonic()
        self._timer: Any = None
        self._wakes_at = 0.0
        self._owed: dict[Connection, deque[Delivery | bytes]] = {}
        self._owed_bytes: dict[Connection, int] = {}
        self._ops: dict[int, Callable[..., None]] = {
            wire.ENQUEUE: self._enqueue,
            wire.WATCH: self._watch,
            wire.UNWATCH: self._unwatch,
            wire.RESERVE: self._reserve,
            wire.ACKNOWLEDGE: self._acknowledge,
            wire.REFUSE: self._refuse,
            wire.DEAD: self._dead_letters,
            wire.REPLAY: self._replay,
        }
        self.ops = frozenset(self._ops)
        """What hear() is for."""

    async def start(self) -> None:
        """Reads what is on disk. Raises LoadError."""
        # A million items are some millions of objects that stay: the collector would look through them again and again,
        # for half of the time that this takes; and later, with everybody waiting.
        gc.disable()
        try:
            await self._load()
        finally:
            gc.freeze()
            gc.enable()
        self._flush()

    async def _load(self) -> None:
        rows = await self._loop.run_in_executor(None, self.store.load)
        # Greater than any number before, also where nothing was kept: an answer to an item of the process before this
        # one must not hit another item.
        self.queues.begin_at(int(time.time() * 1e6))
        self.queues.load(rows)
        if rows:
            logger.info("%d items are in the queues from before", len(rows))

    async def close(self) -> None:
        """What was handed to the disk is written, within its deadline."""
        if self._timer is not None:
            self._timer.cancel()
        await self.store.close()

    def _has_trouble(self, words: str) -> None:
        """For `workermanctl status`."""
        self._worker.note = words

    # ------------------------------------------------------------------ what the server calls

    def hear(self, connection: Connection, op: int, number: int, *rest: Any) -> None:
        """A message of one of ``ops``, its types checked by wire.decode()."""
        try:
            self._ops[op](connection, number, *rest)
        except (ServiceError, QueueFull) as error:
            self._answer(connection, number, error)
        self._flush()

    def gone(self, connection: Connection) -> None:
        """It is closed."""
        self._owed.pop(connection, None)
        self._owed_bytes.pop(connection, None)
        self.queues.gone(connection, self._now())
        self._flush()

    def is_drained(self, connection: Connection) -> None:
        """It reads again."""
        owed = self._owed.pop(connection, None)
        if owed is None:
            return
        self._owed_bytes.pop(connection)
        while owed:
            one = owed.popleft()
            if isinstance(one, Delivery):
                self._deliver(one)
            else:
                self._send(connection, one)

    def enqueue(self, names: Sequence[str], envelope: bytes, delay: float, then: Callable[[str], None]) -> None:
        """An item from elsewhere than a link. ``then("")`` when it is safe, or the reason why it is not. Raises
        ServiceError, QueueFull."""
        for name in names:
            _check_name(name)
            if len(envelope) + len(name.encode()) + HEAD > self._worker.limits.package > 0:
                raise ServiceError(f"an item of {len(envelope)} bytes is over the server's limits.package")
        if not 0 < len(names) <= MOST_QUEUES:
            raise ServiceError(f"an item goes to 1 to {MOST_QUEUES} queues, not {len(names)}")
        _check_time("delay", delay)
        try:
            entries = self.queues.admit(names, envelope, self._now(), delay)
        except QueueFull:
            self.counters.refused += len(names)
            raise
        self.counters.enqueued += len(entries)
        self.store.write(self._journal(), functools.partial(self._is_stored, entries, then))

    # ------------------------------------------------------------------ producers

    def _enqueue(self, connection: Connection, number: int, names: list[str], envelope: bytes, delay: float) -> None:
        def then(words: str) -> None:
            self._answer(connection, number, ServiceError(words) if words else None)

        self.enqueue(names, envelope, delay, then)

    def _is_stored(self, entries: list[Entry], then: Callable[[str], None], error: Exception | None) -> None:
        if error is None:
            self.counters.confirmed += len(entries)
            then("")
            self.queues.settle(entries, self._now())
        else:
            self.counters.refused += len(entries)
            self.queues.withdraw(entries)
            then(str(error))
        self._flush()

    # ------------------------------------------------------------------ consumers

    def _watch(
        self,
        connection: Connection,
        number: int,
        name: str,
        credit: int,
        deadline: float,
        retries: int,
        retry_delay: float,
    ) -> None:
        _check_name(name)
        _check_count("credit", credit, 1, MOST_CREDIT)
        _check_count("retries", retries, 0, MOST_RETRIES)
        _check_deadline(deadline)
        _check_time("retry_delay", retry_delay)
        known = self.queues.consumers.get(connection)
        if known is not None and len(known.watches) >= MOST_WATCHES and name not in known.watches:
            raise ServiceError(f"a client watches {MOST_WATCHES} queues at most")
        self._answer(connection, number, None)
        self.queues.watch(
            connection,
            name,
            self._now(),
            credit=credit,
            deadline=deadline,
            retries=retries,
            retry_delay=retry_delay,
        )

    def _unwatch(self, connection: Connection, number: int, name: str) -> None:
        self.queues.unwatch(connection, name)
        self._answer(connection, number, None)

    def _reserve(self, connection: Connection, number: int, name: str, deadline: float, wait: float) -> None:
        _check_name(name)
        _check_deadline(deadline)
        _check_time("wait", wait)
        known = self.queues.consumers.get(connection)
        if known is not None and len(known.reservations) >= MOST_RESERVATIONS:
            raise ServiceError(f"{MOST_RESERVATIONS} reservations of a client may wait at once")
        if not self.queues.reserve(connection, name, self._now(), token=number, deadline=deadline, wait=wait):
            raise ServiceError(f"request {number} waits already")

    def _acknowledge(self, connection: Connection, number: int, _name: str, id: str) -> None:
        is_ours = self.queues.acknowledge(connection, _number_of(id), self._now())
        self.counters.done += is_ours
        self._answer_when_written(connection, number, is_ours)

    def _refuse(
        self, connection: Connection, number: int, _name: str, id: str, delay: float | None, dead: bool
    ) -> None:
        if delay is not None:
            _check_time("delay", delay)
        is_ours = self.queues.refuse(connection, _number_of(id), self._now(), delay=delay, dead=dead)
        self._answer_when_written(connection, number, is_ours)

    # ------------------------------------------------------------------ the dead

    def _dead_letters(self, connection: Connection, number: int, name: str, limit: int) -> None:
        size = 0
        rows: list[tuple[str, str, int, bytes]] = []
        for entry in self.queues.dead_letters(name, limit):
            size += len(entry.envelope)
            if rows and size > LETTERS:
                break
            rows.append((name, str(entry.number), entry.attempt, entry.envelope))
        self._answer(connection, number, rows)

    def _replay(self, connection: Connection, number: int, name: str, ids: list[str] | None) -> None:
        numbers = None if ids is None else [_number_of(id) for id in ids]
        self._answer_when_written(connection, number, self.queues.replay(name, numbers, self._now()))

    # ------------------------------------------------------------------ to the disk, to the wire, and time

    def _now(self) -> float:
        return time.monotonic() + self._offset

    def _journal(self) -> list[Record]:
        records, self.queues.journal = self.queues.journal, []
        return records

    def _flush(self) -> None:
        """What Queues has collected; and when it is to be woken."""
        if self.queues.journal:
            self.store.write(self._journal())
        if self.queues.deliveries:
            deliveries, self.queues.deliveries = self.queues.deliveries, []
            for delivery in deliveries:
                self._deliver(delivery)
        wake = self.queues.wake
        if wake is not None and (self._timer is None or wake < self._wakes_at):
            self._set_timer(wake)

    def _set_timer(self, wake: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        delay = min(max(wake - self._now(), 0.0) + ROUNDING, HOUR)
        self._wakes_at = wake
        self._timer = self._loop.call_later(delay, self._wake_up)

    def _wake_up(self) -> None:
        self._timer = None
        self.queues.advance(self._now())
        self._flush()

    def _deliver(self, delivery: Delivery) -> None:
        connection: Any = delivery.consumer
        if connection in self._owed:
            self._owe(connection, delivery, HEAD)
            return
        entry, token = delivery.entry, delivery.token
        row = (entry.queue.name, str(entry.number), delivery.attempt, entry.envelope) if entry is not None else None
        self.counters.delivered += entry is not None
        frame = links.pack((wire.ITEM, 0, *row) if row is not None and token is None else (links.OK, token, row))
        if _is_refused(connection, frame):
            self._owe(connection, delivery, HEAD)

    def _answer_when_written(self, connection: Connection, number: int, result: object) -> None:
        def then(error: Exception | None) -> None:
            self._answer(connection, number, result if error is None else error)

        if records := self._journal():
            self.store.write(records, then)
        else:
            then(None)

    def _answer(self, connection: Connection, number: int, result: object) -> None:
        if isinstance(result, Exception):
            self._send(connection, links.pack((links.FAIL, number, str(result))))
        else:
            self._send(connection, links.pack((links.OK, number, result)))

    def _send(self, connection: Connection, frame: bytes) -> None:
        if connection in self._owed or _is_refused(connection, frame):
            self._owe(connection, frame, len(frame))

    def _owe(self, connection: Connection, what: Delivery | bytes, size: int) -> None:
        """Until is_drained()."""
        self._owed.setdefault(connection, deque()).append(what)
        self._owed_bytes[connection] = self._owed_bytes.get(connection, 0) + size
        if self._owed_bytes[connection] > OWED:
            self.counters.closed += 1
            logger.warning("%s does not read: closed, with %d bytes of answers", connection.get_remote_address(), OWED)
            del self._owed[connection], self._owed_bytes[connection]
            connection.destroy()


def _is_refused(connection: Connection, frame: bytes) -> bool:
    """Its send buffer is full. One that has ended takes everything: what it had comes back when it is gone."""
    return connection.send(frame, raw=True) is False and connection.status is ConnectionStatus.ESTABLISHED


def _number_of(id: str) -> int:
    """0, which no item has, for what is none of our ids."""
    return int(id) if len(id) <= 20 and id.isascii() and id.isdigit() else 0


def _check_name(name: str) -> None:
    if words := wire.why_not(name):
        raise ServiceError(words)


def _check_count(what: str, count: int, least: int, most: int) -> None:
    if not least <= count <= most:
        raise ServiceError(f"{what} is {least} to {most}, not {count}")


def _check_time(what: str, seconds: float) -> None:
    if not 0 <= seconds <= LONGEST:  # also for what is no number
        raise ServiceError(f"{what} is 0 to {LONGEST:.0f} seconds, not {seconds:g}")


def _check_deadline(seconds: float) -> None:
    if not 0 < seconds <= LONGEST:
        raise ServiceError(f"deadline is more than 0 and up to {LONGEST:.0f} seconds, not {seconds:g}")
