"""What Queues is made of: items, queues, who takes, and what is told of them to the journal and to the wire."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Hashable
from typing import NamedTuple

from workermand import WorkermandError

RETRIES = 5
RETRY_DELAY = 1.0
"""For items that were reserved: who reserves says nothing of it."""


class QueueFull(WorkermandError):
    """No room for an item: the text says which limit it is."""


class Limits(NamedTuple):
    """Of all queues together, and of each one. Dead items count: they take the same memory."""

    items: int = 1_000_000
    bytes: int = 1 << 30
    items_per_queue: int = 1_000_000
    bytes_per_queue: int = 1 << 30


class Put(NamedTuple):
    """For the journal: a new item; and one as the journal has it at the start."""

    number: int
    queue: str
    envelope: bytes
    due: float
    """Not to be had before; 0 for at once."""
    attempt: int = 0
    """How often it has been in somebody's hands and come back."""
    dead: bool = False


class Changed(NamedTuple):
    """For the journal: it has come back, died or been replayed."""

    number: int
    due: float
    attempt: int
    dead: bool


class Done(NamedTuple):
    """For the journal: it has been acknowledged."""

    number: int


Record = Put | Changed | Done


class Entry:
    """An item."""

    __slots__ = ("attempt", "dead", "due", "envelope", "number", "queue", "taker")

    def __init__(self, number: int, queue: Queue, envelope: bytes, due: float) -> None:
        self.number = number
        """Grows, and is never used again: a late answer cannot hit another item."""
        self.queue = queue
        self.envelope = envelope
        self.due = due
        self.attempt = 0
        """How often it was handed out."""
        self.dead = False
        self.taker: Taker | None = None
        """Whose hands it is in."""


class Queue:
    """One queue. It is there as long as somebody watches it or something is in it."""

    __slots__ = ("bytes", "dead", "entries", "name", "ready", "takers", "watches")

    def __init__(self, name: str) -> None:
        self.name = name
        self.entries = 0
        self.bytes = 0
        """Of all its items, whatever their state."""
        self.ready: list[tuple[int, Entry]] = []
        """A heap."""
        self.takers: OrderedDict[Taker, None] = OrderedDict()
        """Who has credit, in the order of their turns."""
        self.watches = 0
        """Consumers that watch it, with credit or without."""
        self.dead: dict[int, Entry] = {}
        """By number, in the order in which they died."""

    @property
    def is_unused(self) -> bool:
        return not (self.entries or self.watches or self.takers)


class Taker:
    """A consumer at one queue: a watch, or (``token``) a reservation, which takes a single item."""

    __slots__ = ("consumer", "credit", "deadline", "held", "late", "queue", "retries", "retry_delay", "token", "wake")

    def __init__(self, consumer: Hashable, queue: Queue, token: int | None = None) -> None:
        self.consumer = consumer
        self.queue = queue
        self.token = token
        self.credit = 1
        self.deadline = 60.0
        self.retries = RETRIES
        self.retry_delay = RETRY_DELAY
        self.held: dict[int, float] = {}
        """Number -> until when."""
        self.late = 0
        """What it held for too long and has not answered yet; an item counts as often as it was handed out."""
        self.wake = math.inf
        """Its entry in the timetable."""

    @property
    def has_credit(self) -> bool:
        return len(self.held) + self.late < self.credit


class Consumer:
    """What is known of one: everything of it ends with it."""

    __slots__ = ("held", "late", "reservations", "watches")

    def __init__(self) -> None:
        self.watches: dict[str, Taker] = {}
        """By queue. One that was unwatched stays, without credit, until the last of its items is answered."""
        self.reservations: dict[int, Taker] = {}
        """By token: those that wait."""
        self.held: dict[int, Entry] = {}
        self.late: dict[int, list[Taker]] = {}
        """By number."""


class Delivery(NamedTuple):
    """To be sent."""

    consumer: Hashable
    token: int | None
    """The reservation that this answers; None: for a watch."""
    entry: Entry | None
    """None: nothing came while the reservation waited."""
    attempt: int = 0
