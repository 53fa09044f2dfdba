"""AsyncTcpConnection: a connection that this process opens to somebody else. Workerman's, without its faults.

It is a Connection like those that come in, with the same members and callbacks; what it adds is how it begins, and that
it can begin again. wire.py moves the bytes, connecting.py gets it connected.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import struct
from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from workermand.errors import CloseReason, ConfigError, ConnectError, ConnectionLost
from workermand.link import ConnectionRow
from workermand.protocols import registry
from workermand.protocols.base import Protocol
from workermand.protocols.custom import adapt
from workermand.protocols.deflate import Deflate
from workermand.protocols.http import Http
from workermand.worker.callbacks import Callbacks
from workermand.worker.connection import Connection
from workermand.worker.handlers import Handlers
from workermand.worker.outgoing import clients
from workermand.worker.outgoing.backoff import Backoff
from workermand.worker.outgoing.connecting import Attempt
from workermand.worker.outgoing.encryption import Encryption, TlsSettings
from workermand.worker.outgoing.target import Proxy, parse, parse_proxy
from workermand.worker.outgoing.websocket import Shaking
from workermand.worker.outgoing.wire import ClientWire
from workermand.worker.status import CLOSED, CONNECTING, ESTABLISHED, INITIAL

NO_CALLBACKS = Callbacks(Handlers())
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: nothing is sent any more."""
OURS = (CloseReason.CLOSED, CloseReason.DESTROYED, CloseReason.DRAINED)
"""Ends that nobody wants to be mended."""

HeaderPairs = Mapping[str, str] | Iterable[tuple[str, str]]


class AsyncTcpConnection(Connection):
    """A connection to ``uri`` (Workerman's AsyncTcpConnection). Process: the child, from on_worker_start on, or any
    program with a running loop; thread: the one that runs it.

    Nothing happens before connect(). Callbacks are assigned, and survive a reconnect: on_connect (TCP, proxy and TLS
    are done), on_message, on_close, on_error (SendError.CONNECT_FAIL: what failed, and after how long; on_close
    follows), on_buffer_full, on_buffer_drain; of ws and wss on_websocket_connect(connection, answer), behind the 101,
    on_websocket_ping, on_websocket_pong and on_websocket_close. What is sent before it is open waits, up to
    max_send_buffer_size, and goes out then.
    """

    def __init__(
        self,
        uri: str,
        *,
        tls: TlsSettings | None = None,
        bind: str | tuple[str, int] | None = None,
        timeout: float = 10.0,
        protocol: str | type[Any] | None = None,
        headers: HeaderPairs = (),
        origin: str | None = None,
        subprotocols: Sequence[str] = (),
        deflate: bool | Deflate = False,
        ping_interval: float = 0.0,
        proxy: str | None = None,
        auto_reconnect: Mapping[str, float] | bool | None = None,
    ) -> None:
        """``uri``: tcp, unix, text, frame, ws, wss, ssl or tls (raw over TLS), or a scheme of [protocols].

        ``tls``: settings (encryption.KINDS), an SSLContext, or True: encrypts tcp, text, frame and others too.
        ``bind``: our own address, or (address, port). ``timeout``: seconds for all of it, name, proxy and handshakes;
        0: for ever. ``protocol``: a name, "module:Class" or a class, over tcp, unix, ssl or tls. ``proxy``:
        "socks5://user:password@host:1080" or "http://user:password@host:3128", which looks the name up.
        ``auto_reconnect``: True, or {"initial": 1, "max": 30, "jitter": 0.5}, seconds; not after close(), end() or
        destroy().

        Of ws and wss: ``headers``, ``origin`` and ``subprotocols`` of the request, also as attributes up to and in
        on_connect; ``deflate`` offers permessage-deflate; every ``ping_interval`` seconds a ping is sent, and an answer
        expected before the next; 0: never.

        Raises ConfigError for what cannot be meant, LoadError when there is no such protocol, RuntimeError where no
        loop runs.
        """
        put = functools.partial(object.__setattr__, self)
        shared = clients.of_this_loop("AsyncTcpConnection")
        put("worker", shared.worker)
        put("id", shared.worker.next_connection_id())
        put("context", None)
        put("callbacks", NO_CALLBACKS)
        self.clients = shared
        """The runtime's, as are target, proxy, encryption and deflate."""
        name = protocol if isinstance(protocol, str) else getattr(protocol, "__name__", None)
        self.target = parse(uri, run_dir=shared.run_dir, schemes=shared.schemes, protocol=name)
        self.proxy = self._reached_through(proxy)
        self.encryption = self._encrypted_by(tls)
        self.timeout = timeout
        """Seconds, 0: for ever."""
        self.headers = headers
        self.origin = origin
        self.subprotocols = subprotocols
        self.subprotocol: str | None = None
        """The one that the server chose."""
        self.ping_interval = ping_interval
        self.deflate = Deflate() if deflate is True else deflate or None
        self._bind = (bind, 0) if isinstance(bind, str) else bind
        self._protocol = self._resolve(protocol)
        self._number = self.id
        self._backoff = None if not auto_reconnect else Backoff({} if auto_reconnect is True else auto_reconnect)
        self._renew()

    attempt: Attempt | None = None
    """The runtime's: while it is not open yet."""
    _started = 0.0
    _again: float | None = None
    """Seconds: reconnect() was called while it still lived."""
    _timer: asyncio.TimerHandle | None = None
    _stays_closed = False
    _last_reason: CloseReason | None = None

    def _reached_through(self, proxy: str | None) -> Proxy | None:
        if proxy is None:
            return None
        if self.target.transport == "unix":
            raise ConfigError(self.target.uri, "a proxy cannot reach a unix socket", "drop proxy=")
        return parse_proxy(proxy)

    def _encrypted_by(self, tls: TlsSettings | None) -> Encryption | None:
        if tls is False and self.target.tls:
            raise ConfigError(self.target.uri, "tls=False contradicts it", "drop tls=, or take ws:// or tcp://")
        settings = self.target.tls if tls is None else tls
        return Encryption(settings, self.target.uri, self.target.host) if settings is not False else None

    def _resolve(self, protocol: str | type[Any] | None) -> type[Protocol]:
        spoken = self.target.protocol
        if spoken == "websocket" and protocol is None:
            return Shaking
        if isinstance(protocol, type):
            found = protocol if issubclass(protocol, Protocol) else adapt(protocol, protocol.__name__)
        else:
            found = registry.resolve(spoken, self.clients.schemes)
        if issubclass(found, Http):
            raise ConfigError(self.target.uri, f"{spoken} is what a server speaks", "ws:// and wss:// are for clients")
        return found

    def __repr__(self) -> str:
        return f"<AsyncTcpConnection {self.id} to {self.target.uri}, {self.status.name}>"

    # ------------------------------------------------------------------ begin, and begin again

    def connect(self) -> Opening:
        """Begins to connect, and returns at once. The result may be dropped; who awaits it waits until messages may
        flow (ws: behind the 101), and gets ConnectError when that does not come about. While it is connecting or
        connected another call changes nothing."""
        if self.status in (INITIAL, CLOSED):
            self.cancel_reconnect()
            return self._connect()
        is_ending = self.attempt is None and self.status is not ESTABLISHED
        return Opening(self.attempt, "it is closing: reconnect() waits for that" if is_ending else "")

    def reconnect(self, delay: float = 0.0) -> None:
        """Connects again in ``delay`` seconds, with a fresh protocol object, fresh counters and the same callbacks; one
        that still lives is closed first. Meant for on_close. Another call replaces this one."""
        if delay < 0:
            raise ValueError(f"a delay must be 0 seconds or more, not {delay!r}")
        self.cancel_reconnect()
        if self.client_wire.status is CLOSED:
            self._renew()
        elif self.client_wire.status is not INITIAL:
            self.close()
            self._again = delay
            return
        self._timer = self.worker.loop.call_later(delay, self._reconnect)

    def cancel_reconnect(self) -> None:
        """Undoes reconnect(); in on_close also what auto_reconnect would do after it."""
        self._again = None
        self._stays_closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _reconnect(self) -> None:
        self._timer = None
        self._connect()

    def _renew(self) -> None:
        """A wire of its own for each connection."""
        limits, former = self.worker.limits, getattr(self, "wire", None)
        package, buffer = limits.package, limits.send_buffer
        if former is not None:  # they may have been assigned
            package, buffer = self.max_package_size, self.max_send_buffer_size
        wire = ClientWire(self, self.worker, self._protocol(package), self._number)
        object.__setattr__(self, "wire", wire)
        self.max_send_buffer_size = buffer

    def _connect(self) -> Opening:
        if self.client_wire.status is CLOSED:
            self._renew()
        wire, loop = self.client_wire, self.worker.loop
        self._started = loop.time()
        wire.status = CONNECTING
        self._stays_closed = False
        self.worker.outgoing[self._number] = self
        attempt = self.attempt = Attempt(self, wire)
        if self.clients.is_over:
            attempt.give_up()
            loop.call_soon(wire.fail, self.complaint("this process is stopping"))
        return Opening(attempt)

    @property
    def client_wire(self) -> ClientWire:
        """The runtime's."""
        assert isinstance(self.wire, ClientWire)
        return self.wire

    # ------------------------------------------------------------------ what differs from one that came in

    def close(self, data: Any = None, raw: bool = False) -> None:
        """As every connection; and it is not connected again by itself, also when it waits for that now."""
        self.cancel_reconnect()
        super().close(data, raw)

    def end(self, data: Any = None, raw: bool = False) -> None:
        """Likewise."""
        self.cancel_reconnect()
        super().end(data, raw)

    def destroy(self) -> None:
        """Likewise. What the kernel has not sent yet is lost as well: it would go on trying, and a server that comes
        back after a cut would get it late, behind what it was told over a new connection."""
        self.cancel_reconnect()
        if (sock := self._info("socket")) is not None:
            with contextlib.suppress(OSError, ValueError):  # it has ended already
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        super().destroy()

    async def drain(self) -> None:
        """Waits until it is open, too."""
        if self.status is CONNECTING:
            try:
                await self.connect()
            except ConnectError as error:
                raise ConnectionLost(str(error)) from error
        await super().drain()

    def pause_recv(self) -> None:
        if self.wire.status in (INITIAL, CONNECTING):
            self.wire.paused = True  # connection_made looks at it
        super().pause_recv()

    @property
    def close_reason(self) -> CloseReason | None:
        """Why it ended, or ends; None while it lives. Until it is connected again: why it ended the last time."""
        return self._last_reason if self.status is INITIAL else self.wire.close_reason

    def get_remote_host(self) -> str:
        """The host of the URI; "" for a unix socket."""
        return self.target.host

    def get_remote_uri(self) -> str:
        return self.target.uri

    def get_remote_address(self) -> str:
        """Of the socket: with a proxy, the proxy's. Before it is connected, what the URI says."""
        return super().get_remote_address() if self._info("socket") is not None else self.target.where

    def get_local_address(self) -> str:
        """ "-" before it is connected."""
        return super().get_local_address() if self._info("socket") is not None else "-"

    def row(self) -> ConnectionRow:
        return msgspec.structs.replace(super().row(), transport=self._transport_name(), direction="out")

    def _transport_name(self) -> str:
        if self.encryption is not None:
            return "ssl"
        return self.target.transport

    # ------------------------------------------------------------------ for connecting.py and wire.py

    def prepare(self, sock: socket.socket) -> None:
        """Options, and our own address. Raises OSError."""
        if sock.family == socket.AF_UNIX:
            return
        keepalive = self.worker.keepalive
        if keepalive.idle:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, max(1, round(keepalive.idle)))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, round(keepalive.interval)))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, keepalive.count)
        if self._bind is not None:
            if self._bind[1]:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(self._bind)

    def leave(self, reason: CloseReason) -> None:
        """What close() does, for a reason of the runtime's."""
        self.wire.close(reason)

    def complaint(self, why: str) -> str:
        """For on_error."""
        return f"connect {self.target.uri} failed after {self.worker.loop.time() - self._started:.3f} s: {why}"

    def give_up(self) -> None:
        """It is closed before it was connected."""
        self._stays_closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.attempt is not None:
            self.attempt.give_up()

    def has_failed(self, words: str) -> None:
        if self.attempt is not None:
            self.attempt.fail(words)

    def is_open(self) -> None:
        """Messages may flow."""
        if self.attempt is not None:
            self.attempt.succeed()
            self.attempt = None

    def ended(self, wire: ClientWire) -> None:
        """connection_lost; on_close has been called, or waits in the inbox."""
        attempt, self.attempt = self.attempt, None
        if attempt is not None:
            attempt.give_up()
            attempt.fail(self.complaint(wire.close_reason or "closed"))
        self._last_reason = wire.close_reason
        self.clients.one_has_ended()
        if self.wire is not wire or self.clients.is_over:  # on_close has called reconnect()
            return
        if self._again is not None:
            self.reconnect(self._again)
        elif self._backoff is not None and not self._stays_closed and wire.close_reason not in OURS:
            lasted = self.worker.loop.time() - wire.opened_at if wire.opened_at else 0.0
            self._timer = self.worker.loop.call_later(self._backoff.next(lasted), self._reconnect)


class Opening:
    """What connect() gives: to be awaited, or dropped."""

    __slots__ = ("_attempt", "_refusal")

    def __init__(self, attempt: Attempt | None, refusal: str = "") -> None:
        """None: it is open, or ``refusal`` says why it will not be."""
        self._attempt = attempt
        self._refusal = refusal

    def __await__(self) -> Generator[Any, None, None]:
        """Raises ConnectError. Cancelling who awaits it does not cancel the connection."""
        if self._refusal:
            raise ConnectError(self._refusal)
        if self._attempt is not None:
            yield from asyncio.shield(self._attempt.opened).__await__()
