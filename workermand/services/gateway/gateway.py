"""The gateway: ``handler = "workermand.services.gateway.gateway"``. Workerman: Gateway.

    [worker.chat_gateway]
    listen = "websocket://0.0.0.0:7272"          or text, frame, tcp, a protocol of your own
    handler = "workermand.services.gateway.gateway"
    count = 2
    reloadable = false
    options = { start_port = 2300 }

It holds the clients, and knows their uids, groups and sessions; nothing of the user's runs here but ``router`` and
``hooks``. Business workers and clients come to its inner listener (peers.py), at lan_ip:start_port + number of
the process.
"""

from __future__ import annotations

import importlib
import ipaddress
import logging
from collections.abc import Sequence
from typing import Annotated, Any, Final, cast

import msgspec

from workermand import (
    Connection,
    ConnectionStatus,
    LoadError,
    Request,
    SendError,
    Timer,
    Worker,
)
from workermand.services import options
from workermand.services.gateway import heartbeat, hooks, ids, messages, routing, sessions, transport
from workermand.services.gateway.commands import Commands
from workermand.services.gateway.heartbeat import HEARD, Pulse
from workermand.services.gateway.outbox.catchup import CatchUp
from workermand.services.gateway.outbox.posting import Outboxes
from workermand.services.gateway.php.visitors import Settings as PhpSettings
from workermand.services.gateway.routing import Mate, Router, Stream
from workermand.services.gateway.table import UID, Client, Table

logger = logging.getLogger(__name__)

QUEUE: Final = "queue"
ROUTERS: Final = {"least_connections": routing.least_connections, "random": routing.at_random}
NOTE: Final = 1.0
"""Seconds between two looks at what the status says."""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The keys of ``options``."""

    register: str | list[str] = ""
    """See registry.servers()."""
    bus: str = ""
    """ "nats://host:4222/name": the inner links go over nats, and there are no Registers. See bus/."""
    secret: str = ""
    """What peers and Registers prove to know, and are proved. "": that of the Register of this daemon."""
    lan_ip: str = "127.0.0.1"
    """Where the others reach the inner listener; "::1" as well."""
    listen_inner: str = ""
    """What it is bound to, if that is another address: "0.0.0.0" in a container. Workerman: innerTcpWorkerListen."""
    start_port: Annotated[int, msgspec.Meta(ge=1, le=65_000)] = 2000
    """The inner port of process 0; the next have the next ones."""
    tls: bool | dict[str, Any] = False
    """The inner links are encrypted: the listener with the worker's ``tls``, the link to the Register with this."""
    ping_interval: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """Seconds between pings to a silent client; 0: none."""
    ping_not_response_limit: Annotated[int, msgspec.Meta(ge=0)] = 0
    """A client that is silent for so many intervals is ended; 0: never."""
    ping_data: str = ""
    """What a ping says: a message of your protocol."""
    router: str = "least_connections"
    """ "least_connections" or "random", once for each client; on a bus also "queue": nats chooses. "module:function"
    is asked for each event."""
    send_to_worker_buffer: Annotated[int, msgspec.Meta(ge=1)] = 10_240_000
    """Bytes that may be unsent to one business worker, or one other peer."""
    send_to_client_buffer: Annotated[int, msgspec.Meta(ge=1)] = 1_024_000
    """Bytes that may be unsent to one client: beyond, what is sent to it is dropped, counted."""
    client_id_length: Annotated[int, msgspec.Meta(ge=20, le=64, multiple_of=2)] = ids.LENGTH
    """Hex digits."""
    redeliver: bool = False
    """What a business worker had when it died goes to the next one: an event may be handled twice then."""
    hold: Annotated[float, msgspec.Meta(ge=0)] = 10.0
    """Seconds that clients wait when there is no business worker at all; then they are closed."""
    inner_ping: Annotated[float, msgspec.Meta(gt=0)] = 5.0
    """Seconds between two pings to the Registers."""
    hooks: str = ""
    """A module with functions that run here, see hooks.py."""
    php: PhpSettings | None = None
    """GatewayWorker's clients and business workers may come, and its client_ids are used."""


def on_worker_check(worker: Worker) -> list[str]:
    """For `workermand check`."""
    settings = options.read(worker, Settings)
    _check(worker, settings)
    remarks = ["reloadable = true: a reload ends its clients; set it to false"] if worker.reloadable else []
    remarks += transport.check(worker, settings.bus)
    if settings.php is not None and not settings.php.secret_key:
        remarks.append(
            f"PHP programs need no key: whoever comes from {', '.join(settings.php.allow)} may do everything"
        )
    return remarks


async def on_worker_start(worker: Worker) -> None:
    """Raises LoadError for options that cannot be, and when the inner port is taken."""
    settings = options.read(worker, Settings)
    _check(worker, settings)
    worker.gateway = service = Service(worker, settings)
    await service.start()


def on_websocket_connect(connection: Connection, request: Request) -> None:
    connection.worker.gateway.hooks.websocket_connect(connection, request)


def on_connect(connection: Connection) -> None:
    if not connection.has_deadlines:  # else it speaks HTTP, and is a client when it is a WebSocket
        connection.worker.gateway.welcome(connection, connection.get_remote_ip())


def on_websocket_connected(connection: Connection, request: Request) -> None:
    connection.worker.gateway.welcome(connection, request.remote_ip, request)


def on_message(connection: Connection, data: Any) -> None:
    connection.worker.gateway.hear(connection, data)


def on_error(connection: Connection, code: SendError, message: str) -> None:
    """A full buffer is counted where it is met."""


def on_buffer_drain(connection: Connection) -> None:
    connection.worker.gateway.drained(connection)


def on_close(connection: Connection) -> None:
    connection.worker.gateway.farewell(connection)


async def on_worker_stop(worker: Worker) -> None:
    await worker.gateway.stop()


class Guest:
    """What the gateway knows of one client's connection: its ``context``."""

    __slots__ = ("pulse", "stream")

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.pulse = Pulse()


class Service:
    """Process: the child; thread: the one that runs the loop."""

    def __init__(self, worker: Worker, settings: Settings) -> None:
        self._worker = worker
        self._settings = settings
        self.table = Table(self._changed)
        self.commands = Commands(self.table, sessions.PHP if settings.php else sessions.PACKED)
        self.hooks = hooks.load(worker, settings.hooks)
        self.outboxes = Outboxes()
        self.catchup = CatchUp(self.table, self.commands, self.outboxes)
        self.commands.post = self.catchup.post
        choose = self._offer if settings.router == QUEUE else ROUTERS.get(settings.router)
        self.router = Router(
            choose or _router(worker, settings.router),
            every_time=choose is None,
            redeliver=settings.redeliver,
            on_mate=self.hooks.business_worker,
        )
        self._homeless_since: float | None = None
        self.inside = transport.inside(worker, settings, self.table, self.commands, self.router, self.outboxes)

    async def start(self) -> None:
        """The others hear of this gateway when they can reach it."""
        await self.hooks.start()
        await self.inside.start()
        settings = self._settings
        if settings.ping_interval:
            Timer.add(heartbeat.period(settings.ping_interval, settings.ping_not_response_limit), self._beat)
        Timer.add(NOTE, self._look)

    async def stop(self) -> None:
        await self.catchup.close()
        await self.inside.stop()
        await self.hooks.stop()

    def _offer(self, *event: Any) -> None:
        self.inside.offer(*event)

    # ------------------------------------------------------------------ clients

    def welcome(self, connection: Connection, ip: str, request: Request | None = None) -> None:
        """It can be sent to from now on, unless the hook has closed it."""
        self.hooks.connect(connection)
        if connection.status is not ConnectionStatus.ESTABLISHED:
            return
        connection.max_send_buffer_size = self._settings.send_to_client_buffer
        id = self._new_id()
        client = Client(id, connection)
        stream = self.router.enter(client, (ip, connection.get_remote_port(), connection.get_local_port()))
        connection.context = Guest(stream)
        self.table.add(client)
        self.router.put(stream, messages.ON_CONNECT)
        if request is not None:
            body = (request.method, request.target, request.fields)
            self.router.put(stream, messages.ON_WEBSOCKET_CONNECT, body)

    def hear(self, connection: Connection, data: Any) -> None:
        guest = connection.context
        if guest is not None:
            guest.pulse.count = HEARD
            self.router.put(guest.stream, messages.ON_MESSAGE, data)

    def farewell(self, connection: Connection) -> None:
        """It has gone: nobody can send to it; its last event is on the way."""
        guest = connection.context
        if guest is not None:
            self.table.remove(guest.stream.client.id)
            self.router.close(guest.stream)
            self.hooks.close(connection)

    def drained(self, connection: Connection) -> None:
        """There is room again."""
        guest = connection.context
        if guest is not None and (uid := guest.stream.client.uid) is not None:
            self.catchup.wake(uid)

    def _new_id(self) -> str:
        while True:
            id = ids.new_id(self.inside.prefix, self._settings.client_id_length)
            if id not in self.router.streams and not id.endswith("00000000"):  # which is no connection in PHP
                return id

    def _changed(self, kind: str, key: str, present: bool) -> None:
        self.inside.peers.changed(kind, key, present)
        if kind == UID:
            (self.catchup.look if present else self.catchup.wake)(key)

    # ------------------------------------------------------------------ timers

    def _beat(self) -> None:
        clients = self.table.clients
        pulses = [(id, client.connection.context.pulse) for id, client in clients.items()]
        pinged, ended = heartbeat.look(pulses, self._settings.ping_not_response_limit)
        for id in ended:
            clients[id].connection.destroy()
        if self._settings.ping_data and pinged:
            self.commands.send([clients[id] for id in pinged], self._settings.ping_data, raw=False)

    def _look(self) -> None:
        now = self._worker.loop.time()
        homeless = list(self.router.homeless)
        if not homeless:
            self._homeless_since = None
        elif self._homeless_since is None:
            self._homeless_since = now
        elif now - self._homeless_since > self._settings.hold:
            logger.warning("no business worker for %g s: %d clients are closed", self._settings.hold, len(homeless))
            for stream in homeless:
                stream.client.connection.close()
        commands, router = self.commands, self.router
        self._worker.figures |= {
            "clients": len(self.table),
            "business workers": len(router.mates),
            "messages sent": commands.delivered,
            "messages dropped": commands.dropped,
            "events lost": router.lost + router.dropped,
            "events redelivered": router.redelivered,
        }


def _check(worker: Worker, settings: Settings) -> None:
    for key in ("lan_ip", "listen_inner"):
        value = getattr(settings, key)
        if key == "listen_inner" and not value:
            continue
        try:
            ipaddress.ip_address(value)
        except ValueError:
            raise options.complaint(worker, key, f'"{value}" is no IP address') from None
    own = next(sibling for sibling in worker.siblings if sibling.name == worker.name)
    for uri in own.listen:
        if uri.partition("://")[0] in ("http", "https", "udp"):
            raise LoadError(
                f'worker {worker.name}: listen = "{uri}": for browsers a gateway has websocket:// or wss://'
            )
    if settings.ping_not_response_limit and not settings.ping_interval:
        raise options.complaint(worker, "ping_not_response_limit", "needs a ping_interval")
    if settings.php is not None and settings.client_id_length != ids.LENGTH:
        raise options.complaint(worker, "client_id_length", f"with php it is {ids.LENGTH}")
    if settings.router == QUEUE and not settings.bus:
        raise options.complaint(worker, "router", f'"{QUEUE}" is nats\'s to decide, and there is no options.bus')
    if settings.router not in (*ROUTERS, QUEUE):
        _router(worker, settings.router)
    hooks.load(worker, settings.hooks)


def _router(worker: Worker, name: str) -> Any:
    """The user's: "module:function"."""
    module, _, function = name.partition(":")
    if not function:
        raise options.complaint(worker, "router", f'"{name}": there are {", ".join(ROUTERS)} and "module:function"')
    options.imported(worker, "router", module)
    chosen = getattr(importlib.import_module(module), function, None)
    if not callable(chosen):
        raise options.complaint(worker, "router", f"{module} has no function {function}")

    def choose(mates: Sequence[Mate], stream: Stream, kind: int, body: Any) -> Mate:
        """What it raises is reported, and nobody waits for it to be mended."""
        try:
            if (mate := chosen(mates, stream, kind, body)) in mates:
                return cast(Mate, mate)
            raise TypeError(f"{name} has to return one of the mates, not {mate!r}")
        except Exception as error:
            worker.failed(f"router {name}", stream.client.connection, error)
            return routing.least_connections(mates, stream, kind, body)

    return choose
