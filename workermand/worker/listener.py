"""Listener: accepts the clients of one address and makes Connections of them.

uvloop could accept by itself, but it would take a client that there is no descriptor for, and close it: here the gate
decides before.

Short connections must be cheap (34 us of CPU for connect, message and close, of which the kernel's part is 22).
uvloop's connect_accepted_socket is a coroutine, but waits for nothing but the loop's next turn: it is begun at once and
ended there, without a Task.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from workermand import address
from workermand.errors import CloseReason
from workermand.http.request import is_in
from workermand.protocols.base import Protocol
from workermand.protocols.proxy import Client
from workermand.spec import ListenSpec
from workermand.worker.connection import Connection
from workermand.worker.door import Door
from workermand.worker.gate import Gate
from workermand.worker.handlers import Handlers
from workermand.worker.proxied import Proxied
from workermand.worker.tls_stream import TlsStream

if TYPE_CHECKING:
    from workermand.worker.worker import Worker

logger = logging.getLogger(__name__)

BATCH = 16
"""Accepted in one go: a burst must neither keep the connected waiting nor leave nothing to the other children."""

Begun = Coroutine[Any, Any, Any]


class _Listening(socket.socket):
    """family and type as plain attributes: the properties make enums, and cost every accept() 4 us."""

    __slots__ = ("family", "type")


class Listener(Door):
    """Process: the child; thread: the one that runs the loop."""

    def __init__(
        self,
        worker: Worker,
        spec: ListenSpec,
        socks: list[socket.socket],
        factory: Callable[[int], Protocol],
        callbacks: Handlers | None = None,
    ) -> None:
        """Takes the sockets over. ``factory`` makes a connection's protocol object, given limits.package;
        ``callbacks``: the worker's by default."""
        super().__init__(worker, spec, callbacks)
        self.closing: set[Connection] = set()
        """No longer among worker.connections, while their async on_close is at work."""
        self._factory = factory
        self._gate = Gate.of(worker)
        self._begun = 0
        self._handshakes: set[TlsStream | Proxied] = set()
        self.add_sockets(socks)

    @property
    def pending(self) -> int:
        """Connections that are not yet, or no longer, among worker.connections."""
        return self._begun + len(self._handshakes) + len(self.closing)

    def stop(self) -> None:
        super().stop()
        self._gate.forget(self)
        self._close_sockets()

    def ended(self, connection: Connection, *, still_closing: bool) -> None:
        """One of ours is lost; ``still_closing``: its on_close takes its time."""
        if still_closing:
            self.closing.add(connection)
        self._gate.left(connection)

    @property
    def _is_held(self) -> bool:
        return self._gate.keeps(self)

    def _prepared(self, sock: socket.socket) -> _Listening:
        """Connections inherit these options, so that none has to be set on each."""
        if self.spec.transport == "tcp":
            keepalive = self.worker.keepalive
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, keepalive.idle > 0)
            if keepalive.idle:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _whole(keepalive.idle))
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _whole(keepalive.interval))
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, keepalive.count)
        family, kind = int(sock.family), int(sock.type)
        listening = _Listening(family, kind, sock.proto, sock.detach())
        listening.setblocking(False)
        listening.family, listening.type = family, kind  # type: ignore[misc, assignment]
        return listening

    # ------------------------------------------------------------------ a client comes

    def _readable(self, sock: socket.socket) -> None:
        begun: list[Begun] = []
        for _ in range(BATCH):
            if not self._gate.admits(self):
                break
            try:
                accepted, peer = sock.accept()
            except (BlockingIOError, InterruptedError):  # another child was faster
                break
            except ConnectionError:  # gone while it was waiting
                continue
            except OSError as error:
                logger.warning("accepting on %s: %s", self.spec.uri, error)
                self._gate.run_short(self)
                break
            self._gate.accepted(accepted.fileno())
            if (connecting := self._begin(accepted, peer)) is not None:
                begun.append(connecting)
                self._begun += 1
                self._gate.begun += 1
        if begun:
            self.worker.loop.call_soon(self._end, begun)

    def _begin(self, sock: socket.socket, peer: Any) -> Begun | None:
        worker = self.worker
        proxied = worker.proxy_protocol
        ip = address.plain_ip(peer[0]) if (worker.limits.per_ip or proxied) and isinstance(peer, tuple) else ""
        if ip and (refused := self._refused(ip)) is not None:
            worker.stats.closed[refused] += 1
            sock.close()
            return None
        try:
            protocol = self._factory(worker.limits.package)
            connection = Connection(worker, protocol, worker.next_connection_id(), self, self._source.now())
            wire = connection.wire
            lower: asyncio.Protocol = wire
            if self.spec.tls:
                assert worker.keyring is not None
                lower = TlsStream(wire, worker.keyring.context(self.spec.protocol), self)
            if proxied:
                lower = Proxied(wire, lower, self)
            connecting: Begun = worker.loop.connect_accepted_socket(lambda: lower, sock)
            connecting.send(None)
            if not worker.tcp_nodelay and self.spec.transport == "tcp":
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)  # uvloop sets it
        except BaseException as error:
            worker.failed(f"a new connection on {self.spec.uri}", None, error)
            sock.close()
            return None
        if ip and not proxied:  # else the address that counts is the one of the header: see announced()
            self._gate.came(connection, ip)
        return connecting

    def _refused(self, ip: str) -> CloseReason | None:
        """Why nobody may connect from there, now."""
        if self.worker.proxy_protocol:
            return None if is_in(ip, self.worker.trusted_proxies) else CloseReason.PROXY_REFUSED
        return None if self._gate.admits_from(ip) else CloseReason.REFUSED_PER_IP

    def _end(self, begun: list[Begun]) -> None:
        """A turn later: connection_made has been called for each."""
        self._begun -= len(begun)
        self._gate.begun -= len(begun)
        for connecting in begun:
            try:
                connecting.send(None)
            except StopIteration:
                pass

    # ------------------------------------------------------------------ what comes before connection_made

    def handshake_began(
        self, stream: TlsStream | Proxied, seconds: float, too_late: Callable[[], None]
    ) -> asyncio.TimerHandle | None:
        """Of TLS, or the PROXY header. It counts as a connection: half-open ones must not use up the descriptors. Gives
        what ends it in time."""
        self._handshakes.add(stream)
        self._gate.begun += 1
        return self.worker.loop.call_later(seconds, too_late) if seconds else None

    def handshake_ended(self, stream: TlsStream | Proxied, failed: CloseReason | None, error: Exception | None) -> None:
        """``failed``: why it came to nothing."""
        self._handshakes.discard(stream)
        self._gate.begun -= 1
        if failed is not None:
            self.worker.stats.closed[failed] += 1
            self._gate.left(stream.wire.connection)
            logger.debug("%s, of a client of %s: %s", failed, self.spec.uri, error or "it went, or took too long")

    def announced(self, connection: Connection, client: Client) -> bool:
        """A proxy says who it is. False: limits.per_ip has no place for this one."""
        connection.announce(client)
        if self.worker.limits.per_ip and client:
            ip = client[0]
            if not self._gate.admits_from(ip):
                return False
            self._gate.came(connection, ip)
        return True

    def hang_up(self) -> None:
        """Nobody waits for handshakes any more."""
        for stream in list(self._handshakes):
            stream.abort()


def _whole(seconds: float) -> int:
    """The kernel's clock for this knows whole seconds, from 1."""
    return max(1, round(seconds))
