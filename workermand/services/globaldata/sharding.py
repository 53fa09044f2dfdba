"""Sharding: which of several servers has a key, by rendezvous hashing. Pure.

Every server has a weight for every key, and the heaviest has it. So each client finds it without asking anybody, the
order in which the servers are named does not matter, and when one is added or taken away only the keys that go to it,
or were on it, change places. It is sharding, not replication: what was on a server that is gone is gone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence


class Shards:
    """Servers by name: as all clients call them, "a:2207"."""

    def __init__(self, names: Sequence[str]) -> None:
        """Raises ValueError for none, and for one that is named twice."""
        if not names or len(set(names)) < len(names):
            raise ValueError("each server is named once" if names else "there is no server")
        self._seeds = [hashlib.blake2b(name.encode(), digest_size=32).digest() for name in names]

    def of(self, key: str) -> int:
        """The place, in ``names``, of the server that has it."""
        if len(self._seeds) == 1:
            return 0
        packed = key.encode()
        weights = [hashlib.blake2b(packed, digest_size=8, key=seed).digest() for seed in self._seeds]
        return max(range(len(weights)), key=weights.__getitem__)

    def split(self, keys: Iterable[str]) -> dict[int, list[str]]:
        """By server."""
        shares: dict[int, list[str]] = {}
        for key in keys:
            shares.setdefault(self.of(key), []).append(key)
        return shares
