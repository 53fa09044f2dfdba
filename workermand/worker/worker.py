"""Worker: what on_worker_start receives, and what its handler knows of its process.

It owns the connections, the counters and the callbacks of one process. It runs nothing: to stop, to listen and to ask
the master it calls the process around it (``Runtime``, which is runtime.Runtime). Attributes of the user's own are
free; only ``on_*`` names are checked.
"""

from __future__ import annotations

import asyncio
import collections
import logging
import os
import typing
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from workermand.errors import CloseReason
from workermand.http.request import networks
from workermand.protocols.answering import Answering
from workermand.protocols.websocket import Prepared, WebSocket
from workermand.spec import WorkerSpec
from workermand.worker import guard, handlers
from workermand.worker.corks import Corks
from workermand.worker.handlers import Handlers
from workermand.worker.outgoing import clients
from workermand.worker.sessions import Sessions
from workermand.worker.waiting import Waiting

if TYPE_CHECKING:
    from workermand.worker.connection import Connection
    from workermand.worker.tls import Keyring

logger = logging.getLogger(__name__)


class Runtime(typing.Protocol):
    """What a Worker needs of its process."""

    def leave(self, reason: str) -> None: ...

    def listen(self, uri: str, handler: object) -> asyncio.Future[None]: ...

    def unlisten(self, uri: str) -> asyncio.Future[None]: ...

    def ask_server(self, verb: typing.Literal["stop", "reload", "status"]) -> asyncio.Future[dict[str, Any]]: ...


class Sibling(typing.NamedTuple):
    """A worker of this daemon as the file describes it."""

    name: str
    handler: str
    """"apps.chat", "apps.chat:Chat"."""
    listen: tuple[str, ...]
    """URIs; paths of unix sockets are absolute."""
    options: typing.Mapping[str, Any]


class Stats:
    """The counters of one process since it started."""

    __slots__ = ("_connections", "_outgoing", "accepted", "closed", "exceptions", "send_fail", "total_request")

    def __init__(self, connections: dict[int, Connection], outgoing: dict[int, Any]) -> None:
        self._connections = connections
        self._outgoing = outgoing
        self.accepted = 0
        self.closed: collections.Counter[CloseReason] = collections.Counter()
        """Connections ended, and refused, by reason."""
        self.exceptions = 0
        """Exceptions of user code: callbacks, timers, tasks."""
        self.send_fail = 0
        """Messages that send() refused or could not deliver."""
        self.total_request = 0
        """Messages received."""

    @property
    def connection_count(self) -> int:
        """Clients connected now."""
        return len(self._connections)

    @property
    def outgoing(self) -> int:
        """Connections of this process to others, now: open, or about to be."""
        return len(self._outgoing)


class Worker:
    """One process of a worker (Workerman's Worker). Process: the child; thread: the one that runs the loop.

    ``on_connect``, ``on_message`` and the other callbacks may be assigned; a new one holds for connections accepted
    from then on. Unknown ``on_*`` names raise AttributeError. Every other attribute is yours.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        id: int = 0,
        *,
        handlers: Handlers | None = None,
        state_dir: str = "",
        loop: asyncio.AbstractEventLoop | None = None,
        siblings: tuple[Sibling, ...] = (),
    ) -> None:
        """Made by process.py; ``loop`` is the running one by default."""
        self.name = spec.name
        self.id = id
        """0 to count - 1; a process that replaces this one has the same."""
        self.pid = os.getpid()
        self.state_dir = state_dir
        """A directory of this worker's own that outlives its processes; mode 0700."""
        self.siblings = siblings
        """All workers of this daemon, this one too, as of when this process started: where the others listen."""
        self.connections: dict[int, Connection] = {}
        """The clients of this process, by the number each got when it was accepted."""
        self.outgoing: dict[int, Any] = {}
        """The connections of this process to others, open or about to be, by their number: AsyncTcpConnection and
        AsyncUdpConnection."""
        self.stats = Stats(self.connections, self.outgoing)
        self.stalled: set[Connection] = set()
        """Connections with unsent bytes: the only ones that are examined for a write stall."""
        self.reading: set[Connection] = set()
        """Connections that may have half a request: the only ones that are examined for its deadlines."""
        self.handlers = handlers or Handlers()
        self.loop = loop or asyncio.get_running_loop()
        self.corks = Corks(self.loop)
        self.waiting = Waiting(self.loop)
        """Tasks that wait for a connection."""
        self.keyring: Keyring | None = None
        """The certificates of the encrypted listeners."""
        self.note = ""
        """What the status says is wrong with this process."""
        self.figures: dict[str, int] = {}
        """What the handler counts: the status shows it, {"players": 12}."""
        self._runtime: Runtime | None = None
        self._last_connection_id = 0
        self._when_empty: typing.Callable[[], None] | None = None
        self.sessions = Sessions(self)
        """The runtime's: what request.session comes from."""
        self.apply(spec)

    def apply(self, spec: WorkerSpec) -> None:
        """Takes over what a reload may change in place. Called by the runtime."""
        self.count = spec.count
        """How many processes this worker has."""
        self.reloadable = spec.reloadable
        """Whether a reload puts another process in the place of this one."""
        self.options = spec.options
        """The worker's ``options`` table of the TOML file, as it stands there."""
        self.limits = spec.limits
        self.timeouts = spec.timeouts
        self.keepalive = spec.keepalive
        self.tcp_nodelay = spec.tcp_nodelay
        self.gzip = spec.gzip
        self.session = spec.session
        self.websocket = spec.websocket
        self.heartbeat = spec.heartbeat
        self.trusted_proxies = networks(spec.trusted_proxies)
        self.proxy_protocol = spec.proxy_protocol

    def __repr__(self) -> str:
        return f"<Worker {self.name}#{self.id} pid {self.pid}>"

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("on_"):
            self.handlers.assign(name, value)
        else:
            object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        if name in handlers.CALLBACKS:
            return getattr(self.handlers, name)
        if name.startswith("on_"):
            raise AttributeError(handlers.unknown(name))
        raise AttributeError(f"{self!r} has no attribute {name!r}")

    # ------------------------------------------------------------------ for handlers

    @staticmethod
    def current() -> Worker:
        """The worker of this process, for code that was handed none: libraries, timers. Raises RuntimeError in a
        program that is no worker process."""
        return clients.installed("Worker.current()").worker

    def broadcast(self, message: Any, exclude: Iterable[Connection] = ()) -> int:
        """Sends ``message`` to every client of this process but those of ``exclude``; to WebSockets it is encoded once.
        How many took it: a slow one whose buffer is full does not. HTTP connections get nothing, for none of them asked
        for it."""
        excluded = set(exclude)
        prepared: Prepared | None = None
        taken = 0
        for connection in list(self.connections.values()):
            protocol = connection.wire.protocol
            if connection in excluded or isinstance(protocol, Answering):
                continue
            if isinstance(protocol, WebSocket):
                prepared = prepared or Prepared(message)
                taken += connection.send(prepared) is not False
            else:
                taken += connection.send(message) is not False
        return taken

    def stop(self) -> None:
        """Ends this process alone: it accepts no more, drains, and the master starts another in its place. Returns at
        once; calling it again changes nothing (Workerman's stopAll() in a child: the manual's max_request example)."""
        self._process.leave("stop()")

    stop_all = stop

    def listen(self, uri: str, handler: object = None) -> asyncio.Future[None]:
        """A further listener of this process, with the same connections and memory (Workerman's listen() in a child).

        ``handler`` has the callbacks for its connections: "module", "module:Class", or any object with ``on_*``
        attributes; None stands for this worker's own. The master opens and keeps the socket, and every process of the
        worker that asks for it accepts from it. Returns at once. Awaiting the result waits until the address is open
        and raises ConfigError or LoadError (a wrong URI or handler) or ControlError (the master refuses: the text says
        why); if nobody awaits it, such an error is logged and counted.
        """
        return self._process.listen(uri, handler)

    def unlisten(self, uri: str) -> asyncio.Future[None]:
        """Closes a listener that listen() opened; its connections stay. Awaiting the result raises ControlError when
        there is none."""
        return self._process.unlisten(uri)

    def stop_server(self) -> asyncio.Future[dict[str, Any]]:
        """Stops the whole daemon, like `workermanctl stop`. Returns at once; ControlError when awaited and refused."""
        return self._process.ask_server("stop")

    def reload_server(self) -> asyncio.Future[dict[str, Any]]:
        """Reloads file and code, like `workermanctl reload`. Returns at once. This process may be among those that are
        replaced, so that awaiting the result is of use to a worker with ``reloadable = false`` only."""
        return self._process.ask_server("reload")

    def server_status(self) -> asyncio.Future[dict[str, Any]]:
        """``await`` it: what `workermanctl status --json` prints."""
        return self._process.ask_server("status")

    @property
    def _process(self) -> Runtime:
        if self._runtime is None:
            raise RuntimeError(f"{self!r} has no process of its own: it was made for a test")
        return self._runtime

    # ------------------------------------------------------------------ for the runtime

    def belong_to(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def failed(self, where: str, connection: Connection | None, error: BaseException) -> None:
        """The one place where an exception of user code is reported: logged with its connection, counted."""
        self.stats.exceptions += 1
        of = "" if connection is None else f", connection {connection.id} from {connection.get_remote_address()}"
        logger.error("exception in %s%s", where, of, exc_info=(type(error), error, guard.users_traceback(error)))

    def next_connection_id(self) -> int:
        """One numbering for all listeners of the process, from 1."""
        self._last_connection_id += 1
        return self._last_connection_id

    def drained(self, connection: Connection) -> None:
        """The kernel has taken all that was unsent."""
        self.stalled.discard(connection)
        self.waiting.drained(connection)

    def forget(self, number: int, reason: CloseReason) -> None:
        """A connection has ended: called once for each."""
        connection = self.connections.pop(number, None) or self.outgoing.pop(number)
        self.stalled.discard(connection)
        self.reading.discard(connection)
        self.waiting.closed(connection)
        self.stats.closed[reason] += 1
        if not self.connections and self._when_empty is not None:
            self._when_empty()

    def when_empty(self, callback: typing.Callable[[], None]) -> None:
        """Calls it whenever the last connection has ended; the drain waits for that."""
        self._when_empty = callback
