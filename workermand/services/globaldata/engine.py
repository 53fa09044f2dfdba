"""Engine: what keeps the variables of GlobalData; and what each kind of it promises.

The facade, client.GlobalData, is what users call: it knows values, callbacks and locks. An engine knows keys and bytes:
embedded.py speaks to our own server, redis.py and nats.py to theirs. An engine states what it keeps in ``promises``;
what it cannot do fails with links.errors.Unsupported, which names it.

A value is MessagePack that the facade has made (wire.pack_value: the shortest form, dicts in order), so that two equal
values are equal bytes, and cas compares bytes. An engine looks into a value for increment() alone.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from workermand.services.links.errors import ServiceError
from workermand.services.links.later import Later


class GlobalDataError(ServiceError):
    """What was asked for cannot be done, in the server's words: increment of a text, a value over the limit ..."""


class Promise(enum.StrEnum):
    """What may be asked for with ``GlobalData.connect(require=...)``. What is not here every engine keeps: get, set,
    add, cas, increment, delete, exists, keys, each of them atomic."""

    VERSIONS = "versions"
    """get_versioned and cas_version: a key's versions grow, also across a deletion."""
    TTL = "ttl"
    """ttl= of set and add, expire(), ttl(), lock(): what has ended is not seen any more."""
    WATCH = "watch"
    """The last change of a watched key arrives, also across a reconnect."""
    EXPIRED = "expired"
    """A watch also tells when a key ends by its ttl."""
    ATOMIC_MANY = "atomic many"
    """set_many and get_many of up to 1 MiB are one step, unless the keys lie on several servers."""
    PERSISTENCE = "persistence"
    """What has been confirmed survives kill -9 of the server."""


class Entry(NamedTuple):
    """What a key holds."""

    value: bytes
    version: int
    """Greater than 0; greater than that of whatever the key held before."""


class Receiver(Protocol):
    """What an engine tells: the facade. Thread: the one that runs the loop. Nothing here raises."""

    def on_change(self, key: str, value: bytes | None, version: int) -> None:
        """A watched key has another value; None: it is gone, and ``version`` is 0 where a deletion has none. The same
        version may come twice. Of changes that follow each other fast some may be left out, never the last."""

    def on_lost(self) -> None:
        """The server (one of the servers) has gone."""

    def on_regained(self) -> None:
        """It is back, everything is watched again, and on_change() has been called for what changed meanwhile."""


class Engine(Protocol):
    """One client of the servers. All but start and close take effect in the order in which they are called, also when
    nobody awaits what they give: a Later, which raises GlobalDataError (refused), Unreachable (the
    connection broke: it may or may not have been done), TimedOut. While the server is away calls wait for it, up to
    their deadline.

    ``ttl`` is in seconds, None: for ever. set and add put a key's ttl to what they are given; cas, cas_version and
    increment leave it as it is."""

    promises: frozenset[Promise]

    async def start(self, receiver: Receiver) -> None:
        """Raises Unreachable, Unauthorized, TimedOut."""

    def get(self, key: str) -> Later[Entry | None]: ...

    def get_many(self, keys: Sequence[str]) -> Later[dict[str, Entry]]:
        """Those that there are."""

    def set(self, key: str, value: bytes, ttl: float | None = None) -> Later[int]:
        """The new version."""

    def set_many(self, values: Mapping[str, bytes], ttl: float | None = None) -> Later[None]: ...

    def add(self, key: str, value: bytes, ttl: float | None = None) -> Later[int]:
        """The version; 0: there is one already, and nothing has changed."""

    def cas(self, key: str, old: bytes, new: bytes) -> Later[int]:
        """``new`` if the key holds ``old``: its version; 0: it holds something else, or nothing."""

    def cas_version(self, key: str, version: int, value: bytes) -> Later[int]:
        """``value`` if the key is still at ``version``: its new version; 0: it is not. Version 0 stands for a key that
        is not there."""

    def increment(self, key: str, step: int | float) -> Later[int | float | None]:
        """The new value; None: there is no such key. Integers stay integers. Raises GlobalDataError when it holds no
        number, or the result has more than 64 bits."""

    def delete(self, key: str, old: bytes | None = None) -> Later[bool]:
        """Whether it was there; with ``old``: deletes it only if it holds that, and says whether it did."""

    def exists(self, key: str) -> Later[bool]: ...

    def keys(self, prefix: str = "") -> Later[list[str]]:
        """Sorted."""

    def expire(self, key: str, ttl: float | None, old: bytes | None = None) -> Later[bool]:
        """Gives it another ttl, or none; with ``old`` only if it holds that. False: it is not there, or not so. 0 or
        less ends it at once."""

    def ttl(self, key: str) -> Later[float | None]:
        """Seconds left; math.inf: for ever; None: there is no such key."""

    def watch(self, key: str) -> Later[None]:
        """on_change() from now on, first with what the key holds, if it is there; then this resolves."""

    def unwatch(self, key: str) -> Later[None]: ...

    async def close(self) -> None: ...
