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
from workermand.services.channel import wire
from workermand.services.channel.engine import Promise
from workermand.services.channel.hub import SUBSCRIPTIONS, Hub, Slow
from workermand.services.links import wire as links
from workermand.services.links.door import Door
from workermand.services.links.errors import ServiceError

logger = logging.getLogger(__name__)

DEFAULT: Final = "unix://channel.sock"
ALWAYS: Final = (Promise.ONE_OF_MANY, Promise.PATTERNS, Promise.COUNTS, Promise.ORDER)
"""Promised however it is set up."""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The keys of ``options``."""

    secret: str = ""
    """Clients prove that they know it. Without one only unix sockets and loopback may be listened on."""
    slow: Slow = "drop"
    """What a subscriber has to expect whose send buffer (limits.send_buffer) is full: "drop", its events are dropped,
    counted, and it is told how many; "close"."""
    subscriptions: Annotated[int, msgspec.Meta(ge=1)] = SUBSCRIPTIONS
    """Of one client."""


def on_worker_start(worker: Worker) -> None:
    """Raises LoadError for options that cannot be."""
    worker.channel = Service(worker, options.read(worker, Settings))


def on_connect(connection: Connection) -> None:
    connection.worker.channel.door.on_connect(connection)


def on_message(connection: Connection, body: bytes) -> None:
    connection.worker.channel.hear(connection, body)


def on_buffer_full(connection: Connection) -> None:
    connection.worker.channel.hub.is_full(connection)


def on_buffer_drain(connection: Connection) -> None:
    connection.worker.channel.hub.is_drained(connection)


def on_error(connection: Connection, code: SendError, message: str) -> None:
    """A send buffer is full: what becomes of it is decided, and counted, where it was sent."""


def on_close(connection: Connection) -> None:
    connection.worker.channel.gone(connection)


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
        self._settings = settings

    def hear(self, connection: Connection, body: bytes) -> None:
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
        if op == wire.PUBLISH:
            _op, number, events, envelope, one = message
            self.hub.publish(connection, number, events, envelope, one)
        else:
            self._answer(connection, *message)

    def _answer(self, connection: Connection, op: int, number: int, *rest: Any) -> None:
        if op == wire.SUBSCRIBE:
            words = self.hub.subscribe(connection, rest[0], self._settings.subscriptions)
            _reply(connection, number, words)
        elif op == wire.UNSUBSCRIBE:
            self.hub.unsubscribe(connection, rest[0])
            _reply(connection, number)
        elif op == wire.ABOUT:
            connection.send(links.body([links.OK, number, [str(promise) for promise in ALWAYS]]))

    def gone(self, connection: Connection) -> None:
        self.door.on_close(connection)
        self.hub.gone(connection)


def _reply(connection: Connection, number: int, words: str = "") -> None:
    answer = [links.FAIL, number, words] if words else [links.OK, number, None]
    connection.send(links.body(answer))
