"""The states of a connection: Workerman's names and numbers. wire.py moves from one to the next, never back."""

from __future__ import annotations

import enum

from workermand.errors import CloseReason


class ConnectionStatus(enum.IntEnum):
    INITIAL = 0
    CONNECTING = 1
    """Outgoing connections only."""
    ESTABLISHED = 2
    ENDING = 4
    """end(): what is unsent is on its way, or the peer's end is awaited; what still comes in is discarded."""
    CLOSING = 8
    """close(): what is unsent is on its way, nothing is read."""
    CLOSED = 16
    """on_close has been called, or is at work."""


INITIAL = ConnectionStatus.INITIAL
CONNECTING = ConnectionStatus.CONNECTING
ESTABLISHED = ConnectionStatus.ESTABLISHED
ENDING = ConnectionStatus.ENDING
CLOSING = ConnectionStatus.CLOSING
CLOSED = ConnectionStatus.CLOSED


def reason_of(error: Exception | None) -> CloseReason:
    """Of an end that we did not ask for."""
    if error is None:
        return CloseReason.PEER_CLOSED
    if isinstance(error, BrokenPipeError):
        return CloseReason.WRITE_FAILED
    return CloseReason.PEER_RESET if isinstance(error, OSError) else CloseReason.HANDLER_ERROR
