"""AsyncUdpConnection: datagrams to one peer, and back. Workerman's.

The socket is connected, so that the kernel passes on nobody else's datagrams, and tells when nobody is there (ICMP).
Each datagram is a message; with a protocol a fresh object of it reads each one, as a udp listener does.
"""

from __future__ import annotations

import asyncio
import collections
import logging
import socket
from collections.abc import Callable, Coroutine
from typing import Any

from workermand import address
from workermand.errors import CloseReason, ConnectError, ProtocolError, SendError
from workermand.link import ConnectionRow
from workermand.protocols import registry
from workermand.protocols.base import Protocol, as_bytes
from workermand.protocols.custom import adapt
from workermand.protocols.raw import Raw
from workermand.worker.callbacks import Callbacks
from workermand.worker.handlers import Handlers, unknown
from workermand.worker.outgoing import clients, dialing
from workermand.worker.outgoing.names import FAMILIES, SockAddr, literal
from workermand.worker.outgoing.target import parse_udp
from workermand.worker.status import CLOSED, CONNECTING, ESTABLISHED, INITIAL, ConnectionStatus

logger = logging.getLogger(__name__)

BATCH = 32
"""Datagrams read in one go."""
LONGEST = 65_535
"""Bytes of a datagram, at the most."""
CALLBACKS = ("on_connect", "on_message", "on_close", "on_error")
NO_CALLBACKS = Callbacks(Handlers())


class AsyncUdpConnection:
    """A way to one peer (Workerman's AsyncUdpConnection). Process: the child, from on_worker_start on; thread: the one
    that runs the loop.

    on_connect, on_message(connection, data), on_error(connection, code, message) and on_close may be assigned; any
    other ``on_*`` raises AttributeError, every other attribute is yours. It lives until close().
    """

    on_connect: Callable[..., Any] | None
    on_message: Callable[..., Any] | None
    on_close: Callable[..., Any] | None
    on_error: Callable[..., Any] | None

    def __init__(
        self,
        uri: str,
        *,
        bind: str | tuple[str, int] | None = None,
        timeout: float = 10.0,
        protocol: str | type[Any] | None = None,
    ) -> None:
        """``uri``: "udp://host:port". ``bind``: our own address, or (address, port). ``timeout``: seconds for the name;
        0: for ever. ``protocol``: a name, "module:Class" or a class. Raises ConfigError, LoadError, and RuntimeError
        where no loop runs."""
        self._callbacks = NO_CALLBACKS
        self._clients = clients.of_this_loop("AsyncUdpConnection")
        self.worker = self._clients.worker
        self.id = self._number = self.worker.next_connection_id()
        self.context: Any = None
        """Yours; None at first."""
        name = protocol if isinstance(protocol, str) else getattr(protocol, "__name__", None)
        self._target = parse_udp(uri, protocol=name)
        if isinstance(protocol, type):
            self._factory = protocol if issubclass(protocol, Protocol) else adapt(protocol, protocol.__name__)
        else:
            self._factory = registry.resolve(self._target.protocol, self._clients.schemes)
        self._encoder: Protocol = self._factory(self.worker.limits.package)
        self._bind = (bind, 0) if isinstance(bind, str) else bind
        self._timeout = timeout
        self._sock: socket.socket | None = None
        self._queue: collections.deque[bytes] = collections.deque()
        """Datagrams sent before it was connected."""
        self._tasks: set[asyncio.Task[Any]] = set()
        self.status: ConnectionStatus = INITIAL
        self.close_reason: CloseReason | None = None
        self.bytes_read = self.bytes_written = 0

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in CALLBACKS and name.startswith("on_"):
            raise AttributeError(unknown(name))
        if name in CALLBACKS:
            self._callbacks = self._callbacks.having(name, value)
        else:
            object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        if name in CALLBACKS:
            return getattr(self._callbacks, name)
        raise AttributeError(f"{self!r} has no attribute {name!r}")

    def __repr__(self) -> str:
        return f"<AsyncUdpConnection to {self._target.uri}>"

    # ------------------------------------------------------------------ for handlers

    def connect(self) -> None:
        """Looks the name up and opens the socket; returns at once. on_connect follows, or on_error (CONNECT_FAIL) and
        on_close. While it is open another call changes nothing."""
        if self.status not in (INITIAL, CLOSED):
            return
        self.status, self.close_reason = CONNECTING, None
        self.worker.outgoing[self._number] = self
        self._start(self._connect())

    def send(self, data: Any, raw: bool = False) -> bool | None:
        """Sends one datagram; connects first when it must. ``raw``: not encoded by the protocol.

        True: the kernel has it. None: it waits for the name, or there was nothing to send. False: the kernel refused it
        (its buffer is full, or the datagram too long), or limits.send_buffer is waiting already; send_fail is counted
        and on_error told (SEND_FAIL).
        """
        data = as_bytes(data) if raw else self._encoder.encode(data)
        if not data:
            return None
        if self._sock is not None:
            return self._send(data)
        self.connect()
        limit = self.worker.limits.send_buffer
        if limit and sum(map(len, self._queue)) >= limit:
            return self._refused("send buffer full and drop package")
        self._queue.append(data)
        return None

    def close(self, data: Any = None, raw: bool = False) -> None:
        """Sends ``data`` if given, then closes. on_close comes before this returns, once."""
        if data is not None and self.status is ESTABLISHED:
            self.send(data, raw)
        self.leave(CloseReason.CLOSED)

    def get_remote_address(self) -> str:
        """With its port; an IPv6 address in brackets. Before it is connected, what the URI says."""
        return address.display(self._sock.getpeername()) if self._sock is not None else self._target.where

    def get_local_address(self) -> str:
        return address.display(self._sock.getsockname()) if self._sock is not None else "-"

    # ------------------------------------------------------------------ for the runtime

    def row(self) -> ConnectionRow:
        """Its line of `workermanctl connections`."""
        remote = self.get_remote_address()
        return ConnectionRow(
            id=self._number, transport="udp", protocol=self._encoder.name, ipv4="[" not in remote, ipv6="[" in remote,
            recv_queue=0, send_queue=sum(map(len, self._queue)), bytes_read=self.bytes_read,
            bytes_written=self.bytes_written, status=self.status.name, local=self.get_local_address(), remote=remote,
            direction="out",
        )  # fmt: skip

    def leave(self, reason: CloseReason) -> None:
        """What close() does, for a reason of the runtime's."""
        if self.status in (INITIAL, CLOSED):
            return
        self.status, self.close_reason = CLOSED, reason
        self._queue.clear()
        sock, self._sock = self._sock, None
        if sock is not None:
            self.worker.loop.remove_reader(sock.fileno())
            sock.close()
        self.worker.outgoing.pop(self._number, None)
        self.worker.stats.closed[reason] += 1
        self._call("on_close")

    abort = leave

    # ------------------------------------------------------------------ it begins

    async def _connect(self) -> None:
        started = self.worker.loop.time()
        deadline = asyncio.timeout(self._timeout or None)
        try:
            async with deadline:
                sock = self._open(await self._addresses())
        except (OSError, ConnectError) as error:
            why = f"no answer within {self._timeout:g} s" if deadline.expired() else dialing.words(error)
            if self.status is CONNECTING:
                took = self.worker.loop.time() - started
                self._call(
                    "on_error", SendError.CONNECT_FAIL, f"connect {self._target.uri} failed after {took:.3f} s: {why}"
                )
                self.leave(CloseReason.CONNECT_FAILED)
            return
        if self.status is not CONNECTING:  # closed meanwhile
            sock.close()
            return
        self._sock = sock
        self.status = ESTABLISHED
        self.worker.loop.add_reader(sock.fileno(), self._readable)
        self._call("on_connect")
        while self._queue and self._sock is not None:
            self._send(self._queue.popleft())

    async def _addresses(self) -> list[SockAddr]:
        """Raises ConnectError."""
        host, port = self._target.host, self._target.port
        if (known := literal(host, port)) is not None:
            return [known]
        names = self._clients.names
        found = await asyncio.gather(
            *(names.look_up(host, port, family) for family in FAMILIES), return_exceptions=True
        )
        addresses = [entry for entries in found if isinstance(entries, list) for entry in entries]
        if not addresses:
            raise next(error for error in found if isinstance(error, BaseException))
        return addresses

    def _open(self, addresses: list[SockAddr]) -> socket.socket:
        """For the first address that there is a way to. Raises OSError."""
        last: OSError | None = None
        for family, place in addresses:
            sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            try:
                if self._bind is not None:
                    sock.bind(self._bind)
                sock.connect(place)
            except OSError as error:
                last = error
                sock.close()
                continue
            return sock
        assert last is not None
        raise last

    # ------------------------------------------------------------------ datagrams

    def _send(self, data: bytes) -> bool:
        assert self._sock is not None
        try:
            self._sock.send(data)
        except BlockingIOError:
            return self._refused("send buffer full and drop package")
        except OSError as error:  # also what an ICMP message said of the one before
            return self._refused(dialing.words(error))
        self.bytes_written += len(data)
        return True

    def _refused(self, why: str) -> bool:
        self.worker.stats.send_fail += 1
        self._call("on_error", SendError.SEND_FAIL, why)
        return False

    def _readable(self) -> None:
        for _ in range(BATCH):
            if self._sock is None:
                return
            try:
                data = self._sock.recv(LONGEST)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:  # nobody is there, an ICMP message says
                self._refused(dialing.words(error))
                return
            self.bytes_read += len(data)
            self.worker.stats.total_request += 1
            self._deliver(data)

    def _deliver(self, data: bytes) -> None:
        if self._factory is Raw:
            self._call("on_message", data)
            return
        try:
            messages = self._factory(self.worker.limits.package).feed(data)
        except ProtocolError as error:
            logger.info("datagram from %s: %s", self.get_remote_address(), error)
            self.worker.stats.closed[error.close_reason] += 1
            messages = list(error.messages)
        except BaseException as error:
            self.worker.failed(f"protocol {self._encoder.name}", self, error)  # type: ignore[arg-type]
            return
        for message in messages:
            self._call("on_message", message)

    # ------------------------------------------------------------------ callbacks

    def _call(self, name: str, *args: object) -> None:
        """Runs a callback, if there is one; what it raises is reported. Async ones run side by side."""
        callback = getattr(self._callbacks, name)
        if callback is None:
            return
        try:
            result = callback(self, *args)
        except BaseException as error:
            self.worker.failed(name, self, error)  # type: ignore[arg-type]
            return
        if name in self._callbacks.asynchronous:
            self._start(self._finish(name, result))

    async def _finish(self, name: str, running: Coroutine[Any, Any, object]) -> None:
        try:
            await running
        except BaseException as error:
            self.worker.failed(name, self, error)  # type: ignore[arg-type]

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.Task(coroutine, loop=self.worker.loop)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
