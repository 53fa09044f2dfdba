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
from typing import Any, Final, Literal

from workermand import Connection, ConnectionStatus
from workermand.services.channel import wire
from workermand.services.channel.topics import Topics
from workermand.services.links import wire as links

logger = logging.getLogger(__name__)

Slow = Literal["drop", "close"]
SUBSCRIPTIONS: Final = 100_000
"""Of one client, by default."""


class Run:
    """Events one behind the other with the same subscribers."""

    __slots__ = ("frames", "subscribers", "taken")

    def __init__(self, subscribers: tuple[Connection, ...]) -> None:
        self.subscribers = subscribers
        self.frames: list[bytes] = []
        self.taken = len(subscribers)
        """How many subscribers took them."""


NOBODY: Final[tuple[Connection, ...]] = ()


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
        self._last = Run(NOBODY)
        """The last of them."""
        self._published: dict[Connection, list[tuple[int, list[Run]]]] = {}
        """By publisher, for each call its number, and for each event where it went."""
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
        if publisher is not None:
            calls = self._published.get(publisher)
            if calls is None:
                calls = self._published[publisher] = []
            calls.append((number, went))
        if not self._awake:
            self._awake = True
            self._soon(self.flush)

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
        run = self._last
        if run.subscribers is not subscribers:
            run = self._last = Run(subscribers)
            self._runs.append(run)
        run.frames.append(wire.event_frame(event, envelope) if subscribers else b"")
        return run

    def flush(self) -> None:
        """At the end of the turn."""
        self._awake = False
        runs, self._runs = self._runs, []
        self._last = Run(NOBODY)
        published, self._published = self._published, {}
        self._deliver(runs)
        for publisher, calls in published.items():
            counts = [went[0].taken if len(went) == 1 else sum([run.taken for run in went]) for _, went in calls]
            self._confirm(publisher, calls[-1][0], counts)

    def _deliver(self, runs: list[Run]) -> None:
        taken = 0
        refused: set[Connection] = set()
        for connection, (data, count) in _by_subscriber(runs).items():
            if connection.send(data, raw=True) is not False:
                taken += count
            else:
                refused.add(connection)
                self._drop(connection, count)
        self.counters.delivered += taken
        for run in runs:
            self.counters.published += len(run.frames)
            if refused:
                run.taken -= len(refused.intersection(run.subscribers))

    def _drop(self, connection: Connection, count: int) -> None:
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


def _by_subscriber(runs: list[Run]) -> dict[Connection, tuple[bytes, int]]:
    """For each its bytes in order, and how many events they are."""
    if len(runs) == 1:
        (run,) = runs
        whole = b"".join(run.frames), len(run.frames)
        return dict.fromkeys(run.subscribers, whole)
    found: dict[Connection, tuple[list[bytes], int]] = {}
    for run in runs:
        data, count = b"".join(run.frames), len(run.frames)
        for connection in run.subscribers:
            if connection in found:
                parts, total = found[connection]
                parts.append(data)
                found[connection] = (parts, total + count)
            else:
                found[connection] = ([data], count)
    return {connection: (b"".join(parts), count) for connection, (parts, count) in found.items()}
