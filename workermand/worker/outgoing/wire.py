"""ClientWire: a Wire that has to be connected first, and may have to shake hands as a WebSocket.

    INITIAL -> connect() -> CONNECTING -> connection_made -> ESTABLISHED ... as every wire
                                       -> fail: on_error(CONNECT_FAIL), on_close

What is sent before it is open waits here, up to max_send_buffer_size, and goes out first. connecting.py gets it
connected, client.py makes a new one for each reconnect.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from workermand.errors import CloseReason, SendError
from workermand.protocols.base import Protocol
from workermand.worker import intake
from workermand.worker.outgoing import websocket
from workermand.worker.outgoing.websocket import Shaking
from workermand.worker.status import CLOSED, CLOSING, CONNECTING, ESTABLISHED, INITIAL
from workermand.worker.wire import SPILL, Wire

if TYPE_CHECKING:
    from workermand.worker.connection import Connection
    from workermand.worker.outgoing.client import AsyncTcpConnection
    from workermand.worker.worker import Worker


class ClientWire(Wire):
    """Process: the child; thread: the one that runs the loop."""

    __slots__ = ("opened_at", "output_ends", "waiting", "waiting_size")

    connection: AsyncTcpConnection

    def __init__(self, connection: AsyncTcpConnection, worker: Worker, protocol: Protocol, number: int) -> None:
        super().__init__(connection, worker, protocol, number, None)
        self.waiting: list[bytes] | None = []
        """What was sent before it was open; None: it is, or was."""
        self.waiting_size = 0
        self.output_ends = False
        """As soon as it is open."""
        self.opened_at = 0.0
        """The loop's time; 0: never."""

    @property
    def has_begun(self) -> bool:
        """It has a transport."""
        return hasattr(self, "transport")

    # ------------------------------------------------------------------ it begins

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if self.status is not CONNECTING:  # closed in the meantime
            transport.abort()
            return
        self.transport = transport
        self.write = transport.write
        transport.set_write_buffer_limits(high=0)
        if not self.worker.tcp_nodelay and (sock := transport.get_extra_info("socket")).family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)  # uvloop has set it
        self.status = ESTABLISHED
        intake.route(self)
        if self.paused:  # uvloop begins to read when connection_made returns
            self.worker.loop.call_soon(intake.regulate, self)
        if isinstance(self.protocol, Shaking):
            intake.greet(self)
            if self.status is ESTABLISHED:
                websocket.shake_hands(self.connection)
        else:
            was_full = self.open()
            intake.greet(self)
            self.settle(was_full)

    def open(self) -> bool:
        """Messages may flow from here on. Whether somebody had been told that the buffer is full."""
        waiting, self.waiting = self.waiting or [], None
        size, self.waiting_size = self.waiting_size, 0
        self.opened_at = self.worker.loop.time()
        self.mark = min(SPILL, self.max_send_buffer_size)
        if waiting:
            self.flush()
            self.write(b"".join(waiting))
        return size >= self.max_send_buffer_size

    def settle(self, was_full: bool) -> None:
        """The callbacks that tell of it have been called."""
        if self.status is ESTABLISHED:
            if not self.transport.get_write_buffer_size():
                self.worker.drained(self.connection)
                if was_full:
                    self.fire("on_buffer_drain")
            self.connection.is_open()
            if self.output_ends:
                self.end_output()

    def end_output(self) -> None:
        if self.waiting is None:
            super().end_output()
        else:
            self.output_ends = True

    # ------------------------------------------------------------------ out, before it is open

    def accept(self, connection: Connection, data: bytes) -> bool | None:
        if self.waiting is None or self.status not in (INITIAL, CONNECTING, ESTABLISHED):
            return super().accept(connection, data)
        if self.waiting_size >= self.max_send_buffer_size:
            return self._refuse(connection, "send buffer full and drop package")
        self.waiting.append(data)
        self.waiting_size += len(data)
        self.bytes_written += len(data)
        if self.waiting_size >= self.max_send_buffer_size:
            self.fire("on_buffer_full")
        return None

    @property
    def unsent(self) -> int:
        return self.waiting_size + (super().unsent if self.has_begun else 0)

    # ------------------------------------------------------------------ it ends

    def fail(self, words: str, reason: CloseReason = CloseReason.CONNECT_FAILED) -> None:
        """It does not come about: on_error, then on_close."""
        if self.status not in (CONNECTING, ESTABLISHED):
            return
        is_connected = self.status is ESTABLISHED
        self.close_reason = reason
        if not is_connected:
            self.status = CLOSING
        self.connection.has_failed(words)
        self.fire("on_error", SendError.CONNECT_FAIL, words)
        if is_connected:
            self.abort(reason)
        else:
            self.connection_lost(None)

    def connection_lost(self, error: Exception | None) -> None:
        if self.status is CLOSED:
            return
        connection = self.connection
        if self.waiting is not None and self.close_reason is None:
            self.close_reason = CloseReason.CONNECT_FAILED
            what = "the connection was closed" if error is None else "the connection broke"
            words = connection.complaint(f"WebSocket: {what}")
            connection.has_failed(words)
            self.fire("on_error", SendError.CONNECT_FAIL, words)
        self.waiting_size = 0
        super().connection_lost(error)
        connection.ended(self)

    def close(self, reason: CloseReason) -> None:
        if not self._gave_up(reason):
            super().close(reason)

    def close_lingering(self, reason: CloseReason) -> None:
        if not self._gave_up(reason):
            super().close_lingering(reason)

    def abort(self, reason: CloseReason) -> None:
        if not self._gave_up(reason):
            super().abort(reason)

    def _gave_up(self, reason: CloseReason) -> bool:
        """There is no transport to close yet."""
        if self.status is INITIAL:  # no on_close: nothing had begun
            self._become(CLOSED, reason)
        elif self.status is CONNECTING:
            self._become(CLOSING, reason)
            self.worker.loop.call_soon(self.connection_lost, None)
        else:
            return not self.has_begun
        self.waiting_size = 0
        self.connection.give_up()
        return True
