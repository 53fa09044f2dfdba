"""One WebSocket frame on its way out, and what besides str and bytes can be in one: Ping, Pong, Close, and Prepared, a
message for many connections. The numbers of RFC 6455. websocket.py reads frames and decides which of them may come.
"""

from __future__ import annotations

import enum
import os
import struct
from typing import Any

import msgspec

try:  # the one function, without the megabyte of modules that websockets.frames stands on
    from websockets.speedups import apply_mask
except ImportError:
    from websockets.utils import apply_mask

__all__ = ["Close", "CloseCode", "Ping", "Pong", "Prepared", "apply_mask", "frame", "may_be_sent", "payload_of"]

TEXT, BINARY, CLOSE, PING, PONG = 0x81, 0x82, 0x88, 0x89, 0x8A
"""First bytes of whole frames: FIN and the opcode."""
FIN, RSV1, MASKED = 0x80, 0x40, 0x80
SHORT = 126
"""Bytes of payload from which on the length has bytes of its own."""
_pack_16, _pack_64 = struct.Struct(">BBH").pack, struct.Struct(">BBQ").pack
REGISTERED = frozenset({1000, 1001, 1002, 1003, *range(1007, 1015)})
"""Codes below 3000 that may stand in a Close frame."""


class CloseCode(enum.IntEnum):
    """What we say ourselves; applications have 3000 to 4999."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    NO_CODE = 1005
    """Never sent: stands for a Close frame without a code."""
    INVALID_DATA = 1007
    TOO_BIG = 1009
    INTERNAL_ERROR = 1011
    RESTART = 1012


class Ping(msgspec.Struct, frozen=True):
    """Up to 125 bytes, which come back in the Pong."""

    data: bytes = b""


class Pong(msgspec.Struct, frozen=True):
    """The answer to a Ping; an unasked one is a sign of life."""

    data: bytes = b""


class Close(msgspec.Struct, frozen=True):
    """The end, and why, which goes both ways."""

    code: int = CloseCode.NORMAL
    reason: str = ""

    @property
    def payload(self) -> bytes:
        """ValueError for a code that may not be sent, and for a reason of more than 123 bytes."""
        if self.code == CloseCode.NO_CODE and not self.reason:
            return b""
        if not may_be_sent(self.code):
            raise ValueError(f"{self.code:d} is no code for a Close frame: 1000-1003, 1007-1014 or 3000-4999")
        return struct.pack(">H", self.code) + self.reason.encode()


class Prepared:
    """A message for many connections: its frame is made once for all that send it in the same way."""

    __slots__ = ("frames", "payload", "text")

    def __init__(self, message: Any) -> None:
        self.payload, self.text = payload_of(message)
        self.frames: dict[tuple[int | None, int], bytes] = {}
        """By websocket_type and window bits (0: not deflated)."""


def frame(first: int, payload: bytes, masked: bool = False) -> bytes:
    """One frame, FIN, RSV and opcode as in ``first``."""
    size = len(payload)
    bit = MASKED if masked else 0
    if size < SHORT:
        head = bytes((first, bit | size))
    elif size < 0x10000:
        head = _pack_16(first, bit | SHORT, size)
    else:
        head = _pack_64(first, bit | 127, size)
    if not masked:
        return head + payload
    mask = os.urandom(4)
    return b"".join((head, mask, apply_mask(payload, mask)))


def payload_of(message: Any) -> tuple[bytes, bool]:
    """The bytes of a message, and whether they are text."""
    if isinstance(message, str):
        return message.encode(), True
    if isinstance(message, (bytes, bytearray, memoryview)):
        return bytes(message), False
    return msgspec.json.encode(message), True


def may_be_sent(code: int) -> bool:
    """In a Close frame (RFC 6455 7.4): registered, or of the ranges for libraries and applications."""
    return code in REGISTERED or 3000 <= code <= 4999
