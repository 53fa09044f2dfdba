"""PHP's serialize() and unserialize() for what is plain data: null, booleans, integers, floats, strings and arrays.

Both are bounded and refuse everything that is more than data: an object, a closure, an enum or a reference from the
network is what object injection is made of. What is refused is a SerializeError that names what and where. Pure.

    PHP                      Python
    null true 1 1.5          None True 1 1.5          integers of 64 bits, as PHP has them
    "text"                   str, or bytes when it is no UTF-8
    [a, b]                   list: an array whose keys are 0, 1, 2 ... in this order; an empty one too
    ["k" => a, 7 => b]       dict, in its order; PHP makes an integer of a key like "7", so that here it is 7

serialize() writes byte for byte what PHP does with its default serialize_precision, because a PHP client may compare
checksums of it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Final

from workermand import WorkermandError

DEPTH: Final = 32
"""Arrays in arrays; PHP's unserialize_max_depth is 4096."""
SIZE: Final = 10 * 1024 * 1024
"""Bytes of a serialized value; Workerman's maxPackageSize."""
SMALLEST, GREATEST = -(2**63), 2**63 - 1
"""PHP_INT_MIN, PHP_INT_MAX."""
PLAIN_DIGITS: Final = 17
"""Numbers with more digits before the point are written with an exponent."""

NUMBER: Final = re.compile(rb"-?[0-9]{1,19}")
KEY: Final = re.compile("0|-?[1-9][0-9]{0,18}")
"""Strings that are integers when they are keys."""
FLOAT: Final = re.compile(rb"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,5})?")
NAMED_FLOATS: Final = {b"NAN": math.nan, b"INF": math.inf, b"-INF": -math.inf}
LONGEST_FLOAT: Final = 1100
"""Bytes: a double with all of its digits has fewer."""
REFUSED: Final = {
    b"O": "an object",
    b"C": "an object",
    b"E": "an enum",
    b"R": "a reference",
    b"r": "a reference",
    b"S": "an escaped string",
}


class SerializeError(WorkermandError):
    """Bytes that are no such value, or a value that PHP has not, or must not have from us."""


# ---------------------------------------------------------------------------------------------------- to PHP


def serialize(value: Any, *, depth: int = DEPTH, size: int = SIZE) -> bytes:
    """Raises SerializeError for what is no plain data, for arrays deeper than ``depth``, for more than ``size`` bytes.

    Lists, tuples and mappings become arrays. A key may be str, int or bytes, and "7" and 7 are one key.
    """
    parts: list[bytes] = []
    _write(value, parts, depth)
    serialized = b"".join(parts)
    if len(serialized) > size:
        raise SerializeError(f"{len(serialized)} bytes when serialized: the limit is {size}")
    return serialized


def _write(value: Any, parts: list[bytes], depth: int) -> None:
    match value:
        case None:
            parts.append(b"N;")
        case bool():
            parts.append(b"b:1;" if value else b"b:0;")
        case int():
            parts.append(_integer(value))
        case float():
            parts.append(b"d:%s;" % _digits(value).encode())
        case str() | bytes() | bytearray() | memoryview():
            parts.append(_string(value))
        case list() | tuple():
            _write_array(enumerate(value), len(value), parts, depth)
        case Mapping():
            keys = dict(zip(map(_key, value), value.values(), strict=True))
            if len(keys) != len(value):
                raise SerializeError('two keys of one mapping are one key in PHP, as 7 and "7" are')
            _write_array(keys.items(), len(keys), parts, depth)
        case _:
            raise SerializeError(f"PHP clients get null, booleans, numbers, strings and arrays, not {_kind(value)}")


def _write_array(pairs: Any, length: int, parts: list[bytes], depth: int) -> None:
    if depth <= 0:
        raise SerializeError("arrays are nested too deep")
    parts.append(b"a:%d:{" % length)
    for key, value in pairs:
        parts.append(b"i:%d;" % key if isinstance(key, int) else _string(key))
        _write(value, parts, depth - 1)
    parts.append(b"}")


def _key(key: Any) -> int | str | bytes:
    """As PHP keeps it."""
    if isinstance(key, bytes):
        try:
            return _key(key.decode())
        except UnicodeDecodeError:
            return key
    if isinstance(key, str):
        if KEY.fullmatch(key) and SMALLEST <= int(key) <= GREATEST:
            return int(key)
        return key
    if isinstance(key, int) and not isinstance(key, bool):
        _integer(key)
        return int(key)
    raise SerializeError(f"keys of PHP's arrays are strings and integers, not {_kind(key)}")


def _integer(value: int) -> bytes:
    if not SMALLEST <= value <= GREATEST:
        raise SerializeError("an integer that needs more than PHP's 64 bits")
    return b"i:%d;" % value


def _string(value: str | bytes | bytearray | memoryview) -> bytes:
    """Lone surrogates that stand for broken UTF-8 become the bytes they came from."""
    try:
        plain = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else bytes(value)
    except UnicodeEncodeError:
        raise SerializeError("a string with half of a surrogate pair") from None
    return b's:%d:"%s";' % (len(plain), plain)


def _digits(number: float) -> str:
    """The shortest digits that give the number back, as PHP writes them: "1", "0.0001", "1.0E-5", "1.5E+25"."""
    if not math.isfinite(number):
        return "NAN" if math.isnan(number) else "INF" if number > 0 else "-INF"
    mantissa, _, exponent = repr(abs(number)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    point = len(whole) + int(exponent or 0) - (len(whole + fraction) - len(digits))
    """How many of the digits stand before the point."""
    digits = digits.rstrip("0")
    sign = "-" if math.copysign(1.0, number) < 0 else ""
    if not digits:
        return f"{sign}0"
    if not -3 <= point <= PLAIN_DIGITS:
        return f"{sign}{digits[0]}.{digits[1:] or '0'}E{point - 1:+d}"
    if point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    before, after = digits[:point].ljust(point, "0"), digits[point:]
    return f"{sign}{before}.{after}" if after else f"{sign}{before}"


def _kind(value: Any) -> str:
    return type(value).__name__


# ---------------------------------------------------------------------------------------------------- from PHP


def unserialize(data: bytes, *, depth: int = DEPTH, size: int = SIZE) -> Any:
    """One value, and nothing behind it. Raises SerializeError, also for what PHP would have taken with a notice."""
    if len(data) > size:
        raise SerializeError(f"{len(data)} bytes: the limit is {size}")
    reader = _Reader(data)
    value = reader.value(depth)
    if reader.place != len(data):
        raise reader.error("something stands behind the value")
    return value


class _Reader:
    __slots__ = ("_data", "place")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.place = 0

    def value(self, depth: int) -> Any:
        kind = self._data[self.place : self.place + 2]
        self.place += 2
        match kind:
            case b"s:":
                return self._string()
            case b"i:":
                return self._integer(b";")
            case b"a:":
                return self._array(depth)
            case b"b:":
                return self._boolean()
            case b"d:":
                return self._float()
            case b"N;":
                return None
        self.place -= 2
        if kind[:1] in REFUSED and kind[1:] == b":":
            raise self.error(f"{REFUSED[kind[:1]]}: only scalars and arrays are taken")
        raise self.error("no value begins here" if kind else "the value is cut off")

    def error(self, what: str) -> SerializeError:
        return SerializeError(f"byte {self.place}: {what}")

    def _until(self, end: bytes, longest: int) -> bytes:
        stop = self._data.find(end, self.place, self.place + longest + 1)
        if stop < 0:
            raise self.error(f'no "{end.decode()}" where a number ends')
        number = self._data[self.place : stop]
        self.place = stop + 1
        return number

    def _integer(self, end: bytes) -> int:
        start = self.place
        text = self._until(end, 20)
        number = int(text) if NUMBER.fullmatch(text) else None
        if number is None or not SMALLEST <= number <= GREATEST:
            self.place = start
            raise self.error("no integer of 64 bits")
        return number

    def _length(self) -> int:
        start = self.place
        length = self._integer(b":")
        # An element of an array takes more than a byte as well: no memory is asked for on somebody's word.
        if not 0 <= length <= len(self._data) - self.place:
            self.place = start
            raise self.error("a length that reaches beyond the end")
        return length

    def _take(self, expected: bytes) -> None:
        if not self._data.startswith(expected, self.place):
            raise self.error(f"expected {expected.decode()}")
        self.place += len(expected)

    def _boolean(self) -> bool:
        if (text := self._until(b";", 1)) not in (b"0", b"1"):
            self.place -= len(text) + 1
            raise self.error("no boolean")
        return text == b"1"

    def _float(self) -> float:
        text = self._until(b";", LONGEST_FLOAT)
        if text in NAMED_FLOATS:
            return NAMED_FLOATS[text]
        if not FLOAT.fullmatch(text):
            self.place -= len(text) + 1
            raise self.error("no float")
        return float(text)

    def _string(self) -> str | bytes:
        length = self._length()
        self._take(b'"')
        plain = self._data[self.place : self.place + length]
        self.place += length
        self._take(b'";')
        try:
            return plain.decode()
        except UnicodeDecodeError:
            return plain

    def _array(self, depth: int) -> list[Any] | dict[Any, Any]:
        if depth <= 0:
            raise self.error("arrays are nested too deep")
        length = self._length()
        self._take(b"{")
        array: dict[Any, Any] = {}
        for _ in range(length):
            start = self.place
            if self._data[start : start + 1] not in (b"i", b"s"):
                raise self.error("no key of an array begins here")
            key = _key(self.value(0))
            if key in array:
                self.place = start
                raise self.error("a key that the array has already")
            array[key] = self.value(depth - 1)
        self._take(b"}")
        return list(array.values()) if list(array) == list(range(length)) else array
