"""The server of Channel: ``handler = "workermand.services.channel.server"``, one process. Workerman: Channel\\Server.

    [worker.channel]
    handler = "workermand.services.channel.server"
    listen = "unix://channel.sock"
    protocol = "frame"
    reloadable = false
    options = { persist = true }

Here is who is spoken to and what was asked; hub.py has the events, queueing.py the queues.
"""

from __future__ import annotations

import logging
from typing import Annotated, Any, Final

import msgspec

from workermand import Connection, LoadError, SendError, Worker
from workermand.services import options
from workermand.services.channel import php, wire
from workermand.services.channel.engine import Promise
from workermand.services.channel.hub import SUBSCRIPTIONS, Hub, Slow
from workermand.services.channel.items import Limits
from workermand.services.channel.queueing import Queueing
from workermand.services.links import wire as links
from workermand.services.links.door import Door
from workermand.services.links.door import check as check_listen
from workermand.services.links.errors import ServiceError
from workermand.services.links.php import check as check_php

logger = logging.getLogger(__name__)

DEFAULT: Final = "unix://channel.sock"
Count = Annotated[int, msgspec.Meta(ge=1)]
ALWAYS: Final = (Promise.ONE_OF_MANY, Promise.PATTERNS, Promise.COUNTS, Promise.ORDER)
"""Promised however it is set up."""


class QueueLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``options.queues``: how much may lie in them, dead letters too; an item beyond that is refused, in words."""

    items: Count = 1_000_000
    bytes: Count = 1024 * 1024 * 1024
    items_per_queue: Count = 1_000_000
    bytes_per_queue: Count = 1024 * 1024 * 1024


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The keys of ``options``."""

    secret: str = ""
    """Clients prove that they know it. Without one only unix sockets and loopback may be listened on."""
    slow: Slow = "drop"
    """What a subscriber has to expect whose send buffer (limits.send_buffer) is full: "drop", its events are dropped,
    counted, and it is told how many; "close"."""
    subscriptions: Count = SUBSCRIPTIONS
    """Of one client."""
    persist: bool = False
    """Items of queues are on disk, in worker.state_dir, before they are confirmed."""
    queues: QueueLimits = QueueLimits()
    php: php.Settings | None = None
    """A door for clients of PHP's Channel, who know no secret."""


def on_worker_check(worker: Worker) -> list[str]:
    """Its options, for `workermand check`. Raises LoadError."""
    settings = options.read(worker, Settings)
    remarks = check_listen(worker, "channel", settings.secret, DEFAULT)
    return [*remarks, check_php(worker, settings.php)] if settings.php is not None else remarks


async def on_worker_start(worker: Worker) -> None:
    """Raises LoadError for options that cannot be."""
    worker.channel = service = Service(worker, options.read(worker, Settings))
    worker.on_message = service.hear
    await service.start()


def on_connect(connection: Connection) -> None:
    connection.worker.channel.door.on_connect(connection)


def on_buffer_full(connection: Connection) -> None:
    connection.worker.channel.is_full(connection)


def on_buffer_drain(connection: Connection) -> None:
    connection.worker.channel.is_drained(connection)


def on_error(connection: Connection, code: SendError, message: str) -> None:
    """A send buffer is full: what becomes of it is decided, and counted, where it was sent."""


def on_close(connection: Connection) -> None:
    connection.worker.channel.gone(connection)


async def on_worker_stop(worker: Worker) -> None:
    await worker.channel.stop()


class Service:
    """Process: the server's; thread: the one that runs the loop."""

    def __init__(self, worker: Worker, settings: Settings) -> None:
        """Raises LoadError."""
        if worker.count != 1:
            raise LoadError(
                f"worker {worker.name}: count = {worker.count}, write 1: each process would have subscribers of its own"
            )
        self.door = Door(worker, "channel", settings.secret, DEFAULT)
        self.hub = Hub(worker.loop.call_soon, settings.slow)
        limits = Limits(*msgspec.structs.astuple(settings.queues))
        self.queueing = Queueing(worker, persist=settings.persist, limits=limits)
        self._worker = worker
        self._settings = settings

    async def start(self) -> None:
        """Raises LoadError."""
        await self.queueing.start()
        if self._settings.php is not None:
            await php.open_door(self._worker, self._settings.php, self)

    async def stop(self) -> None:
        """What the disk has still to take is taken."""
        self.hub.flush()
        await self.queueing.close()

    def hear(self, connection: Connection, body: bytes) -> None:
        if body[:2] == wire.PUBLISHED and self.door.is_open_to(connection):  # the hot path
            try:
                _op, number, events, envelope, one = wire.decode_publish(body)
            except ValueError:
                pass  # in words, below
            else:
                self.hub.publish(connection, number, events, envelope, one)
                return
        op = wire.op_of(body)
        if op < links.FIRST or not self.door.is_open_to(connection):
            self.door.hear(connection, body)
            return
        try:
            message = wire.decode(body)
        except ServiceError as error:
            logger.warning("%s: %s", connection.get_remote_address(), error)
            connection.close(links.body([links.FAIL, 0, str(error)]))
            return
        self.obey(connection, message)

    def obey(self, connection: Connection, message: tuple[Any, ...]) -> None:
        """A message as wire.decode() gives it."""
        op, number, *rest = message
        if op == wire.PUBLISH:
            self.hub.publish(connection, number, *rest)
        elif op in self.queueing.ops:
            self.queueing.hear(connection, op, number, *rest)
        elif op == wire.SUBSCRIBE:
            _reply(connection, number, self.hub.subscribe(connection, rest[0], self._settings.subscriptions))
        elif op == wire.UNSUBSCRIBE:
            self.hub.unsubscribe(connection, rest[0])
            _reply(connection, number)
        else:  # ABOUT
            promises = [str(promise) for promise in (*ALWAYS, *self.queueing.promises)]
            connection.send(links.body([links.OK, number, promises]))

    def is_full(self, connection: Connection) -> None:
        """Its send buffer is."""
        self.hub.is_full(connection)

    def is_drained(self, connection: Connection) -> None:
        """It reads again."""
        self.hub.is_drained(connection)
        self.queueing.is_drained(connection)

    def gone(self, connection: Connection) -> None:
        """It is closed."""
        self.door.on_close(connection)
        self.hub.gone(connection)
        self.queueing.gone(connection)


def _reply(connection: Connection, number: int, words: str = "") -> None:
    answer = [links.FAIL, number, words] if words else [links.OK, number, None]
    connection.send(links.body(answer))
