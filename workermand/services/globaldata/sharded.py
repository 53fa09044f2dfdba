"""Sharded: one engine made of several, each of which has its share of the keys (sharding.py says which)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from workermand.services.globaldata.chaining import all_of
from workermand.services.globaldata.engine import Engine, Entry, Promise, Receiver
from workermand.services.globaldata.sharding import Shards
from workermand.services.links.later import Later


class Sharded:
    """It promises what all of them do. Thread: the one that runs the loop."""

    def __init__(self, engines: Mapping[str, Engine]) -> None:
        """By the names that every client has for the servers. Raises ValueError for none."""
        self.promises: frozenset[Promise] = frozenset()
        self._engines = list(engines.values())
        self._shards = Shards(list(engines))

    async def start(self, receiver: Receiver) -> None:
        """All of them, or none."""
        started = await asyncio.gather(*(engine.start(receiver) for engine in self._engines), return_exceptions=True)
        failed = [outcome for outcome in started if isinstance(outcome, BaseException)]
        if failed:
            await self.close()
            raise failed[0]
        self.promises = frozenset.intersection(*(engine.promises for engine in self._engines)) - {Promise.ATOMIC_MANY}

    async def close(self) -> None:
        await asyncio.gather(*(engine.close() for engine in self._engines))

    def _of(self, key: str) -> Engine:
        return self._engines[self._shards.of(key)]

    # ------------------------------------------------------------------ one key

    def get(self, key: str) -> Later[Entry | None]:
        return self._of(key).get(key)

    def set(self, key: str, value: bytes, ttl: float | None = None) -> Later[int]:
        return self._of(key).set(key, value, ttl)

    def add(self, key: str, value: bytes, ttl: float | None = None) -> Later[int]:
        return self._of(key).add(key, value, ttl)

    def cas(self, key: str, old: bytes, new: bytes) -> Later[int]:
        return self._of(key).cas(key, old, new)

    def cas_version(self, key: str, version: int, value: bytes) -> Later[int]:
        return self._of(key).cas_version(key, version, value)

    def increment(self, key: str, step: int | float) -> Later[int | float | None]:
        return self._of(key).increment(key, step)

    def delete(self, key: str, old: bytes | None = None) -> Later[bool]:
        return self._of(key).delete(key, old)

    def exists(self, key: str) -> Later[bool]:
        return self._of(key).exists(key)

    def expire(self, key: str, ttl: float | None, old: bytes | None = None) -> Later[bool]:
        return self._of(key).expire(key, ttl, old)

    def ttl(self, key: str) -> Later[float | None]:
        return self._of(key).ttl(key)

    def watch(self, key: str) -> Later[None]:
        return self._of(key).watch(key)

    def unwatch(self, key: str) -> Later[None]:
        return self._of(key).unwatch(key)

    # ------------------------------------------------------------------ many

    def get_many(self, keys: Sequence[str]) -> Later[dict[str, Entry]]:
        asked = [self._engines[place].get_many(share) for place, share in self._shards.split(keys).items()]
        return all_of(asked, f"get {len(keys)} keys", _joined)

    def set_many(self, values: Mapping[str, bytes], ttl: float | None = None) -> Later[None]:
        asked = [
            self._engines[place].set_many({key: values[key] for key in share}, ttl)
            for place, share in self._shards.split(values).items()
        ]
        return all_of(asked, f"set {len(values)} keys", lambda _results: None)

    def keys(self, prefix: str = "") -> Later[list[str]]:
        asked = [engine.keys(prefix) for engine in self._engines]
        return all_of(asked, f"keys {prefix}", lambda shares: sorted(key for share in shares for key in share))


def _joined(shares: list[dict[str, Any]]) -> dict[str, Any]:
    return {key: entry for share in shares for key, entry in share.items()}
