"""UDP: one socket, many peers. Each datagram is a message, and its connection is the way back to the sender.

There is no on_connect and no on_close: UDP knows neither. A raw datagram goes to on_message as it is; with a protocol a
fresh object of it reads each one, and what is left over is dropped, as is a datagram that breaks the protocol (counted
by its reason). Async handlers run side by side, as many as limits.inbox.messages; then nothing is read, and the kernel
drops what its buffer cannot hold: that is UDP.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from workermand import address
from workermand.errors import CloseReason, ProtocolError, SendError
from workermand.protocols.base import Protocol, as_bytes
from workermand.protocols.custom import ThreeFunctions
from workermand.protocols.raw import Raw
from workermand.spec import ListenSpec
from workermand.worker.door import Door, State
from workermand.worker.handlers import Handlers

if TYPE_CHECKING:
    from workermand.worker.worker import Worker

logger = logging.getLogger(__name__)

BATCH = 32
"""Datagrams read in one go."""
LONGEST = 65_535
"""Bytes of a datagram, at the most."""


class UdpConnection:
    """The sender of a datagram (Workerman's UdpConnection). Process: the child; thread: the one that runs the loop."""

    __slots__ = ("_listener", "_peer", "_sock", "context", "protocol", "worker")

    id = 0
    """All have the same: there are no connections to count."""

    def __init__(self, listener: DatagramListener, sock: socket.socket, peer: Any, protocol: Protocol) -> None:
        self.worker = listener.worker
        self.protocol = protocol
        self.context: Any = None
        """Yours; None at first."""
        self._listener = listener
        self._sock = sock
        self._peer = peer

    def __repr__(self) -> str:
        return f"<UdpConnection from {self.get_remote_address()}>"

    def send(self, data: Any, raw: bool = False) -> bool | None:
        """Sends one datagram to the sender; ``raw``: not encoded by the protocol.

        True: the kernel has it. None: there was nothing to send. False: the kernel refused it (its buffer is full, or
        the datagram too long); send_fail is counted and on_error told (SEND_FAIL).
        """
        data = as_bytes(data) if raw else self.protocol.encode(data)
        if not data:
            return None
        try:
            self._sock.sendto(data, self._peer)
        except BlockingIOError:
            return self._failed("send buffer full and drop package")
        except OSError as error:
            return self._failed(error.strerror or str(error))
        return True

    def close(self, data: Any = None, raw: bool = False) -> None:
        """Sends ``data`` if given. Nothing is closed: the socket serves all other senders too."""
        if data is not None:
            self.send(data, raw)

    def get_remote_ip(self) -> str:
        """Without brackets; an IPv4 sender to an IPv6 socket has its IPv4 address."""
        return address.plain_ip(self._peer[0])

    def get_remote_port(self) -> int:
        return int(self._peer[1])

    def get_remote_address(self) -> str:
        """With its port; an IPv6 address in brackets."""
        return address.display(self._peer)

    def get_local_ip(self) -> str:
        return self._listener.spec.host

    def get_local_port(self) -> int:
        return self._listener.spec.port

    def get_local_address(self) -> str:
        return address.display((self._listener.spec.host, self._listener.spec.port))

    def is_ipv4(self) -> bool:
        return "." in self.get_remote_ip()

    def is_ipv6(self) -> bool:
        return ":" in self.get_remote_ip()

    def _failed(self, why: str) -> bool:
        self.worker.stats.send_fail += 1
        self._listener.call("on_error", self, SendError.SEND_FAIL, why)
        return False


class DatagramListener(Door):
    """Process: the child; thread: the one that runs the loop."""

    def __init__(
        self,
        worker: Worker,
        spec: ListenSpec,
        socks: list[socket.socket],
        factory: Callable[[int], Protocol],
        callbacks: Handlers | None = None,
    ) -> None:
        """Takes the sockets over. ``factory`` makes the object that reads a datagram, given limits.package;
        ``callbacks``: the worker's by default."""
        super().__init__(worker, spec, callbacks)
        self._factory = factory
        self._raw = Raw(worker.limits.package) if factory is Raw else None
        self._tasks: set[asyncio.Task[None]] = set()
        self.add_sockets(socks)

    @property
    def pending(self) -> int:
        """Async handlers at work."""
        return len(self._tasks)

    def stop(self) -> None:
        """For good. Handlers at work may still answer, the one too that has just asked for this."""
        super().stop()
        self.worker.loop.call_soon(self._maybe_close)

    def call(self, name: str, connection: UdpConnection, *args: object) -> None:
        """Runs a callback, if there is one; what it raises is reported."""
        callbacks = self._source.now()
        callback = getattr(callbacks, name)
        if callback is None:
            return
        try:
            result = callback(connection, *args)
        except BaseException as error:
            self.worker.failed(name, connection, error)  # type: ignore[arg-type]
            return
        if name in callbacks.asynchronous:
            task = asyncio.Task(self._finish(name, connection, result), loop=self.worker.loop)
            self._tasks.add(task)
            task.add_done_callback(self._finished)
            if self._is_held:
                self.regulate()

    @property
    def _is_held(self) -> bool:
        """The inbox of them all is full."""
        return len(self._tasks) >= self.worker.limits.inbox.messages

    def _prepared(self, sock: socket.socket) -> socket.socket:
        sock.setblocking(False)
        return sock

    def _maybe_close(self) -> None:
        if self._state is State.STOPPED and not self._tasks:
            self._close_sockets()

    async def _finish(self, name: str, connection: UdpConnection, handler: Coroutine[Any, Any, object]) -> None:
        try:
            await handler
        except BaseException as error:
            self.worker.failed(name, connection, error)  # type: ignore[arg-type]

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self.regulate()
        self._maybe_close()

    # ------------------------------------------------------------------ a datagram comes

    def _readable(self, sock: socket.socket) -> None:
        for _ in range(BATCH):
            if self._is_held or self._state is not State.OPEN:
                return
            try:
                data, peer = sock.recvfrom(LONGEST)
            except (BlockingIOError, InterruptedError):  # another child was faster
                return
            except OSError as error:  # what an ICMP message reported of an earlier answer
                logger.debug("reading from %s: %s", self.spec.uri, error)
                loop = self.worker.loop  # which hears no more of a socket with an error
                loop.remove_reader(sock.fileno())
                loop.call_soon(self.regulate)
                return
            self.worker.stats.total_request += 1
            if self._raw is not None:
                self.call("on_message", UdpConnection(self, sock, peer, self._raw), data)
            else:
                self._parse(data, sock, peer)

    def _parse(self, data: bytes, sock: socket.socket, peer: Any) -> None:
        try:
            protocol = self._factory(self.worker.limits.package)
        except BaseException as error:
            self.worker.failed(f"a datagram on {self.spec.uri}", None, error)
            return
        connection = UdpConnection(self, sock, peer, protocol)
        if protocol.wants_connection:
            protocol.connection = connection  # type: ignore[attr-defined]
        drops_false = isinstance(protocol, ThreeFunctions)  # Workerman's way to say: not this package
        for message in self._messages(connection, protocol, data):
            if message is not False or not drops_false:
                self.call("on_message", connection, message)

    def _messages(self, connection: UdpConnection, protocol: Protocol, data: bytes) -> Iterator[Any]:
        """A stepwise protocol reads the next when the handler has seen the one before."""
        try:
            while messages := protocol.feed(data):
                yield from messages
                if not protocol.stepwise:
                    return
                data = b""
        except BaseException as error:
            yield from self._violated(connection, protocol, error)

    def _violated(self, connection: UdpConnection, protocol: Protocol, error: BaseException) -> Sequence[Any]:
        """The good messages before the violation."""
        reason, messages = CloseReason.PROTOCOL_ERROR, ()
        cause: BaseException | None = error
        if isinstance(error, ProtocolError):
            reason, messages, cause = error.close_reason, tuple(error.messages), error.__cause__
        self.worker.stats.closed[reason] += 1
        if isinstance(error, Exception):
            logger.info("datagram from %s: %s", connection.get_remote_address(), error, exc_info=cause)
        else:  # sys.exit() in a protocol of the user's
            self.worker.failed(f"protocol {protocol.name}", connection, error)  # type: ignore[arg-type]
        return messages
