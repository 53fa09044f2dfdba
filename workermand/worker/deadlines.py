"""Who has taken too long: looked for once a second by the janitor, with its coarse clock.

    write_stall    a client that takes nothing of what is unsent
    header, body   an HTTP request that does not come to its end (Slowloris); only those that are unfinished are looked
                   at, in worker.reading
    keepalive      an HTTP connection between two requests
    idle           any other that is silent
    heartbeat      a silent WebSocket is pinged, and must answer

Each keeps what it has seen of a connection, and since when: nothing is kept on the connections themselves.
"""

from __future__ import annotations

import contextlib
import fcntl
import struct
import termios
from typing import TYPE_CHECKING, NamedTuple

from workermand.errors import CloseReason
from workermand.protocols.websocket import WebSocket
from workermand.protocols.wsframe import Ping
from workermand.worker.status import ESTABLISHED

if TYPE_CHECKING:
    from workermand.worker.connection import Connection
    from workermand.worker.worker import Worker

LOOKS = 10
"""Looks at all connections within the shortest of the limits: how exact these are, against what a look costs."""

Seen = tuple[object, float]
"""What was seen, and since when."""


class Unfinished(NamedTuple):
    """A request of which something is missing."""

    part: str
    """ "head" or "body"."""
    begin: int
    """Where it begins in all that the connection has brought: which one of its requests it is."""
    since: float
    bytes_then: int
    """bytes_read at that time."""


class Deadlines:
    """Process: the child; thread: the one that runs the loop."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._sent: dict[Connection, Seen] = {}
        """What the kernel took of a stalled connection."""
        self._reading: dict[Connection, Unfinished] = {}
        self._heard: dict[Connection, Seen] = {}
        """bytes_read of one that may be idle."""
        self._pinged: dict[Connection, Seen] = {}
        """bytes_read of a WebSocket, or True once it has been pinged."""
        self._next_idle = self._next_heartbeat = 0.0

    def sweep(self, now: float) -> None:
        """``now``: the loop's time, in seconds."""
        self._close_stalled(now)
        self._close_unfinished(now)
        self._close_idle(now)
        self._beat(now)

    # ------------------------------------------------------------------ a client that does not read

    def _close_stalled(self, now: float) -> None:
        """It must not keep its buffer for ever."""
        limit = self._worker.timeouts.write_stall
        stalled = self._worker.stalled
        if not limit or not stalled:
            self._sent.clear()
            return
        self._sent = {connection: _since(self._sent.get(connection), _taken(connection), now) for connection in stalled}
        for connection, (_bytes, since) in self._sent.items():
            if now - since >= limit:
                connection.abort(CloseReason.WRITE_STALL)

    # ------------------------------------------------------------------ a client that writes too slowly

    def _close_unfinished(self, now: float) -> None:
        if not self._worker.reading:
            self._reading.clear()
            return
        seen = {}
        for connection in list(self._worker.reading):
            part = connection.unfinished
            if not part:
                self._worker.reading.discard(connection)
                continue
            begin = connection.bytes_read - connection.get_recv_buffer_size()
            before = self._reading.get(connection)
            if before is None or (before.part, before.begin) != (part, begin) or connection.is_held:
                before = Unfinished(part, begin, now, connection.bytes_read)
            seen[connection] = self._looked_at(connection, before, now)
        self._reading = seen

    def _looked_at(self, connection: Connection, seen: Unfinished, now: float) -> Unfinished:
        """A head has one limit; a body is given its time again and again, as long as it is quick enough."""
        timeouts = self._worker.timeouts
        limit = timeouts.header if seen.part == "head" else timeouts.body
        elapsed = now - seen.since
        if not limit or elapsed < limit:
            return seen
        if seen.part == "head":
            connection.close_lingering(CloseReason.HEADER_TIMEOUT)
        elif connection.bytes_read - seen.bytes_then < elapsed * self._worker.limits.http.body_rate:
            connection.close_lingering(CloseReason.BODY_TIMEOUT)
        return seen._replace(since=now, bytes_then=connection.bytes_read)

    # ------------------------------------------------------------------ a client that is silent

    def _close_idle(self, now: float) -> None:
        idle, keepalive = self._worker.timeouts.idle, self._worker.timeouts.keepalive
        limits = [limit for limit in (idle, keepalive) if limit]
        if not limits:
            self._heard.clear()
            return
        if now < self._next_idle:
            return
        self._next_idle = now + min(limits) / LOOKS
        heard = {}
        for connection in self._worker.connections.values():
            between_requests = connection.has_deadlines
            limit = keepalive if between_requests else idle
            if not limit:
                continue
            # One whose answer is being worked on is not idle, however long that takes.
            busy = not connection.between_messages if between_requests else connection.is_waiting_for_handler
            before = None if busy else self._heard.get(connection)
            heard[connection] = _since(before, connection.bytes_read, now)
        self._heard = heard
        for connection, (_bytes, since) in heard.items():
            if now - since >= (keepalive if connection.has_deadlines else idle):
                connection.close_lingering(CloseReason.IDLE)

    def _beat(self, now: float) -> None:
        heartbeat = self._worker.heartbeat
        if not heartbeat.interval:
            self._pinged.clear()
            return
        if now < self._next_heartbeat:
            return
        self._next_heartbeat = now + min(heartbeat.interval, heartbeat.timeout) / LOOKS
        seen = {}
        for connection in list(self._worker.connections.values()):
            if isinstance(connection.protocol, WebSocket) and connection.status is ESTABLISHED:
                seen[connection] = self._beat_one(connection, now)
        self._pinged = seen

    def _beat_one(self, connection: Connection, now: float) -> Seen:
        heartbeat, heard = self._worker.heartbeat, connection.bytes_read
        seen, since = self._pinged.get(connection, (heard, now))
        if seen == heard:
            if now - since < heartbeat.interval:
                return seen, since
            connection.send(Ping())
            return (heard, "pinged"), now
        if seen != (heard, "pinged"):
            return heard, now
        if now - since >= heartbeat.timeout:
            connection.close_lingering(CloseReason.PING_TIMEOUT)
        return seen, since


def _taken(connection: Connection) -> int:
    """Bytes that the client's kernel has acknowledged. Ours takes them in large steps: by that a client that reads
    slowly would have stopped."""
    sock, unsent = connection.get_socket(), connection.get_send_buffer_size()
    if sock is not None:
        with contextlib.suppress(OSError):
            (queued,) = struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)))
            unsent += queued
    return connection.bytes_written - unsent


def _since(before: Seen | None, what: object, now: float) -> Seen:
    """What is seen, and since when it has been so."""
    return before if before is not None and before[0] == what else (what, now)
