"""Wire: one stream connection as uvloop sees it, and the hot path: bytes in, messages to the handler, bytes out.

    uvloop -> Wire.data_received -> Protocol.feed -> on_message -> Connection.send -> Protocol.encode -> transport.write

Connection is what the handler holds; here is what moves. They are two objects because Connection checks what is
assigned to it (an unknown ``on_*`` is an error), which costs 0.25 us an assignment: too much for counters that change
with every message. What a message touches stands in slots, as bound callables; what is rare puts others in their place
(see intake.py), so that no message looks at a flag. A callable from a slot becomes a local before it is called: Python
3.11 specializes that, and not ``self.feed(data)``, which costs 40 ns more.

A turn is the time in which a handler runs for this connection: one data_received, one step of the inbox. What it sends
is collected in ``out`` and written once, at the turn's end; uvloop writes at once on every write. Sixteen pipelined
answers cost 0.9 us each so, 5.6 with a write each.

The transport's limits are 0: pause_writing says that the kernel did not take everything, resume_writing that it has.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from workermand.errors import CloseReason, SendError
from workermand.protocols.base import UNLIMITED, Protocol
from workermand.worker import calling, intake, piping
from workermand.worker.inbox import Inbox
from workermand.worker.status import CLOSED, CLOSING, ENDING, ESTABLISHED, INITIAL, ConnectionStatus, reason_of

if TYPE_CHECKING:
    from workermand.worker.connection import Connection
    from workermand.worker.listener import Listener
    from workermand.worker.sending import Sending
    from workermand.worker.worker import Worker

SPILL = 64 * 1024
"""Bytes: what is collected is written before the turn's end once it is so much."""
DISCARDED = 32 * 1024 * 1024
"""Bytes of input that a lingering close throws away at most: the peer that sends on and on gets a reset. Who is in the
middle of a message that is too large reads why when he has sent it. The linger time bounds it too."""
NEVER = -1
"""A mark that every send is beyond."""


class Wire(asyncio.Protocol):
    """Process: the child; thread: the one that runs the loop. A handler never sees it."""

    __slots__ = (
        "asides",
        "bytes_read",
        "bytes_written",
        "close_reason",
        "connection",
        "deliver",
        "encode",
        "ending",
        "epilogue",
        "farewell",
        "feed",
        "former",
        "held",
        "inbox",
        "linger",
        "listener",
        "mark",
        "max_send_buffer_size",
        "number",
        "out",
        "paused",
        "protocol",
        "sending",
        "stats",
        "status",
        "tail",
        "transport",
        "worker",
        "write",
    )

    connection: Connection
    """Gone once on_close has run: the two must not keep each other alive."""
    transport: asyncio.Transport
    write: Callable[[bytes], None]
    protocol: Protocol
    feed: Callable[[bytes], Sequence[Any]]
    encode: Callable[[Any], bytes]
    tail: bytes | None
    """The protocol's: see there."""
    deliver: Callable[[Connection, Any], object]
    epilogue: Callable[[bytes], None] | None
    """What the end of a turn has to look at; None nearly always."""

    def __init__(
        self, connection: Connection, worker: Worker, protocol: Protocol, number: int, listener: Listener | None
    ) -> None:
        self.connection = connection
        self.worker = worker
        self.stats = worker.stats
        self.number = number
        """Its key in worker.connections."""
        self.listener = listener
        self.status = INITIAL
        self.close_reason: CloseReason | None = None
        self.bytes_read = self.bytes_written = 0
        self.out: list[bytes] | None = None
        """What this turn has collected; None outside of a turn."""
        self.mark = NEVER
        """While bytes_written stays below it, send() may collect without a further look."""
        self.max_send_buffer_size = worker.limits.send_buffer or UNLIMITED
        self.deliver = intake.discard
        self.held: list[Any] | None = None
        """Messages that wait for resume(), or for the end of the turn that swapped the protocol."""
        self.paused = False
        """The handler asked for it; a full inbox stops the reading too."""
        self.former: Protocol | None = None
        """The protocol that this turn has replaced."""
        self.ending: CloseReason | None = None
        """To be closed as soon as nothing is waiting any more."""
        self.farewell = b""
        """What the protocol wants to go out last."""
        self.epilogue = None
        self.inbox: Inbox | None = None
        self.sending: Sending | None = None
        """A file is under way, and stands in for ``write``; None nearly always."""
        self.linger: asyncio.TimerHandle | None = None
        self.asides: set[asyncio.Task[None]] | None = None
        """Async callbacks that run beside the inbox."""
        intake.use(self, protocol)

    # ------------------------------------------------------------------ what uvloop calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        self.write = transport.write
        transport.set_write_buffer_limits(high=0)
        self.status = ESTABLISHED
        self.mark = min(SPILL, self.max_send_buffer_size)
        self.worker.connections[self.number] = self.connection
        if self.protocol.has_deadlines:
            self.worker.reading.add(self.connection)
        self.stats.accepted += 1
        intake.route(self)
        intake.greet(self)

    def data_received(self, data: bytes) -> None:
        self.bytes_read += len(data)
        if self.out is not None:  # it is corked
            self.end_turn()
        out: list[bytes] = []
        self.out = out
        feed = self.feed
        try:
            messages = feed(data)
        except BaseException as error:
            messages = intake.ended(self, error)
        self.stats.total_request += len(messages)
        connection = self.connection
        try:
            for message in messages:
                deliver = self.deliver
                deliver(connection, message)
        except BaseException as error:
            self.failed("on_message", error)
        if self.epilogue is not None:
            self.epilogue(data)
        self.out = None
        if out:
            write = self.write
            write(b"".join(out))

    def eof_received(self) -> bool:
        """True keeps the other direction open: a client that half-closes (`nc -N`) gets its answers first."""
        if self.status is not ESTABLISHED:
            if self.sending is not None:
                self._become(CLOSING, CloseReason.PEER_CLOSED)
            return self.sending is not None
        try:
            messages = self.protocol.feed_eof()
        except BaseException as error:
            messages = intake.ended(self, error)
        else:
            self.end_input(CloseReason.PEER_CLOSED)
            self.worker.waiting.gone(self.connection)
        if messages:
            self.turn(intake.deliver_all, self, messages)
        else:
            self._maybe_end()
        return True

    def pause_writing(self) -> None:
        """Called from inside write()."""
        self.mark = NEVER
        self.worker.stalled.add(self.connection)
        if self.status is ESTABLISHED and self.transport.get_write_buffer_size() >= self.max_send_buffer_size:
            self.fire("on_buffer_full")

    def resume_writing(self) -> None:
        if self.sending is not None:
            self.sending.go()
            return
        self.worker.drained(self.connection)
        if self.status is ESTABLISHED:
            self.fire("on_buffer_drain")
        elif self.status is ENDING:
            self._linger()

    def connection_lost(self, error: Exception | None) -> None:
        reason = self.close_reason or reason_of(error)
        if reason is CloseReason.WRITE_FAILED:
            self.stats.send_fail += 1
            self.fire("on_error", SendError.SEND_FAIL, "client closed")
        if self.sending is not None:
            self.sending.stop()
        self._become(CLOSED, reason)
        if self.linger is not None:
            self.linger.cancel()
        callbacks = self.connection.callbacks
        waits = "on_close" in callbacks.asynchronous
        if self.listener is not None:
            self.listener.ended(self.connection, still_closing=waits)
        self.worker.forget(self.number, reason)
        if not waits:
            self.fire("on_close")
        elif callbacks.on_close is not None:
            self.open_inbox().add("on_close", callbacks.on_close, self.connection)
        if self.inbox is None:
            self.release()
        else:
            self.inbox.wake()

    def release(self) -> None:
        """The last callback has run: connection and wire must not keep each other alive."""
        if self.listener is not None:
            self.listener.closing.discard(self.connection)
        if self.protocol.wants_connection:
            self.protocol.connection = None  # type: ignore[attr-defined]
        del self.connection

    # ------------------------------------------------------------------ out

    def accept(self, connection: Connection, data: bytes) -> bool | None:
        """What send() cannot just collect: it is outside of a turn, beyond the mark, stalled, or closed."""
        if self.status is not ESTABLISHED:
            return self._refuse(connection, "client closed")
        unsent = self.transport.get_write_buffer_size()
        sending = self.sending
        if unsent + (sending.size if sending is not None else 0) >= self.max_send_buffer_size:
            return self._refuse(connection, "send buffer full and drop package")
        self.bytes_written += len(data)
        if sending is not None:
            sending.put(data)
        elif self.out is None or unsent:
            self.write(data)
            if unsent and self.transport.get_write_buffer_size() >= self.max_send_buffer_size:
                self.fire("on_buffer_full")
            if self.out is None and self.epilogue is not None:  # it may have been the last answer owed
                self.epilogue(b"")
        else:
            self._collect(data)
        return None if self.transport.get_write_buffer_size() or self.sending is not None else True

    def limit_send_buffer(self, size: int) -> None:
        self.max_send_buffer_size = size
        self.mark = NEVER

    @property
    def unsent(self) -> int:
        """Bytes accepted that the kernel does not have yet."""
        queued = self.sending.size if self.sending is not None else 0
        return self.transport.get_write_buffer_size() + queued + sum(map(len, self.out or ()))

    def flush(self) -> None:
        """Writes what this turn has collected so far."""
        if out := self.out:
            data = b"".join(out)
            out.clear()
            self.write(data)

    def _collect(self, data: bytes) -> None:
        """Until the limit is reached the next ones need no further look."""
        assert self.out is not None
        self.out.append(data)
        limit = min(SPILL, self.max_send_buffer_size)
        collected = sum(map(len, self.out))
        if collected < limit:
            self.mark = self.bytes_written + limit - collected
        else:
            self.mark = self.bytes_written + limit
            self.flush()

    def _refuse(self, connection: Connection, why: str) -> bool:
        if self.sending is not None:
            self.sending.refuse()
        self.stats.send_fail += 1
        calling.call(self, "on_error", connection, SendError.SEND_FAIL, why)
        if not self.protocol.lost() and self.status is ESTABLISHED:
            self.abort(CloseReason.BUFFER_FULL)
        return False

    # ------------------------------------------------------------------ turns and callbacks

    def turn(self, work: Callable[..., object], *args: object) -> None:
        """Runs ``work``, which raises nothing, as a turn or as a part of the one that runs."""
        if self.out is not None:
            work(*args)
            return
        self.out = []
        work(*args)
        self.end_turn()

    def end_turn(self) -> None:
        if self.epilogue is not None:
            self.epilogue(b"")
        out, self.out = self.out, None
        if out:
            self.write(b"".join(out))

    def attempt(self, name: str, work: Callable[..., object], *args: object) -> None:
        """Runs what calls the callback ``name``."""
        try:
            work(*args)
        except BaseException as error:
            self.failed(name, error)

    def fire(self, name: str, *args: object) -> None:
        """Runs a callback other than on_message, if there is one."""
        calling.call(self, name, self.connection, *args)

    def failed(self, where: str, error: BaseException, connection: Connection | None = None) -> None:
        """A handler has raised ``error``."""
        calling.failed(self, where, error, connection or self.connection)

    def open_inbox(self) -> Inbox:
        if self.inbox is None:
            self.inbox = Inbox(self)
            intake.route(self)
        return self.inbox

    # ------------------------------------------------------------------ the end

    def close(self, reason: CloseReason) -> None:
        """What is unsent still goes out; nothing more comes in. After a farewell it is the peer's turn to hang up: his
        answer would be met with a reset, which he could take for a failure."""
        if self.status is ESTABLISHED and (self._take_leave(reason) or self._has_said_farewell):
            self._half_close(reason)
        elif self.status is ESTABLISHED or self.status is ENDING:
            self._become(CLOSING, reason)
            self.flush()
            self.shut()

    def close_lingering(self, reason: CloseReason) -> None:
        """FIN after what is unsent; then input is discarded until the peer ends it, or there is too much of it, or the
        linger time is over: no RST for unread input can eat the last answer."""
        if self.status is ESTABLISHED:
            self._take_leave(reason)
            self._half_close(reason)

    def abort(self, reason: CloseReason) -> None:
        """At once; what is unsent is lost."""
        if self.status is not CLOSED:
            self.close_reason = None
            self._become(CLOSING, reason)
            if self.out:
                self.out.clear()
            if self.sending is not None:
                self.sending.stop()
            self.transport.abort()

    def finish(self, reason: CloseReason) -> None:
        """As soon as it has had a message, is between two, and no handler is at work."""
        if self.status is ESTABLISHED and self.ending is None:
            self.ending = reason
            self.protocol.wind_down()
            self.look_for_end()
            if self.out is None:
                self._maybe_end()

    def look_for_end(self) -> None:
        """At the end of every turn from here on."""
        if self.former is None:
            self.epilogue = self._maybe_end if self.ending is not None else None

    @property
    def is_waiting_for_handler(self) -> bool:
        return self.inbox is not None and self.inbox.is_busy

    @property
    def had_message(self) -> bool:
        return self.bytes_read > self.protocol.buffered

    @property
    def is_between_messages(self) -> bool:
        protocol = self.protocol
        is_busy = self.is_waiting_for_handler or self.sending is not None
        return not (protocol.buffered or protocol.owes or self.held or is_busy)

    def end_input(self, reason: CloseReason, farewell: bytes = b"") -> None:
        """It ends when what has come in is done with, and ``farewell`` sent."""
        self.feed = intake.ignore
        self.ending = reason
        self.farewell = farewell
        self.look_for_end()

    def _maybe_end(self, _data: bytes = b"") -> None:
        if self.ending is None or self.held or self.is_waiting_for_handler or self.protocol.owes or self.sending:
            return
        if self.feed is not intake.ignore and not (self.had_message and self.is_between_messages):
            return
        if self.ending is CloseReason.PEER_CLOSED and self.connection.piped_to and piping.pass_on_end(self):
            return
        over = self.feed is intake.ignore
        if over and (self.ending is CloseReason.PEER_CLOSED or not (self.unsent or self.protocol.cut_short)):
            self.close(self.ending)
        else:  # the last answer is on its way, and the client may still be sending
            self.close_lingering(self.ending)

    def end_output(self) -> None:
        """Behind all that is unsent; what comes in is read as before."""
        self.flush()
        getattr(self.transport, "end_output", self.transport.write_eof)()

    def _take_leave(self, reason: CloseReason) -> bytes:
        """The protocol's last words, which go out after all else."""
        farewell = self.farewell or self.protocol.farewell(reason)
        if farewell:
            self.bytes_written += len(farewell)
            if self.out is None:
                self.write(farewell)
            else:
                self.out.append(farewell)
        return farewell

    @property
    def _has_said_farewell(self) -> bool:
        """The handler has sent it, and the peer has not answered yet."""
        return self.protocol.has_said_farewell and self.feed is not intake.ignore

    def _half_close(self, reason: CloseReason) -> None:
        self._become(ENDING, reason)
        self.epilogue = functools.partial(self._discard, self.bytes_read + DISCARDED)
        self.flush()
        self.transport.resume_reading()
        self.shut()

    def shut(self) -> None:
        """Ends the transport, or our direction of it: behind the files."""
        if self.sending is not None:
            return
        if self.status is CLOSING:
            self.transport.close()
            return
        self.transport.write_eof()
        if not self.transport.get_write_buffer_size():
            self._linger()

    def _discard(self, limit: int, _data: bytes) -> None:
        if self.bytes_read > limit:
            self.abort(self.close_reason or CloseReason.CLOSED)

    def _linger(self) -> None:
        seconds = self.connection.linger_timeout
        self.linger = self.worker.loop.call_later(seconds, self.abort, self.close_reason or CloseReason.CLOSED)

    def _become(self, status: ConnectionStatus, reason: CloseReason) -> None:
        """The one way out of ESTABLISHED, and on from there."""
        self.status = status
        self.close_reason = self.close_reason or reason
        self.mark = NEVER
        self.deliver = intake.discard
        self.feed = intake.ignore
        self.protocol.lose(reason)
        self.held = self.former = self.ending = self.epilogue = None
        self.paused = False
        if self.inbox is not None:
            self.inbox.take_back()
