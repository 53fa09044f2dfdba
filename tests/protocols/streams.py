"""What the tests of websocket share: frames as a client writes them, and all that a stream of them comes to."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Any

from hypothesis import strategies as st

from workermand.errors import CloseReason, EndOfInput, ProtocolError
from workermand.protocols.deflate import Terms
from workermand.protocols.websocket import (
    CloseCode,
    WebSocket,
)
from workermand.protocols.wsframe import frame

TERMS = Terms(12, True, 15, True, 6, 5)
FORGETFUL = Terms(12, False, 15, False, 6, 5)
SIZES = [0, 1, 125, 126, 127, 65535, 65536]


def sent(first: int, payload: bytes = b"") -> bytes:
    """A frame of a client's."""
    return frame(first, payload, masked=True)


def head(first: int, size: int, as_bytes: int) -> bytes:
    """The header of a client's frame, its length in 2 or 8 bytes."""
    marker = 126 if as_bytes == 2 else 127
    return bytes((first, 0x80 | marker)) + size.to_bytes(as_bytes) + b"mask"


def bomb(fragments: int = 1) -> bytes:
    """A client's message of 1 MiB that stands for 1 GiB."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -12)
    packed = (compressor.compress(bytes(16 << 20)) + compressor.flush(zlib.Z_FULL_FLUSH)) * 64
    size = -(-len(packed) // fragments)
    pieces = [packed[at : at + size] for at in range(0, len(packed), size)]
    firsts = [0x42, *[0x00] * (len(pieces) - 1)]
    firsts[-1] |= 0x80
    return b"".join(map(sent, firsts, pieces))


Outcome = tuple[list[Any], str, CloseReason | None, bytes, bytes]


def outcome(socket: WebSocket, pieces: Iterable[bytes]) -> Outcome:
    """Messages, kind of end, reason, farewell, replies."""
    messages: list[Any] = []
    replies = b""
    for piece in pieces:
        try:
            messages += socket.feed(piece)
        except EndOfInput as end:
            kind = "violation" if isinstance(end, ProtocolError) else "end"
            replies += socket.take_replies()
            return [*messages, *end.messages], kind, end.close_reason, end.farewell, replies
        replies += socket.take_replies()
    return messages, "", None, b"", replies


def cuts(wire: bytes) -> Iterable[list[bytes]]:
    yield [wire]
    step = max(1, len(wire) // 300)
    yield [wire[at : at + step] for at in range(0, len(wire), step)]
    for at in range(1, len(wire), step):
        yield [wire[:at], wire[at:]]


def every_cut(wire: bytes, **options: Any) -> Outcome:
    """What it comes to, the same however it is cut."""
    results = [outcome(WebSocket(**options), pieces) for pieces in cuts(wire)]
    for result in results[1:]:
        assert result == results[0]
    return results[0]


def messages_of(wire: bytes, **options: Any) -> list[Any]:
    messages, kind, *_ = every_cut(wire, **options)
    assert kind == ""
    return messages


def violation(wire: bytes, **options: Any) -> int:
    """The code of the Close that answers it; alone, behind good messages, and with more behind it."""
    good = sent(0x81, b"good") + sent(0x82, b"\xff")
    messages, kind, reason, farewell, _ = every_cut(wire, **options)
    assert (messages, kind) == ([], "violation")
    messages, *same = every_cut(good + wire + good, **options)
    assert (messages, *same[:3]) == (["good", b"\xff"], kind, reason, farewell)
    code = int.from_bytes(farewell[2:4])
    assert farewell[0] == 0x88
    assert (reason is CloseReason.PACKAGE_TOO_BIG) == (code == CloseCode.TOO_BIG)
    return code


def cut_at(wire: bytes, data: st.DataObject) -> list[bytes]:
    points = sorted(data.draw(st.sets(st.integers(0, len(wire)), max_size=8)))
    return [wire[start:end] for start, end in zip([0, *points], [*points, len(wire)], strict=True)]
