"""The journal of queues on disk: SQLite, written by one thread, so that the loop never waits for a disk.

What the loop hands over while the thread is busy becomes the next transaction: the more there is, the more items share
one fsync. Whoever waits is told on the loop, after the commit (synchronous=FULL: it outlives kill -9 and power cuts).

When a transaction fails (the disk is full), its new items are refused, which their producers are told; the rest, what
has come back or is done, is kept and written as soon as there is room again. Until then it is in memory alone, and a
crash would deliver such an item once more: at least once.

The thread makes few, large statements: sqlite3 gives up the interpreter's lock at each, and a busy loop lets it wait
5 ms to get it back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

import msgspec

from workermand import LoadError, WorkermandError
from workermand.services.channel.items import Changed, Done, Put, Record
from workermand.services.links import sqlite

logger = logging.getLogger(__name__)

LOCK: Final = 5.0
"""Seconds that another process may still have the file."""
AT_ONCE: Final = 512
"""Rows of one INSERT."""
LARGEST: Final = 10_000
"""Records of one transaction, beyond which the next one begins."""
RETRY: Final = 1.0
"""Seconds until what could not be written is tried again."""
PATIENCE: Final = 10.0
"""Seconds that the disk has at the end."""

TABLE: Final = """
CREATE TABLE items (
    number INTEGER PRIMARY KEY,
    queue TEXT NOT NULL,
    envelope BLOB NOT NULL,
    due REAL NOT NULL,
    attempt INTEGER NOT NULL,
    dead INTEGER NOT NULL
)
"""
KIND: Final = sqlite.Kind(0x776D6368, 1, (TABLE,), "channel server", "empty queues")
"""In the file "wmch"."""
SELECT: Final = "SELECT number, queue, envelope, due, attempt, dead FROM items ORDER BY number"
INSERT: Final = "INSERT INTO items (number, queue, envelope, due, attempt, dead) VALUES "
DELETE: Final = "DELETE FROM items WHERE number IN (SELECT value FROM json_each(?))"
UPDATE: Final = """
UPDATE items SET due = changed.due, attempt = changed.attempt, dead = changed.dead FROM (
    SELECT json_extract(value, '$[0]') AS number, json_extract(value, '$[1]') AS due,
           json_extract(value, '$[2]') AS attempt, json_extract(value, '$[3]') AS dead FROM json_each(?)
) AS changed WHERE items.number = changed.number
"""

Confirmed = Callable[[Exception | None], None]
"""Called on the loop: written, or why not."""


class NotStored(WorkermandError):
    """The disk did not take it; the text says why. Nobody was given the item."""


class Store(Protocol):
    """What a queue's records are handed to."""

    def load(self) -> list[Put]:
        """At the start. Raises LoadError."""

    def write(self, records: Sequence[Record], confirmed: Confirmed | None = None) -> None:
        """Returns at once. In the order of the calls."""

    async def close(self) -> None:
        """What was handed over is written first."""


class Memory:
    """No disk: everything is confirmed at once, and ends with the process."""

    def load(self) -> list[Put]:
        return []

    def write(self, records: Sequence[Record], confirmed: Confirmed | None = None) -> None:
        if confirmed is not None:
            confirmed(None)

    async def close(self) -> None:
        pass


class Counters:
    """What the status says."""

    __slots__ = ("commits", "failures", "records", "refused")

    def __init__(self) -> None:
        self.commits = 0
        self.records = 0
        """In these commits."""
        self.failures = 0
        """Transactions that the disk did not take."""
        self.refused = 0
        """New items in those."""


class _Batch:
    """One transaction."""

    def __init__(self) -> None:
        self.puts: list[Put] = []
        self.states: dict[int, Changed | Done] = {}
        """By number the last one: what comes after it in the same transaction is all that counts."""
        self.confirmed: list[Confirmed] = []
        self.of_puts: list[Confirmed] = []
        """Of those, who waits for a new item."""

    def add(self, records: Iterable[Record], confirmed: Confirmed | None) -> None:
        with_puts = False
        for record in records:
            if isinstance(record, Put):
                self.puts.append(record)
                with_puts = True
            else:
                self.states[record.number] = record
        if confirmed is not None:
            (self.of_puts if with_puts else self.confirmed).append(confirmed)

    @property
    def size(self) -> int:
        return len(self.puts) + len(self.states)


class SqliteStore:
    """Process: the child; thread: the one that runs the loop. Its own thread touches nothing but its connection."""

    def __init__(
        self, path: str, loop: asyncio.AbstractEventLoop, on_trouble: Callable[[str], object] = lambda words: None
    ) -> None:
        """``on_trouble`` is called on the loop: with words when the disk takes nothing any more, with "" when it does
        again."""
        self.path = path
        self.counters = Counters()
        self._loop = loop
        self._inbox: queue.SimpleQueue[tuple[Sequence[Record], Confirmed | None] | None] = queue.SimpleQueue()
        self._db: sqlite3.Connection | None = None
        self._thread = threading.Thread(target=self._run, name="queues", daemon=True)
        self._ended = asyncio.Event()
        self._failing = False
        self._on_trouble = on_trouble

    # ------------------------------------------------------------------ on the loop

    def load(self) -> list[Put]:
        """Blocks, for as long as it takes to read it all: nobody is served yet. Begins the thread. Raises LoadError."""
        self._db = sqlite.connect(self.path, KIND, LOCK)
        try:
            rows = [
                Put(number, queue, envelope, due, attempt, bool(dead))
                for number, queue, envelope, due, attempt, dead in self._db.execute(SELECT)
            ]
        except sqlite3.Error as error:
            self._db.close()
            raise LoadError(sqlite.words(self.path, KIND, error)) from None
        self._thread.start()
        return rows

    def write(self, records: Sequence[Record], confirmed: Confirmed | None = None) -> None:
        """Records of one call are written together or not at all."""
        self._inbox.put((records, confirmed))

    async def close(self) -> None:
        """Within PATIENCE; a disk that does not answer is left alone."""
        if not self._thread.is_alive():
            return
        self._inbox.put(None)
        try:
            await asyncio.wait_for(self._ended.wait(), PATIENCE)
        except TimeoutError:
            logger.error(
                "%s: the disk has not taken everything in %g s; what was confirmed is safe", self.path, PATIENCE
            )

    # ------------------------------------------------------------------ the thread

    def _run(self) -> None:
        assert self._db is not None
        left = _Batch()
        """What could not be written, to be tried again."""
        is_open = True
        while is_open:
            batch, is_open = self._collect(left)
            left = self._commit(self._db, batch) if batch.size or batch.confirmed or batch.of_puts else batch
        with contextlib.suppress(sqlite3.Error):
            self._db.close()
        if left.size:
            logger.error("%s: %d records could not be written; their items will come again", self.path, left.size)
        self._tell(self._ended.set)

    def _collect(self, batch: _Batch) -> tuple[_Batch, bool]:
        """Waits for the first one, and takes what is there already with it. False: there will be no more."""
        try:
            one = self._inbox.get(timeout=RETRY if batch.size else None)
            while one is not None:
                batch.add(*one)
                if batch.size >= LARGEST:
                    return batch, True
                one = self._inbox.get_nowait()
        except queue.Empty:
            return batch, True
        return batch, False

    def _commit(self, db: sqlite3.Connection, batch: _Batch) -> _Batch:
        """What is left to be written."""
        try:
            _write(db, batch)
        except sqlite3.Error as error:
            with contextlib.suppress(sqlite3.Error):
                db.rollback()
            self._tell(self._failed, error, batch.of_puts, len(batch.puts))
            batch.puts, batch.of_puts = [], []
            return batch
        self._tell(self._written, batch.of_puts + batch.confirmed, batch.size)
        return _Batch()

    def _tell(self, what: Callable[..., object], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(what, *arguments)

    # ------------------------------------------------------------------ on the loop again

    def _written(self, confirmed: list[Confirmed], count: int) -> None:
        self.counters.commits += 1
        self.counters.records += count
        if self._failing:
            self._failing = False
            logger.warning("%s: it can be written again", self.path)
            self._on_trouble("")
        _call(confirmed, None)

    def _failed(self, error: sqlite3.Error, confirmed: list[Confirmed], puts: int) -> None:
        self.counters.failures += 1
        self.counters.refused += puts
        if not self._failing:
            self._failing = True
            logger.error("%s: new items are refused: %s", self.path, error)
            self._on_trouble(f"new items are refused: {self.path}: {error}")
        _call(confirmed, NotStored(f"the server's disk does not take it: {error}"))


def _call(confirmed: list[Confirmed], outcome: Exception | None) -> None:
    """All of them, whatever one of them raises: behind each somebody else waits."""
    for call in confirmed:
        try:
            call(outcome)
        except Exception:
            logger.exception("what waited for the disk failed")


def _write(db: sqlite3.Connection, batch: _Batch) -> None:
    done = [number for number, record in batch.states.items() if isinstance(record, Done)]
    changed = [record for record in batch.states.values() if isinstance(record, Changed)]
    db.execute("BEGIN IMMEDIATE")
    for start in range(0, len(batch.puts), AT_ONCE):
        rows = batch.puts[start : start + AT_ONCE]
        # Of few lengths, so that the statement is found among those that were prepared before.
        for size in (AT_ONCE, 64, 8, 1):
            while len(rows) >= size:
                values = [value for row in rows[:size] for value in row]
                db.execute(INSERT + ",".join(["(?,?,?,?,?,?)"] * size), values)
                rows = rows[size:]
    if done:
        db.execute(DELETE, (msgspec.json.encode(done).decode(),))
    if changed:
        db.execute(UPDATE, (msgspec.json.encode(changed).decode(),))
    db.execute("COMMIT")
