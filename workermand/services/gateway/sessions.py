"""The session of a client: a dict that its gateway keeps encoded, and whoever handles an event reads. Pure.

What an event has changed is sent back as a patch, so that two programs that set different keys do not undo each other.
Between our own parts sessions are MessagePack; a gateway that PHP may join keeps them as PHP's serialize() does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from workermand import WorkermandError
from workermand.services.links.serialize import serialize, unserialize

LIMIT: Final = 1024 * 1024
"""Bytes of one session."""

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(dict[Any, Any], strict=False).decode


class SessionError(WorkermandError):
    """What cannot be a session, or is too large for one."""


class Codec(NamedTuple):
    """How sessions are written."""

    name: str
    encode: Callable[[Mapping[Any, Any]], bytes]
    """Empty ones are empty bytes. Raises SessionError."""
    decode: Callable[[bytes], dict[Any, Any]]
    """Raises SessionError."""


class Patch(NamedTuple):
    """What has become of the keys of a session."""

    changed: dict[Any, Any]
    removed: list[Any]


def _encode_packed(session: Mapping[Any, Any]) -> bytes:
    try:
        return _checked(_pack(session)) if session else b""
    except (TypeError, ValueError, msgspec.MsgspecError, RecursionError, OverflowError) as error:
        raise SessionError(f"a session holds what MessagePack can: {error}") from None


def _decode_packed(data: bytes) -> dict[Any, Any]:
    try:
        return _unpack(data) if data else {}
    except (msgspec.MsgspecError, RecursionError) as error:
        raise SessionError(f"no session: {error}") from None


def _encode_php(session: Mapping[Any, Any]) -> bytes:
    if not session:
        return b""
    try:
        written = serialize(session)
    except WorkermandError as error:
        raise SessionError(f"a session that PHP may read: {error}") from None
    return _checked(written)


def _decode_php(data: bytes) -> dict[Any, Any]:
    if not data:
        return {}
    try:
        value = unserialize(data, size=LIMIT)
    except WorkermandError as error:
        raise SessionError(f"no session: {error}") from None
    if isinstance(value, list):
        return dict(enumerate(value))
    if not isinstance(value, dict):
        raise SessionError(f"a session is an array, not {type(value).__name__}")
    return value


def _checked(data: bytes) -> bytes:
    if len(data) > LIMIT:
        raise SessionError(f"a session of {len(data)} bytes: the limit is {LIMIT}")
    return data


PACKED: Final = Codec("packed", _encode_packed, _decode_packed)
PHP: Final = Codec("php", _encode_php, _decode_php)
CODECS: Final = {codec.name: codec for codec in (PACKED, PHP)}


def difference(before: Mapping[Any, Any], after: Mapping[Any, Any]) -> Patch | None:
    """None: nothing has changed."""
    changed = {key: value for key, value in after.items() if key not in before or before[key] != value}
    removed = [key for key in before if key not in after]
    return Patch(changed, removed) if changed or removed else None


def apply(session: dict[Any, Any], patch: Patch) -> None:
    """In place."""
    session.update(patch.changed)
    for key in patch.removed:
        session.pop(key, None)


def merge(session: Mapping[Any, Any], update: Mapping[Any, Any]) -> dict[Any, Any]:
    """``update`` laid over ``session``: dicts in dicts are merged as well, everything else is replaced. PHP:
    array_replace_recursive()."""
    merged = dict(session)
    for key, value in update.items():
        former = merged.get(key)
        if isinstance(value, Mapping) and isinstance(former, Mapping):
            merged[key] = merge(former, value)
        elif isinstance(value, list) and isinstance(former, list):
            merged[key] = value + former[len(value) :]
        else:
            merged[key] = value
    return merged
