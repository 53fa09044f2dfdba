"""What can go wrong, why connections and processes end, and the exit codes: the vocabulary of every layer.

    WorkermandError
    ├── ConfigError      the operator's TOML or command line: where it stands, what to do about it
    ├── LoadError        the handler module: missing, broken, wrong callback
    ├── EndOfInput       a protocol wants no more bytes: an orderly end, or
    │   └── ProtocolError    the peer broke it; the good messages before the violation are kept
    ├── ConnectionLost   a ConnectionError: the client has gone in the middle of what a handler waits for
    ├── ControlError     a request to the master that cannot be met
    └── ConnectError     an outgoing connection that did not come about: what failed, and after how long

Any other exception that leaves this package is a bug of ours.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any, ClassVar


class CloseReason(enum.StrEnum):
    """Why a connection ended; counted per worker, shown in status and as ``connection.close_reason``."""

    PEER_CLOSED = "closed by peer"
    PEER_RESET = "reset by peer"
    CLOSED = "closed by handler"
    DESTROYED = "destroyed by handler"
    HANDLER_ERROR = "exception in handler"
    PROTOCOL_ERROR = "protocol violation"
    PACKAGE_TOO_BIG = "package over the limit"
    WEBSOCKET_CLOSED = "closed by the client's close frame"
    UPGRADE_REFUSED = "upgrade to WebSocket refused"
    IDLE = "idle timeout"
    HEADER_TIMEOUT = "header timeout"
    BODY_TIMEOUT = "body timeout"
    PING_TIMEOUT = "ping timeout"
    TLS_FAILED = "TLS handshake failed"
    PROXY_FAILED = "PROXY header missing or malformed"
    PROXY_REFUSED = "PROXY header not allowed from here"
    WRITE_STALL = "write stall"
    BUFFER_FULL = "answer dropped: send buffer full"
    WRITE_FAILED = "write failed"
    FILE_FAILED = "file failed while being sent"
    RELOADED = "reloaded"
    DRAINED = "drained"
    DRAIN_DEADLINE = "drain deadline"
    STOPPED = "fast stop"
    REFUSED_PER_IP = "refused: limit per address"
    CONNECT_FAILED = "connect failed"


class WorkermandError(Exception):
    """The root of every error this package raises on purpose."""


class ConfigError(WorkermandError):
    """A setting that cannot be used.

    ``where`` names file and key path (``workers.toml: worker.echo.cuont``), ``what`` says what was found and what is
    allowed, ``hint`` how to mend it. ``str()`` joins the three on one line.
    """

    def __init__(self, where: str, what: str, hint: str = "") -> None:
        super().__init__(where, what, hint)
        self.where = where
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.where, self.what))) + (f"; {self.hint}" if self.hint else "")


class LoadError(WorkermandError):
    """A handler or a protocol class that cannot be loaded; the message is for the handler's author."""


class EndOfInput(WorkermandError):
    """A protocol is done with its input: the connection ends with ``reason`` once all is answered.

    ``messages`` are the complete, good messages that stood before the end in the same bytes: they are delivered first,
    so that it does not matter how the network cut the stream. ``farewell`` are the bytes that go out after the answers
    to them, just before the connection ends.
    """

    default: ClassVar[CloseReason] = CloseReason.PEER_CLOSED

    def __init__(
        self,
        reason: str,
        messages: Sequence[Any] = (),
        *,
        close_reason: CloseReason | None = None,
        farewell: bytes = b"",
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.messages = messages
        self.close_reason = close_reason or self.default
        self.farewell = farewell


class ProtocolError(EndOfInput):
    """The peer broke the protocol."""

    default = CloseReason.PROTOCOL_ERROR


class ConnectionLost(WorkermandError, ConnectionError):
    """The connection has ended, or the client's half of it, while a handler waits for it: for the rest of a request's
    body, or for the client to take what is unsent. A handler that does not catch it ends without further words."""


class ControlError(WorkermandError):
    """A control request that failed; ``code`` is the exit code of workermanctl (see ExitCode's neighbours in ctl)."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


class ConnectError(WorkermandError):
    """An outgoing connection that did not come about; the text says why."""


class SendError(enum.IntEnum):
    """The ``code`` that on_error gets (Workerman's numbers)."""

    CONNECT_FAIL = 1
    SEND_FAIL = 2


class ExitCode(enum.IntEnum):
    """Exit codes of the daemon and of its children: a contract with systemd and with the master."""

    OK = 0
    FAILED = 1
    LOAD_FAILED = 3
    """The handler could not be imported, or on_worker_start raised."""
    PRIVILEGES = 77
    """The worker's user or group could not be taken on (EX_NOPERM)."""
    CONFIG = 78
    """The configuration cannot be used (EX_CONFIG): systemd does not restart on it."""
    CRASHED = 250
    """An exception that nothing of ours caught (Workerman's number)."""
