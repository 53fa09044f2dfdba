"""Table: the variables themselves, with their versions and their ends. Pure: no clock, no I/O; ``now`` is in seconds
of whatever clock the caller goes by, always the same.

Every change is also noted in ``changes``, for the watchers and for the store: the caller takes them away. What has
ended by its ttl is gone for every verb, whether or not expire_due() has come to it yet.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator
from typing import Annotated, Final, NamedTuple

import msgspec

from workermand.services.globaldata.engine import Entry, GlobalDataError

OVERHEAD: Final = 256
"""Bytes that a variable takes beside its key and its value, about."""
PAGE: Final = 4 * 1024 * 1024
"""Bytes of one answer of get_many and keys, about."""
SLACK: Final = 1024
"""Ends that have been called off, beyond as many as are in force, before the heap is made anew."""

Size = Annotated[int, msgspec.Meta(ge=1)]
_number = msgspec.msgpack.Decoder(int | float)
_encode = msgspec.msgpack.Encoder().encode


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``options.limits``."""

    key: Size = 1024
    """Bytes of a key."""
    value: Size = 1024 * 1024
    """Bytes of a value, as it is sent."""
    total: Size = 256 * 1024 * 1024
    """Bytes of all keys and values, each with OVERHEAD."""
    keys: Size = 1_000_000
    watched: Size = 10_000
    """Keys that one client watches."""


class Change(NamedTuple):
    """What has become of a key."""

    key: str
    value: bytes | None
    """None: it is gone."""
    version: int
    ends: float
    """At that time; math.inf: never."""
    is_new: bool
    """False: only ``ends`` is another one."""


class _Variable:
    __slots__ = ("ends", "value", "version")

    def __init__(self, value: bytes, version: int, ends: float) -> None:
        self.value = value
        self.version = version
        self.ends = ends


class Table:
    """All variables of one server. Every verb is one step; GlobalDataError: it is refused, and nothing has changed."""

    def __init__(self, limits: Limits | None = None, version: int = 0) -> None:
        """``version``: what the first change is to exceed."""
        self.limits = limits or Limits()
        self.version = version
        """The last one given."""
        self.bytes = 0
        """As limits.total counts them."""
        self.changes: list[Change] = []
        """Since the caller has last cleared it."""
        self._variables: dict[str, _Variable] = {}
        self._ends: list[tuple[float, str]] = []
        """A heap. What was called off stays in it until its time comes, or until it is made anew."""

    def __len__(self) -> int:
        """What has ended and was not met yet included."""
        return len(self._variables)

    # ------------------------------------------------------------------ reading

    def get(self, key: str, now: float) -> Entry | None:
        variable = self._find(key, now)
        return None if variable is None else Entry(variable.value, variable.version)

    def get_many(self, keys: Iterable[str], now: float) -> list[Entry | None]:
        """In order; as many as fit into a PAGE, but one at least."""
        entries: list[Entry | None] = []
        size = 0
        for key in keys:
            entry = self.get(key, now)
            size += OVERHEAD + (0 if entry is None else len(entry.value))
            if entries and size > PAGE:
                break
            entries.append(entry)
        return entries

    def exists(self, key: str, now: float) -> bool:
        return self._find(key, now) is not None

    def keys(self, prefix: str, after: str, now: float) -> list[str]:
        """Sorted, those behind ``after``; as many as fit into a PAGE, about."""
        found = [
            key
            for key, variable in self._variables.items()
            if key.startswith(prefix) and key > after and variable.ends > now
        ]
        found.sort()
        return list(_page(found))

    def ttl(self, key: str, now: float) -> float | None:
        """Seconds left; math.inf: for ever; None: there is no such key."""
        variable = self._find(key, now)
        return None if variable is None else variable.ends - now

    # ------------------------------------------------------------------ writing

    def set(self, key: str, value: bytes, ttl: float | None, now: float) -> int:
        """The new version."""
        variable = self._find(key, now)
        self._admit(key, value, variable)
        return self._put(key, value, now + _seconds(ttl), variable)

    def set_many(self, pairs: Iterable[tuple[str, bytes]], ttl: float | None, now: float) -> None:
        """All of them, or none."""
        ends = now + _seconds(ttl)
        values = dict(pairs)
        variables = {key: self._find(key, now) for key in values}
        for key, value in values.items():
            self._check(key, value)
        self._check_room(
            sum(variable is None for variable in variables.values()),
            sum(_size(key, value) for key, value in values.items())
            - sum(_size(key, variable.value) for key, variable in variables.items() if variable is not None),
        )
        for key, value in values.items():
            self._put(key, value, ends, variables[key])

    def add(self, key: str, value: bytes, ttl: float | None, now: float) -> int:
        """The version; 0: there is one already."""
        if self._find(key, now) is not None:
            return 0
        self._admit(key, value, None)
        return self._put(key, value, now + _seconds(ttl), None)

    def cas(self, key: str, old: bytes, new: bytes, now: float) -> int:
        """The new version; 0: the key does not hold ``old``."""
        variable = self._find(key, now)
        if variable is None or variable.value != old:
            return 0
        return self._replace(key, new, variable)

    def cas_version(self, key: str, version: int, value: bytes, now: float) -> int:
        """The new version; 0: the key is not at ``version``. Version 0: it is not there."""
        variable = self._find(key, now)
        if variable is None:
            return self.add(key, value, None, now) if version == 0 else 0
        return self._replace(key, value, variable) if variable.version == version else 0

    def increment(self, key: str, step: int | float, now: float) -> int | float | None:
        """The new value; None: there is no such key."""
        variable = self._find(key, now)
        if variable is None:
            return None
        try:
            number: int | float = _number.decode(variable.value)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise GlobalDataError(f"increment: {key} holds no number; set it to one first") from None
        number += step
        try:
            value = _encode(number)
        except OverflowError:
            raise GlobalDataError(f"increment: {key} would have more than 64 bits") from None
        self._replace(key, value, variable)
        return number

    def delete(self, key: str, old: bytes | None, now: float) -> bool:
        """Whether it was there; ``old``: and held that."""
        variable = self._find(key, now)
        if variable is None or (old is not None and variable.value != old):
            return False
        self._remove(key, variable)
        return True

    def expire(self, key: str, ttl: float | None, old: bytes | None, now: float) -> bool:
        """Another ttl, None for none. Whether it is there; ``old``: and holds that."""
        variable = self._find(key, now)
        if variable is None or (old is not None and variable.value != old):
            return False
        if ttl is not None and not ttl > 0:
            self._remove(key, variable)
        else:
            variable.ends = now + _seconds(ttl)
            self._schedule(key, variable.ends)
            self.changes.append(Change(key, variable.value, variable.version, variable.ends, is_new=False))
        return True

    # ------------------------------------------------------------------ time, and the store

    def expire_due(self, now: float) -> float | None:
        """Removes what has ended. When the next one ends; None: none of them does."""
        while self._ends:
            ends, key = self._ends[0]
            variable = self._variables.get(key)
            if variable is not None and variable.ends == ends:
                if ends > now:
                    return ends
                self._remove(key, variable)
            heapq.heappop(self._ends)
        return None

    def load(self, key: str, value: bytes, version: int, ends: float) -> None:
        """What the store has kept: no change, and no limit refuses it."""
        self._variables[key] = _Variable(value, version, ends)
        self._schedule(key, ends)
        self.bytes += _size(key, value)
        self.version = max(self.version, version)

    # ------------------------------------------------------------------ within

    def _find(self, key: str, now: float) -> _Variable | None:
        variable = self._variables.get(key)
        if variable is not None and variable.ends <= now:
            self._remove(key, variable)
            return None
        return variable

    def _replace(self, key: str, value: bytes, variable: _Variable) -> int:
        self._admit(key, value, variable)
        return self._put(key, value, variable.ends, variable)

    def _put(self, key: str, value: bytes, ends: float, variable: _Variable | None) -> int:
        """It has been admitted."""
        self.version += 1
        if variable is None:
            self._variables[key] = _Variable(value, self.version, ends)
            self._schedule(key, ends)
            self.bytes += _size(key, value)
        else:
            self.bytes += len(value) - len(variable.value)
            variable.value, variable.version = value, self.version
            if variable.ends != ends:
                variable.ends = ends
                self._schedule(key, ends)
        self.changes.append(Change(key, value, self.version, ends, is_new=True))
        return self.version

    def _remove(self, key: str, variable: _Variable) -> None:
        self.version += 1
        del self._variables[key]
        self.bytes -= _size(key, variable.value)
        self.changes.append(Change(key, None, self.version, math.inf, is_new=True))

    def _schedule(self, key: str, ends: float) -> None:
        if ends == math.inf:
            return
        heapq.heappush(self._ends, (ends, key))
        if len(self._ends) > 2 * len(self._variables) + SLACK:
            self._ends = [(variable.ends, key) for key, variable in self._variables.items() if variable.ends < math.inf]
            heapq.heapify(self._ends)

    def _admit(self, key: str, value: bytes, variable: _Variable | None) -> None:
        self._check(key, value)
        if variable is None:
            self._check_room(1, _size(key, value))
        else:
            self._check_room(0, len(value) - len(variable.value))

    def _check(self, key: str, value: bytes) -> None:
        if not 0 < (size := _length(key)) <= self.limits.key:
            raise GlobalDataError(f"a key of {size} bytes: 1 to {self.limits.key} are allowed (options.limits.key)")
        if len(value) > self.limits.value:
            raise GlobalDataError(
                f"{key}: a value of {len(value)} bytes, over the limit of {self.limits.value} (options.limits.value)"
            )

    def _check_room(self, keys: int, size: int) -> None:
        """What makes nothing larger is always allowed: a table that is full can be emptied."""
        if keys > 0 and len(self._variables) + keys > self.limits.keys:
            raise GlobalDataError(f"full: {self.limits.keys} variables (options.limits.keys)")
        if size > 0 and self.bytes + size > self.limits.total:
            raise GlobalDataError(f"full: {self.limits.total} bytes (options.limits.total)")


def _seconds(ttl: float | None) -> float:
    if ttl is None:
        return math.inf
    if not ttl > 0:
        raise GlobalDataError(f"a ttl of {ttl:g} seconds: more than 0, or none")
    return ttl


def _length(key: str) -> int:
    return len(key) if key.isascii() else len(key.encode())


def _size(key: str, value: bytes) -> int:
    return OVERHEAD + _length(key) + len(value)


def _page(keys: Iterable[str]) -> Iterator[str]:
    size = 0
    for key in keys:
        size += _length(key) + 5
        if size > PAGE:
            return
        yield key
