"""Connection: what a handler holds of one client, over tcp or a unix socket.

Its members are Workerman's TcpConnection in snake_case. The bytes move in wire.py; a Connection stays valid
when it is closed, says why (``close_reason``) and refuses to send. Attributes of the user's own are free
(``connection.uid = 7``); only ``on_*`` names are checked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from workermand import address
from workermand.errors import CloseReason, ConnectionLost
from workermand.link import ConnectionRow
from workermand.protocols import registry
from workermand.protocols.base import UNLIMITED, Protocol, as_bytes
from workermand.protocols.custom import adapt
from workermand.protocols.proxy import Client
from workermand.protocols.websocket import WebSocket, check_type
from workermand.worker import intake, piping
from workermand.worker.callbacks import Callbacks
from workermand.worker.handlers import CONNECTION_CALLBACKS, unknown
from workermand.worker.status import ConnectionStatus
from workermand.worker.wire import SPILL, Wire

if TYPE_CHECKING:
    from workermand.worker.listener import Listener
    from workermand.worker.upgrade import Handshake
    from workermand.worker.worker import Worker

__all__ = ["Connection", "ConnectionStatus"]


class TlsInfo(NamedTuple):
    """``connection.tls``."""

    version: str
    """"TLSv1.3"."""
    cipher: str
    """"TLS_AES_256_GCM_SHA384"."""
    alpn: str | None
    """"http/1.1"; None: the client has asked for none of ours."""


class _Callback:
    """An ``on_*`` of a connection: what is in force, or, once assigned, its own."""

    def __set_name__(self, owner: type[Connection], name: str) -> None:
        self._name = name

    def __get__(self, connection: Connection, owner: type[Connection]) -> Any:
        return getattr(connection.callbacks, self._name)

    def __set__(self, connection: Connection, callback: Any) -> None:
        connection.take_over(self._name, callback)


class Connection:
    """One client (Workerman's TcpConnection). Process: the child; thread: the one that runs the loop.

    ``on_connect``, ``on_message(connection, data)`` and the other callbacks may be assigned, and hold for this one
    alone; reading one gives what is in force. Unknown ``on_*`` names raise AttributeError. Every other attribute is
    yours.
    """

    __slots__ = ("__dict__", "__weakref__", "callbacks", "context", "id", "wire", "worker")

    on_connect = _Callback()
    on_message = _Callback()
    on_close = _Callback()
    on_error = _Callback()
    on_buffer_full = _Callback()
    on_buffer_drain = _Callback()
    on_websocket_connect = _Callback()
    on_websocket_connected = _Callback()
    on_websocket_ping = _Callback()
    on_websocket_pong = _Callback()
    on_websocket_close = _Callback()

    piped_to: Connection | None = None
    """The runtime's, see piping.py."""
    linger_timeout: float = 1.0
    """Seconds that end() waits for the peer's end."""
    handshake: Handshake | None = None
    """While on_websocket_connect is at work: what it may decide."""
    _websocket_type: int | None = None
    _announced: Client | None = None
    error_handler: Callable[[BaseException], object] | None = None
    """Gets what a callback of this connection has raised, once it is logged and counted; the connection then lives on.
    None: it is closed."""

    def __init__(
        self,
        worker: Worker,
        protocol: Protocol,
        id: int,
        listener: Listener | None = None,
        callbacks: Callbacks | None = None,
    ) -> None:
        """Made by listener.py; ``wire`` is what the transport gets. Without ``callbacks`` the worker's are taken."""
        put = object.__setattr__  # 0.2 us less for each than through the check
        put(self, "worker", worker)
        put(self, "id", id)
        put(self, "context", None)
        put(self, "callbacks", callbacks or Callbacks(worker.handlers))
        put(self, "wire", Wire(self, worker, protocol, id, listener))

    worker: Worker
    id: int
    """The number it got when it was accepted, counting from 1 in each process. It may be assigned; worker.connections
    keeps the number."""
    context: Any
    """Yours; None at first."""
    callbacks: Callbacks
    """The runtime's."""
    wire: Wire
    """The runtime's."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("on_") and name not in CONNECTION_CALLBACKS:
            raise AttributeError(unknown(name))
        object.__setattr__(self, name, value)

    if TYPE_CHECKING:  # no such method: with one, every attribute of a connection would be looked up the slow way

        def __getattr__(self, name: str) -> Any:
            """Attributes of the user's own."""

    def __repr__(self) -> str:
        return f"<Connection {self.id} from {self.get_remote_address()}, {self.status.name}>"

    # ------------------------------------------------------------------ sending and closing

    def send(self, data: Any, raw: bool = False) -> bool | None:
        """Sends one message, str or bytes, or what the protocol encodes; ``raw``: the bytes as they are.

        True: the kernel has it, or gets it together with all else that this callback sends, when it returns or awaits.
        None: it waits in the send buffer for a slow client. False: it is dropped, because the buffer was full already
        (get_send_buffer_size() >= max_send_buffer_size) or because the connection is closing or closed; send_fail is
        counted and on_error told (SEND_FAIL). A message is taken whole as long as the buffer is not full, however much
        it then exceeds it. Raises TypeError for what the protocol cannot encode.
        """
        wire = self.wire
        if raw:
            data = as_bytes(data)
        elif (tail := wire.tail) is not None and isinstance(data, str):
            try:
                data = data.encode() + tail
            except UnicodeEncodeError:  # lone surrogates stand for bytes that are no UTF-8
                data = wire.encode(data)
        else:
            encode = wire.encode
            data = encode(data)
        out = wire.out
        if out is None or (size := wire.bytes_written + len(data)) >= wire.mark:
            return wire.accept(self, data)
        wire.bytes_written = size
        out.append(data)
        return True

    def cork(self) -> None:
        """What is sent until the loop goes on to its next turn leaves in one write then, as what a callback of this
        connection sends does anyway. For messages that are sent from elsewhere, and come in crowds."""
        self.worker.corks.put(self.wire)

    async def drain(self) -> None:
        """Waits for a slow client: returns at once while less than 64 KiB are unsent, else when the kernel has taken
        all of it. A task that sends much awaits this after each send(), and so holds little of it in memory. Raises
        ConnectionLost (a ConnectionError) when the connection ends or has ended; timeouts.write_stall bounds the
        wait."""
        wire = self.wire
        if wire.unsent >= SPILL and self.status is ConnectionStatus.ESTABLISHED:
            wire.flush()
            if wire.unsent:
                await self.worker.waiting.until_drained(self)
        if self.status is not ConnectionStatus.ESTABLISHED:
            raise ConnectionLost(f"the connection has ended: {self.close_reason}")

    async def wait_gone(self) -> None:
        """Returns when the client has gone: it sends no more, or the connection has ended, whoever ended it. A client
        that has only closed its half may still read an answer."""
        wire = self.wire
        if self.status is ConnectionStatus.ESTABLISHED and wire.ending is not CloseReason.PEER_CLOSED:
            if wire.feed is intake.ignore:  # the last request has come: only an end can follow
                wire.transport.resume_reading()
            await self.worker.waiting.until_gone(self)

    def close(self, data: Any = None, raw: bool = False) -> None:
        """Sends ``data`` if given, then closes once all is sent; nothing more is read. on_close comes later, once. A
        client that does not take what is unsent is cut off after timeouts.write_stall."""
        self._say_goodbye(data, raw)
        self.wire.close(CloseReason.CLOSED)

    def end(self, data: Any = None, raw: bool = False) -> None:
        """Like close(), but leaves it to the client to hang up: FIN after all is sent, then input is discarded for
        ``linger_timeout`` seconds at most. A client that is sending still gets the last answer: close() would answer
        its bytes with a reset, which can overtake it."""
        self._say_goodbye(data, raw)
        self.wire.close_lingering(CloseReason.CLOSED)

    def destroy(self) -> None:
        """Closes at once; what is unsent is lost. on_close follows in the loop's next turn."""
        self.wire.abort(CloseReason.DESTROYED)

    def _say_goodbye(self, data: Any, raw: bool) -> None:
        if data is not None and self.status is ConnectionStatus.ESTABLISHED:
            self.send(data, raw)

    # ------------------------------------------------------------------ receiving

    def pause_recv(self) -> None:
        """on_message is not called any more until resume_recv(), and nothing is read: TCP slows the client down."""
        intake.pause(self.wire)

    def resume_recv(self) -> None:
        """Undoes pause_recv(). What had been read already is delivered before this returns."""
        intake.resume(self.wire)

    def pipe(self, to: Connection, raw: bool = False) -> None:
        """All that this one receives is sent ``to`` the other, and its end closes the other; it is not read while the
        other's buffer is full. One way: a proxy calls it twice, and then half of a connection may end before the other
        half does. Takes over on_message and on_close of this one, on_buffer_full and on_buffer_drain of the other.
        ``raw``: not encoded by the other's protocol."""
        piping.pipe(self, to, raw)

    def consume_recv_buffer(self, length: int) -> None:
        """For the ``input`` of a custom protocol: drops the first ``length`` bytes of what has been received."""
        self.wire.protocol.consume(length)

    @property
    def protocol(self) -> Protocol:
        """The object that parses and encodes for this connection.

        Assigning swaps it: a name ("text"), a class (also one with Workerman's three functions) or an object of a
        Protocol class. What the former one has not consumed, and messages behind the present one, are fed to the new
        one, so that a client need not wait for an answer; only bytes that the former one cannot read at all (text after
        a frame) break the connection when they come in one piece with its last message.
        """
        return self.wire.protocol

    @protocol.setter
    def protocol(self, protocol: str | type[Any] | Protocol) -> None:
        if isinstance(protocol, str):
            protocol = registry.resolve(protocol, {})
        if isinstance(protocol, type):
            made_of = protocol if issubclass(protocol, Protocol) else adapt(protocol, protocol.__name__)
            protocol = made_of(self.max_package_size)
        intake.swap(self.wire, protocol)

    @property
    def websocket_type(self) -> int | None:
        """None: a str goes out as a text frame, bytes as a binary one. Else all goes out as BINARY_TYPE_BLOB (text) or
        as BINARY_TYPE_ARRAYBUFFER (binary). It may be set before the upgrade. ValueError for anything else."""
        return self._websocket_type

    @websocket_type.setter
    def websocket_type(self, which: int | None) -> None:
        check_type(which)
        self._websocket_type = which
        if isinstance(self.wire.protocol, WebSocket):
            self.wire.protocol.websocket_type = which

    @property
    def max_package_size(self) -> int:
        """Bytes; the longest message the client may send, limits.package at first. 0: no limit."""
        limit = self.wire.protocol.max_package
        return 0 if limit == UNLIMITED else limit

    @max_package_size.setter
    def max_package_size(self, limit: int) -> None:
        self.wire.protocol.max_package = limit or UNLIMITED

    # ------------------------------------------------------------------ who is there

    def get_remote_ip(self) -> str:
        """\"192.0.2.1" or "2001:db8::1", without brackets; an IPv4 client of an IPv6 socket has its IPv4 address. ""
        for a unix socket."""
        return _ip(self._name_of("peername"))

    def get_remote_port(self) -> int:
        """0 for a unix socket."""
        return _port(self._name_of("peername"))

    def get_remote_address(self) -> str:
        """\"192.0.2.1:5555", "[2001:db8::1]:5555"; "unix" for a unix socket, whose clients have no name."""
        return address.display(self._name_of("peername"))

    def get_local_ip(self) -> str:
        return _ip(self._name_of("sockname"))

    def get_local_port(self) -> int:
        return _port(self._name_of("sockname"))

    def get_local_address(self) -> str:
        """As get_remote_address(); the path of a unix socket."""
        return address.display(self._name_of("sockname"))

    def get_socket(self) -> Any:
        """To ask the kernel about it (getsockopt, fileno). Reading and writing are the runtime's. None before it is
        connected."""
        return self._info("socket")

    @property
    def is_secure(self) -> bool:
        """It is TLS."""
        return self._info("ssl_object") is not None

    def is_ipv4(self) -> bool:
        return "." in self.get_remote_ip()

    def is_ipv6(self) -> bool:
        return ":" in self.get_remote_ip()

    @property
    def tls(self) -> TlsInfo | None:
        """What was agreed upon; None: it is not encrypted."""
        tls = self._info("ssl_object")
        return None if tls is None else TlsInfo(tls.version(), tls.cipher()[0], tls.selected_alpn_protocol())

    def get_peer_certificate(self) -> dict[str, Any] | None:
        """The client's, as ssl.SSLSocket.getpeercert() has it: subject, issuer, notAfter ... None when it showed none;
        it is asked for with ``tls.verify_client`` only, and always one that ``tls.ca`` vouches for."""
        tls = self._info("ssl_object")
        return (tls.getpeercert() or None) if tls is not None else None

    @property
    def transport(self) -> str:
        """\"tcp", "unix", or "ssl" for either of them when it is encrypted."""
        if self._info("ssl_object") is not None:
            return "ssl"
        return "tcp" if isinstance(self._name_of("sockname"), tuple) else "unix"

    def _name_of(self, which: str) -> Any:
        """What getpeername() or getsockname() said, or a PROXY header, also when the connection is closed."""
        wire = self.wire
        if self._announced is not None and which == "peername":
            return self._announced
        if wire.listener is not None and wire.listener.spec.transport == "unix":
            return wire.listener.spec.path if which == "sockname" else ""
        return self._info(which)

    def _info(self, which: str) -> Any:
        transport = getattr(self.wire, "transport", None)
        return transport.get_extra_info(which) if transport is not None else None

    # ------------------------------------------------------------------ how it is

    @property
    def status(self) -> ConnectionStatus:
        return self.wire.status

    def get_status(self, raw: bool = True) -> int | str:
        """Workerman's number, or the name: "ESTABLISHED"."""
        return int(self.status) if raw else self.status.name

    @property
    def close_reason(self) -> CloseReason | None:
        """Why it ended, or ends; None while it lives."""
        return self.wire.close_reason

    @property
    def bytes_read(self) -> int:
        return self.wire.bytes_read

    @property
    def bytes_written(self) -> int:
        """Bytes accepted for sending, those still in the send buffer included."""
        return self.wire.bytes_written

    @property
    def max_send_buffer_size(self) -> int:
        """Bytes; when so much is unsent the buffer is full. limits.send_buffer at first; 0: no limit."""
        limit = self.wire.max_send_buffer_size
        return 0 if limit == UNLIMITED else limit

    @max_send_buffer_size.setter
    def max_send_buffer_size(self, size: int) -> None:
        self.wire.limit_send_buffer(size or UNLIMITED)

    def get_send_buffer_size(self) -> int:
        """Bytes accepted that the kernel does not have yet; those collected for the end of this callback count too."""
        return self.wire.unsent

    def get_recv_buffer_size(self) -> int:
        """Bytes of an unfinished message."""
        return self.wire.protocol.buffered

    def buffer_is_empty(self) -> bool:
        """Nothing is unsent."""
        return not self.wire.unsent and self.wire.sending is None

    def json_serialize(self) -> dict[str, Any]:
        """Who it is, as what JSON can hold."""
        getters = ("remote_ip", "remote_port", "remote_address", "local_ip", "local_port", "local_address")
        return {
            "id": self.id,
            "status": self.get_status(),
            "transport": self.transport,
            **{name: getattr(self, f"get_{name}")() for name in getters},
            "is_ipv4": self.is_ipv4(),
            "is_ipv6": self.is_ipv6(),
        }

    # ------------------------------------------------------------------ for the runtime: drain, janitor, status

    def announce(self, client: Client) -> None:
        """Who a trusted proxy says it is."""
        self._announced = client

    def take_over(self, name: str, callback: Any) -> None:
        """An ``on_*`` is assigned. Raises LoadError for what cannot be called as this one."""
        self.callbacks = self.callbacks.having(name, callback)
        if self.status is ConnectionStatus.ESTABLISHED:
            intake.route(self.wire)

    @property
    def had_message(self) -> bool:
        """The client has sent at least one message."""
        return self.wire.had_message

    @property
    def between_messages(self) -> bool:
        """Nothing is half read, nothing unsent, and no handler at work."""
        return self.wire.is_between_messages and not self.wire.unsent

    @property
    def has_deadlines(self) -> bool:
        """It speaks HTTP: its requests must come to an end."""
        return self.wire.protocol.has_deadlines

    @property
    def unfinished(self) -> str:
        """What is missing of a request: "head" (the first may not have begun), "body", or ""."""
        wire = self.wire
        if wire.status is not ConnectionStatus.ESTABLISHED or not wire.protocol.has_deadlines:
            return ""
        return wire.protocol.waits_for or ("" if wire.had_message else "head")

    @property
    def is_held(self) -> bool:
        """It is not read at present, by our own choice."""
        return intake.is_held(self.wire)

    @property
    def moves(self) -> str:
        """See Protocol.moves."""
        return self.wire.protocol.moves

    def wind_down(self) -> None:
        """The client is told with the next answer that it is the last one."""
        self.wire.protocol.wind_down()

    @property
    def is_waiting_for_handler(self) -> bool:
        """An async handler is at work, or has messages waiting."""
        return self.wire.is_waiting_for_handler

    def finish(self, reason: CloseReason) -> None:
        """Closes it, lingering, as soon as it has had a message and is between two; all is sent first."""
        self.wire.finish(reason)

    def close_lingering(self, reason: CloseReason) -> None:
        """What end() does, for a reason of the runtime's."""
        self.wire.close_lingering(reason)

    def abort(self, reason: CloseReason) -> None:
        """What destroy() does, for a reason of the runtime's."""
        self.wire.abort(reason)

    def row(self) -> ConnectionRow:
        """Its line of `workermanctl connections`."""
        return ConnectionRow(
            id=self.wire.number,
            transport=self.transport,
            protocol=self.protocol.name,
            ipv4=self.is_ipv4(),
            ipv6=self.is_ipv6(),
            recv_queue=self.get_recv_buffer_size(),
            send_queue=self.get_send_buffer_size(),
            bytes_read=self.bytes_read,
            bytes_written=self.bytes_written,
            status=self.status.name,
            local=self.get_local_address(),
            remote=self.get_remote_address(),
        )


def _ip(name: Any) -> str:
    return address.plain_ip(name[0]) if isinstance(name, tuple) else ""


def _port(name: Any) -> int:
    return int(name[1]) if isinstance(name, tuple) else 0
