"""What master and child say to each other: small messages over a SEQPACKET pair, descriptors beside them.

Both ends are non-blocking: a full link drops what may be dropped (a Status) and never blocks anybody. SEQPACKET keeps
message borders, but refuses 250 kB and blocks at 167 unread messages, so that a message above MAX_INLINE travels in a
memfd. Neither end trusts the other with objects: msgpack, into the types below.
"""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Any, Literal

import msgspec

MAX_INLINE = 48 * 1024
"""Bytes of one message in the packet itself; a larger one goes through a memfd."""
MAX_MESSAGE = 64 * 1024 * 1024
MAX_FDS = 64

StopHow = Literal["retire", "drain", "fast"]
"""retire: replaced, serve what is connected until it ends or the deadline. drain: TERM, idle connections close at once.
fast: INT, everything closes at once."""

Passed = Literal["log", "stdout", "certificates"]
"""What comes beside a Refresh."""


class Message(msgspec.Struct, frozen=True, tag=True):
    """The base: the class name is the tag on the wire."""


# ------------------------------------------------------------------------------------------------ child to master


class Ready(Message, frozen=True):
    """on_worker_start has returned and the listeners accept."""


class Words(Message, frozen=True):
    """Why this child is about to die, in its own words; kept for the exit table."""

    reason: str
    """"import failed", "uncaught exception", ..."""
    text: str
    """A traceback, or a sentence."""


class Draining(Message, frozen=True):
    """This child accepts no more and ends by itself: asked to, told by TERM, or by worker.stop()."""

    reason: str


class Recycle(Message, frozen=True):
    """A limit is reached: replace me when it suits ("requests limit", "memory limit")."""

    reason: str


class Status(Message, frozen=True):
    """The counters of one child, pushed once a second and when asked."""

    asked: int = 0
    """The Ask this answers, 0 for the regular one."""
    connections: int = 0
    outgoing: int = 0
    total_request: int = 0
    send_fail: int = 0
    exceptions: int = 0
    timers: int = 0
    accepted: int = 0
    loop_lag: float = 0.0
    """Seconds by which the last janitor sweep was late."""
    paused: bool = False
    """Not accepting for now: a limit or the descriptor reserve."""
    closed: dict[str, int] = {}
    """Connections ended, by CloseReason; refusals too."""
    note: str = ""
    """What is wrong with this process."""
    figures: dict[str, int] = {}
    """What its handler counts."""


class ConnectionRow(msgspec.Struct, frozen=True):
    """One line of `workermanctl connections` (features of Workerman's connection status)."""

    id: int
    transport: str
    protocol: str
    ipv4: bool
    ipv6: bool
    recv_queue: int
    send_queue: int
    bytes_read: int
    bytes_written: int
    status: str
    local: str
    remote: str
    direction: str = "in"


class Connections(Message, frozen=True):
    asked: int
    rows: list[ConnectionRow]


class Listen(Message, frozen=True):
    """worker.listen(): open this address, or hand me the socket that is open already."""

    request: int
    uri: str


class Unlisten(Message, frozen=True):
    uri: str


class Server(Message, frozen=True):
    """stop_server(), reload_server(), server_status()."""

    request: int
    verb: Literal["stop", "reload", "status"]


# ------------------------------------------------------------------------------------------------ master to child


class Stop(Message, frozen=True):
    how: StopHow
    deadline: float
    """Seconds from now; then the master kills."""
    reload: bool = False
    """on_worker_reload runs first."""


class Refresh(Message, frozen=True):
    """A reload that this child survives: fresh settings, then on_worker_reload."""

    worker: bytes
    """The new WorkerSpec in msgpack."""
    reopened: list[Passed] = []
    """What the descriptors beside this message are, in order."""


class Ask(Message, frozen=True):
    asked: int
    what: Literal["status", "connections"]


class Listening(Message, frozen=True):
    """The answer to Listen; the descriptor is beside it unless error says why not."""

    request: int
    uri: str
    error: str = ""


class Adopt(Message, frozen=True):
    """More sockets of an address this child listens on already (reuse_port, after a slot went away)."""

    uri: str


class ServerAnswer(Message, frozen=True):
    request: int
    answer: dict[str, Any] | None = None
    error: str = ""


class _InMemfd(Message, frozen=True):
    """The real message is in the last descriptor."""

    size: int


FromChild = Ready | Words | Draining | Recycle | Status | Connections | Listen | Unlisten | Server
ToChild = Stop | Refresh | Ask | Listening | Adopt | ServerAnswer
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(FromChild | ToChild | _InMemfd).decode


class LinkClosed(Exception):
    """The other end is gone."""


class Link:
    """One end of the pair. Process: either; thread: the one that runs the loop."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock

    @classmethod
    def pair(cls) -> tuple[Link, Link]:
        """(master's end, child's end)."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        return cls(ours), cls(theirs)

    def fileno(self) -> int:
        return self.sock.fileno()

    def close(self) -> None:
        self.sock.close()

    def send(self, message: Message, fds: list[int] | None = None) -> bool:
        """False when the link is full and the message was dropped. Raises LinkClosed when nobody reads any more."""
        data = _encode(message)
        passed = list(fds or ())
        with contextlib.ExitStack() as stack:
            if len(data) > MAX_INLINE:
                memfd = os.memfd_create("workermand-link", os.MFD_CLOEXEC)
                stack.callback(os.close, memfd)
                with open(memfd, "wb", closefd=False) as body:
                    body.write(data)
                passed.append(memfd)
                data = _encode(_InMemfd(len(data)))
            try:
                socket.send_fds(self.sock, [data], passed)
            except (BlockingIOError, InterruptedError):
                return False
            except OSError as error:
                raise LinkClosed(str(error)) from error
        return True

    def receive(self) -> list[tuple[Message, list[int]]]:
        """All that has arrived, each with its descriptors (the caller's to close). Raises LinkClosed at the end."""
        received: list[tuple[Message, list[int]]] = []
        while True:
            try:
                data, fds, _flags, _address = socket.recv_fds(self.sock, MAX_INLINE + 1024, MAX_FDS)
            except (BlockingIOError, InterruptedError):
                return received
            except OSError as error:
                data, fds = b"", []
                if not received:
                    raise LinkClosed(str(error)) from error
            if not data:
                if received:
                    return received
                raise LinkClosed("end of file")
            for fd in fds:
                os.set_inheritable(fd, False)
            try:
                received.append(_unpack(data, fds))
            except (msgspec.MsgspecError, OSError, IndexError):  # IndexError: the memfd is not there
                for fd in fds:
                    with contextlib.suppress(OSError):
                        os.close(fd)


def _unpack(data: bytes, fds: list[int]) -> tuple[Message, list[int]]:
    message: Message = _decode(data)
    if not isinstance(message, _InMemfd):
        return message, fds
    memfd = fds.pop()
    try:
        return _decode(os.pread(memfd, min(message.size, MAX_MESSAGE), 0)), fds
    finally:
        os.close(memfd)
