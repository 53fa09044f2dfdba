"""A gateway's listener for PHP: GatewayClient and BusinessWorkers of GatewayWorker 4 come to it, unchanged. wire.py is
what they speak, commands.py and routing.py what is done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any, Final

import msgspec

from workermand import Connection, ProtocolError, Request, SendError, Timer, Worker
from workermand.services import options
from workermand.services.gateway import ids, messages, sessions, wire
from workermand.services.gateway.commands import Commands
from workermand.services.gateway.php.door import Allowed, Door
from workermand.services.gateway.routing import Mate, Router, Stream
from workermand.services.gateway.table import GROUP, UID, Client, Table
from workermand.services.gateway.wire import Command, Package
from workermand.services.links.errors import ServiceError
from workermand.services.links.serialize import SerializeError, serialize

PING: Final = 25.0
"""Seconds between the pings to business workers in PHP."""


class Settings(Allowed, frozen=True, forbid_unknown_fields=True):
    """``options.php`` of a gateway."""

    lan_ip: str = "127.0.0.1"
    """Where PHP programs reach it: IPv4, it is part of every client_id."""
    listen_inner: str = ""
    """What it is bound to, if that is another address."""
    start_port: Annotated[int, msgspec.Meta(ge=1, le=65_000)] = 2900
    """The port of process 0; the next have the next ones."""


class Introduction(msgspec.Struct):
    """The body of WORKER_CONNECT and GATEWAY_CLIENT_CONNECT."""

    secret_key: str = ""
    worker_key: str = ""


Numbers = dict[str, int] | list[int] | None
"""Of connections: PHP has them as keys and as values."""
Words = list[str | int]


class Chosen(msgspec.Struct):
    """The extra data of SEND_TO_ALL and SEND_TO_GROUP."""

    connections: Numbers = None
    exclude: Numbers = None
    group: dict[str, str | int] | Words = msgspec.field(default_factory=list)


class Where(msgspec.Struct):
    groups: dict[str, str | int] | Words | None = None
    uid: dict[str, str | int] | Words | None = None
    connection_id: Numbers = None


class Select(msgspec.Struct):
    """The extra data of SELECT."""

    fields: list[str]
    where: Where | list[None] = msgspec.field(default_factory=Where)
    """PHP's empty array is a list."""


class Visitor(Mate):
    """A business worker in PHP."""

    acknowledges = False

    def __init__(self, key: str, connection: Connection, place: tuple[int, int]) -> None:
        self.key = key
        self.connection = connection
        self._place = place
        self.streams: dict[Stream, None] = {}
        self.leaving = False

    def send(self, stream: Stream, kind: int, body: Any) -> bool:
        connection = self.connection
        if connection.get_send_buffer_size() >= connection.max_send_buffer_size:
            return False
        ip, port, gateway_port = stream.origin
        flags = wire.SCALAR
        if kind == messages.ON_WEBSOCKET_CONNECT:
            flags, body = 0, serialize(_superglobals(body, stream.origin))
        elif isinstance(body, str):
            body = body.encode("utf-8", "surrogateescape")
        package = Package(
            kind,
            bytes(body) if body is not None else b"",
            stream.client.session,
            int(stream.client.id[ids.PHP_PREFIX :], 16),
            flags,
            *self._place,
            wire.ip_number(ip),
            port,
            gateway_port,
        )
        return connection.send(package) is not False


class Visitors:
    """The handler of the listener for PHP. Of one gateway process; thread: the one that runs the loop."""

    def __init__(
        self, worker: Worker, settings: Settings, table: Table, commands: Commands, router: Router, buffer: int
    ) -> None:
        """Raises LoadError."""
        port = settings.start_port + worker.id
        try:
            self.prefix = ids.php_prefix(settings.lan_ip, port)
        except ValueError as error:
            raise options.complaint(worker, "php.lan_ip", str(error)) from None
        self.address = f"{settings.lan_ip}:{port}"
        self.uri = f"tcp://{settings.listen_inner or settings.lan_ip}:{port}"
        self._place = wire.ip_number(settings.lan_ip), port
        self._door = Door(worker, settings)
        self._table = table
        self._commands = commands
        self._router = router
        self._buffer = buffer
        self._known: set[Connection] = set()
        self._mates: dict[Connection, Visitor] = {}
        Timer.add(PING, self._ping)

    # ------------------------------------------------------------------ the callbacks of its connections

    def on_connect(self, connection: Connection) -> None:
        if self._door.admits(connection):
            connection.protocol = wire.Packages
            connection.max_send_buffer_size = self._buffer
            if not self._door.is_locked:
                self._known.add(connection)

    def on_message(self, connection: Connection, package: Package) -> None:
        try:
            if package.command in (Command.WORKER_CONNECT, Command.GATEWAY_CLIENT_CONNECT):
                self._meet(connection, package)
            elif connection not in self._known:
                self._door.refuse(connection, "has shown no secret_key")
            elif package.command in DO:
                DO[package.command](self, package)
            elif package.command in ANSWER:
                connection.send(ANSWER[package.command](self, package), raw=True)
            elif package.command != Command.PING:
                raise ServiceError(f"no command {package.command}")
        except (ServiceError, SerializeError, ProtocolError, sessions.SessionError, msgspec.ValidationError) as error:
            # It waits for an answer that the wire has no words for.
            self._door.refuse(connection, f"has sent command {package.command}: {error}")

    def on_buffer_drain(self, connection: Connection) -> None:
        if (mate := self._mates.get(connection)) is not None:
            self._router.drained(mate)

    def on_error(self, connection: Connection, code: SendError, message: str) -> None:
        """A full buffer is dealt with where it is met."""

    def on_close(self, connection: Connection) -> None:
        self._known.discard(connection)
        if (mate := self._mates.pop(connection, None)) is not None:
            self._router.remove(mate)

    @property
    def mates(self) -> int:
        """Business workers in PHP."""
        return len(self._mates)

    def _meet(self, connection: Connection, package: Package) -> None:
        said = msgspec.convert(wire.read_json(package.body), Introduction)
        if not self._door.fits(connection, said.secret_key):
            return
        self._known.add(connection)
        if package.command == Command.GATEWAY_CLIENT_CONNECT or connection in self._mates:
            return
        key = f"{connection.get_remote_ip()}:{said.worker_key}"
        if key in self._router.mates:
            self._door.refuse(connection, f"calls itself {said.worker_key[:80]}, as another one does")
            return
        mate = self._mates[connection] = Visitor(key, connection, self._place)
        self._router.add(mate)

    def _ping(self) -> None:
        for connection in self._mates:
            connection.send(Package(Command.PING))

    # ------------------------------------------------------------------ who is meant

    def _id(self, number: int) -> str:
        return f"{self.prefix}{number:08x}"

    def _number(self, id: str) -> int:
        return int(id[ids.PHP_PREFIX :], 16)

    def _ids(self, numbers: Numbers) -> list[str]:
        return [self._id(number) for number in _values(numbers)]

    def _clients(self, wanted: Iterable[str]) -> list[Client]:
        return [self._table.clients[id] for id in wanted if id in self._table.clients]

    # ------------------------------------------------------------------ what is done

    def _send(self, clients: list[Client], package: Package) -> None:
        self._commands.send(clients, _text(package.value), bool(package.flags & wire.NOT_ENCODED))

    def send_to_one(self, package: Package) -> None:
        self._send(self._clients([self._id(package.connection)]), package)

    def send_to_all(self, package: Package) -> None:
        chosen = _read(package.extra or b"{}", Chosen)
        if chosen.connections is not None:
            self._send(self._clients(self._ids(chosen.connections)), package)
        else:
            self._send(self._but(self._table.clients.values(), chosen.exclude), package)

    def send_to_group(self, package: Package) -> None:
        chosen = _read(package.extra, Chosen)
        self._send(self._but(self._table.having(GROUP, _words(chosen.group)), chosen.exclude), package)

    def send_to_uid(self, package: Package) -> None:
        self._send(list(self._table.having(UID, _words(_read(package.extra, Words)))), package)

    def _but(self, clients: Iterable[Client], exclude: Numbers) -> list[Client]:
        excluded = frozenset(self._ids(exclude))
        return [client for client in clients if client.id not in excluded]

    def kick(self, package: Package) -> None:
        self._commands.close_clients([self._id(package.connection)], _text(package.value) or None)

    def destroy(self, package: Package) -> None:
        self._commands.destroy_clients([self._id(package.connection)])

    def bind_uid(self, package: Package) -> None:
        if uid := _key(package.extra):
            self._table.bind(self._id(package.connection), uid)

    def unbind_uid(self, package: Package) -> None:
        self._table.unbind(self._id(package.connection))

    def join_group(self, package: Package) -> None:
        if group := _key(package.extra):
            self._table.join(self._id(package.connection), group)

    def leave_group(self, package: Package) -> None:
        self._table.leave(self._id(package.connection), _key(package.extra))

    def ungroup(self, package: Package) -> None:
        self._table.ungroup(_key(package.extra))

    def set_session(self, package: Package) -> None:
        sessions.PHP.decode(package.extra)  # nobody else could read it, either
        for client in self._clients([self._id(package.connection)]):
            client.session = package.extra

    def update_session(self, package: Package) -> None:
        self._commands.update_session([self._id(package.connection)], sessions.PHP.decode(package.extra))

    # ------------------------------------------------------------------ what is answered

    def is_online(self, package: Package) -> bytes:
        return wire.answer(int(self._id(package.connection) in self._table.clients))

    def get_session(self, package: Package) -> bytes:
        """The session itself, as it was serialized."""
        for client in self._clients([self._id(package.connection)]):
            session = client.session or b"a:0:{}"
            return len(session).to_bytes(4) + session
        return wire.answer(None)

    def get_sessions(self, package: Package) -> bytes:
        """Of all, or of a group: strings within the answer."""
        found = self._table.clients.values()
        if package.command == Command.GET_CLIENT_SESSIONS_BY_GROUP:
            found = self._table.groups.get(_key(package.extra), {}).values()
        return wire.answer({self._number(client.id): client.session for client in found})

    def get_clients_of_uid(self, package: Package) -> bytes:
        return wire.answer(self._of_uid(_key(package.extra)))

    def get_clients_of_uids(self, package: Package) -> bytes:
        return wire.answer({uid: self._of_uid(uid) for uid in dict.fromkeys(_words(_read(package.extra, Words)))})

    def _of_uid(self, uid: str) -> list[int]:
        return [self._number(id) for id in self._table.uids.get(uid, ())]

    def count_group(self, package: Package) -> bytes:
        group = _key(package.extra)
        return wire.answer(self._table.count(group) if group else len(self._table))

    def count_groups(self, package: Package) -> bytes:
        groups = dict.fromkeys(_words(_read(package.extra, Words)))
        return wire.answer({group: self._table.count(group) for group in groups})

    def list_groups(self, package: Package) -> bytes:
        return wire.answer(list(self._table.groups))

    def select(self, package: Package) -> bytes:
        asked = _read(package.extra, Select)
        found: dict[str, Client] = self._table.clients
        if isinstance(asked.where, Where):
            where = asked.where
            if (where.groups, where.uid, where.connection_id) != (None, None, None):
                found = {client.id: client for client in self._table.having(GROUP, _words(where.groups))}
                found.update({client.id: client for client in self._table.having(UID, _words(where.uid))})
                found.update({client.id: client for client in self._clients(self._ids(where.connection_id))})
        return wire.answer(
            {self._number(id): {field: _field(client, field) for field in asked.fields} for id, client in found.items()}
        )


DO: Final[dict[int, Callable[[Visitors, Package], None]]] = {
    Command.SEND_TO_ONE: Visitors.send_to_one,
    Command.SEND_TO_ALL: Visitors.send_to_all,
    Command.SEND_TO_GROUP: Visitors.send_to_group,
    Command.SEND_TO_UID: Visitors.send_to_uid,
    Command.KICK: Visitors.kick,
    Command.DESTROY: Visitors.destroy,
    Command.BIND_UID: Visitors.bind_uid,
    Command.UNBIND_UID: Visitors.unbind_uid,
    Command.JOIN_GROUP: Visitors.join_group,
    Command.LEAVE_GROUP: Visitors.leave_group,
    Command.UNGROUP: Visitors.ungroup,
    Command.SET_SESSION: Visitors.set_session,
    Command.UPDATE_SESSION: Visitors.update_session,
}
ANSWER: Final[dict[int, Callable[[Visitors, Package], bytes]]] = {
    Command.IS_ONLINE: Visitors.is_online,
    Command.GET_SESSION_BY_CLIENT_ID: Visitors.get_session,
    Command.GET_ALL_CLIENT_SESSIONS: Visitors.get_sessions,
    Command.GET_CLIENT_SESSIONS_BY_GROUP: Visitors.get_sessions,
    Command.GET_CLIENT_ID_BY_UID: Visitors.get_clients_of_uid,
    Command.BATCH_GET_CLIENT_ID_BY_UID: Visitors.get_clients_of_uids,
    Command.GET_CLIENT_COUNT_BY_GROUP: Visitors.count_group,
    Command.BATCH_GET_CLIENT_COUNT_BY_GROUP: Visitors.count_groups,
    Command.GET_GROUP_ID_LIST: Visitors.list_groups,
    Command.SELECT: Visitors.select,
}


def _field(client: Client, field: str) -> Any:
    match field:
        case "uid":
            return client.uid
        case "groups":
            return {group: group for group in sorted(client.groups)} or None
        case "session":
            return client.session
    return None


def _superglobals(body: Any, origin: Any) -> dict[str, Any]:
    """What GatewayWorker makes of a handshake."""
    method, target, fields = body
    request = Request(method, target, fields)
    server = {
        "QUERY_STRING": request.query_string,
        "REQUEST_METHOD": method,
        "REQUEST_URI": request.uri,
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_NAME": request.host(without_port=True),
        "CONTENT_TYPE": request.header("content-type", ""),
        "REMOTE_ADDR": origin[0],
        "REMOTE_PORT": origin[1],
        "SERVER_PORT": origin[2],
    }
    for name, value in request.headers.items():
        server[f"HTTP_{name.upper().replace('-', '_')}"] = value
    return {"get": dict(request.get()), "server": server, "cookie": request.cookie()}


def _read(extra: bytes, kind: Any) -> Any:
    return msgspec.convert(wire.read_json(extra), kind)


def _values(found: Any) -> Iterable[Any]:
    return found.values() if isinstance(found, dict) else found or ()


def _words(found: Any) -> list[str]:
    return [str(word) for word in _values(found)]


def _key(extra: bytes) -> str:
    try:
        return extra.decode()
    except UnicodeDecodeError:
        raise ServiceError("a uid or a group that is no UTF-8") from None


def _text(body: Any) -> str | bytes:
    """PHP has one kind of string: what can be text is."""
    if isinstance(body, bytes):
        try:
            return body.decode()
        except UnicodeDecodeError:
            return body
    if isinstance(body, (list, dict)):
        raise ServiceError("a message that is an array")
    return "" if body is None or body is False else "1" if body is True else str(body)
