"""Heartbeat: clients are pinged while they are silent, and ended when they stay so. GatewayWorker's algorithm. Pure.

With a limit it looks twice in an interval. The count of a client is -1 after each of its messages; each look adds one;
at twice the limit the client is ended. The first look behind a message sends nothing, and with a limit only every other
one does.
"""

from __future__ import annotations

from collections.abc import Iterable

HEARD = -1
"""The count of a client that has sent something since the last look."""


class Pulse:
    """Of one client."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = HEARD


def period(interval: float, limit: int) -> float:
    """Seconds between two looks."""
    return interval / 2 if limit else interval


def look(pulses: Iterable[tuple[str, Pulse]], limit: int) -> tuple[list[str], list[str]]:
    """Whom to ping, and whom to end."""
    pinged, ended = [], []
    for id, pulse in pulses:
        if limit and pulse.count >= 2 * limit:
            ended.append(id)
            continue
        pulse.count += 1
        if pulse.count and not (limit and pulse.count % 2):
            pinged.append(id)
    return pinged, ended
