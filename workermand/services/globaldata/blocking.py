"""BlockingGlobalData: the shared variables for programs that have no event loop: Django, Flask, scripts, cron jobs.

    data = BlockingGlobalData("globaldata://127.0.0.1:2207")
    data.counter = 0
    data.increment("counter")
    print(data.counter, "counter" in data)
    del data.counter

The verbs are those of client.GlobalData, except watch(); and, as in Workerman's client, a variable is also an
attribute. One that is not there is None.
"""

from __future__ import annotations

import contextlib
import random
import secrets
import ssl
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from workermand import ConfigError
from workermand.services.globaldata import wire
from workermand.services.globaldata.engine import GlobalDataError
from workermand.services.globaldata.sharding import Shards
from workermand.services.globaldata.wire import LOCKS, PORT, SERVICE, checked, pack_value, unpack_value
from workermand.services.links.address import parse
from workermand.services.links.blocking import BlockingLink
from workermand.services.links.errors import ServiceError, TimedOut, Unreachable

LOOKS: Final = (0.005, 0.2)
"""Seconds between two attempts at a lock: the first, and the longest."""


class BlockingGlobalData:
    """Any process but a worker of the daemon, whose loop its calls would hold up; any thread, one call at a time. It
    connects with the first call, and again with the first one after the connection broke.

    All verbs raise GlobalDataError (refused: the words say why), Unreachable (a write may or may not have been done),
    TimedOut, Unauthorized; TypeError and ValueError for keys and values that cannot be.
    """

    def __init__(self, url: str, *, secret: str = "", tls: ssl.SSLContext | None = None, timeout: float = 10.0) -> None:
        """``url``: "globaldata://host:2207", "globaldata:///run/x/globaldata.sock", "globaldata://a:2207,b:2207".
        ``timeout``: seconds for connecting, and for each call. Raises ConfigError."""
        if url.partition("://")[0] in ("redis", "rediss", "nats"):
            raise ConfigError(
                url, "BlockingGlobalData speaks globaldata:// alone", "GlobalData.connect() has the others"
            )
        addresses = parse(url, SERVICE, PORT)
        put = super().__setattr__
        put("_links", [BlockingLink(each, SERVICE, secret=secret, tls=tls, timeout=timeout) for each in addresses])
        try:
            put("_shards", Shards([str(address) for address in addresses]))
        except ValueError as error:
            raise ConfigError(url, str(error), "name each once") from None

    _links: list[BlockingLink]
    _shards: Shards

    def close(self) -> None:
        """The next call connects again."""
        for link in self._links:
            link.close()

    def __enter__(self) -> BlockingGlobalData:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------ as attributes

    def __getattr__(self, name: str) -> Any:
        """None when there is none. Names with an underscore in front are no variables."""
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return self.get(name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._own(name)
        self.set(name, value)

    def __delattr__(self, name: str) -> None:
        self._own(name)
        self.delete(name)

    def __contains__(self, name: str) -> bool:
        return self.exists(name)

    def _own(self, name: str) -> None:
        if name.startswith("_") or hasattr(type(self), name):
            raise AttributeError(f"{name} is no name for a variable as an attribute; use set({name!r}, ...)")

    # ------------------------------------------------------------------ reading

    def get(self, key: str, default: Any = None) -> Any:
        entry = self._read(checked(key), wire.GET)
        return default if entry is None else unpack_value(entry[0])

    def get_versioned(self, key: str) -> tuple[Any, int] | None:
        """(value, version), for cas_version()."""
        entry = self._read(checked(key), wire.GET)
        return None if entry is None else (unpack_value(entry[0]), entry[1])

    def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """Those that there are, in the order of ``keys``."""
        wanted = list(dict.fromkeys(map(checked, keys)))
        found: dict[str, Any] = {}
        for place, share in self._shards.split(wanted).items():
            while share:
                piece = wire.piece(share, len)
                entries = self._ask(place, "get_many", True, wire.GET_MANY, piece)
                share = share[len(entries) :]
                found.update((key, entry[0]) for key, entry in zip(piece, entries, strict=False) if entry is not None)
        return {key: unpack_value(found[key]) for key in wanted if key in found}

    def exists(self, key: str) -> bool:
        return bool(self._read(checked(key), wire.EXISTS))

    def keys(self, prefix: str = "") -> list[str]:
        """Sorted."""
        found: list[str] = []
        for place in range(len(self._links)):
            page = [""]
            while page := self._ask(place, f"keys {prefix}", True, wire.KEYS, prefix, page[-1]):
                found += page
        return sorted(key for key in found if not key.startswith("$"))

    def ttl(self, key: str) -> float | None:
        """Seconds left; math.inf: for ever; None: there is no such key."""
        seconds: float | None = self._read(checked(key), wire.TTL)
        return seconds

    # ------------------------------------------------------------------ writing

    def set(self, key: str, value: Any, ttl: float | None = None) -> int:
        return int(self._write(checked(key), wire.SET, pack_value(value), ttl))

    def set_many(self, values: Mapping[str, Any], ttl: float | None = None) -> None:
        packed = {checked(key): pack_value(value) for key, value in values.items()}
        for place, share in self._shards.split(packed).items():
            while share:
                piece = wire.piece(share, lambda key: len(key) + len(packed[key]))
                share = share[len(piece) :]
                self._ask(place, "set_many", False, wire.SET_MANY, [(key, packed[key]) for key in piece], ttl)

    def add(self, key: str, value: Any, ttl: float | None = None) -> bool:
        return bool(self._write(checked(key), wire.ADD, pack_value(value), ttl))

    def cas(self, key: str, old: Any, new: Any) -> bool:
        return bool(self._write(checked(key), wire.CAS, pack_value(old), pack_value(new)))

    def cas_version(self, key: str, version: int, value: Any) -> bool:
        return bool(self._write(checked(key), wire.CAS_VERSION, version, pack_value(value)))

    def increment(self, key: str, step: int | float = 1) -> int | float | None:
        """The new value; None: there is no such key."""
        if isinstance(step, bool) or not isinstance(step, int | float):
            raise TypeError(f"increment: the step is a number, not {step!r}")
        number: int | float | None = self._write(checked(key), wire.INCREMENT, step)
        return number

    def delete(self, key: str) -> bool:
        """Whether it was there."""
        return bool(self._write(checked(key), wire.DELETE))

    def expire(self, key: str, ttl: float | None) -> bool:
        """Gone in ``ttl`` seconds from now; None: it stays. False: there is no such key."""
        return bool(self._write(checked(key), wire.EXPIRE, ttl))

    @contextlib.contextmanager
    def lock(self, name: str, ttl: float, *, wait: float = 10.0) -> Iterator[int]:
        """One holder at a time, of all processes, those with an event loop too; the block gets the lock's version. It
        looks every so often, up to ``wait`` seconds, then TimedOut. At the end GlobalDataError, when the lock has ended
        by its ``ttl`` before."""
        if not ttl > 0:
            raise ValueError("a lock's ttl: seconds, more than 0")
        key, token = LOCKS + checked(name), pack_value(secrets.token_hex(16))
        try:
            version = self._acquire(key, token, ttl, wait)
        except BaseException:
            with contextlib.suppress(ServiceError):  # it may have been done all the same
                self._write(key, wire.DELETE, token)
            raise
        try:
            yield version
        except BaseException:
            with contextlib.suppress(ServiceError):  # what the block has raised is worth more
                self._write(key, wire.DELETE, token)
            raise
        if not self._release(key, token):
            raise GlobalDataError(f"lock {name}: it is not held any more; its ttl was {ttl:g} s")

    def _release(self, key: str, token: bytes) -> bool:
        """False: it was not there any more."""
        try:
            return bool(self._write(key, wire.DELETE, token))
        except Unreachable:
            self._write(key, wire.DELETE, token)
            return True  # the first one may have done it

    def _acquire(self, key: str, token: bytes, ttl: float, wait: float) -> int:
        deadline = time.monotonic() + wait
        pause, longest = LOOKS
        while True:
            try:
                version = self._write(key, wire.ADD, token, ttl)
            except Unreachable:
                entry = self._read(key, wire.GET)
                version = entry[1] if entry is not None and entry[0] == token else 0
            if version:
                return int(version)
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimedOut(f"lock {key.removeprefix(LOCKS)}: another has held it for {wait:g} s")
            time.sleep(min(left, pause * random.uniform(0.5, 1.5)))
            pause = min(longest, pause * 1.5)

    # ------------------------------------------------------------------ asking

    def _read(self, key: str, op: int) -> Any:
        return self._ask(self._shards.of(key), key, True, op, key)

    def _write(self, key: str, op: int, *rest: Any) -> Any:
        return self._ask(self._shards.of(key), key, False, op, key, *rest)

    def _ask(self, place: int, what: str, repeats: bool, *message: Any) -> Any:
        """``repeats``: what only reads is asked once more when the connection breaks."""
        link = self._links[place]
        try:
            try:
                return link.request(*message)
            except Unreachable:
                if not repeats:
                    raise
                return link.request(*message)
        except ServiceError as error:
            if type(error) is ServiceError:
                raise GlobalDataError(f"{what}: {error}") from None
            raise
