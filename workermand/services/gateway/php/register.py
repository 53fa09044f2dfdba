"""A Register's listener for PHP: lines of JSON, as GatewayWorker's Register has them, see wire.py.

Gateways of ours that PHP may reach are told to whoever asks; gateways in PHP announce themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from workermand import Connection, Worker
from workermand.services.gateway import ids, wire
from workermand.services.gateway.messages import Place
from workermand.services.gateway.php.door import Allowed, Door
from workermand.services.links.serialize import SerializeError

PATIENCE: Final = 10.0
"""Seconds until the first line."""


class Settings(Allowed, frozen=True, forbid_unknown_fields=True):
    """``options.php`` of a Register."""

    listen: str = "text://127.0.0.1:1236"


class Book:
    """The handler of a Register's listener for PHP. Thread: the one that runs the loop."""

    def __init__(
        self,
        worker: Worker,
        settings: Settings,
        places: Callable[[], list[Place]],
        announce: Callable[[Connection, Place | None], None],
    ) -> None:
        """``announce``: a gateway in PHP is there, or has gone. Raises LoadError."""
        self.uri = settings.listen
        self._door = Door(worker, settings)
        self._places = places
        self._announce = announce
        self._loop = worker.loop
        self._patience: dict[Connection, Any] = {}
        self._gateways: set[Connection] = set()
        self._workers: set[Connection] = set()

    def on_connect(self, connection: Connection) -> None:
        if self._door.admits(connection):
            self._patience[connection] = self._loop.call_later(PATIENCE, self._door.refuse, connection, "says nothing")

    def on_message(self, connection: Connection, line: str | bytes) -> None:
        self._forget(connection)
        try:
            said = wire.read_said(line)
        except SerializeError as error:
            self._door.refuse(connection, str(error))
            return
        if said.event == "ping":
            return
        if not self._door.fits(connection, said.secret_key):
            return
        if said.event == "worker_connect":
            self._workers.add(connection)
            connection.send(self._broadcast())
        elif said.event == "gateway_connect" and ":" in said.address:
            self._gateways.add(connection)
            self._announce(connection, place_of(said.address))
        else:
            self._door.refuse(connection, "asks what a Register does not know")

    def on_close(self, connection: Connection) -> None:
        self._forget(connection)
        self._workers.discard(connection)
        if connection in self._gateways:
            self._gateways.discard(connection)
            self._announce(connection, None)

    def tell(self) -> None:
        """The gateways have changed."""
        said = self._broadcast()
        for worker in self._workers:
            if worker.send(said) is False:
                worker.destroy()

    def _broadcast(self) -> str:
        return wire.broadcast_addresses([place.php for place in self._places() if place.php])

    def _forget(self, connection: Connection) -> None:
        if (timer := self._patience.pop(connection, None)) is not None:
            timer.cancel()


def place_of(address: str) -> Place:
    """Of a gateway in PHP; without a prefix where PHP itself has no client_ids for it."""
    ip, _, port = address.rpartition(":")
    try:
        prefix = ids.php_prefix(ip, int(port))
    except (ValueError, OverflowError):
        prefix = ""
    return Place("", prefix, address)
