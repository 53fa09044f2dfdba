"""The outbox: letters for uids that nobody had, where a Register keeps them.

    [worker.register.options.outbox]          # {} will do
    age = 604800.0                            # seconds

Senders put them there when no gateway could deliver (posting.py), and gateways take them when a uid is bound
(catchup.py). This is the asked side, whatever carries the requests: see messages.py.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any, Final

import msgspec

from workermand import Connection, Timer, Worker
from workermand.services.gateway import messages
from workermand.services.gateway.outbox.store import Limits, OutboxStore
from workermand.services.links import wire as links
from workermand.services.links.errors import ServiceError
from workermand.services.links.later import Later

FILE: Final = "outbox.sqlite3"
"""In worker.state_dir."""
FIGURES: Final = 1.0
"""Seconds between two looks at what the status says."""

PUT: Final = tuple[list[str], Any, bool]
TAKE: Final = tuple[str]
NUMBERS: Final = tuple[list[int]]
UIDS: Final = tuple[list[str]]
"""What comes behind an op and a number."""


class Outbox:
    """Of one process. Thread: the one that runs the loop."""

    def __init__(self, worker: Worker, limits: Limits, on_kept: Callable[[list[str]], object]) -> None:
        """``on_kept``: letters for these uids are safe; it is called before those who have put them know."""
        self._worker = worker
        self._store = OutboxStore(os.path.join(worker.state_dir, FILE), limits, worker.loop, on_kept)

    def start(self) -> None:
        """Raises LoadError."""
        self._store.open()
        Timer.add(FIGURES, self._count)
        self._count()

    async def close(self) -> None:
        """What has come is written first."""
        await self._store.close()

    def serve(self, connection: Connection, message: list[Any]) -> None:
        """One of messages.OF_OUTBOX, or none: it is answered."""
        try:
            result = self.ask(message)
        except ServiceError as error:
            connection.send(links.body([links.FAIL, message[1], str(error)]))
        else:
            result.add_done_callback(lambda later: _answer(connection, message[1], later))

    def ask(self, message: list[Any]) -> Later[Any]:
        """One of messages.OF_OUTBOX. Raises ServiceError, as the answer may."""
        try:
            match message[0]:
                case messages.PUT:
                    uids, text, raw = msgspec.convert(message[2:], PUT)
                    if not isinstance(text, (str, bytes)):
                        raise ServiceError(f"a message is str or bytes, not {type(text).__name__}")
                    return self._store.put(uids, text, raw)
                case messages.TAKE:
                    (uid,) = msgspec.convert(message[2:], TAKE)
                    return self._store.take(uid)
                case messages.ACKNOWLEDGE:
                    (numbers,) = msgspec.convert(message[2:], NUMBERS)
                    return self._store.acknowledge(numbers)
            (uids,) = msgspec.convert(message[2:], UIDS)
            return self._store.look(uids)
        except msgspec.ValidationError as error:
            raise ServiceError(f"outbox: {error}") from None

    def _count(self) -> None:
        counters = self._store.counters
        self._worker.figures |= {f"letters {name}": getattr(counters, name) for name in counters.__slots__}


def _answer(connection: Connection, number: int, later: asyncio.Future[Any]) -> None:
    """When it is known; to one that has gone, nobody listens."""
    if (error := later.exception()) is not None:
        connection.send(links.body([links.FAIL, number, str(error)]))
    elif connection.send(links.body([links.OK, number, later.result()])) is False:
        connection.destroy()  # it would wait for ever
