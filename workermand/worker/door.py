"""Door: what the listeners of tcp, unix and udp have in common: an address of the master's that is open, or shut.

The sockets are bound and shared with the children beside us and those after us: nothing here may change what the others
would notice, and closing our copies closes nothing for them. listener.py accepts at a door, datagram.py reads there.
"""

from __future__ import annotations

import enum
import socket
from typing import TYPE_CHECKING

from workermand.spec import ListenSpec
from workermand.worker.callbacks import Source
from workermand.worker.handlers import Handlers

if TYPE_CHECKING:
    from workermand.worker.worker import Worker


class State(enum.Enum):
    NEW = "new"
    OPEN = "open"
    PAUSED = "paused"
    STOPPED = "stopped"


class Door:
    """Process: the child; thread: the one that runs the loop."""

    def __init__(self, worker: Worker, spec: ListenSpec, callbacks: Handlers | None = None) -> None:
        """``callbacks``: the worker's by default."""
        self.worker = worker
        self.spec = spec
        self._source = Source(callbacks or worker.handlers)
        self._state = State.NEW
        self._socks: list[socket.socket] = []

    @property
    def paused(self) -> bool:
        """Nobody comes in for now."""
        return self._state is State.PAUSED or self._is_held

    def start(self) -> None:
        self._become(State.OPEN)

    def pause(self) -> None:
        """Until resume() clients wait in the kernel (Workerman's pauseAccept)."""
        self._become(State.PAUSED)

    def resume(self) -> None:
        self._become(State.OPEN)

    def stop(self) -> None:
        """For good; who is in stays."""
        self._become(State.STOPPED)

    def hang_up(self) -> None:
        """Whoever is only about to come in is turned away."""

    def add_sockets(self, socks: list[socket.socket]) -> None:
        """Takes over more sockets of the same address (reuse_port)."""
        self._socks += map(self._prepared, socks)
        self.regulate()

    def regulate(self) -> None:
        """Watches its sockets, or does not, as its state and what else holds it would have it."""
        loop = self.worker.loop
        opened = self._state is State.OPEN and not self._is_held
        for sock in self._socks:
            if opened:
                loop.add_reader(sock.fileno(), self._readable, sock)
            else:
                loop.remove_reader(sock.fileno())

    def _become(self, state: State) -> None:
        if self._state is not State.STOPPED:
            self._state = state
            self.regulate()

    def _close_sockets(self) -> None:
        for sock in self._socks:
            sock.close()
        self._socks.clear()

    # ------------------------------------------------------------------ what the two differ in

    @property
    def _is_held(self) -> bool:
        """Something beside its state keeps it shut."""
        raise NotImplementedError

    def _prepared(self, sock: socket.socket) -> socket.socket:
        raise NotImplementedError

    def _readable(self, sock: socket.socket) -> None:
        raise NotImplementedError
