"""The WebSocket client's handshake (RFC 6455 4.1): the answer's head, until it is whole, and what is sent meanwhile.

Shaking is the connection's protocol before the 101; upgrade.Socket, as a client, after it. What the server sent behind
the head is handed over with ``detach``, in the same turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import httptools

from workermand.errors import CloseReason, ProtocolError
from workermand.protocols.base import Protocol
from workermand.protocols.handshake import ClientHandshake
from workermand.protocols.websocket import WebSocket
from workermand.protocols.wsframe import Ping
from workermand.worker import intake, upgrade
from workermand.worker.status import ESTABLISHED

if TYPE_CHECKING:
    from workermand.worker.outgoing.client import AsyncTcpConnection
    from workermand.worker.outgoing.wire import ClientWire

HEAD = 32 * 1024
"""Bytes that the head of an answer may have."""
END = b"\r\n\r\n"


class Shaking(Protocol):
    """Sends are encoded as they will be after the 101, but never deflated: that is nobody's to say yet."""

    __slots__ = ("_held", "_socket", "connection", "handshake")

    name: ClassVar[str] = "websocket"
    wants_connection: ClassVar[bool] = True
    connection: AsyncTcpConnection
    handshake: ClientHandshake

    def __init__(self, max_package: int) -> None:
        super().__init__(max_package)
        self._held = b""
        self._socket = WebSocket(max_package, client=True)

    def feed(self, data: bytes) -> list[Any]:
        self._held += data
        end = self._held.find(END)
        if end > HEAD or (end < 0 and len(self._held) > HEAD):
            self._fail(f"an answer of more than {HEAD} bytes")
        elif end >= 0:
            head, self._held = self._held[: end + len(END)], self._held[end + len(END) :]
            _answered(self.connection, self.handshake, head)
        return []

    def feed_eof(self) -> Sequence[Any]:
        self._fail("the connection was closed")
        return ()

    def _fail(self, why: str) -> None:
        self.connection.client_wire.fail(self.connection.complaint(f"WebSocket: {why}"))

    def encode(self, message: Any) -> bytes:
        self._socket.websocket_type = self.connection.websocket_type
        return self._socket.encode(message)

    @property
    def buffered(self) -> int:
        return len(self._held)

    def detach(self, undelivered: Any = (), data: bytes = b"") -> bytes:
        held, self._held = self._held, b""
        return held


def shake_hands(connection: AsyncTcpConnection) -> None:
    """on_connect has been called: the request goes out. A header that cannot be sent is the handler's error."""
    wire, shaking, headers = connection.wire, connection.wire.protocol, connection.headers
    assert isinstance(shaking, Shaking)
    try:
        shaking.handshake = ClientHandshake(
            connection.target.authority,
            connection.target.path,
            origin=connection.origin,
            subprotocols=connection.subprotocols,
            deflate=connection.deflate,
            headers=headers.items() if isinstance(headers, Mapping) else headers,
        )
    except Exception as error:
        wire.failed("the headers of a WebSocket", error)
        return
    if connection.attempt is not None:
        connection.attempt.step = "WebSocket"
    wire.bytes_written += len(shaking.handshake.request)
    wire.write(shaking.handshake.request)


def _answered(connection: AsyncTcpConnection, handshake: ClientHandshake, head: bytes) -> None:
    """The head of the server's answer: a WebSocket from here on, or the end."""
    wire = connection.client_wire
    try:
        answer = Answer(head)
        agreed = handshake.verify(answer.status, answer.headers)
    except (ValueError, ProtocolError) as error:
        wire.fail(connection.complaint(str(error)), CloseReason.UPGRADE_REFUSED)
        return
    connection.subprotocol = agreed.subprotocol
    limits = connection.worker.limits
    socket = upgrade.Socket(
        limits.websocket.message or connection.max_package_size,
        client=True,
        deflate=agreed.deflate,
        max_frame=limits.websocket.frame,
        max_fragments=limits.websocket.fragments,
    )
    socket.websocket_type = connection.websocket_type
    was_full = wire.open()
    upgrade.call(connection, "on_websocket_connect", answer)
    if wire.status is ESTABLISHED:
        intake.swap(wire, socket)
        wire.settle(was_full)
        if connection.ping_interval:
            wire.worker.loop.call_later(connection.ping_interval, _ping, connection, wire, None)


def _ping(connection: AsyncTcpConnection, wire: ClientWire, heard: int | None) -> None:
    """Every ping_interval, beginning behind the first. ``heard``: bytes_read at the last ping, which must have been
    answered; None before it."""
    if wire.status is not ESTABLISHED:
        return
    if wire.bytes_read == heard:
        wire.close_lingering(CloseReason.PING_TIMEOUT)
        return
    connection.send(Ping())
    wire.worker.loop.call_later(connection.ping_interval, _ping, connection, wire, wire.bytes_read)


class Answer:
    """The head of an HTTP answer: what on_websocket_connect gets on a client, and a proxy's to CONNECT."""

    __slots__ = ("_is_whole", "headers", "reason", "status")

    def __init__(self, head: bytes) -> None:
        """``head`` ends with the empty line. Raises ValueError."""
        self.headers: list[tuple[str, str]] = []
        """(name, value) as they came."""
        self.reason = ""
        self._is_whole = False
        parser = httptools.HttpResponseParser(self)
        try:
            parser.feed_data(head)
        except (httptools.HttpParserUpgrade, httptools.HttpParserError) as error:
            if not self._is_whole:  # behind the head llhttp stops at an upgrade, in one way or another
                raise ValueError(f"no answer in HTTP: {error}") from error
        self.status: int = parser.get_status_code()

    def header(self, name: str, default: str | None = None) -> str | None:
        """The first of this name, whatever its case."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), default)

    def on_status(self, reason: bytes) -> None:
        """For the parser."""
        self.reason += reason.decode("latin-1")

    def on_header(self, name: bytes, value: bytes) -> None:
        """For the parser."""
        self.headers.append((name.decode("latin-1"), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        """For the parser."""
        self._is_whole = True

    def __str__(self) -> str:
        return f"{self.status} {self.reason}".rstrip()
