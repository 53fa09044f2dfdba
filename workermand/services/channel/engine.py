"""Engine: what moves a Channel's bytes from process to process; and what each kind of it promises.

The facade, client.Channel, is what users call: it knows data, callbacks, groups and requests. An engine knows names and
envelopes, which are opaque bytes: embedded.py speaks to our own server, redis.py and nats.py to theirs. An engine
states what it keeps in ``promises``; what it cannot do fails with links.errors.Unsupported, which names it.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Sequence
from typing import Protocol

import msgspec

from workermand.services.links.errors import ServiceError


class ChannelError(ServiceError):
    """What was asked of a channel was refused: by the server, by the callback that answers a request, or for what was
    given. Beside it there are links.errors: Unreachable, TimedOut, Dropped, Unsupported."""


class Promise(enum.StrEnum):
    """What may be asked for with ``Channel.connect(require=...)``."""

    ONE_OF_MANY = "one of many"
    """publish(one=True): one subscriber gets it, another one the next time."""
    PATTERNS = "patterns"
    """subscribe("room.*")."""
    COUNTS = "counts"
    """publish says how many subscribers took the event."""
    ORDER = "order"
    """What one client publishes arrives in that order, also across a reconnect."""
    QUEUES = "queues"
    """enqueue, watch, reserve: every item at least once."""
    DELAY = "delay"
    """enqueue(delay=...)."""
    DEAD_LETTERS = "dead letters"
    """What has been tried too often is kept, listed and replayed."""
    PERSISTENCE = "persistence"
    """An item that is confirmed survives kill -9 of the server."""


class Item(msgspec.Struct):
    """One item of a queue, in the hands of one consumer."""

    queue: str
    id: str
    attempt: int
    """From 1."""
    envelope: bytes


class Receiver(Protocol):
    """What an engine tells: the facade. Thread: the one that runs the loop. Nothing here raises."""

    def on_event(self, event: str, envelope: bytes) -> None:
        """Once per event and client, however many patterns match it."""

    def on_item(self, item: Item) -> None:
        """For a queue that is watched."""

    def on_lost(self) -> None:
        """The server has gone."""

    def on_regained(self) -> None:
        """It is back, and everything is subscribed and watched again."""

    def on_dropped(self, what: str, count: int) -> None:
        """``count`` events or items were lost; ``what`` says which, and why."""


class Engine(Protocol):
    """One connection to the servers. All but start and close take effect in the order in which they are called, also
    when nobody awaits what they give: a links.later.Later, which raises ChannelError (refused), Unreachable (it may not
    have arrived), TimedOut, Dropped (no room for it), or Unsupported."""

    promises: frozenset[Promise]

    async def start(self, receiver: Receiver) -> None:
        """Raises Unreachable, Refused."""

    def publish(self, events: Sequence[str], envelope: bytes, *, one: bool = False) -> Awaitable[int | None]:
        """Resolves when the server has it: how many subscribers took it, None where that is not known. ``one``: for
        each event one subscriber."""

    def subscribe(self, patterns: Sequence[str]) -> Awaitable[None]:
        """ "room.1", or "room.*": * stands for any run of characters, as in fnmatch."""

    def unsubscribe(self, patterns: Sequence[str]) -> Awaitable[None]: ...

    def enqueue(self, queues: Sequence[str], envelope: bytes, *, delay: float = 0.0) -> Awaitable[None]:
        """Resolves when it is safe. ``delay``: seconds."""

    def watch(
        self, queue: str, *, credit: int = 1, deadline: float = 60.0, retries: int = 5, retry_delay: float = 1.0
    ) -> Awaitable[None]:
        """on_item() from now on, ``credit`` of them at once. What is not acknowledged after ``deadline`` seconds comes
        back; what comes back from more than ``retries`` attempts is dead."""

    def unwatch(self, queue: str) -> Awaitable[None]: ...

    def reserve(self, queue: str, *, deadline: float = 60.0, wait: float = 0.0) -> Awaitable[Item | None]:
        """One item; None when there is none within ``wait`` seconds."""

    def acknowledge(self, item: Item) -> Awaitable[None]: ...

    def refuse(self, item: Item, *, delay: float | None = None, dead: bool = False) -> Awaitable[None]:
        """Back to its queue, after ``delay`` seconds (None: the queue's retry_delay), or to the dead."""

    def dead_letters(self, queue: str, *, limit: int = 100) -> Awaitable[list[Item]]: ...

    def replay(self, queue: str, ids: Sequence[str] | None = None) -> Awaitable[int]:
        """Back from the dead: these, or all. How many."""

    async def close(self) -> None: ...
