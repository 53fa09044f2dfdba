"""What GlobalData's clients and its server say to each other: the requests of links/wire.py, numbered from 16. Pure.

Each request is a struct whose fields are those of its message, and knows the verb of the table that answers it. A
value is opaque bytes: MessagePack that the client has made and that it alone reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import msgspec

from workermand.services.globaldata.engine import GlobalDataError
from workermand.services.globaldata.table import Table

SERVICE: Final = "globaldata"
PORT: Final = 2207

GET, GET_MANY, SET, SET_MANY, ADD, CAS, CAS_VERSION, INCREMENT = range(16, 24)
DELETE, EXISTS, KEYS, EXPIRE, TTL, WATCH, UNWATCH = range(24, 31)
ABOUT: Final = 31
CHANGED: Final = 32
"""[CHANGED, 0, key, value or nil, version]: from the server, of a key that is watched."""

LOCKS: Final = "$lock."
"""What the keys of locks begin with: those that begin with "$" are the clients' own."""

PIECE: Final = 1024 * 1024
"""Bytes of keys and values that one request has, about: what limits.package has room for, and one step."""

Ttl = float | None
T = TypeVar("T")


class Request(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """``[op, number, ...]``."""

    number: int

    def run(self, table: Table, now: float) -> Any:
        """The result that the answer has. Raises GlobalDataError."""
        raise NotImplementedError


class Get(Request, tag=GET):
    """Its answer: [value, version], or nil."""

    key: str

    def run(self, table: Table, now: float) -> Any:
        return table.get(self.key, now)


class GetMany(Request, tag=GET_MANY):
    """Its answer: for each key what GET has; for the first ones only, when it would be too long."""

    keys: list[str]

    def run(self, table: Table, now: float) -> Any:
        return table.get_many(self.keys, now)


class Set(Request, tag=SET):
    """Its answer: the version."""

    key: str
    value: bytes
    ttl: Ttl = None

    def run(self, table: Table, now: float) -> Any:
        return table.set(self.key, self.value, self.ttl, now)


class SetMany(Request, tag=SET_MANY):
    """Its answer: nil."""

    pairs: list[tuple[str, bytes]]
    ttl: Ttl = None

    def run(self, table: Table, now: float) -> Any:
        return table.set_many(self.pairs, self.ttl, now)


class Add(Request, tag=ADD):
    """Its answer: the version, or 0."""

    key: str
    value: bytes
    ttl: Ttl = None

    def run(self, table: Table, now: float) -> Any:
        return table.add(self.key, self.value, self.ttl, now)


class Cas(Request, tag=CAS):
    """Its answer: the version, or 0."""

    key: str
    old: bytes
    new: bytes

    def run(self, table: Table, now: float) -> Any:
        version = table.cas(self.key, self.old, self.new, now)
        if not version and (entry := table.get(self.key, now)) is not None and _is_same(entry.value, self.old):
            version = table.cas_version(self.key, entry.version, self.new, now)
        return version


class CasVersion(Request, tag=CAS_VERSION):
    """Its answer: the version, or 0."""

    key: str
    version: int
    value: bytes

    def run(self, table: Table, now: float) -> Any:
        return table.cas_version(self.key, self.version, self.value, now)


class Increment(Request, tag=INCREMENT):
    """Its answer: the new value, or nil."""

    key: str
    step: int | float

    def run(self, table: Table, now: float) -> Any:
        return table.increment(self.key, self.step, now)


class Delete(Request, tag=DELETE):
    """Its answer: a bool."""

    key: str
    old: bytes | None = None

    def run(self, table: Table, now: float) -> Any:
        return table.delete(self.key, self.old, now)


class Exists(Request, tag=EXISTS):
    """Its answer: a bool."""

    key: str

    def run(self, table: Table, now: float) -> Any:
        return table.exists(self.key, now)


class Keys(Request, tag=KEYS):
    """Its answer: the first ones behind ``after``, sorted; none: there are no more."""

    prefix: str
    after: str = ""

    def run(self, table: Table, now: float) -> Any:
        return table.keys(self.prefix, self.after, now)


class Expire(Request, tag=EXPIRE):
    """Its answer: a bool."""

    key: str
    ttl: Ttl = None
    old: bytes | None = None

    def run(self, table: Table, now: float) -> Any:
        return table.expire(self.key, self.ttl, self.old, now)


class TimeToLive(Request, tag=TTL):
    """Its answer: seconds, infinity, or nil."""

    key: str

    def run(self, table: Table, now: float) -> Any:
        return table.ttl(self.key, now)


class Watch(Request, tag=WATCH):
    """Its answer: [value or nil, version], as in CHANGED, which comes from then on."""

    key: str

    def run(self, table: Table, now: float) -> Any:
        return table.get(self.key, now) or (None, table.version)


class Unwatch(Request, tag=UNWATCH):
    """Its answer: nil."""

    key: str

    def run(self, table: Table, now: float) -> Any:
        return None


class About(Request, tag=ABOUT):
    """Its answer: which of the promises the server has been set to keep; the server's own to say."""


_KINDS: Final[dict[Any, type[Request]]] = {
    kind.__struct_config__.tag: kind
    for kind in (
        Get, GetMany, Set, SetMany, Add, Cas, CasVersion, Increment, Delete, Exists, Keys, Expire, TimeToLive, Watch,
        Unwatch, About,
    )
}  # fmt: skip


def read(message: list[Any]) -> Request:
    """The request that a message is. Raises GlobalDataError."""
    try:
        # One kind, not a union of all: msgspec makes a union anew for each call, 16 us in place of one.
        request = msgspec.convert(message, _KINDS[message[0]], builtin_types=(bytes,))  # no base64
    except (msgspec.ValidationError, KeyError) as error:
        raise GlobalDataError(f"no request of GlobalData: {error}") from None
    return request


def piece(items: Sequence[T], size: Callable[[T], int]) -> Sequence[T]:
    """The first ones, as many as one request should have: of PIECE bytes by ``size``, but one at least."""
    room = PIECE
    for count, item in enumerate(items):
        room -= size(item) + 10
        if room < 0 and count:
            return items[:count]
    return items


# ---------------------------------------------------------------------------------------------------- keys and values


def checked(key: str) -> str:
    """A key of a user's. Raises TypeError, ValueError."""
    if not isinstance(key, str):
        raise TypeError(f"a key is a str, not {key!r}")
    if not key or key[0] == "$":
        raise ValueError("a key has one character at least" if not key else f"{key}: keys with a $ in front are taken")
    return key


_encode = msgspec.msgpack.Encoder(order="deterministic").encode
_encode_in_order = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


def pack_value(value: Any) -> bytes:
    """Equal values of equal types are equal bytes: dicts and sets are sorted. Raises TypeError for what MessagePack has
    no form for."""
    try:
        try:
            return _encode(value)
        except TypeError:  # which also means a dict with other keys than str
            return _encode_in_order(_sorted(value))
    except OverflowError:
        raise TypeError("a number of more than 64 bits") from None
    except RecursionError:
        raise TypeError("too deep, or within itself") from None


def _sorted(value: Any) -> Any:
    """Its dicts by their keys; by the packed ones, if they are not all str."""
    if isinstance(value, dict):
        by = None if all(isinstance(key, str) for key in value) else _encode_in_order
        return {key: _sorted(value[key]) for key in sorted(value, key=by)}
    if isinstance(value, list | tuple):
        return [_sorted(item) for item in value]
    if isinstance(value, set | frozenset):
        return _decode(_encode(value))
    return value


def unpack_value(packed: bytes) -> Any:
    """Raises GlobalDataError: somebody else than us has written it."""
    try:
        return _decode(packed)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise GlobalDataError(f"what it holds is no MessagePack: {error}") from None


def _is_same(held: bytes, packed: bytes) -> bool:
    """PHP's arrays keep the order of their keys, pack_value() does not."""
    if len(held) != len(packed):
        return False
    try:
        return pack_value(unpack_value(held)) == packed
    except (GlobalDataError, TypeError):
        return False
