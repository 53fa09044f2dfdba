"""BusDoor: the inner side of a gateway on the bus: in place of a listener, and of Registers to be known to.

Whoever opens a pipe is to Peers what a connection is over TCP. It listens to the subjects of those uids and groups that
somebody here has and some peer has asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from typing import Any, Final, cast

import msgspec

from workermand import Connection, Timer, Worker
from workermand.services import options
from workermand.services.gateway import ids, messages
from workermand.services.gateway.bus.boxes import Boxes
from workermand.services.gateway.bus.callers import Callers
from workermand.services.gateway.bus.connection import Bus
from workermand.services.gateway.bus.link import SCHEME
from workermand.services.gateway.bus.mesh import ALL, OFFER, subject_of
from workermand.services.gateway.bus.roster import Roster
from workermand.services.gateway.commands import Commands
from workermand.services.gateway.messages import Place
from workermand.services.gateway.outbox.posting import Outboxes
from workermand.services.gateway.peers import Key, Peers
from workermand.services.gateway.routing import Mate, Router, Stream, least_connections
from workermand.services.gateway.table import Table
from workermand.services.links.errors import Unauthorized

logger = logging.getLogger(__name__)

PATIENCE: Final = 5.0
"""Seconds that a start waits for nats; then it goes on without."""
OFFERED: Final = 1.0
"""Seconds that a business worker has to claim a client; then it is given to one."""
LINGER: Final = 15.0
"""Seconds between two looks at the subjects: what is needed at neither is not listened to any more. It is till then,
for what was sent before the news had arrived that nobody has it."""
FAREWELL: Final = 1.0
"""Seconds that a stop waits for business workers to finish what they have."""
_encode = msgspec.msgpack.Encoder().encode
_read_cast = msgspec.msgpack.Decoder(tuple[list[str], bytes]).decode


class BusPeers(Peers):
    """Peers, whose news come with subjects."""

    door_: BusDoor
    _waits: asyncio.Event | None = None

    async def next_done(self) -> None:
        """Waits until some business worker has finished something."""
        self._waits = asyncio.Event()
        await self._waits.wait()

    def _done(self, connection: Connection, message: list[Any]) -> None:
        super()._done(connection, message)
        if self._waits is not None:
            self._waits.set()

    def _do(self, connection: Connection, message: list[Any]) -> Any:
        match message:
            case [messages.CLAIM, _, str(id)] if connection in self._partners:
                self.door_.claimed(id, self._partners[connection])
                return None
        return super()._do(connection, message)

    def _watch(self, connection: Connection, kind: str, keys: list[Any]) -> None:
        super()._watch(connection, kind, keys)
        for key in keys:
            if self._table.present(kind, key):
                self.door_.subscribe(kind, key)

    def changed(self, kind: str, key: str, present: bool) -> None:
        if present and self.is_watched((kind, key)):
            self.door_.subscribe(kind, key)  # before anybody is told
        super().changed(kind, key, present)

    def _sweep(self) -> None:
        """Pipes know who is silent."""

    def is_watched(self, key: Key) -> bool:
        """Some peer wants to know whether somebody has it."""
        return key in self._watchers

    def is_needed(self, key: Key) -> bool:
        """And somebody does."""
        return self.is_watched(key) and self._table.present(*key)


class BusDoor:
    """Of one gateway process. Thread: the one that runs the loop."""

    def __init__(
        self,
        worker: Worker,
        url: str,
        table: Table,
        commands: Commands,
        router: Router,
        outboxes: Outboxes,
        buffer: int,
        ping: float,
    ) -> None:
        """``buffer``: bytes that may be on the way to one peer. Raises ConfigError."""
        self._worker = worker
        self.prefix = prefix = ids.new_tag()
        """What its client_ids begin with."""
        self.bus = Bus(url)
        self._ping = ping
        self._boxes = Boxes(self.bus, outboxes, ping=ping)
        # Nobody comes through the door: who may publish to our subjects is nats's to say.
        self.peers = BusPeers(
            worker, "frame://127.0.0.1:0", messages.service(prefix), "", table, commands, router, buffer
        )
        self.peers.door_ = self
        self._router = router
        self._place = Place(f"{SCHEME}{self.bus.id}", prefix)
        self._callers = Callers(self.bus, self.peers, buffer, ping)
        self._offers: dict[str, asyncio.TimerHandle] = {}
        """By client_id."""
        self._subjects: dict[Key, str] = {}
        self._idle: set[Key] = set()
        self._roster: Roster | None = None
        for beginning in (ALL, "u", "g"):
            self.bus.route(beginning, self._cast)
        self.bus.listen(ALL)
        Timer.add(LINGER, self._sweep)

    async def start(self) -> None:
        """The others hear of this gateway when they can reach it. Raises LoadError."""
        self._roster = Roster(
            self.bus, announce=self._place, on_places=self._boxes.update, on_here=self._boxes.is_here, ping=self._ping
        )
        try:
            async with asyncio.timeout(PATIENCE):
                await self._roster.first()
        except TimeoutError:
            logger.warning("no nats at %s within %g s: it goes on without", self.bus.where, PATIENCE)
        except Unauthorized as error:
            raise options.complaint(self._worker, "bus", str(error)) from None

    async def stop(self) -> None:
        """The last events of clients are handled first."""
        if self._roster is not None:
            await self._roster.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL):
                while any(stream.open for stream in self._router.streams.values()):
                    await self.peers.next_done()
        self._callers.end()
        await self._boxes.close()
        await self.bus.close()

    # ------------------------------------------------------------------ clients on offer

    def offer(self, mates: Sequence[Mate], stream: Stream, kind: int, body: Any) -> None:
        """For the Router: nats chooses, which prefers those that are near. One that says nothing in time is not waited
        for."""
        id = stream.client.id
        if id not in self._offers:
            loop = asyncio.get_running_loop()
            self._offers[id] = loop.call_later(OFFERED, self._choose, stream)
            self.bus.publish(OFFER, _encode((self._place.uri, id)))

    def claimed(self, id: str, partner: Mate) -> None:
        """A business worker has got it."""
        stream = self._router.streams.get(id)
        if id in self._offers and not partner.leaving:
            self._offers.pop(id).cancel()
            if stream is not None:
                self._router.give(stream, partner)

    def _choose(self, stream: Stream) -> None:
        del self._offers[stream.client.id]
        if mates := list(self._router.mates.values()):
            self._router.give(stream, least_connections(mates, stream, 0, None))

    # ------------------------------------------------------------------ subjects of uids and groups, and of all

    def _cast(self, rest: str, reply: str, data: bytes, nobody: bool) -> None:
        try:
            names, body = _read_cast(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            logger.warning("bus: something that is none of ours: %s", error)
            return
        for name in names:
            if (caller := self._callers.by_name.get(name)) is not None:
                self.peers.on_message(cast(Connection, caller), body)
                return

    def subscribe(self, kind: str, key: str) -> None:
        """Before the news of it."""
        if (kind, key) not in self._subjects and (subject := subject_of(kind, key)):
            self._subjects[kind, key] = subject
            self.bus.listen(subject)

    def _sweep(self) -> None:
        idle = {key for key in self._subjects if not self.peers.is_needed(key)}
        for key in idle & self._idle:
            self.bus.forget(self._subjects.pop(key))
        self._idle = idle - self._idle
