"""Listener: accepts the clients of one address and makes Connections of them.

The sockets are the master's: bound, listening, shared with the children beside us and those after us, so that nothing
here may change what the others would notice, and closing our copies closes nothing for them. uvloop could accept by
itself, but it would take a client that there is no descriptor for, and close it: here the gate decides before.

Short connections must be cheap (34 us of CPU for connect, message and close, of which the kernel's part is 22).
uvloop's connect_accepted_socket is a coroutine, but waits for nothing but the loop's next turn: it is begun at once and
ended there, without a Task.
"""

from __future__ import annotations

import enum
import logging
import socket
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from workermand import address
from workermand.protocols.base import Protocol
from workermand.spec import ListenSpec
from workermand.worker.callbacks import Source
from workermand.worker.connection import Connection
from workermand.worker.gate import Gate
from workermand.worker.handlers import Handlers

if TYPE_CHECKING:
    from workermand.worker.worker import Worker

logger = logging.getLogger(__name__)

BATCH = 16
"""Accepted in one go: a burst must neither keep the connected waiting nor leave nothing to the other children."""

Begun = Coroutine[Any, Any, Any]


class State(enum.Enum):
    NEW = "new"
    ACCEPTING = "accepting"
    PAUSED = "paused"
    STOPPED = "stopped"


class _Listening(socket.socket):
    """family and type as plain attributes: the properties make enums, and cost every accept() 4 us."""

    __slots__ = ("family", "type")


class Listener:
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
        self.spec = spec
        self.closing: set[Connection] = set()
        """No longer among worker.connections, while their async on_close is at work."""
        self._worker = worker
        self._factory = factory
        self._source = Source(callbacks or worker.handlers)
        self._gate = Gate.of(worker)
        self._state = State.NEW
        self._begun = 0
        self._socks: list[_Listening] = []
        self.add_sockets(socks)

    @property
    def paused(self) -> bool:
        """Not accepting for now."""
        return self._state is State.PAUSED or self._gate.keeps(self)

    @property
    def pending(self) -> int:
        """Connections that are not yet, or no longer, among worker.connections."""
        return self._begun + len(self.closing)

    def start(self) -> None:
        self._become(State.ACCEPTING)

    def pause(self) -> None:
        """Accepts no more until resume(); clients wait in the backlog (Workerman's pauseAccept)."""
        self._become(State.PAUSED)

    def resume(self) -> None:
        self._become(State.ACCEPTING)

    def stop(self) -> None:
        """For good; what is connected stays."""
        self._become(State.STOPPED)
        self._gate.forget(self)
        for sock in self._socks:
            sock.close()
        self._socks.clear()

    def add_sockets(self, socks: list[socket.socket]) -> None:
        """More sockets of the same address (reuse_port)."""
        self._socks += [self._prepared(sock) for sock in socks]
        self.regulate()

    def regulate(self) -> None:
        """Listens to its sockets, or does not, as its state and the gate would have it."""
        loop = self._worker.loop
        accepting = self._state is State.ACCEPTING and not self._gate.keeps(self)
        for sock in self._socks:
            if accepting:
                loop.add_reader(sock.fileno(), self._accept, sock)
            else:
                loop.remove_reader(sock.fileno())

    def ended(self, connection: Connection, *, still_closing: bool) -> None:
        """One of ours is lost; ``still_closing``: its on_close takes its time."""
        if still_closing:
            self.closing.add(connection)
        self._gate.left(connection)

    def _become(self, state: State) -> None:
        if self._state is not State.STOPPED:
            self._state = state
            self.regulate()

    def _prepared(self, sock: socket.socket) -> _Listening:
        """Connections inherit these options, so that none has to be set on each."""
        if self.spec.transport == "tcp":
            keepalive = self._worker.keepalive
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

    def _accept(self, sock: _Listening) -> None:
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
            self._worker.loop.call_soon(self._end, begun)

    def _begin(self, sock: socket.socket, peer: Any) -> Begun | None:
        worker = self._worker
        ip = address.plain_ip(peer[0]) if worker.limits.per_ip and isinstance(peer, tuple) else ""
        if ip and not self._gate.admits_from(ip):
            sock.close()
            return None
        try:
            protocol = self._factory(worker.limits.package)
            connection = Connection(worker, protocol, worker.next_connection_id(), self, self._source.now())
            connecting: Begun = worker.loop.connect_accepted_socket(lambda: connection.wire, sock)
            connecting.send(None)
            if not worker.tcp_nodelay and self.spec.transport == "tcp":
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)  # uvloop sets it
        except BaseException as error:
            worker.failed(f"a new connection on {self.spec.uri}", None, error)
            sock.close()
            return None
        if ip:
            self._gate.came(connection, ip)
        return connecting

    def _end(self, begun: list[Begun]) -> None:
        """A turn later: connection_made has been called for each."""
        self._begun -= len(begun)
        self._gate.begun -= len(begun)
        for connecting in begun:
            try:
                connecting.send(None)
            except StopIteration:
                pass


def _whole(seconds: float) -> int:
    """The kernel's clock for this knows whole seconds, from 1."""
    return max(1, round(seconds))
