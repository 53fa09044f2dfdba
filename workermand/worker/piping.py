"""pipe(): what one connection receives, another sends; a proxy is two of them, one for each direction.

Memory stays flat: the one is not read while the other's buffer is full. An end of input is passed on as what it is: the
other's output ends behind all that is unsent, and the way back stays open, until that has ended too. Where a protocol
has words of its own for an end (a Close frame, an answer that is owed), or where there is no way back, it ends both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from workermand.protocols.base import Protocol
from workermand.worker import intake
from workermand.worker.status import CONNECTING, ESTABLISHED

if TYPE_CHECKING:
    from workermand.worker.connection import Connection
    from workermand.worker.wire import Wire


def pipe(source: Connection, to: Connection, raw: bool) -> None:
    """See Connection.pipe."""

    def on_close(source: Connection) -> None:
        source.piped_to = None
        if (
            to.wire.linger is None
        ):  # else end() has been called, in an on_error say, and its last words are on their way
            to.close()

    source.piped_to = to
    source.on_message = lambda _source, data: to.send(data, raw)
    source.on_close = on_close
    to.on_buffer_full = lambda _to: source.pause_recv()
    to.on_buffer_drain = lambda _to: source.resume_recv()


def pass_on_end(wire: Wire) -> bool:
    """The input is over, and all of it sent on: whether that ends the other's output alone."""
    to = wire.connection.piped_to
    if to is None or to.piped_to is not wire.connection:
        return False
    other = to.wire
    if other.status not in (ESTABLISHED, CONNECTING) or other.feed is intake.ignore or other.sending is not None:
        return False
    if not (_ends_silently(wire.protocol) and _ends_silently(other.protocol)):
        return False
    wire.ending = None
    wire.look_for_end()
    other.end_output()
    return True


def _ends_silently(protocol: Protocol) -> bool:
    return type(protocol).farewell is Protocol.farewell and not protocol.has_deadlines
