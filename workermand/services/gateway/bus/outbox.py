"""BusOutbox: a Register on the bus: nobody needs to be introduced there, but letters are kept. Its callers: boxes.py.

[worker.outbox]
handler = "workermand.services.gateway.register"
reloadable = false
options = { bus = "nats://127.0.0.1:4222", outbox = {} }
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from workermand import Connection, Worker
from workermand.services import options
from workermand.services.gateway import messages
from workermand.services.gateway.bus.boxes import PREFIX
from workermand.services.gateway.bus.callers import Callers
from workermand.services.gateway.bus.connection import Bus
from workermand.services.gateway.bus.link import SCHEME
from workermand.services.gateway.bus.roster import Roster
from workermand.services.gateway.messages import Place
from workermand.services.gateway.outbox.server import Outbox
from workermand.services.gateway.outbox.store import Limits
from workermand.services.links import wire as links
from workermand.services.links.errors import ServiceError, Unauthorized

logger = logging.getLogger(__name__)

PATIENCE: Final = 5.0
"""Seconds that a start waits for nats; then it goes on without."""
PING: Final = 5.0
"""Seconds between two words that it is there."""
LETTERS: Final = 64 * 1024 * 1024
"""Bytes that may be on the way to one gateway that takes letters."""


class BusOutbox:
    """Of the one process of its worker. Thread: the one that runs the loop."""

    def __init__(self, worker: Worker, url: str, limits: Limits) -> None:
        """Raises ConfigError."""
        self._worker = worker
        self._outbox = Outbox(worker, limits, self._kept)
        self._bus = Bus(url)
        self._callers = Callers(self._bus, self, LETTERS, PING)
        self._roster: Roster | None = None

    async def start(self) -> None:
        """Raises LoadError."""
        self._outbox.start()
        self._roster = Roster(self._bus, announce=Place(f"{SCHEME}{self._bus.id}", PREFIX), ping=PING)
        try:
            async with asyncio.timeout(PATIENCE):
                await self._roster.first()
        except TimeoutError:
            logger.warning("no nats at %s within %g s: it goes on without", self._bus.where, PATIENCE)
        except Unauthorized as error:
            raise options.complaint(self._worker, "bus", str(error)) from None

    async def stop(self) -> None:
        """What has come is written first."""
        if self._roster is not None:
            await self._roster.close()
        await self._outbox.close()
        self._callers.end()
        await self._bus.close()

    # ------------------------------------------------------------------ the callbacks of its callers

    def on_message(self, connection: Connection, body: bytes) -> None:
        try:
            message = links.unpack(body)
        except ServiceError:
            return  # nothing of ours
        if message[0] in messages.OF_OUTBOX:
            self._outbox.serve(connection, message)
        else:
            connection.send(links.body([links.FAIL, message[1], "an outbox is asked for letters alone"]))

    def on_buffer_drain(self, connection: Connection) -> None:
        """Who has no room when he is answered is cut off, and asks again."""

    def on_close(self, connection: Connection) -> None:
        """Nothing is known of callers."""

    def _kept(self, uids: list[str]) -> None:
        body = links.body([messages.KEPT, 0, uids])
        for caller in list(self._callers.by_name.values()):
            if not caller.send(body):  # it looks itself when it is back
                caller.destroy()
