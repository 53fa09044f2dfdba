"""Hub: an event comes in from one client and goes out to many, once a turn of the loop.

Where the time goes is the writing, a system call each. So what one turn of the loop brings is collected, and each
subscriber gets all of it in one write, each publisher one confirmation. An event is framed once; while the subscribers
stay the same ones from event to event, their bytes are joined once for all of them. An envelope is never opened.

Order: a subscriber gets what one publisher publishes in the order in which it was published, whatever the names.

A subscriber that does not read hits the limit of its own send buffer, and only its own: the events of that turn are
dropped and counted, and it is told how many as soon as it reads again; or, by the other policy, it is closed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, NamedTuple

from workermand import Connection, ConnectionStatus
from workermand.services.channel import wire
from workermand.services.channel.topics import Topics
from workermand.services.links import wire as links

logger = logging.getLogger(__name__)

Slow = Literal["drop", "close"]
SUBSCRIPTIONS: Final = 100_000
"""Of one client, by default."""


class Run(NamedTuple):
    """Events one behind the other with the same subscribers."""

    subscribers: tuple[Connection, ...]
    frames: list[bytes]


class Counters:
    """What the status says."""

    __slots__ = ("closed", "delivered", "dropped", "published")

    def __init__(self) -> None:
        self.published = 0
        self.delivered = 0
        self.dropped = 0
        """Deliveries to subscribers that were too slow."""
        self.closed = 0
        """Subscribers, for the same."""


class Hub:
    """Of one process. Thread: the one that runs the loop. No coroutines: what it does is done when it returns, or at
    the end of the turn."""

    def __init__(self, soon: Callable[[Callable[[], None]], Any], slow: Slow = "drop") -> None:
        """``soon`` is loop.call_soon."""
        self.topics: Topics[Connection] = Topics()
        self.counters = Counters()
        self._soon = soon
        self._slow: Slow = slow
        self._runs: list[Run] = []
        self._published: list[tuple[Connection, int, list[Run]]] = []
        """Publisher, number, and for each event where it went."""
        self._owed: dict[Connection, tuple[int, list[int]]] = {}
        """Confirmations that a publisher, slow itself, has not got yet."""
        self._missed: dict[Connection, int] = {}
        """By subscriber: events dropped since it was last told."""
        self._full: set[Connection] = set()
        self._awake = False

    # ------------------------------------------------------------------ what comes in

    def publish(
        self, publisher: Connection | None, number: int, events: Sequence[str], envelope: bytes, one: bool = False
    ) -> None:
        """``publisher``: who gets the confirmation; None: nobody does."""
        went = [self._add(event, envelope, one) for event in events]
        self.counters.published += len(events)
        if publisher is not None:
            self._published.append((publisher, number, went))
        self._wake()

    def subscribe(self, connection: Connection, names: Sequence[str], limit: int = SUBSCRIPTIONS) -> str:
        """Why not; "" when it is done: all of them, or none."""
        for name in names:
            if words := wire.why_not(name):
                return words
        had = self.topics.names(connection)
        if len(had.union(names)) > limit:
            return f"more than {limit} subscriptions: options.subscriptions of the server"
        for name in names:
            self.topics.subscribe(connection, name)
        return ""

    def unsubscribe(self, connection: Connection, names: Sequence[str]) -> None:
        for name in names:
            self.topics.unsubscribe(connection, name)

    def gone(self, connection: Connection) -> None:
        """It is closed."""
        self.topics.gone(connection)
        self._owed.pop(connection, None)
        self._missed.pop(connection, None)
        self._full.discard(connection)

    def is_full(self, connection: Connection) -> None:
        """Its send buffer is: publishing to one of many passes it by."""
        self._full.add(connection)

    def is_drained(self, connection: Connection) -> None:
        """It reads again."""
        self._full.discard(connection)
        if missed := self._missed.pop(connection, 0):
            connection.send(links.pack([wire.DROPPED, 0, missed]), raw=True)
        if connection in self._owed:
            self._confirm(connection, *self._owed.pop(connection))

    # ------------------------------------------------------------------ what goes out

    def _add(self, event: str, envelope: bytes, one: bool) -> Run:
        if one:
            taker = next((taker for taker in self.topics.in_turn(event) if taker not in self._full), None)
            subscribers: tuple[Connection, ...] = (taker,) if taker is not None else ()
        else:
            subscribers = self.topics.matching(event)
        if not self._runs or (last := self._runs[-1]).subscribers is not subscribers:
            last = Run(subscribers, [])
            self._runs.append(last)
        if subscribers:
            last.frames.append(wire.event_frame(event, envelope))
        return last

    def _wake(self) -> None:
        if not self._awake:
            self._awake = True
            self._soon(self.flush)

    def flush(self) -> None:
        """At the end of the turn."""
        self._awake = False
        runs, self._runs = self._runs, []
        published, self._published = self._published, []
        refused = self._deliver(runs)
        confirmations: dict[Connection, tuple[int, list[int]]] = {}
        for publisher, number, went in published:
            count = 0
            for run in went:
                count += len(run.subscribers)
                if refused:
                    count -= len(refused.intersection(run.subscribers))
            if publisher in confirmations:
                counts = confirmations[publisher][1]
                counts.append(count)
            else:
                counts = [count]
            confirmations[publisher] = (number, counts)
        for publisher, (number, counts) in confirmations.items():
            self._confirm(publisher, number, counts)

    def _deliver(self, runs: list[Run]) -> set[Connection]:
        """Who did not take it."""
        refused: set[Connection] = set()
        if len(runs) == 1:
            subscribers, frames = runs[0]
            data, count = b"".join(frames), len(frames)
            self.counters.delivered += count * len(subscribers)
            for connection in subscribers:
                if connection.send(data, raw=True) is False:
                    refused.add(connection)
                    self._drop(connection, count)
            return refused
        for connection, (parts, count) in _by_subscriber(runs).items():
            self.counters.delivered += count
            if connection.send(b"".join(parts), raw=True) is False:
                refused.add(connection)
                self._drop(connection, count)
        return refused

    def _drop(self, connection: Connection, count: int) -> None:
        self.counters.delivered -= count
        if connection.status is not ConnectionStatus.ESTABLISHED:
            return
        self.counters.dropped += count
        if self._slow == "close":
            self.counters.closed += 1
            logger.warning("%s does not read: closed, by options.slow", connection.get_remote_address())
            connection.destroy()
            return
        if connection not in self._missed:
            logger.warning("%s does not read: its events are dropped until it does", connection.get_remote_address())
        self._missed[connection] = self._missed.get(connection, 0) + count

    def _confirm(self, publisher: Connection, number: int, counts: list[int]) -> None:
        if publisher in self._owed:
            counts = [*self._owed.pop(publisher)[1], *counts]
        is_sent = publisher.send(links.pack([wire.CONFIRMED, number, counts]), raw=True) is not False
        if not is_sent and publisher.status is ConnectionStatus.ESTABLISHED:
            self._owed[publisher] = (number, counts)


def _by_subscriber(runs: list[Run]) -> dict[Connection, tuple[list[bytes], int]]:
    """For each its bytes in order, and how many events they are."""
    found: dict[Connection, tuple[list[bytes], int]] = {}
    for subscribers, frames in runs:
        data, count = b"".join(frames), len(frames)
        for connection in subscribers:
            if connection in found:
                parts, total = found[connection]
                parts.append(data)
                found[connection] = (parts, total + count)
            else:
                found[connection] = ([data], count)
    return found
