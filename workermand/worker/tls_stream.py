"""TlsStream: TLS between uvloop's stream and a Wire. To the one it is a protocol, to the other a transport.

    uvloop -> TlsStream.data_received -> OpenSSL -> Wire.data_received ... Wire.write -> OpenSSL -> transport.write

All that is written is encrypted at once and handed down, so that sizes, limits and pauses are of what the kernel has
not taken. Either end may be closed by itself, as in TCP: who has said close_notify still gets his answers (RFC 8446
6.1), and ours goes out behind the last one.

Not uvloop's TLS: what waits in the stream below does not count in its get_write_buffer_size(), so that a close in time
truncates; it ends both directions at once, and costs more. Not aiofastnet's, which costs a little less: it ends both
directions too, leaves out what is encrypted already, and takes OpenSSL's pointers out of ssl.SSLContext, whose
sni_callback then ends the process with SIGSEGV.

The wire begins when the handshake is done. One that fails, or takes too long, is its listener's to count.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from workermand.errors import CloseReason
from workermand.worker.tls import HTTP

if TYPE_CHECKING:
    from workermand.worker.listener import Listener
    from workermand.worker.wire import Wire

RECORD = 16 * 1024
"""Bytes: no TLS record holds more, so that one read never leaves a part of it behind."""
CHUNK = 1024 * 1024
"""Bytes encrypted in one go: OpenSSL counts in an int."""


PLAIN_HTTP = (
    b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: 47\r\n\r\n"
    b"400 Bad Request: https:// is spoken here, only\n"
)
"""To a browser that was sent here with http://."""


class State(enum.Enum):
    SHAKING = "shaking hands"
    OPEN = "open"
    HALF = "the client has said close_notify"
    OVER = "we have, or it is aborted: what comes is not even decrypted"


SHAKING, OPEN, HALF, OVER = State.SHAKING, State.OPEN, State.HALF, State.OVER


class TlsStream(asyncio.Protocol):
    """Process: the child; thread: the one that runs the loop."""

    __slots__ = (
        "_alarm",
        "_ends_output",
        "_error",
        "_has_begun",
        "_has_eof",
        "_incoming",
        "_listener",
        "_outgoing",
        "_paused",
        "_send",
        "_state",
        "_transport",
        "get_write_buffer_size",
        "set_write_buffer_limits",
        "tls",
        "wire",
    )

    get_write_buffer_size: Callable[[], int]
    """The stream's below."""
    set_write_buffer_limits: Callable[..., None]
    """Likewise."""

    def __init__(
        self, wire: Wire, context: ssl.SSLContext, listener: Listener | None, server_name: str | None = None
    ) -> None:
        """Without a ``listener`` it is the client's side, see outgoing/encryption.py."""
        self.wire = wire
        self._listener: Any = listener
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=listener is not None, server_hostname=server_name
        )
        self._state = SHAKING
        self._has_begun = self._has_eof = self._paused = self._ends_output = False
        self._error: Exception | None = None
        self._alarm: asyncio.TimerHandle | None = None

    # ------------------------------------------------------------------ what uvloop calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self._send = transport.write
        self.get_write_buffer_size = transport.get_write_buffer_size
        self.set_write_buffer_limits = transport.set_write_buffer_limits
        seconds = self._listener.worker.timeouts.handshake
        self._alarm = self._listener.handshake_began(self, seconds, self.abort)

    def data_received(self, data: bytes) -> None:
        if self._state is OPEN:
            self._incoming.write(data)
            self._read()
        elif self._state is SHAKING:
            self._incoming.write(data)
            self._shake_hands()
        elif self._state is OVER and self._has_begun:
            self.wire.data_received(data)  # it counts what it discards

    def eof_received(self) -> bool:
        """True: the client, who has said close_notify, may still be reading. Without one something is cut off."""
        return self._state is HALF

    def pause_writing(self) -> None:
        if self._has_begun:
            self.wire.pause_writing()

    def resume_writing(self) -> None:
        if self._has_begun:
            self.wire.resume_writing()

    def connection_lost(self, error: Exception | None) -> None:
        self._state = OVER
        if self._has_begun:
            self.wire.connection_lost(error or self._error)
        else:
            self._end_handshake(failed=True)
            self.wire.release()
        del self.wire  # the two must not keep each other alive

    # ------------------------------------------------------------------ the handshake

    def _shake_hands(self) -> None:
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return
        except ssl.SSLError as error:
            self._error = error
            if error.reason == "HTTP_REQUEST" and self._listener.spec.protocol in HTTP:
                self._send(PLAIN_HTTP)
            else:
                self._flush()  # the alert that says why
            self._state = OVER
            self._transport.close()
            return
        self._flush()
        self._end_handshake(failed=False)
        self._state = OPEN
        self._has_begun = True
        self.wire.connection_made(cast("asyncio.Transport", self))
        self._read()

    def _end_handshake(self, *, failed: bool) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self._listener.handshake_ended(self, CloseReason.TLS_FAILED if failed else None, self._error)

    # ------------------------------------------------------------------ in

    def _read(self) -> None:
        if self._paused or self._state is not OPEN:
            return
        incoming, read = self._incoming, self.tls.read
        chunks = []
        chunk = b"" if self._has_eof else b"."
        try:
            while chunk and incoming.pending:
                chunk = read(RECORD)
                chunks.append(chunk)
        except ssl.SSLWantReadError:  # the rest of a record is on its way
            pass
        except ssl.SSLError as error:
            self._error = error
        if chunks:
            data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
            if data:
                self.wire.data_received(data)
        if not chunk:
            self._has_eof = True
            if not self._paused:
                self._end_input()
        if self._outgoing.pending:  # new keys, or an alert
            self._flush()
        if self._error is not None:
            self.abort()

    def _end_input(self) -> None:
        if self._state is OPEN:
            self._state = HALF
            if not self.wire.eof_received():
                self.close()

    def pause_reading(self) -> None:
        self._paused = True
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._paused = False
        self._transport.resume_reading()
        if self._state is OPEN and (self._has_eof or self._incoming.pending):
            self.wire.worker.loop.call_soon(self._read)
        if self._ends_output:
            self.wire.worker.loop.call_soon(self.end_output)

    # ------------------------------------------------------------------ out

    def write(self, data: bytes) -> None:
        if self._state is OVER:
            return
        try:
            if len(data) <= CHUNK:
                self.tls.write(data)
                self._send(self._outgoing.read())
                return
            rest = memoryview(data)
            while rest:
                self.tls.write(rest[:CHUNK])
                rest = rest[CHUNK:]
                self._send(self._outgoing.read())
        except ssl.SSLError as error:  # in the turn of what came before a forged record
            self._error = self._error or error
            self.abort()

    def _flush(self) -> None:
        if data := self._outgoing.read():
            self._send(data)

    def end_output(self) -> None:
        """close_notify; what comes in is still read (RFC 8446 6.1)."""
        if self._paused and self._incoming.pending:
            self._ends_output = True  # OpenSSL takes what it finds there for an answer to close_notify
            return
        self._ends_output = False
        if self._state is OPEN or self._state is HALF:
            with contextlib.suppress(ssl.SSLError):
                self.tls.unwrap()
            self._flush()

    def write_eof(self) -> None:
        """close_notify and FIN behind all that is unsent; what comes in is counted by the wire, and discarded."""
        self._say_goodbye()
        self._transport.write_eof()

    def close(self) -> None:
        self._say_goodbye()
        self._transport.close()

    def abort(self) -> None:
        self._state = OVER
        self._transport.abort()

    def _say_goodbye(self) -> None:
        if self._state is OPEN or self._state is HALF:
            with contextlib.suppress(ssl.SSLError):  # the client's own close_notify is not waited for
                self.tls.unwrap()
            self._flush()
        self._state = OVER

    # ------------------------------------------------------------------ who is there

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.tls if name == "ssl_object" else self._transport.get_extra_info(name, default)
