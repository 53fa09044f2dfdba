"""The server of GlobalData: ``handler = "workermand.services.globaldata.server"``, protocol frame, one process.

    [worker.globaldata]
    listen = "unix://globaldata.sock"          "frame://0.0.0.0:2207" for other machines, with a secret
    protocol = "frame"
    handler = "workermand.services.globaldata.server"
    reloadable = false
    options = { persist = true }

What it may be told stands in Settings, below. table.py has the variables; here is who asks, who watches, and when
something may be said: with ``persist`` nothing leaves this process, neither an answer nor the news of a change, before
all that it rests upon is in the store. So nobody has ever seen a value that a crash takes back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from typing import Any, Final

import msgspec

from workermand import Connection, LoadError, Worker
from workermand.services import options
from workermand.services.globaldata import php, wire
from workermand.services.globaldata.engine import GlobalDataError, Promise
from workermand.services.globaldata.store import Batch, Store
from workermand.services.globaldata.table import Limits, Table
from workermand.services.links import wire as links
from workermand.services.links.door import Door
from workermand.services.links.door import check as check_listen
from workermand.services.links.php import Settings as PhpSettings
from workermand.services.links.php import check as check_php

logger = logging.getLogger(__name__)

LISTEN: Final = "unix://globaldata.sock"
HELD: Final = 64 * 1024 * 1024
"""Bytes of answers that wait for the store, beyond which no more is read."""
LONGEST: Final = 24 * 3600.0
"""Seconds that the loop is asked to wait at a time."""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The keys of ``options``."""

    secret: str = ""
    """What clients have to know; without one only this machine may call."""
    persist: bool = False
    """In worker.state_dir; otherwise the variables end with the process."""
    limits: Limits = Limits()
    php: PhpSettings | None = None
    """An address for Workerman's clients: links/php.py."""


def on_worker_check(worker: Worker) -> list[str]:
    """Its options, for `workermand check`. Raises LoadError."""
    settings = options.read(worker, Settings)
    remarks = check_listen(worker, wire.SERVICE, settings.secret, LISTEN)
    return [*remarks, check_php(worker, settings.php)] if settings.php is not None else remarks


async def on_worker_start(worker: Worker) -> None:
    """Raises LoadError for options that cannot be, and for a database that cannot be used."""
    worker.globaldata = service = Service(worker, options.read(worker, Settings))
    await service.start()


def on_connect(connection: Connection) -> None:
    connection.worker.globaldata.welcome(connection)


def on_message(connection: Connection, body: bytes) -> None:
    connection.worker.globaldata.hear(connection, body)


def on_buffer_full(connection: Connection) -> None:
    """It does not read its answers: it may ask no more."""
    connection.pause_recv()


def on_buffer_drain(connection: Connection) -> None:
    connection.worker.globaldata.catch_up(connection)
    connection.resume_recv()


def on_close(connection: Connection) -> None:
    connection.worker.globaldata.forget(connection)


async def on_worker_stop(worker: Worker) -> None:
    await worker.globaldata.stop()


class Client:
    """What the server knows of one connection: its ``context``."""

    __slots__ = ("missed", "watched")

    def __init__(self) -> None:
        self.watched: set[str] = set()
        self.missed: set[str] = set()
        """Watched keys whose change did not fit into its buffer: it gets the value of then when there is room."""


class Service:
    """Process: the child; thread: the one that runs the loop."""

    def __init__(self, worker: Worker, settings: Settings) -> None:
        if worker.count != 1:
            raise LoadError(f"worker {worker.name}: the variables are in the memory of one process: write count = 1")
        self._worker = worker
        self._loop = worker.loop
        self._door = Door(worker, wire.SERVICE, settings.secret, LISTEN)
        # In microseconds: a server that has forgotten everything does not give its versions again.
        self.table = Table(settings.limits, version=time.time_ns() // 1000)
        self._store = Store(worker.state_dir, self._is_safe, self._in_trouble) if settings.persist else None
        self._php = settings.php
        self._trouble = ""
        self._watchers: dict[str, set[Connection]] = {}
        self._is_settling = False
        self._due: float | None = None
        """When the next variable ends; ``_alarm`` rings then."""
        self._alarm: asyncio.TimerHandle | None = None
        self._written = 0
        """The number of the last batch that was given to the store."""
        self._safe = 0
        """The last one that is written."""
        self._held: deque[tuple[int, Connection, bytes, str]] = deque()
        """What is said when a batch is safe, in order: as say() has it."""
        self._held_bytes = 0
        self._paused: set[Connection] = set()

    async def start(self) -> None:
        if self._store is not None:
            version, rows = await self._store.open()
            self.table.version = max(version, self.table.version)
            skew = time.time() - self._loop.time()
            for row in rows:
                ends = float("inf") if row.ends is None else row.ends - skew
                self.table.load(row.key, row.value, row.version, ends)
            logger.info("%d variables were kept", len(rows))
        self._settle()
        if self._php is not None:
            await php.open_door(self._worker, self._php, self)

    async def stop(self) -> None:
        self._settle()
        if self._alarm is not None:
            self._alarm.cancel()
        if self._store is not None:
            await self._store.close()

    # ------------------------------------------------------------------ clients

    def welcome(self, connection: Connection) -> None:
        connection.context = Client()
        self._door.on_connect(connection)

    def forget(self, connection: Connection) -> None:
        """It has gone."""
        self._door.on_close(connection)
        self._paused.discard(connection)
        for key in connection.context.watched:
            self._unwatch(connection, key)

    def hear(self, connection: Connection, body: bytes) -> None:
        """One message of a client."""
        if (message := self._door.hear(connection, body)) is None:
            return
        try:
            request = wire.read(message)
            result = self._run(connection, request)
        except GlobalDataError as error:
            frame = links.pack([links.FAIL, message[1], str(error)])
            if self._trouble:
                _send(connection, frame)
                return
        else:
            frame = links.pack([links.OK, request.number, result])
        self.say(connection, frame)

    def _run(self, connection: Connection, request: wire.Request) -> Any:
        if isinstance(request, wire.About):
            return [Promise.PERSISTENCE] if self._store is not None else []
        if isinstance(request, wire.Watch):
            self._watch(connection, request.key)
        elif isinstance(request, wire.Unwatch):
            connection.context.watched.discard(request.key)
            connection.context.missed.discard(request.key)
            self._unwatch(connection, request.key)
        return self.execute(request)

    def _watch(self, connection: Connection, key: str) -> None:
        watched = connection.context.watched
        if len(watched) >= (limit := self.table.limits.watched) and key not in watched:
            raise GlobalDataError(f"{limit} keys are watched already (options.limits.watched)")
        watched.add(key)
        self._watchers.setdefault(key, set()).add(connection)

    def _unwatch(self, connection: Connection, key: str) -> None:
        if (watchers := self._watchers.get(key)) is not None:
            watchers.discard(connection)
            if not watchers:
                del self._watchers[key]

    # ------------------------------------------------------------------ what is done, and what is said

    def execute(self, request: php.Runnable) -> Any:
        """Does it now. The result must not leave the process but through say(). Raises GlobalDataError."""
        if self._trouble:
            raise GlobalDataError(f"the server cannot write its database: {self._trouble}")
        result = request.run(self.table, self._loop.time())
        if self.table.changes and not self._is_settling:
            self._is_settling = True
            self._loop.call_soon(self._settle)
        return result

    def say(self, connection: Connection, frame: bytes, news_of: str = "") -> None:
        """Sends a whole frame, when everything that has been done so far is safe, and behind whatever else waits.
        ``news_of``: the key whose change it tells; it is no answer, and later news may take its place."""
        needed = self._written + 1 if self.table.changes and self._store is not None else self._written
        if needed <= self._safe or self._store is None:
            _send(connection, frame, news_of)
            return
        self._held.append((needed, connection, frame, news_of))
        self._held_bytes += len(frame)
        if self._held_bytes > HELD:
            self._paused.add(connection)
            connection.pause_recv()

    def _settle(self) -> None:
        """Once in a turn of the loop: what has changed goes to the store and to the watchers, of each key the last."""
        self._is_settling = False
        now = self._loop.time()
        due = self.table.expire_due(now)
        changes, self.table.changes = self.table.changes, []
        if changes and self._store is not None:
            self._written += 1
            self._store.write(Batch(self._written, changes, time.time() - now))
        if changes and self._watchers:
            for change in {change.key: change for change in changes if change.is_new}.values():
                if watchers := self._watchers.get(change.key):
                    frame = _news(change.key, change.value, change.version)
                    for connection in list(watchers):
                        self.say(connection, frame, change.key)
        if due != self._due:
            self._ring_at(due, now)

    def _ring_at(self, due: float | None, now: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._due = due
        # A millisecond is what the loop's clock can tell.
        self._alarm = None if due is None else self._loop.call_later(min(due - now, LONGEST) + 0.001, self._ring)

    def _ring(self) -> None:
        self._due = None
        self._settle()

    def catch_up(self, connection: Connection) -> None:
        """It reads again: what it has missed, as it is now."""
        missed, connection.context.missed = connection.context.missed, set()
        now = self._loop.time()
        for key in missed:
            entry = self.table.get(key, now)
            value, version = (None, self.table.version) if entry is None else entry
            self.say(connection, _news(key, value, version), key)

    # ------------------------------------------------------------------ the store's words

    def _is_safe(self, number: int) -> None:
        self._safe = number
        while self._held and self._held[0][0] <= number:
            _needed, connection, frame, news_of = self._held.popleft()
            self._held_bytes -= len(frame)
            _send(connection, frame, news_of)
        if self._paused and self._held_bytes <= HELD:
            paused, self._paused = self._paused, set()
            for connection in paused:
                if not 0 < connection.max_send_buffer_size <= connection.get_send_buffer_size():
                    connection.resume_recv()

    def _in_trouble(self, why: str) -> None:
        self._trouble = why


def _news(key: str, value: bytes | None, version: int) -> bytes:
    return links.pack([wire.CHANGED, 0, key, value, version])


def _send(connection: Connection, frame: bytes, news_of: str = "") -> None:
    """Who has no room for an answer would wait for it in vain: it is better off without a connection."""
    if connection.send(frame, raw=True) is False:
        if news_of:
            connection.context.missed.add(news_of)
        else:
            connection.destroy()
