"""Gate: how many more connections this process may take, and which listeners wait until it may.

limits.connections, accept_rate and per_ip bound one process, whatever listener a client comes through, and so do
descriptors. What is not admitted is not accepted: it waits in the kernel's backlog, and nobody is turned away but by
per_ip. Descriptors are not counted: the kernel gives out the lowest free number, so that a number in the reserve says
that all below are in use. After that has happened once, a probe precedes every accept.
"""

from __future__ import annotations

import asyncio
import collections
import os
import resource
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workermand.worker.connection import Connection
    from workermand.worker.listener import Listener
    from workermand.worker.worker import Worker

RESERVE = 64
"""Descriptors kept for the handler: its files, its databases. libuv keeps one, nginx and redis 32."""
RETRY = 1.0
"""Seconds: room may come about without a connection ending."""


class Gate:
    """Process: the child; thread: the one that runs the loop."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._waiting: set[Listener] = set()
        self._alarm: asyncio.TimerHandle | None = None
        self.begun = 0
        """Connections that are accepted and not yet among worker.connections; listeners count them."""
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._reserved = max(soft - RESERVE, soft // 2)
        """Descriptors from this number on are not for clients."""
        self._was_short = False
        self._second_ends = 0.0
        self._in_second = 0
        self._per_ip: collections.Counter[str] = collections.Counter()
        self._ips: dict[Connection, str] = {}
        """Of those in ``_per_ip``. Not to be asked later: a socket that was reset at once does not know its peer."""

    @classmethod
    def of(cls, worker: Worker) -> Gate:
        """The one that all listeners of the worker share."""
        gate: Gate | None = getattr(worker, "_gate", None)
        if gate is None:
            gate = worker._gate = cls(worker)
        return gate

    def keeps(self, listener: Listener) -> bool:
        """It waits for room."""
        return listener in self._waiting

    def admits(self, listener: Listener) -> bool:
        """Whether one more may be accepted now; if not, the listener is told to ``regulate`` when to ask again."""
        limits = self._worker.limits
        if limits.connections and len(self._worker.connections) + self.begun >= limits.connections:
            return self._wait(listener, RETRY)
        if self._was_short and _lowest_free() >= self._reserved:
            return self._wait(listener, RETRY)
        if limits.accept_rate:
            now = self._worker.loop.time()
            if now >= self._second_ends:
                self._second_ends, self._in_second = now + 1, 0
            if self._in_second >= limits.accept_rate:
                return self._wait(listener, self._second_ends - now)
        return True

    def accepted(self, fd: int) -> None:
        """One was, and has this descriptor."""
        self._in_second += 1
        if fd >= self._reserved:
            self._was_short = True

    def admits_from(self, ip: str) -> bool:
        """limits.per_ip."""
        return self._per_ip[ip] < self._worker.limits.per_ip

    def came(self, connection: Connection, ip: str) -> None:
        """Counts for limits.per_ip until it has ``left``."""
        self._per_ip[ip] += 1
        self._ips[connection] = ip

    def left(self, connection: Connection) -> None:
        """It has ended: whoever waits may try again."""
        if ip := self._ips.pop(connection, ""):
            self._per_ip[ip] -= 1
            if not self._per_ip[ip]:
                del self._per_ip[ip]
        if self._waiting:
            self._wake()

    def run_short(self, listener: Listener) -> None:
        """accept() found no descriptor or no memory."""
        self._was_short = True
        self._wait(listener, RETRY)

    def forget(self, listener: Listener) -> None:
        self._waiting.discard(listener)

    def _wait(self, listener: Listener, seconds: float) -> bool:
        self._waiting.add(listener)
        listener.regulate()
        when = self._worker.loop.time() + seconds
        if self._alarm is None or when < self._alarm.when():
            if self._alarm is not None:
                self._alarm.cancel()
            self._alarm = self._worker.loop.call_at(when, self._wake)
        return False

    def _wake(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        waiting, self._waiting = self._waiting, set()
        for listener in waiting:
            listener.regulate()


def _lowest_free() -> int:
    """The number that the next descriptor gets."""
    try:
        fd = os.eventfd(0, os.EFD_CLOEXEC)
    except OSError:
        return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    os.close(fd)
    return fd
