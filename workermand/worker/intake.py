"""What a wire does with its input when it is not the plain case: functions on Wire, called by it and by Connection.

The plain case stands in Wire.data_received and pays for nothing here. What is not plain takes the place of ``feed`` or
``deliver``, so that no message has to look at a flag:

    feed      the protocol's own; feed_by_steps (a protocol that answers by itself, or reads one message at a time);
              ignore (the input is over)
    deliver   the handler's on_message; the inbox (async); hold (paused, or the protocol was swapped in this turn);
              upgrade.receive (http that may become a WebSocket); discard (nobody listens)
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from workermand.errors import EndOfInput, ProtocolError
from workermand.protocols.base import Protocol
from workermand.worker import upgrade
from workermand.worker.status import CLOSED, ESTABLISHED

if TYPE_CHECKING:
    from workermand.worker.connection import Connection
    from workermand.worker.wire import Wire

logger = logging.getLogger(__name__)


# ---------------------------------------------------------------------------------------------------- deliver


def route(wire: Wire) -> None:
    """Decides where messages go. To be called when anything changes that it looks at."""
    wire.deliver = _destination(wire)
    if wire.protocol.upgrades and wire.status is ESTABLISHED and wire.deliver is not hold:
        wire.deliver = upgrade.receive


def _destination(wire: Wire) -> Callable[[Connection, Any], object]:
    callbacks = wire.connection.callbacks
    if wire.status is not ESTABLISHED or callbacks.on_message is None:
        return discard
    if wire.inbox is not None:
        wire.inbox.use(callbacks)
        return wire.inbox.put
    if wire.paused or wire.former is not None:
        return hold
    if "on_message" in callbacks.asynchronous or wire.protocol.around is not None:
        return put_first
    return callbacks.on_message


def pass_on(connection: Connection, message: Any) -> None:
    """What an upgrade has looked at, and was none."""
    _destination(connection.wire)(connection, message)


def discard(connection: Connection, message: Any) -> None:
    """``deliver`` to nobody."""


def hold(connection: Connection, message: Any) -> None:
    wire = connection.wire
    wire.held = wire.held or []
    wire.held.append(message)


def put_first(connection: Connection, message: Any) -> None:
    """The inbox is made when there is something to put into it."""
    connection.wire.open_inbox().put(connection, message)


def deliver_all(wire: Wire, messages: Sequence[Any]) -> None:
    """As data_received does it, in a turn that runs already."""
    wire.stats.total_request += len(messages)
    hand_over(wire, messages)


def hand_over(wire: Wire, messages: Sequence[Any]) -> None:
    try:
        for message in messages:
            wire.deliver(wire.connection, message)
    except BaseException as error:
        wire.failed("on_message", error)


def greet(wire: Wire) -> None:
    """The transport is there."""
    callbacks = wire.connection.callbacks
    if callbacks.on_connect is None:
        return
    if "on_connect" in callbacks.asynchronous:
        wire.open_inbox().add("on_connect", callbacks.on_connect, wire.connection)
        return
    wire.turn(wire.fire, "on_connect")
    if wire.paused:  # uvloop begins to read when connection_made returns
        wire.worker.loop.call_soon(regulate, wire)


# ---------------------------------------------------------------------------------------------------- pause and resume


def pause(wire: Wire) -> None:
    if wire.status is ESTABLISHED:
        if wire.sending is not None:
            wire.sending.resumes = False
        wire.paused = True
        route(wire)
        regulate(wire)


def resume(wire: Wire) -> None:
    if not wire.paused:
        return
    if wire.sending is not None:
        wire.sending.resumes = True
        return
    wire.paused = False
    route(wire)
    regulate(wire)
    if wire.inbox is not None:
        wire.inbox.wake()
    wire.turn(_deliver_held, wire)


def _deliver_held(wire: Wire) -> None:
    held, wire.held = wire.held or [], None
    hand_over(wire, held)
    if wire.protocol.stepwise:
        feed(wire, b"")


def regulate(wire: Wire) -> None:
    """Reads, or does not, as the handler and the inbox would have it."""
    if wire.status is not ESTABLISHED or wire.feed is ignore:
        return
    if is_held(wire):
        wire.transport.pause_reading()
    else:
        wire.transport.resume_reading()


def is_held(wire: Wire) -> bool:
    """It is not to be read at present. A handler that reads a message while it comes is not kept from that by those
    behind it."""
    if wire.paused:
        return True
    wants_more = wire.protocol.wants_more
    return not wants_more if wants_more is not None else wire.inbox is not None and wire.inbox.is_full


def idle(wire: Wire) -> bool:
    """The inbox has nothing left to do. True: it is not needed any more."""
    if wire.status is CLOSED:
        return True
    regulate(wire)
    if wire.protocol.stepwise:
        feed(wire, b"")
    if wire.epilogue is not None:
        wire.epilogue(b"")
    is_async = "on_message" in wire.connection.callbacks.asynchronous or wire.protocol.around is not None
    return not (wire.is_waiting_for_handler or is_async)


def lose_inbox(wire: Wire) -> None:
    """Its task has ended: it was not needed any more, or somebody cancelled it."""
    wire.inbox = None
    if wire.status is CLOSED:
        wire.release()
    else:
        route(wire)


# ---------------------------------------------------------------------------------------------------- feed


def use(wire: Wire, protocol: Protocol) -> None:
    """``protocol`` reads and encodes from here on."""
    _write_with(wire, protocol)
    if protocol.wants_connection:
        protocol.connection = wire.connection  # type: ignore[attr-defined]
    if protocol.stepwise or protocol.replies:
        wire.feed = functools.partial(feed_by_steps, wire)
    else:
        wire.feed = protocol.feed
    if wire.inbox is not None:
        wire.inbox.bound_by(protocol)


def _write_with(wire: Wire, protocol: Protocol) -> None:
    wire.protocol = protocol
    wire.encode = protocol.encode
    wire.tail = protocol.tail


def ignore(data: bytes) -> Sequence[Any]:
    """``feed`` when the input is over."""
    return ()


def feed(wire: Wire, data: bytes) -> None:
    """Beside data_received: bytes that a protocol left over, and what a stepwise one has not parsed yet."""
    try:
        messages = wire.feed(data)
    except BaseException as error:
        messages = ended(wire, error)
    deliver_all(wire, messages)
    if wire.former is not None:
        _reparse(wire, data)


def feed_by_steps(wire: Wire, data: bytes) -> Sequence[Any]:
    """``feed`` for a protocol that answers by itself, or whose next message depends on what became of the last."""
    protocol = wire.protocol
    while True:
        try:
            messages = protocol.feed(data)
        finally:
            if protocol.replies and wire.out is not None and (reply := protocol.take_replies()):
                wire.bytes_written += len(reply)
                wire.out.append(reply)
        if not protocol.stepwise or not messages:
            return messages
        deliver_all(wire, messages)
        if wire.protocol is not protocol or wire.paused or wire.feed is ignore or wire.is_waiting_for_handler:
            return ()
        data = b""


def ended(wire: Wire, error: BaseException) -> Sequence[Any]:
    """The protocol takes no more: the good messages before the end. When they are answered, the connection ends."""
    end = error if isinstance(error, EndOfInput) else ProtocolError(str(error))
    if not isinstance(error, Exception):  # sys.exit() in a protocol of the user's
        wire.worker.failed(f"protocol {wire.protocol.name}", wire.connection, error)
    elif isinstance(end, ProtocolError):
        connection, cause = wire.connection, error.__cause__ if error is end else error
        peer = connection.get_remote_address()
        logger.info("connection %s from %s: %s", connection.id, peer, str(error), exc_info=cause)
    wire.transport.pause_reading()
    wire.end_input(end.close_reason, end.farewell)
    return tuple(end.messages)


# ---------------------------------------------------------------------------------------------------- swap


def swap(wire: Wire, protocol: Protocol) -> None:
    """Another protocol from here on: it is fed what the former one has not consumed, or not delivered yet."""
    former = wire.protocol
    if wire.feed is ignore:
        _write_with(wire, protocol)
        return
    use(wire, protocol)
    if wire.out is not None and wire.inbox is None:
        # The messages behind this one are still in the hands of data_received, or of hand_over.
        wire.former = wire.former or former
        wire.epilogue = functools.partial(_reparse, wire)
        route(wire)
        return
    undelivered, wire.held = wire.held or [], None
    if wire.inbox is not None:
        undelivered = wire.inbox.take_back()
    route(wire)
    wire.turn(_refeed, wire, former, undelivered, b"")


def _reparse(wire: Wire, data: bytes) -> None:
    """The end of a turn in which a handler has swapped the protocol; ``data`` is what the turn began with."""
    former, wire.former = wire.former, None
    undelivered, wire.held = wire.held or [], None
    wire.look_for_end()
    route(wire)
    if former is not None and wire.feed is not ignore:
        _refeed(wire, former, undelivered, data)
    if wire.epilogue is not None:
        wire.epilogue(b"")


def _refeed(wire: Wire, former: Protocol, undelivered: list[Any], data: bytes) -> None:
    wire.stats.total_request -= len(undelivered)
    if data or not undelivered:
        unread = former.detach(undelivered, data)
    else:  # only of messages of the last feed does a protocol know the very bytes
        unread = b"".join(map(former.encode, undelivered)) + former.detach()
    feed(wire, unread)
