"""The Register: ``handler = "workermand.services.gateway.register"``, protocol frame, one process. Workerman: Register.

    [worker.register]
    listen = "frame://127.0.0.1:1236"
    handler = "workermand.services.gateway.register"
    reloadable = false

It knows which gateways there are, and tells whoever asks. There may be several: gateways announce themselves to all of
them, and the others take their answers together (registry.py). It may keep an outbox (outbox/).
"""

from __future__ import annotations

import logging
import math
from typing import Any, Final

import msgspec

from workermand import ConfigError, Connection, ControlError, LoadError, Timer, Worker
from workermand.services import options
from workermand.services.gateway import messages, transport
from workermand.services.gateway.messages import Place
from workermand.services.gateway.outbox.server import Outbox
from workermand.services.gateway.outbox.store import Limits
from workermand.services.gateway.php.register import Book
from workermand.services.gateway.php.register import Settings as PhpSettings
from workermand.services.links import wire as links
from workermand.services.links.door import Door, check
from workermand.services.links.errors import ServiceError

logger = logging.getLogger(__name__)

DEFAULT: Final = "frame://127.0.0.1:1236"
MISSED: Final = 2.5
"""Pings: a gateway that is silent for so long is gone."""
LETTERS: Final = 64 * 1024 * 1024
"""Bytes that may be unsent to a gateway that takes letters (posting.AT_ONCE answers, of PAGE_BYTES or one letter)."""
SWEEP: Final = 0.25
"""Seconds between two looks."""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The keys of ``options``."""

    bus: str = ""
    """ "nats://host:4222/name": it keeps an outbox for a cluster over nats, and listens nowhere. See bus/outbox.py."""
    secret: str = ""
    """Gateways and clients prove that they know it. Without one only this machine may call."""
    php: PhpSettings | None = None
    """GatewayWorker's gateways, business workers and clients may come, on an address of their own."""
    outbox: Limits | None = None
    """What send_to_uid() could not deliver is kept, within these limits, in worker.state_dir."""


def on_worker_check(worker: Worker) -> list[str]:
    """For `workermand check`."""
    settings = options.read(worker, Settings)
    _check_count(worker)
    if settings.bus:
        _check_bus(worker, settings)
        return []
    return check(worker, messages.REGISTER, settings.secret, DEFAULT)


async def on_worker_start(worker: Worker) -> None:
    """Raises LoadError for options that cannot be."""
    settings = options.read(worker, Settings)
    _check_count(worker)
    if settings.bus:
        _check_bus(worker, settings)
        worker.register = transport.outbox(worker, settings.bus, settings.outbox)
    else:
        worker.register = Service(worker, settings)
    await worker.register.start()


def on_connect(connection: Connection) -> None:
    connection.worker.register.door.on_connect(connection)


def on_message(connection: Connection, body: bytes) -> None:
    connection.worker.register.hear(connection, body)


def on_close(connection: Connection) -> None:
    connection.worker.register.gone(connection)


async def on_worker_stop(worker: Worker) -> None:
    await worker.register.stop()


class Service:
    """Process: the child; thread: the one that runs the loop."""

    def __init__(self, worker: Worker, settings: Settings) -> None:
        _check_count(worker)
        self._loop = worker.loop
        self._worker = worker
        self.door = Door(worker, messages.REGISTER, settings.secret, DEFAULT)
        self._gateways: dict[Connection, tuple[Place, float]] = {}
        """And the seconds between their pings."""
        self._heard: dict[Connection, float] = {}
        """When, by the loop's clock."""
        self._watchers: set[Connection] = set()
        self._book = Book(worker, settings.php, lambda: self.places, self._announced) if settings.php else None
        self._outbox = Outbox(worker, settings.outbox, self._kept) if settings.outbox is not None else None
        Timer.add(SWEEP, self._sweep)

    async def start(self) -> None:
        """Raises LoadError."""
        if self._outbox is not None:
            self._outbox.start()
        if self._book is not None:
            try:
                await self._worker.listen(self._book.uri, self._book)
            except (ConfigError, ControlError) as error:
                raise options.complaint(self._worker, "php.listen", str(error)) from None

    async def stop(self) -> None:
        if self._outbox is not None:
            await self._outbox.close()

    def _announced(self, connection: Connection, place: Place | None) -> None:
        """A gateway in PHP, which is silent as long as it lives, or its end."""
        if place is not None:
            self._gateways[connection] = (place, math.inf)
            self._heard[connection] = self._loop.time()
        else:
            self._gateways.pop(connection, None)
            self._heard.pop(connection, None)
        self._tell()

    def hear(self, connection: Connection, body: bytes) -> None:
        self._heard[connection] = self._loop.time()
        message = self.door.hear(connection, body)
        if message is None:
            return
        if self._outbox is not None and message[0] in messages.OF_OUTBOX:
            self._outbox.serve(connection, message)
            return
        try:
            result = self._do(connection, message)
        except ServiceError as error:
            connection.send(links.body([links.FAIL, message[1], str(error)]))
            return
        connection.send(links.body([links.OK, message[1], result]))
        if message[0] == messages.WATCH:
            # Not as the result: who waits for that may see it later than the news that come behind it.
            connection.send(links.body([messages.GATEWAYS, 0, self.places]))

    def _do(self, connection: Connection, message: list[Any]) -> Any:
        match message:
            case [messages.ANNOUNCE, _, said, float(ping) | int(ping)] if ping > 0:
                self._announce(connection, messages.place(said), ping)
                return None
            case [messages.WATCH, _]:
                self._watchers.add(connection)
                return None
            case [messages.LIST, _]:
                return self.places
            case [messages.OUTBOX, _]:
                return self._outbox is not None
        raise ServiceError("a Register is asked ANNOUNCE, LIST or WATCH, and for its outbox if it keeps one")

    def _announce(self, connection: Connection, place: Place, ping: float) -> None:
        """Whoever was at this address before has gone, with a machine or a network perhaps, which nobody has told."""
        for other, (former, _ping) in list(self._gateways.items()):
            if former.uri == place.uri != "":
                del self._gateways[other]
        self._gateways[connection] = (place, ping)
        if self._outbox is not None:
            connection.max_send_buffer_size = LETTERS
        self._tell()

    @property
    def places(self) -> list[Place]:
        """Of the gateways that are here, each once."""
        return list(dict.fromkeys(place for place, _ping in self._gateways.values()))

    def gone(self, connection: Connection) -> None:
        self.door.on_close(connection)
        self._heard.pop(connection, None)
        self._watchers.discard(connection)
        if self._gateways.pop(connection, None) is not None:
            self._tell()

    def _tell(self) -> None:
        """All who want to know."""
        self._worker.figures["gateways"] = len(self._gateways)
        frame = links.pack([messages.GATEWAYS, 0, self.places])
        for watcher in self._watchers:
            if watcher.send(frame, raw=True) is False:  # it would have an old list for ever
                watcher.destroy()
        if self._book is not None:
            self._book.tell()

    def _kept(self, uids: list[str]) -> None:
        """There are new letters for them: one of the gateways may have somebody."""
        frame = links.pack([messages.KEPT, 0, uids])
        for connection, (place, _ping) in list(self._gateways.items()):
            if place.uri and connection.send(frame, raw=True) is False:  # it will look itself when it is back
                connection.destroy()

    def _sweep(self) -> None:
        now = self._loop.time()
        for connection, (place, ping) in list(self._gateways.items()):
            if now - self._heard[connection] > MISSED * ping + SWEEP:
                logger.warning("the gateway at %s is silent: it is gone", place.uri or place.php)
                connection.destroy()


def _check_count(worker: Worker) -> None:
    if worker.count != 1:
        raise LoadError(
            f"worker {worker.name}: count = {worker.count}, write 1: each process would know other gateways"
        )


def _check_bus(worker: Worker, settings: Settings) -> None:
    transport.check(worker, settings.bus)
    if settings.outbox is None:
        raise options.complaint(worker, "bus", "on a bus a Register is there for its outbox alone: set outbox = {}")
    own = next(sibling for sibling in worker.siblings if sibling.name == worker.name)
    if own.listen:
        raise LoadError(f"worker {worker.name}: listen: with options.bus nobody comes there; take it out")
