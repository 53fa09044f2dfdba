"""The WebSocket client's handshake (RFC 6455 4.1): the answer's head, until it is whole, and what is sent meanwhile.

Shaking is the connection's protocol before the 101; upgrade.Socket, as a client, after it. What the server sent behind
the head is handed over with ``detach``, in the same turn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import httptools

from workermand.errors import ProtocolError
from workermand.protocols.base import Protocol
from workermand.protocols.websocket import WebSocket

if TYPE_CHECKING:
    from workermand.worker.outgoing.client import AsyncTcpConnection

HEAD = 32 * 1024
"""Bytes that the head of an answer may have."""
END = b"\r\n\r\n"


class Shaking(Protocol):
    """Sends are encoded as they will be after the 101, but never deflated: that is nobody's to say yet."""

    __slots__ = ("_held", "_socket", "connection")

    name: ClassVar[str] = "websocket"
    wants_connection: ClassVar[bool] = True
    connection: AsyncTcpConnection

    def __init__(self, max_package: int) -> None:
        super().__init__(max_package)
        self._held = b""
        self._socket = WebSocket(max_package, client=True)

    def feed(self, data: bytes) -> list[Any]:
        self._held += data
        end = self._held.find(END)
        if end > HEAD or (end < 0 and len(self._held) > HEAD):
            raise ProtocolError(f"websocket: an answer of more than {HEAD} bytes")
        if end >= 0:
            head, self._held = self._held[: end + len(END)], self._held[end + len(END) :]
            self.connection.answered(head)
        return []

    def encode(self, message: Any) -> bytes:
        self._socket.websocket_type = self.connection.websocket_type
        return self._socket.encode(message)

    @property
    def buffered(self) -> int:
        return len(self._held)

    def detach(self, undelivered: Any = (), data: bytes = b"") -> bytes:
        held, self._held = self._held, b""
        return held


class Answer:
    """The head of an HTTP answer: what on_websocket_connect gets on a client, and a proxy's to CONNECT."""

    __slots__ = ("headers", "reason", "status")

    def __init__(self, head: bytes) -> None:
        """``head`` ends with the empty line. Raises ValueError."""
        self.headers: list[tuple[str, str]] = []
        """(name, value) as they came."""
        self.reason = ""
        parser = httptools.HttpResponseParser(self)
        try:
            parser.feed_data(head)
        except httptools.HttpParserUpgrade:
            pass
        except httptools.HttpParserError as error:
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

    def __str__(self) -> str:
        return f"{self.status} {self.reason}".rstrip()
