"""Topics: who has subscribed to what, and whom an event is for. Pure; any hashable thing may subscribe.

A pattern has a ``*`` for any run of characters, dots too, as in fnmatch; there are no other signs. Exact names are a
look into a dict. Patterns are kept by what stands before their first star, so that an event is held against those alone
whose beginning it has: ten thousand patterns "user.N.*" cost an event as much as one does. What was found is remembered
until somebody comes or goes.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator
from typing import Final, Generic, TypeVar

S = TypeVar("S", bound=Hashable)

REMEMBERED: Final = 4096
"""Events whose subscribers are known without a search, and those whose next turn is."""


def is_pattern(name: str) -> bool:
    return "*" in name


def matcher(pattern: str) -> re.Pattern[str]:
    """fullmatch() of it, in time linear in the event's length for each star: nothing to blow up on."""
    first, *others = (re.escape(part) for part in re.split(r"\*+", pattern))
    # Each piece is taken where it first occurs, for good (?>...): going back could not help.
    middle = "".join(f"(?>.*?{part})" for part in others[:-1])
    return re.compile(f"{first}{middle}.*{others[-1]}" if others else first, re.DOTALL)


class _Pattern(Generic[S]):
    __slots__ = ("matches", "subscribers")

    def __init__(self, pattern: str) -> None:
        self.matches = matcher(pattern).fullmatch
        self.subscribers: dict[S, None] = {}


class Topics(Generic[S]):
    """Subscribers are found in the order in which they came."""

    def __init__(self) -> None:
        self._exact: dict[str, dict[S, None]] = {}
        self._patterns: dict[str, dict[str, _Pattern[S]]] = {}
        """By what stands before the first star, then by the pattern."""
        self._lengths: dict[int, int] = {}
        """Of those beginnings: how many have it."""
        self._of: dict[S, set[str]] = {}
        self._found: dict[str, tuple[S, ...]] = {}
        self._turns: dict[str, int] = {}

    def __len__(self) -> int:
        """Subscriptions."""
        return sum(map(len, self._of.values()))

    def subscribe(self, subscriber: S, name: str) -> bool:
        """False: it had this one already."""
        names = self._of.setdefault(subscriber, set())
        if name in names:
            return False
        names.add(name)
        if not is_pattern(name):
            self._exact.setdefault(name, {})[subscriber] = None
            self._found.pop(name, None)
            return True
        prefix = name.partition("*")[0]
        if (patterns := self._patterns.get(prefix)) is None:
            patterns = self._patterns[prefix] = {}
            self._lengths[len(prefix)] = self._lengths.get(len(prefix), 0) + 1
        if (pattern := patterns.get(name)) is None:
            pattern = patterns[name] = _Pattern(name)
        pattern.subscribers[subscriber] = None
        self._found.clear()
        return True

    def unsubscribe(self, subscriber: S, name: str) -> bool:
        """False: it had no such one."""
        names = self._of.get(subscriber, set())
        if name not in names:
            return False
        names.discard(name)
        if not names:
            del self._of[subscriber]
        self._remove(subscriber, name)
        return True

    def gone(self, subscriber: S) -> None:
        """All that it had."""
        for name in self._of.pop(subscriber, ()):
            self._remove(subscriber, name)

    def names(self, subscriber: S) -> frozenset[str]:
        return frozenset(self._of.get(subscriber, ()))

    def matching(self, event: str) -> tuple[S, ...]:
        """Each subscriber once, however many of its names match. The same tuple as long as nothing has changed."""
        found = self._found.get(event)
        return self._find(event) if found is None else found

    def in_turn(self, event: str) -> Iterator[S]:
        """The same ones, beginning with the one whose turn it is; the next call begins with another."""
        found = self.matching(event)
        if not found:
            return
        turn = self._turns.get(event, 0) % len(found)
        if turn == 0 and event not in self._turns and len(self._turns) >= REMEMBERED:
            self._turns.clear()
        self._turns[event] = turn + 1
        for index in range(turn, turn + len(found)):
            yield found[index % len(found)]

    # ------------------------------------------------------------------ the index

    def _find(self, event: str) -> tuple[S, ...]:
        found = self._exact.get(event, {})
        if self._lengths:
            found = dict(found)
            for length in self._lengths:
                for pattern in self._patterns.get(event[:length], {}).values() if length <= len(event) else ():
                    if pattern.matches(event):
                        found.update(pattern.subscribers)
        if len(self._found) >= REMEMBERED:
            self._found.clear()
        subscribers = self._found[event] = tuple(found)
        return subscribers

    def _remove(self, subscriber: S, name: str) -> None:
        if not is_pattern(name):
            subscribers = self._exact[name]
            del subscribers[subscriber]
            if not subscribers:
                del self._exact[name]
                self._turns.pop(name, None)
            self._found.pop(name, None)
            return
        prefix = name.partition("*")[0]
        patterns = self._patterns[prefix]
        del patterns[name].subscribers[subscriber]
        self._found.clear()
        if not patterns[name].subscribers:
            del patterns[name]
        if not patterns:
            del self._patterns[prefix]
            self._lengths[len(prefix)] -= 1
            if not self._lengths[len(prefix)]:
                del self._lengths[len(prefix)]
