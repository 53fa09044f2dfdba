"""A message of a link: one frame, in it one MessagePack array ``[op, number, ...]``.

The frame is that of the ``frame`` protocol (Workerman's): four bytes, big endian, the length of the whole, themselves
included. ``number`` is the request's, and stands in its answer; 0 where none is expected. Ops below 16 are the link's
own, the same for every service; a service numbers its own from 16 on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from workermand.services.links.errors import ServiceError

VERSION: Final = 1
"""Said in HELLO and CHALLENGE; two that differ do not speak."""

OK: Final = 0
"""[OK, number, result]"""
FAIL: Final = 1
"""[FAIL, number, words]; number 0: the link is refused, and closed behind it."""
HELLO: Final = 2
"""[HELLO, 0, version, service]: the client's first."""
CHALLENGE: Final = 3
"""[CHALLENGE, 0, version, nonce or empty bytes]: no nonce, no secret."""
PROOF: Final = 4
"""[PROOF, 0, nonce, hmac]"""
WELCOME: Final = 5
"""[WELCOME, 0, hmac or empty bytes]: from here on the link is the service's."""
PING: Final = 6
"""[PING, 0], either way; [PONG, 0] answers."""
PONG: Final = 7
FIRST: Final = 16
"""The first op of a service's own."""

HEAD: Final = 4
"""Bytes of a frame's length."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Any]).decode


def body(message: Sequence[Any]) -> bytes:
    """What connection.send() takes: the frame protocol puts the length before it."""
    return _encode(message)


def pack(message: Sequence[Any]) -> bytes:
    """The whole frame, for send(raw=True) and for sockets."""
    packed = _encode(message)
    return (len(packed) + HEAD).to_bytes(HEAD, "big") + packed


def unpack(packed: bytes) -> list[Any]:
    """The message in a frame. Raises ServiceError for what is none."""
    try:
        message = _decode(packed)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ServiceError(f"no message of ours: {error}") from None
    if len(message) < 2 or type(message[0]) is not int or type(message[1]) is not int:
        raise ServiceError("no message of ours: it does not begin with an op and a number")
    return message
