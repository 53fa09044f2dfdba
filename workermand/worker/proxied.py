"""Proxied: reads the PROXY header in front of a connection, and leaves.

    uvloop -> Proxied.data_received -> protocols/proxy.py, then the transport is the Wire's, or the TlsStream's

The wire (or TLS: a proxy speaks first) begins when the header is complete, so that on_connect knows the client; what
has come behind the header is fed to it. A connection that ends before is its listener's to count.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from workermand.errors import CloseReason, ProtocolError
from workermand.protocols import proxy
from workermand.worker.status import reason_of

if TYPE_CHECKING:
    from workermand.worker.listener import Listener
    from workermand.worker.wire import Wire


class Proxied(asyncio.Protocol):
    """Process: the child; thread: the one that runs the loop."""

    __slots__ = ("_alarm", "_error", "_listener", "_next", "_reason", "_received", "_transport", "wire")

    def __init__(self, wire: Wire, follower: asyncio.Protocol, listener: Listener) -> None:
        """``follower``: what gets the transport, the wire itself or what is before it."""
        self.wire = wire
        self._next = follower
        self._listener = listener
        self._received = b""
        self._reason: CloseReason | None = None
        self._error: Exception | None = None
        self._alarm: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        seconds = self._listener.worker.timeouts.header
        self._alarm = self._listener.handshake_began(self, seconds, self._be_too_late)

    def data_received(self, data: bytes) -> None:
        self._received += data
        try:
            header = proxy.parse(self._received)
        except ProtocolError as error:
            self._error = error
            self._refuse(CloseReason.PROXY_FAILED)
            return
        if header is None:
            return
        if header.client is not None and not self._listener.announced(self.wire.connection, header.client):
            self._refuse(CloseReason.REFUSED_PER_IP)
            return
        self._leave(self._received[header.length :])

    def connection_lost(self, error: Exception | None) -> None:
        """Before the header was complete; without a byte, it was but a look whether we are there."""
        reason = self._reason or (CloseReason.PROXY_FAILED if self._received else reason_of(error))
        self._end(reason)
        self.wire.release()
        del self.wire, self._next  # they must not keep each other alive

    def abort(self) -> None:
        """The process stops at once."""
        self._refuse(CloseReason.STOPPED)

    def _be_too_late(self) -> None:
        self._refuse(CloseReason.HEADER_TIMEOUT)

    def _refuse(self, reason: CloseReason) -> None:
        self._reason = self._reason or reason
        self._transport.abort()

    def _leave(self, rest: bytes) -> None:
        transport, follower = self._transport, self._next
        self._end(None)
        del self.wire, self._next
        transport.set_protocol(follower)
        follower.connection_made(transport)
        if rest:
            follower.data_received(rest)

    def _end(self, failed: CloseReason | None) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self._listener.handshake_ended(self, failed, self._error)
