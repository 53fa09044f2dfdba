"""increment() for engines whose server does not do it: the rules of table.py, for one value. Pure."""

from __future__ import annotations

from typing import Final

import msgspec

from workermand.services.globaldata.engine import GlobalDataError

_decode: Final = msgspec.msgpack.Decoder(int | float).decode
_encode: Final = msgspec.msgpack.Encoder().encode


def plus(key: str, value: bytes, step: int | float) -> tuple[int | float, bytes]:
    """The sum, and what to store. Raises GlobalDataError."""
    try:
        number: int | float = _decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise GlobalDataError(f"increment: {key} holds no number; set it to one first") from None
    number += step
    try:
        return number, _encode(number)
    except OverflowError:
        raise GlobalDataError(f"increment: {key} would have more than 64 bits") from None
