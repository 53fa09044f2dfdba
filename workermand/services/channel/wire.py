"""What clients and the server of a channel say to each other over a link; and what is inside of an envelope.

An envelope is what a user's data becomes: MessagePack of ``[data]``, or of ``[data, reply event, request]`` when an
answer is wanted. The server never opens one. Each message is an array that begins with its op, as links.wire has it;
here are the ops, and for each the types of what a client sends: nothing else gets any further than decode().
"""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

import msgspec

from workermand.services.links import wire
from workermand.services.links.errors import ServiceError

# ----------------------------------------------------------------------------------------------- what clients send

PUBLISH: Final = 16
"""[PUBLISH, number, events, envelope, one]: confirmed by CONFIRMED; numbers grow by one, from 1 in every connection."""
SUBSCRIBE: Final = 17
"""[SUBSCRIBE, number, patterns] -> null"""
UNSUBSCRIBE: Final = 18
"""[UNSUBSCRIBE, number, patterns] -> null"""
ABOUT: Final = 19
"""[ABOUT, number] -> the names of the promises that this server keeps"""

ENQUEUE: Final = 24
"""[ENQUEUE, number, queues, envelope, delay] -> null, once it is safe"""
WATCH: Final = 25
"""[WATCH, number, queue, credit, deadline, retries, retry delay] -> null"""
UNWATCH: Final = 26
"""[UNWATCH, number, queue] -> null"""
RESERVE: Final = 27
"""[RESERVE, number, queue, deadline, wait] -> [queue, id, attempt, envelope], or null"""
ACKNOWLEDGE: Final = 28
"""[ACKNOWLEDGE, number, queue, id] -> whether it was still this client's"""
REFUSE: Final = 29
"""[REFUSE, number, queue, id, delay or null, dead] -> likewise"""
DEAD: Final = 30
"""[DEAD, number, queue, limit] -> a list of [queue, id, attempt, envelope]"""
REPLAY: Final = 31
"""[REPLAY, number, queue, ids or null] -> how many"""

# ----------------------------------------------------------------------------------------------- what the server sends

EVENT: Final = 20
"""[EVENT, 0, event, envelope]"""
CONFIRMED: Final = 21
"""[CONFIRMED, number, counts]: the publishes up to this number, the last one's, and how many subscribers took each."""
DROPPED: Final = 22
"""[DROPPED, 0, count]: this client was too slow for so many events."""
ITEM: Final = 23
"""[ITEM, 0, queue, id, attempt, envelope]"""

_SHAPES: Final[dict[int, Any]] = {
    PUBLISH: tuple[int, int, list[str], bytes, bool],
    SUBSCRIBE: tuple[int, int, list[str]],
    UNSUBSCRIBE: tuple[int, int, list[str]],
    ABOUT: tuple[int, int],
    ENQUEUE: tuple[int, int, list[str], bytes, float],
    WATCH: tuple[int, int, str, int, float, int, float],
    UNWATCH: tuple[int, int, str],
    RESERVE: tuple[int, int, str, float, float],
    ACKNOWLEDGE: tuple[int, int, str, str],
    REFUSE: tuple[int, int, str, str, float | None, bool],
    DEAD: tuple[int, int, str, int],
    REPLAY: tuple[int, int, str, list[str] | None],
}
_DECODE: Final = {op: msgspec.msgpack.Decoder(shape).decode for op, shape in _SHAPES.items()}

decode_publish: Final = msgspec.msgpack.Decoder(tuple[int, int, list[str], bytes, bool]).decode
"""The one of them that is to be quick. Raises ValueError."""
PUBLISHED: Final = bytes([0x95, PUBLISH])
"""What its body begins with."""

_encode = msgspec.msgpack.Encoder().encode


def op_of(body: bytes) -> int:
    """At a glance: all ops are below 128, and every array has fewer than 16 elements. -1 for what cannot be ours."""
    return body[1] if len(body) > 1 and body[0] & 0xF0 == 0x90 else -1


def decode(body: bytes) -> tuple[Any, ...]:
    """A client's message, its types checked. Raises ServiceError."""
    op = op_of(body)
    try:
        message: tuple[Any, ...] = _DECODE[op](body)
    except KeyError:
        raise ServiceError(f"no message of a channel: op {op}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ServiceError(f"no message of a channel: op {op}: {error}") from None
    return message


def event_frame(event: str, envelope: bytes) -> bytes:
    """The whole frame of an EVENT: made once, sent to all."""
    packed = _encode((EVENT, 0, event, envelope))
    return (len(packed) + wire.HEAD).to_bytes(wire.HEAD, "big") + packed


# ----------------------------------------------------------------------------------------------- names

LONGEST_NAME: Final = 255
"""Bytes in UTF-8; NATS and Redis have no such limit, AMQP's short strings have this one."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def why_not(name: object) -> str:
    """What is wrong with the name of an event, a pattern or a queue; "" for a good one."""
    if not isinstance(name, str):
        return f"a name must be a str, not {type(name).__name__}"
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        return f"{name!r} cannot be written in UTF-8"
    if not 0 < length <= LONGEST_NAME:
        return f"a name has 1 to {LONGEST_NAME} bytes, this one {length}"
    return f"{name!r} has a control character" if _CONTROL.search(name) else ""


# ----------------------------------------------------------------------------------------------- envelopes


class Envelope(NamedTuple):
    """What was in one."""

    data: Any
    reply_event: str = ""
    """Where the answer is published; "": none is wanted."""
    request: int = 0


def pack_envelope(data: Any, reply_event: str = "", request: int = 0) -> bytes:
    """``data``: any value of JSON, bytes and times too. Raises TypeError for what MessagePack has no form for."""
    try:
        return _encode([data, reply_event, request] if reply_event else [data])
    except (TypeError, OverflowError, RecursionError, UnicodeEncodeError) as error:
        raise TypeError(f"this cannot be sent, {error}: send str, bytes, numbers, None, lists and dicts") from None


_open = msgspec.msgpack.Decoder(list[Any]).decode


def unpack_envelope(envelope: bytes) -> Envelope:
    """Raises ServiceError for what pack_envelope has not made."""
    try:
        content = _open(envelope)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ServiceError(f"no envelope of ours: {error}") from None
    match content:
        case [data]:
            return Envelope(data)
        case [data, str(reply_event), int(request)]:
            return Envelope(data, reply_event, request)
    raise ServiceError(f"no envelope of ours: an array of {len(content)}")
