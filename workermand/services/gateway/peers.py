"""Peers: the inner side of a gateway: business workers and clients that come over links, and what they ask.

They prove the secret at the door (links/door.py). Whoever enlists gets events; everybody may call commands.
"""

from __future__ import annotations

import logging
from typing import Any, Final, NamedTuple, cast

from workermand import Connection, SendError, Timer, Worker
from workermand.services.gateway import messages
from workermand.services.gateway.commands import CHANGE_SESSIONS, WATCHABLE, Commands
from workermand.services.gateway.routing import Mate, Router, Stream
from workermand.services.gateway.table import Table
from workermand.services.links import wire as links
from workermand.services.links.door import Door
from workermand.services.links.errors import ServiceError

logger = logging.getLogger(__name__)

MISSED: Final = 2.5
"""Pings: a business worker that is silent for so long is gone."""
SWEEP: Final = 0.25
"""Seconds between two looks."""
WATCHED: Final = 20_000
"""Uids and groups of which one peer may want news."""

Key = tuple[str, str]
"""Kind, and uid or group."""


class Inside(NamedTuple):
    """What Door asks of a worker: here it is not about the clients' listeners, but the inner one."""

    name: str
    reloadable: bool
    siblings: tuple[Inside, ...] = ()
    listen: tuple[str, ...] = ()


class Partner(Mate):
    """A business worker of our own."""

    acknowledges = True

    def __init__(self, key: str, connection: Connection, ping: float) -> None:
        self.key = key
        self.connection = connection
        self.ping = ping
        self.streams: dict[Stream, None] = {}
        self.leaving = False
        self.refused = 0
        self.is_full = False

    def send(self, stream: Stream, kind: int, body: Any) -> bool:
        if self.is_full:
            return False
        self.connection.cork()
        client = stream.client
        frame = links.pack([messages.EVENT, 0, kind, client.id, body, client.session, stream.applied, stream.origin])
        return self.connection.send(frame, raw=True) is not False


class Peers:
    """The handler of the inner listener. Thread: the one that runs the loop."""

    def __init__(
        self,
        worker: Worker,
        uri: str,
        service: str,
        secret: str,
        table: Table,
        commands: Commands,
        router: Router,
        buffer: int,
    ) -> None:
        """``service``: see messages.service(). ``buffer``: bytes that may be unsent to one of them. Raises LoadError
        when other machines could call without a secret."""
        self._loop = worker.loop
        inside = Inside(worker.name, worker.reloadable, (Inside(worker.name, False, listen=(uri,)),))
        self.door = Door(cast(Worker, inside), service, secret, "tcp://127.0.0.1:2000")
        self._table = table
        self._commands = commands
        self._router = router
        self._buffer = buffer
        self._partners: dict[Connection, Partner] = {}
        self._heard: dict[Connection, float] = {}
        self._watched: dict[Connection, set[Key]] = {}
        self._watchers: dict[Key, set[Connection]] = {}
        Timer.add(SWEEP, self._sweep)

    # ------------------------------------------------------------------ the callbacks of its connections

    def on_connect(self, connection: Connection) -> None:
        if connection.protocol.name != "frame":
            connection.protocol = "frame"
        connection.max_send_buffer_size = self._buffer
        self.door.on_connect(connection)

    def on_message(self, connection: Connection, body: bytes) -> None:
        message = self.door.hear(connection, body)
        if connection in self._partners:
            self._heard[connection] = self._loop.time()
        if message is None:
            return
        if message[0] == messages.DONE:
            self._done(connection, message)
            return
        try:
            result = self._do(connection, message)
        except ServiceError as error:
            answer = [links.FAIL, message[1], str(error)]
        else:
            answer = [links.OK, message[1], result]
        if message[1] and connection.send(links.body(answer)) is False:
            # Who reads no answers would wait for them in vain: it is better off with a new connection.
            connection.destroy()
        elif message[0] == messages.ENLIST and answer[0] == links.OK:
            self._router.add(
                self._partners[connection]
            )  # behind the answer, without which it could not read what comes

    def on_buffer_full(self, connection: Connection) -> None:
        if (partner := self._partners.get(connection)) is not None:
            partner.is_full = True

    def on_buffer_drain(self, connection: Connection) -> None:
        if (partner := self._partners.get(connection)) is not None:
            partner.is_full = False
            self._router.drained(partner)

    def on_error(self, connection: Connection, code: SendError, message: str) -> None:
        """A full buffer is dealt with where it is met."""

    def on_close(self, connection: Connection) -> None:
        self.door.on_close(connection)
        self._heard.pop(connection, None)
        for key in self._watched.pop(connection, ()):
            self._unwatch(connection, key)
        if (partner := self._partners.pop(connection, None)) is not None:
            if not partner.leaving:
                logger.info("business worker %s has gone: %s", partner.key, connection.close_reason)
            self._router.remove(partner)

    # ------------------------------------------------------------------ what is asked

    def _do(self, connection: Connection, message: list[Any]) -> Any:
        match message:
            # str(name) would look for __match_args__ each time: 0.7 us.
            case [messages.CALL, _, str() as name, list() as arguments]:
                return self._commands.run(name, arguments)
            case [messages.CALL, _, str() as name, list() as arguments, list() as watch]:
                if (kind := WATCHABLE.get(name)) is None:
                    raise ServiceError(f"{name} is not about uids or groups")
                self._watch(connection, kind, watch)
                return self._commands.run(name, arguments)
            case [messages.CHANGE, _, int() as stamp, str() as name, list() as arguments]:
                return self._change(connection, stamp, name, arguments)
            case [messages.UNWATCH, _, str(kind), str(key)]:
                self._watched.get(connection, set()).discard((kind, key))
                self._unwatch(connection, (kind, key))
                return None
            case [messages.ENLIST, _, str(key), float(ping) | int(ping)] if key and ping > 0:
                self._enlist(connection, key, ping)
                return None
            case [messages.LEAVE, _] if connection in self._partners:
                self._router.leave(self._partners[connection])
                return None
        raise ServiceError(f"no request that a gateway knows: {message[0]}")

    def _change(self, connection: Connection, stamp: int, name: str, arguments: list[Any]) -> Any:
        if name not in CHANGE_SESSIONS:
            raise ServiceError(f"{name} changes no session")
        result = self._commands.run(name, arguments)
        if (partner := self._partners.get(connection)) is not None:
            for id in arguments[0]:
                stream = self._router.streams.get(id)
                if stream is not None and stream.mate is partner:
                    stream.applied = stamp
        return result

    def _enlist(self, connection: Connection, key: str, ping: float) -> None:
        if connection in self._partners:
            raise ServiceError("it is enlisted already")
        self._partners[connection] = Partner(key, connection, ping)
        self._heard[connection] = self._loop.time()

    def _done(self, connection: Connection, message: list[Any]) -> None:
        partner = self._partners.get(connection)
        if partner is not None and len(message) > 2 and isinstance(message[2], list):
            self._router.done(partner, message[2])

    @property
    def partners(self) -> int:
        """Business workers that are here."""
        return len(self._partners)

    def _sweep(self) -> None:
        now = self._loop.time()
        for connection, partner in list(self._partners.items()):
            if now - self._heard[connection] > MISSED * partner.ping + SWEEP:
                logger.warning("business worker %s is silent: it is gone", partner.key)
                connection.destroy()

    # ------------------------------------------------------------------ news

    def _watch(self, connection: Connection, kind: str, keys: list[Any]) -> None:
        watched = self._watched.setdefault(connection, set())
        for key in keys:
            if not isinstance(key, str):
                raise ServiceError("uids and groups are str")
            if len(watched) >= WATCHED:
                return
            watched.add((kind, key))
            self._watchers.setdefault((kind, key), set()).add(connection)
            if not self._table.present(kind, key):
                _tell(connection, kind, key, present=False)

    def _unwatch(self, connection: Connection, key: Key) -> None:
        if (watchers := self._watchers.get(key)) is not None:
            watchers.discard(connection)
            if not watchers:
                del self._watchers[key]

    def changed(self, kind: str, key: str, present: bool) -> None:
        """The table says so."""
        for connection in list(self._watchers.get((kind, key), ())):
            _tell(connection, kind, key, present)


def _tell(connection: Connection, kind: str, key: str, present: bool) -> None:
    if connection.send(links.body([messages.NEWS, 0, kind, key, present])) is False:
        connection.destroy()  # it would not send there any more, or for ever
