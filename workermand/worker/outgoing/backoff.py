"""Backoff: how long to wait before each reconnect: initial, doubled up to max, less a random part so that a thousand
clients of a server that was away do not come back in one moment."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping

from workermand.errors import ConfigError

DEFAULTS = {"initial": 1.0, "max": 30.0, "jitter": 0.5}


class Backoff:
    """``auto_reconnect={"initial": 1, "max": 30, "jitter": 0.5}``: seconds, seconds, and the part of a delay that is
    left to chance."""

    def __init__(self, settings: Mapping[str, float]) -> None:
        """Raises ConfigError."""
        given = {**DEFAULTS, **settings}
        if unknown := given.keys() - DEFAULTS:
            raise ConfigError("auto_reconnect", f"unknown key {min(unknown)!r}", f"there are {', '.join(DEFAULTS)}")
        self._initial, self._max, self._jitter = (float(given[name]) for name in DEFAULTS)
        if not (0 < self._initial <= self._max < math.inf and 0 <= self._jitter <= 1):
            raise ConfigError(
                "auto_reconnect", f"{given}", "expected 0 < initial <= max seconds, and a jitter of 0 to 1"
            )
        self._failures = 0

    def next(self, lasted: float) -> float:
        """Seconds to wait, after a connection that ``lasted`` so long (0: it did not come about). One that held for
        longer than the delay before it counts as a success."""
        if lasted > self._whole():
            self._failures = 0
        delay = self._whole()
        self._failures += 1
        return delay * (1 - self._jitter * random.random())

    def _whole(self) -> float:
        return min(self._initial * 2.0 ** min(self._failures, 60), self._max)
