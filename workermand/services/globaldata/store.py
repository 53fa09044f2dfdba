"""Store: the variables in a SQLite database, for ``options.persist``: what it has called safe survives kill -9 and a
loss of power.

One thread writes, a transaction for all that has gathered while the one before it was written (group commit), with
SQLite's write-ahead log and synchronous=FULL. The loop never waits for a disk. A transaction that fails is tried again
until it succeeds, and meanwhile on_trouble() has the reason: the server then refuses what it cannot keep.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from workermand import LoadError
from workermand.services.globaldata.table import Change

logger = logging.getLogger(__name__)

FILE: Final = "globaldata.sqlite3"
FORMAT: Final = 1
"""PRAGMA user_version."""
AGAIN: Final = 1.0
"""Seconds between two attempts to write."""
PATIENCE: Final = 10.0
"""Seconds in which another process with the same database has to end."""

SCHEMA: Final = """
CREATE TABLE variables (key TEXT PRIMARY KEY NOT NULL, value BLOB NOT NULL, version INTEGER NOT NULL, ends REAL);
CREATE TABLE state (id INTEGER PRIMARY KEY CHECK (id = 1), version INTEGER NOT NULL);
INSERT INTO state VALUES (1, 0);
"""
PUT: Final = (
    "INSERT INTO variables VALUES (?, ?, ?, ?) ON CONFLICT (key) DO UPDATE"
    " SET value = excluded.value, version = excluded.version, ends = excluded.ends"
)


class Row(NamedTuple):
    """A variable as it was kept."""

    key: str
    value: bytes
    version: int
    ends: float | None
    """In seconds since 1970; None: never."""


class Batch(NamedTuple):
    """What is to be written in one transaction, at least."""

    number: int
    changes: Sequence[Change]
    skew: float
    """What makes ``Change.ends`` seconds since 1970."""


class Store:
    """Process: the server; thread: the one that runs the loop. Everything that touches the disk but open() and close()
    is done by a thread of its own."""

    def __init__(self, directory: str, on_safe: Callable[[int], None], on_trouble: Callable[[str], None]) -> None:
        """``on_safe`` has the number of the last batch that is safe; ``on_trouble`` why writing fails, "" when it does
        not any more. Both are called on the loop."""
        self._path = os.path.join(directory, FILE)
        self._on_safe, self._on_trouble = on_safe, on_trouble
        self._loop = asyncio.get_running_loop()
        self._batches: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._write_all, name="globaldata store", daemon=True)
        self._lock = -1

    async def open(self) -> tuple[int, list[Row]]:
        """The last version that was given, and the variables. Raises LoadError for a database that cannot be used, and
        while another process has it."""
        deadline = self._loop.time() + PATIENCE
        while not self._take():
            if self._loop.time() > deadline:
                raise LoadError(
                    f"{self._path}: another process has it: one server at a time, with count = 1 and reloadable = false"
                )
            await asyncio.sleep(0.05)
        try:
            found = await self._loop.run_in_executor(None, self._read)
        except BaseException:
            self._release()
            raise
        self._thread.start()
        return found

    def write(self, batch: Batch) -> None:
        """Returns at once; on_safe() comes when it is written."""
        self._batches.put(batch)

    async def close(self) -> None:
        """What has been given is written first; what cannot be written is lost, and was never called safe."""
        if self._thread.is_alive():
            self._closing.set()
            self._batches.put(None)
            await self._loop.run_in_executor(None, self._thread.join)
        self._release()

    # ------------------------------------------------------------------ one process at a time

    def _take(self) -> bool:
        """The lock goes with the process, however that ends."""
        if self._lock < 0:
            try:
                self._lock = os.open(f"{self._path}-lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise LoadError(
                    f"{error.filename}: {error.strerror}: options.persist needs the state directory"
                ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _release(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    # ------------------------------------------------------------------ reading

    def _read(self) -> tuple[int, list[Row]]:
        try:
            with contextlib.closing(self._connect()) as database:
                (form,) = database.execute("PRAGMA user_version").fetchone()
                if form == 0:
                    database.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version = {FORMAT}; COMMIT")
                elif form != FORMAT:
                    raise LoadError(f"{self._path} is of another release (format {form}, not {FORMAT})")
                (verdict,) = database.execute("PRAGMA quick_check(1)").fetchone()
                if verdict != "ok":
                    raise sqlite3.DatabaseError(verdict)
                database.execute("DELETE FROM variables WHERE ends <= ?", (time.time(),))
                (version,) = database.execute("SELECT version FROM state").fetchone()
                return version, [
                    Row(*row) for row in database.execute("SELECT key, value, version, ends FROM variables")
                ]
        except (sqlite3.Error, TypeError) as error:
            raise LoadError(
                f"{self._path} cannot be read: {error}; put a copy of it back, or move it away to begin with nothing"
            ) from error

    def _connect(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._path, isolation_level=None, timeout=PATIENCE, cached_statements=16)
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")
        except BaseException:
            database.close()
            raise
        return database

    # ------------------------------------------------------------------ the thread

    def _write_all(self) -> None:
        database: sqlite3.Connection | None = None
        trouble = ""
        for batches in self._gathered():
            while True:
                try:
                    database = database or self._connect()
                    _commit(database, batches)
                    break
                except sqlite3.Error as error:
                    if str(error) != trouble:
                        trouble = str(error)
                        self._tell(self._on_trouble, trouble)
                        logger.error("%s cannot be written: %s; trying again", self._path, trouble)
                    if database is not None and database.in_transaction:
                        with contextlib.suppress(sqlite3.Error):
                            database.rollback()
                    if self._closing.wait(AGAIN):
                        return
            if trouble:
                trouble = ""
                logger.warning("%s is written again", self._path)
                self._tell(self._on_trouble, "")
            self._tell(self._on_safe, batches[-1].number)
        if database is not None:
            database.close()

    def _gathered(self) -> Iterator[list[Batch]]:
        """All that is there, as soon as something is; the end with the last."""
        while (batch := self._batches.get()) is not None:
            batches = [batch]
            while not self._batches.empty():
                if (batch := self._batches.get()) is None:
                    yield batches
                    return
                batches.append(batch)
            yield batches

    def _tell(self, callback: Callable[..., None], what: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(callback, what)


def _commit(database: sqlite3.Connection, batches: Sequence[Batch]) -> None:
    """One transaction; of several changes of a key the last one."""
    last = {change.key: (change, batch.skew) for batch in batches for change in batch.changes}
    gone = [(key,) for key, (change, _skew) in last.items() if change.value is None]
    kept = [
        (change.key, change.value, change.version, change.ends + skew if change.ends < float("inf") else None)
        for change, skew in last.values()
        if change.value is not None
    ]
    version = max((change.version for change, _skew in last.values()), default=0)
    database.execute("BEGIN IMMEDIATE")
    database.executemany("DELETE FROM variables WHERE key = ?", gone)
    database.executemany(PUT, kept)
    database.execute("UPDATE state SET version = max(version, ?)", (version,))
    database.execute("COMMIT")
