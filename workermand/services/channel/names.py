"""Names of events, patterns and queues as users give them: checked before anything is sent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from workermand.services.channel import wire
from workermand.services.channel.topics import is_pattern

OWN: Final = "$"
"""Names that begin with it are the channel's: "$reply.ID", "$worker.NAME", "$group.NAME"."""


def any_of(names: str | Iterable[str]) -> list[str]:
    """Names, patterns among them, one or several. Raises ValueError."""
    found = [names] if isinstance(names, str) else list(names)
    for name in found:
        if words := wire.why_not(name):
            raise ValueError(words)
        if name.startswith(OWN):
            raise ValueError(f"{name!r}: names that begin with {OWN} are the channel's own")
    return found


def plain(names: str | Iterable[str]) -> list[str]:
    """One or several that are no patterns: what is published to, and queues. Raises ValueError."""
    found = any_of(names)
    if not found:
        raise ValueError("no name is given")
    for name in found:
        if is_pattern(name):
            raise ValueError(f"{name!r}: a * stands in patterns, which are for subscribers")
    return found


def one(name: str) -> str:
    """A single one that is no pattern. Raises ValueError."""
    (found,) = plain([name])
    return found


def own(kind: str, name: str) -> str:
    """One of ours: own("group", "tea") is "$group.tea". Raises ValueError."""
    if words := wire.why_not(found := f"{OWN}{kind}.{name}"):
        raise ValueError(f"{kind}: {words}")
    if is_pattern(name):
        raise ValueError(f"{kind} {name!r}: a name without a *")
    return found
