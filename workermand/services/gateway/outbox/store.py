"""OutboxStore: letters that wait for uids, on disk: SQLite, all of it in one thread, so that the loop never waits.

What the loop asks for while the thread is busy is done in the next transaction, in its order; whoever waits is told on
the loop, after the commit (synchronous=FULL: it outlives kill -9 and power cuts). A transaction that fails fails for
all in it: nothing of it has been done.

In memory is only how many letters of how many bytes each uid has. Numbers grow with time and are never used again, and
so the oldest is always the one with the lowest.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, Final, NamedTuple, TypeVar

import msgspec

from workermand import LoadError
from workermand.services.links import sqlite
from workermand.services.links.errors import ServiceError
from workermand.services.links.later import Later

logger = logging.getLogger(__name__)

T = TypeVar("T")

LARGEST: Final = 10_000
"""Requests of one transaction, beyond which the next one begins."""
AT_ONCE: Final = 64
"""Rows of one INSERT: each statement gives up the interpreter's lock, and a busy loop is slow to give it back."""
PAGE: Final = 256
PAGE_BYTES: Final = 256 * 1024
"""Letters, and bytes of them, that are taken at a time; one at least."""
LETTER: Final = 100
"""Bytes that a letter is counted as, beside its message."""
SWEEP: Final = 30.0
"""Seconds, at most, that a letter is there for longer than it should."""
PATIENCE: Final = 10.0
"""Seconds that the disk has at the end."""

TABLE: Final = """
CREATE TABLE letters (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    uid TEXT NOT NULL,
    at REAL NOT NULL,
    raw INTEGER NOT NULL,
    size INTEGER NOT NULL,
    message NOT NULL
)
"""
"""``message`` is of no type: what comes as text or bytes stays that."""
KIND: Final = sqlite.Kind(
    0x776D6F62,
    1,
    (TABLE, "CREATE INDEX of_uid ON letters (uid, number)"),
    "Register",
    "an empty outbox",
)
"""In the file "wmob"."""
INSERT: Final = "INSERT INTO letters (uid, at, raw, size, message) VALUES "
DELETE: Final = "DELETE FROM letters WHERE number IN (SELECT value FROM json_each(?)) RETURNING uid, size"
OF_UID: Final = "SELECT number, at, message, raw, size FROM letters WHERE uid = ? ORDER BY number LIMIT ?"
OLDEST: Final = "SELECT number, at, size FROM letters ORDER BY number LIMIT ?"
OLDEST_OF_UID: Final = "SELECT number, size FROM letters WHERE uid = ? ORDER BY number LIMIT ?"


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``options.outbox`` of a Register. What is beyond them goes, the oldest first."""

    age: Annotated[float, msgspec.Meta(gt=0)] = 7 * 86400.0
    """Seconds."""
    messages: Annotated[int, msgspec.Meta(ge=1)] = 1000
    bytes: Annotated[int, msgspec.Meta(ge=1)] = 1024 * 1024
    """Of one uid; what is larger is not kept at all."""
    total_bytes: Annotated[int, msgspec.Meta(ge=1)] = 1024 * 1024 * 1024
    """Of all together: a hundred more for each message."""


class Letter(NamedTuple):
    """One message that waits for one uid, as it is taken."""

    number: int
    at: float
    """Seconds since 1970."""
    message: Any
    """str or bytes."""
    raw: bool


class Share(NamedTuple):
    """What one uid has."""

    letters: int
    bytes: int


class Put(NamedTuple):
    uids: list[str]
    message: str | bytes
    raw: bool


class Take(NamedTuple):
    uid: str


class Acknowledge(NamedTuple):
    numbers: list[int]


class Look(NamedTuple):
    uids: list[str]


Request = Put | Take | Acknowledge | Look
NONE: Final = Share(0, 0)


class Counters:
    """What the status says."""

    __slots__ = ("delivered", "displaced", "expired", "kept", "refused", "waiting")

    def __init__(self) -> None:
        self.waiting = 0
        self.kept = 0
        self.delivered = 0
        """Acknowledged."""
        self.expired = 0
        """Of age."""
        self.displaced = 0
        """By later ones: there were too many, or they were too large."""
        self.refused = 0
        """By the disk."""

    def add(self, changes: dict[str, int]) -> None:
        for name, count in changes.items():
            setattr(self, name, getattr(self, name) + count)


class OutboxStore:
    """Process: the child; thread: the one that runs the loop. Its own thread touches nothing but its Desk."""

    def __init__(
        self,
        path: str,
        limits: Limits,
        loop: asyncio.AbstractEventLoop,
        on_kept: Callable[[list[str]], object] = lambda uids: None,
    ) -> None:
        """``on_kept``: letters for these uids are safe; called on the loop, before those who have put them know."""
        self.path = path
        self.counters = Counters()
        self._limits = limits
        self._loop = loop
        self._on_kept = on_kept
        self._inbox: queue.SimpleQueue[tuple[Request, Later[Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
        self._desk: Desk | None = None
        self._ended = asyncio.Event()
        self._failing = False

    # ------------------------------------------------------------------ on the loop

    def open(self) -> None:
        """Blocks while it counts it all: nobody is served yet. Begins the thread. Raises LoadError."""
        self._desk = Desk(self.path, self._limits)
        self.counters.add(self._desk.changes)
        self._thread.start()

    def put(self, uids: list[str], message: str | bytes, raw: bool) -> Later[int]:
        """How many uids it is kept for. ServiceError: the disk does not take it, or it is too large."""
        size = len(message) if isinstance(message, bytes) else len(message.encode())
        if size > self._limits.bytes:
            return Later.failed(
                "put", ServiceError(f"a message of {size} bytes: the outbox takes {self._limits.bytes}")
            )
        return self._ask(Put(list(dict.fromkeys(uids)), message, raw))

    def take(self, uid: str) -> Later[tuple[list[Letter], bool]]:
        """The first letters of a uid, and whether these are all. They stay until they are acknowledged."""
        return self._ask(Take(uid))

    def acknowledge(self, numbers: list[int]) -> Later[int]:
        """How many of them were still there."""
        return self._ask(Acknowledge(numbers))

    def look(self, uids: list[str]) -> Later[list[str]]:
        """Those for which something is there."""
        return self._ask(Look(uids))

    async def close(self) -> None:
        """What was asked for is done first, within PATIENCE; a disk that does not answer is left alone."""
        if not self._thread.is_alive():
            return
        self._inbox.put(None)
        try:
            await asyncio.wait_for(self._ended.wait(), PATIENCE)
        except TimeoutError:
            logger.error("%s: the disk has not taken everything in %g s", self.path, PATIENCE)

    def _ask(self, request: Request) -> Later[Any]:
        later: Later[Any] = Later(type(request).__name__.lower())
        self._inbox.put((request, later))
        return later

    # ------------------------------------------------------------------ the thread

    def _run(self) -> None:
        assert self._desk is not None
        is_open = True
        while is_open:
            asked, is_open = self._collect()
            requests = [request for request, _later in asked]
            try:
                results = self._desk.work(requests)
            except sqlite3.Error as error:
                self._tell(self._failed, asked, error)
            else:
                self._tell(self._done, asked, results, self._desk.changes)
        self._desk.close()
        self._tell(self._ended.set)

    def _collect(self) -> tuple[list[tuple[Request, Later[Any]]], bool]:
        """Waits for the first one, or until something may be too old, and takes what is there already with it. False:
        there will be no more."""
        asked: list[tuple[Request, Later[Any]]] = []
        try:
            one = self._inbox.get(timeout=min(SWEEP, self._limits.age))
            while one is not None:
                asked.append(one)
                if len(asked) >= LARGEST:
                    return asked, True
                one = self._inbox.get_nowait()
        except queue.Empty:
            return asked, True
        return asked, False

    def _tell(self, what: Callable[..., object], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(what, *arguments)

    # ------------------------------------------------------------------ on the loop again

    def _done(self, asked: Sequence[tuple[Request, Later[Any]]], results: list[Any], changes: dict[str, int]) -> None:
        if self._failing and asked:
            self._failing = False
            logger.warning("%s: it can be written again", self.path)
        self.counters.add(changes)
        kept = dict.fromkeys(uid for request, _later in asked if isinstance(request, Put) for uid in request.uids)
        if kept:
            self._on_kept(list(kept))
        for (_request, later), result in zip(asked, results, strict=True):
            later.fulfil(result)

    def _failed(self, asked: Sequence[tuple[Request, Later[Any]]], error: sqlite3.Error) -> None:
        self.counters.refused += sum(len(request.uids) for request, _later in asked if isinstance(request, Put))
        if not self._failing:
            self._failing = True
            logger.error("%s: nothing is kept: %s", self.path, error)
        for _request, later in asked:
            later.fail(ServiceError(f"the outbox's disk does not take it: {error}"))


class Desk:
    """The database, and what is known of it. Thread: the store's."""

    def __init__(self, path: str, limits: Limits) -> None:
        """Raises LoadError."""
        self._limits = limits
        self._db = sqlite.connect(path, KIND)
        try:
            rows = self._db.execute("SELECT uid, count(*), sum(size) FROM letters GROUP BY uid")
            self._shares = {uid: Share(count, size) for uid, count, size in rows}
            (latest,) = self._db.execute("SELECT coalesce(max(number), 0) FROM letters").fetchone()
            found = self._db.execute("SELECT at FROM letters WHERE number = ?", (latest,)).fetchone()
        except sqlite3.Error as error:
            self._db.close()
            raise LoadError(sqlite.words(path, KIND, error)) from None
        self._bytes = sum(share.bytes for share in self._shares.values())
        self._now: float = found[0] if found else 0.0
        """Never goes back, whatever is done to the clock."""
        self._look_at = 0.0
        """When something may be too old."""
        self._before: dict[str, Share] = {}
        """The shares that this transaction has changed, as they were."""
        self.changes: dict[str, int] = {"waiting": sum(share.letters for share in self._shares.values())}
        """For Counters: what the last transaction has done."""

    def close(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self._db.close()

    def work(self, requests: Sequence[Request]) -> list[Any]:
        """One transaction. Raises sqlite3.Error; then nothing has been done."""
        self._now = max(self._now, time.time())
        self._before, self.changes = {}, {}
        total = self._bytes
        results: list[Any] = []
        if not requests and self._now < self._look_at:
            return results
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._expire()
            for kind, run in itertools.groupby(requests, type):
                results.extend(self._do[kind](self, list(run)))
            self._make_room()
            self._db.execute("COMMIT")
        except sqlite3.Error:
            with contextlib.suppress(sqlite3.Error):
                self._db.rollback()
            for uid, share in self._before.items():
                self._set(uid, share)
            self._bytes, self._look_at, self.changes = total, 0.0, {}
            raise
        return results

    # ------------------------------------------------------------------ requests

    def _put(self, puts: list[Put]) -> list[int]:
        rows = []
        for put in puts:
            size = LETTER + (len(put.message) if isinstance(put.message, bytes) else len(put.message.encode()))
            for uid in put.uids:
                rows.append((uid, self._now, put.raw, size, put.message))
                self._account(uid, 1, size)
        for start in range(0, len(rows), AT_ONCE):
            some = rows[start : start + AT_ONCE]
            values = [value for row in some for value in row]
            self._db.execute(INSERT + ",".join(["(?,?,?,?,?)"] * len(some)), values)
        self._count("kept", len(rows))
        for uid in dict.fromkeys(row[0] for row in rows):
            self._trim(uid)
        return [len(put.uids) for put in puts]

    def _take(self, takes: list[Take]) -> list[tuple[list[Letter], bool]]:
        return [self._first_of(take.uid) for take in takes]

    def _first_of(self, uid: str) -> tuple[list[Letter], bool]:
        if uid not in self._shares:
            return [], True
        letters: list[Letter] = []
        size = 0
        for number, at, message, raw, its_size in self._db.execute(OF_UID, (uid, PAGE)):
            size += its_size
            if letters and size > PAGE_BYTES:
                break
            letters.append(Letter(number, at, message, bool(raw)))
        return letters, len(letters) == self._shares[uid].letters

    def _acknowledge(self, acknowledged: list[Acknowledge]) -> list[int]:
        return [self._delete(one.numbers, "delivered") for one in acknowledged]

    def _look(self, looks: list[Look]) -> list[list[str]]:
        return [[uid for uid in look.uids if uid in self._shares] for look in looks]

    _do: Final[dict[type, Callable[[Desk, list[Any]], Iterable[Any]]]] = {
        Put: _put,
        Take: _take,
        Acknowledge: _acknowledge,
        Look: _look,
    }

    # ------------------------------------------------------------------ limits

    def _trim(self, uid: str) -> None:
        """The oldest of one that has too much."""
        limits = self._limits
        while True:
            share = self._shares.get(uid, NONE)
            letters, size = share.letters - limits.messages, share.bytes - share.letters * LETTER - limits.bytes
            if letters <= 0 and size <= 0:
                return
            gone = []
            for number, its_size in self._db.execute(OLDEST_OF_UID, (uid, PAGE)):
                if letters <= 0 and size <= 0:
                    break
                letters, size = letters - 1, size - (its_size - LETTER)
                gone.append(number)
            self._delete(gone, "displaced")

    def _make_room(self) -> None:
        """The oldest of all, when it is too much."""
        while (too_much := self._bytes - self._limits.total_bytes) > 0:
            gone = []
            for number, _at, size in self._db.execute(OLDEST, (PAGE,)):
                if too_much <= 0:
                    break
                too_much -= size
                gone.append(number)
            self._delete(gone, "displaced")

    def _expire(self) -> None:
        limit = self._now - self._limits.age
        while self._now >= self._look_at:
            rows = self._db.execute(OLDEST, (PAGE,)).fetchall()
            gone = [number for number, at, _size in rows if at <= limit]
            self._delete(gone, "expired")
            if len(gone) < len(rows) or not rows:
                self._look_at = (rows[len(gone)][1] if rows else self._now) + self._limits.age

    # ------------------------------------------------------------------ what is known

    def _delete(self, numbers: list[int], why: str) -> int:
        if not numbers:
            return 0
        gone = self._db.execute(DELETE, (msgspec.json.encode(numbers).decode(),)).fetchall()
        for uid, size in gone:
            self._account(uid, -1, -size)
        self._count(why, len(gone))
        return len(gone)

    def _account(self, uid: str, letters: int, size: int) -> None:
        share = self._shares.get(uid, NONE)
        self._before.setdefault(uid, share)
        self._set(uid, Share(share.letters + letters, share.bytes + size))
        self._bytes += size
        self._count("waiting", letters)

    def _set(self, uid: str, share: Share) -> None:
        if share.letters:
            self._shares[uid] = share
        else:
            self._shares.pop(uid, None)

    def _count(self, what: str, count: int) -> None:
        self.changes[what] = self.changes.get(what, 0) + count
