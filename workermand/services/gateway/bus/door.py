"""BusDoor: the inner side of a gateway on the bus: in place of a listener, and of Registers to be known to.

Whoever opens a pipe is to Peers what a connection is over TCP. It listens to the subjects of those uids and groups that
somebody here has and some peer has asked for.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Sequence
from typing import Any, Final, cast

import msgspec

from workermand import Connection, Timer, Worker
from workermand.services import options
from workermand.services.gateway import ids, messages
from workermand.services.gateway.bus.connection import Bus
from workermand.services.gateway.bus.mesh import ALL, OFFER, SCHEME, subject_of
from workermand.services.gateway.bus.pipes import BYE, HEAD, OPEN, Pipe
from workermand.services.gateway.bus.roster import Roster
from workermand.services.gateway.commands import Commands
from workermand.services.gateway.messages import Place
from workermand.services.gateway.peers import Key, Peers
from workermand.services.gateway.routing import Mate, Router, Stream, least_connections
from workermand.services.gateway.table import Table
from workermand.services.links import wire as links
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
"""Seconds that a stop waits for business workers to finish what they have;"""
LOOK: Final = 0.02
"""those between two looks."""
CALLER: Final = re.compile(r"p\.[0-9a-f]{16}\.([0-9a-f]{16})")
"""The subjects of the other ends of pipes."""

_encode = msgspec.msgpack.Encoder().encode
_read_cast = msgspec.msgpack.Decoder(tuple[list[str], bytes]).decode


class Caller:
    """Somebody at the other end of a pipe: as much of a Connection as Peers and Door need."""

    def __init__(self, door: BusDoor, name: str, other: str) -> None:
        self.name = name
        self._door = door
        self.close_reason = ""
        self.max_send_buffer_size = door.buffer
        self.pipe = Pipe(
            door.bus,
            f"gate.{door.bus.id}.{name}",
            other,
            window=door.buffer,
            ping=door.ping,
            on_message=lambda body: door.peers.on_message(cast(Connection, self), body),
            on_broken=self._gone,
            on_drain=lambda: door.peers.on_buffer_drain(cast(Connection, self)),
        )

    def get_send_buffer_size(self) -> int:
        """Bytes."""
        return self.pipe.unsent

    def get_remote_address(self) -> str:
        """For logs."""
        return self.pipe.other

    def cork(self) -> None:
        """All that is published in one turn of the loop leaves together anyway."""

    def send(self, data: bytes, raw: bool = False) -> bool:
        """``raw``: a whole frame."""
        return self.pipe.send(data[links.HEAD :] if raw else data)

    def close(self, data: bytes = b"", raw: bool = False) -> None:
        """With last words, or without."""
        if data:
            self.send(data, raw)
        self.destroy()

    def destroy(self) -> None:
        """It may call again."""
        self.pipe.end_with("closed here")

    def _gone(self, why: str) -> None:
        self.close_reason = why
        self._door.gone(self)


class BusPeers(Peers):
    """Peers, whose news come with subjects."""

    door_: BusDoor

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
        buffer: int,
        ping: float,
    ) -> None:
        """``buffer``: bytes that may be on the way to one peer. Raises ConfigError."""
        self._worker = worker
        self.prefix = prefix = ids.new_tag()
        """What its client_ids begin with."""
        self.bus = Bus(url)
        self.buffer, self.ping = buffer, ping
        # Nobody comes through the door: who may publish to our subjects is nats's to say.
        self.peers = BusPeers(
            worker, "frame://127.0.0.1:0", messages.service(prefix), "", table, commands, router, buffer
        )
        self.peers.door_ = self
        self._router = router
        self._place = Place(f"{SCHEME}{self.bus.id}", prefix)
        self._callers: dict[str, Caller] = {}
        """By the names of their pipes."""
        self._offers: dict[str, asyncio.TimerHandle] = {}
        """By client_id."""
        self._subjects: dict[Key, str] = {}
        self._idle: set[Key] = set()
        self._roster: Roster | None = None
        for beginning, handler in (("gate", self._hear), (ALL, self._cast), ("u", self._cast), ("g", self._cast)):
            self.bus.route(beginning, handler)
        self.bus.listen(f"gate.{self.bus.id}.*")
        self.bus.listen(ALL)
        self.bus.on_down.append(self._is_down)
        Timer.add(LINGER, self._sweep)

    async def start(self) -> None:
        """The others hear of this gateway when they can reach it. Raises LoadError."""
        self._roster = Roster(self.bus, announce=self._place, ping=self.ping)
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
        for _ in range(round(FAREWELL / LOOK)):
            if any(stream.open for stream in self._router.streams.values()):
                await asyncio.sleep(LOOK)
        for caller in list(self._callers.values()):
            caller.destroy()
        await self.bus.close()

    # ------------------------------------------------------------------ pipes

    def _hear(self, rest: str, reply: str, data: bytes, nobody: bool) -> None:
        _id, _, name = rest.partition(".")
        caller = self._callers.get(name)
        if caller is None:
            if nobody or (found := CALLER.fullmatch(reply)) is None or found[1] != name or len(data) < HEAD.size:
                return
            kind, _number = HEAD.unpack_from(data)
            if kind == BYE:
                return
            if kind != OPEN:
                self.bus.publish(reply, HEAD.pack(BYE, 0))
                return
            caller = self._callers[name] = Caller(self, name, reply)
            caller.pipe.probe()
        caller.pipe.hear(data, nobody)

    def gone(self, caller: Caller) -> None:
        """Its pipe is broken."""
        if self._callers.pop(caller.name, None) is not None:
            self.peers.on_close(cast(Connection, caller))

    def _is_down(self) -> None:
        for caller in list(self._callers.values()):
            caller.pipe.end_with("the bus is gone")

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
            if (caller := self._callers.get(name)) is not None:
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
