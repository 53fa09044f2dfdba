"""Routing: which business worker handles a client's events, in their order, and what becomes of them when it goes.

A client stays with one business worker (a Mate). At most WINDOW of its events are there at a time; others wait here,
and when many do, the client is not read any more: TCP slows it down, nothing is dropped. A Mate that leaves gets no new
event; a client whose last ones it still handles waits for them, and then goes to another: so the order is kept. What a
Mate had when it died is counted, and given to another only with ``redeliver``.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Protocol

from workermand.services.gateway import messages
from workermand.services.gateway.table import Client

logger = logging.getLogger(__name__)

WINDOW: Final = 64
"""Events of one client that a business worker has at a time."""
WAITING: Final = 64
"""Events of one client that wait, beyond which it is not read,"""
WAITING_BYTES: Final = 1024 * 1024
"""or so many bytes of them."""
ORPHANS: Final = 100_000
"""Clients that have gone while there was no business worker to tell: the events of further ones are lost, counted."""

Event = tuple[int, Any]
"""Kind and body."""


class Mate(Protocol):
    """A business worker, as its gateway sees it."""

    key: str
    """Its worker's name and number."""
    streams: dict[Stream, None]
    """The clients that are its to handle, in the order in which they came."""
    leaving: bool
    acknowledges: bool
    """It says when an event has been handled; PHP's do not."""

    def send(self, stream: Stream, kind: int, body: Any) -> bool:
        """False: there is no room; drained() will be called."""
        ...


Choose = Callable[[Sequence[Mate], "Stream", int, Any], Mate | None]
"""One of these for this client, and this event. None: it will be given to one, by give()."""


class Stream:
    """The events of one client."""

    __slots__ = (
        "applied",
        "bytes",
        "client",
        "closed",
        "is_known",
        "mate",
        "open",
        "origin",
        "paused",
        "sent",
        "waiting",
    )

    def __init__(self, client: Client, origin: Any) -> None:
        self.client = client
        self.origin = origin
        self.mate: Mate | None = None
        self.applied = 0
        """The stamp of the last change that this mate has made to the session."""
        self.open = 0
        """Events that the mate has not finished."""
        self.sent: deque[Event] = deque()
        """The same themselves, with ``redeliver``."""
        self.waiting: deque[Event] = deque()
        self.bytes = 0
        """Of those that wait."""
        self.paused = False
        self.closed = False
        self.is_known = False
        """Some business worker has been told of it."""


class Router:
    """Of one gateway process. Thread: the one that runs the loop."""

    def __init__(
        self,
        choose: Choose,
        *,
        every_time: bool = False,
        redeliver: bool = False,
        on_mate: Callable[[str, bool], None] = lambda key, here: None,
    ) -> None:
        """``every_time``: ``choose`` is asked for each event, not once for each client. ``on_mate``: told the key of
        one that has come, or gone."""
        self._choose = choose
        self._every_time = every_time
        self._redeliver = redeliver
        self._on_mate = on_mate
        self._here: set[Mate] = set()
        """Also those that are leaving."""
        self.mates: dict[str, Mate] = {}
        self.streams: dict[str, Stream] = {}
        """By client_id: from enter() until the last event has been handled."""
        self._homeless: dict[Stream, None] = {}
        """Those who wait for any mate."""
        self._crowded: dict[Mate, dict[Stream, None]] = {}
        """Those who wait for room."""
        self.lost = 0
        """Events that a mate had when it died, and that nobody else got."""
        self.redelivered = 0
        self.dropped = 0
        """Events of clients that came and went without anybody to tell."""

    # ------------------------------------------------------------------ clients

    def enter(self, client: Client, origin: Any) -> Stream:
        """A new one."""
        stream = self.streams[client.id] = Stream(client, origin)
        return stream

    def put(self, stream: Stream, kind: int, body: Any = None) -> None:
        """One event, behind those before it."""
        if not stream.waiting and self._send(stream, kind, body):
            return
        stream.waiting.append((kind, body))
        stream.bytes += _size(body)
        self._regulate(stream)

    def close(self, stream: Stream) -> None:
        """The last event of a client."""
        stream.closed = True
        if not stream.is_known:  # nobody has heard of it, and nobody will
            self.dropped += len(stream.waiting)
            self._forget(stream)
        elif not self.mates and len(self._homeless) >= ORPHANS:
            self.dropped += len(stream.waiting) + 1
            self._forget(stream)
        else:
            self.put(stream, messages.ON_CLOSE)
            if not stream.waiting and not stream.open:  # PHP's, who say nothing more of it
                self._forget(stream)

    @property
    def homeless(self) -> Iterable[Stream]:
        """Clients that wait for any business worker, and there is none."""
        return [] if self.mates else list(self._homeless)

    # ------------------------------------------------------------------ business workers

    def add(self, mate: Mate) -> None:
        """It takes events. Another one with its key has died unnoticed."""
        if (former := self.mates.get(mate.key)) is not None:
            self.remove(former)
        self.mates[mate.key] = mate
        self._here.add(mate)
        self._on_mate(mate.key, True)
        homeless, self._homeless = self._homeless, {}
        for stream in homeless:
            self._pump(stream)

    def give(self, stream: Stream, mate: Mate) -> None:
        """To this one, unless it has one or has gone."""
        if stream in self._homeless and self.mates.get(mate.key) is mate:
            del self._homeless[stream]
            self._attach(stream, mate)
            self._pump(stream)

    def leave(self, mate: Mate) -> None:
        """It takes no more; what it has, it finishes."""
        mate.leaving = True
        if self.mates.get(mate.key) is mate:
            del self.mates[mate.key]
        crowd = self._crowded.pop(mate, {})
        for stream in [stream for stream in mate.streams if not stream.open]:
            self._detach(stream)
        for stream in crowd:
            self._pump(stream)

    def remove(self, mate: Mate) -> None:
        """It has gone, with whatever it had."""
        mate.leaving = True
        if mate in self._here:
            self._here.discard(mate)
            self._on_mate(mate.key, False)
        if self.mates.get(mate.key) is mate:
            del self.mates[mate.key]
        self._crowded.pop(mate, None)
        lost = 0
        streams = list(mate.streams)
        for stream in streams:
            if self._redeliver:
                self.redelivered += len(stream.sent)
                stream.waiting.extendleft(reversed(stream.sent))
                stream.bytes += sum(_size(body) for _kind, body in stream.sent)
                stream.sent.clear()
            else:
                lost += stream.open
            stream.open = 0
            self._detach(stream)
        self.lost += lost
        if lost:
            logger.warning("business worker %s has gone, and %d events with it", mate.key, lost)
        for stream in streams:
            self._pump(stream)

    def done(self, mate: Mate, ids: Iterable[str]) -> None:
        """The mate has finished an event of each of these clients."""
        for id in ids:
            stream = self.streams.get(id)
            if stream is None or stream.mate is not mate or not stream.open:
                continue
            stream.open -= 1
            if stream.sent:
                stream.sent.popleft()
            if mate.leaving and not stream.open:
                self._detach(stream)
            self._pump(stream)

    def drained(self, mate: Mate) -> None:
        """There is room again."""
        for stream in self._crowded.pop(mate, {}):
            self._pump(stream)

    # ------------------------------------------------------------------ one client's queue

    def _pump(self, stream: Stream) -> None:
        """Sends of what waits what can be sent."""
        while stream.waiting:
            kind, body = stream.waiting[0]
            if not self._send(stream, kind, body):
                break
            stream.waiting.popleft()
            stream.bytes -= _size(body)
        self._regulate(stream)
        if stream.closed and not stream.waiting and not stream.open:
            self._forget(stream)

    def _send(self, stream: Stream, kind: int, body: Any) -> bool:
        mate = stream.mate
        if self._every_time or mate is None:
            chosen = self._choose(list(self.mates.values()), stream, kind, body) if self.mates else None
            if chosen is None:
                if mate is None:
                    self._homeless[stream] = None
                return False
            if chosen is not mate:
                if stream.open:  # another one is at work for it
                    return False
                mate = self._attach(stream, chosen)
        elif mate.leaving:
            return False
        assert mate is not None
        if stream.open >= WINDOW:
            return False
        if not mate.send(stream, kind, body):
            self._crowded.setdefault(mate, {})[stream] = None
            return False
        stream.is_known = True
        if mate.acknowledges:
            stream.open += 1
            if self._redeliver:
                stream.sent.append((kind, body))
        elif stream.closed and kind == messages.ON_CLOSE:
            self._detach(stream)
        return True

    def _attach(self, stream: Stream, mate: Mate) -> Mate:
        self._detach(stream)
        stream.mate = mate
        mate.streams[stream] = None
        return mate

    def _detach(self, stream: Stream) -> None:
        if stream.mate is not None:
            stream.mate.streams.pop(stream, None)
            stream.mate = None
            stream.applied = 0

    def _forget(self, stream: Stream) -> None:
        self._detach(stream)
        self._homeless.pop(stream, None)
        self.streams.pop(stream.client.id, None)
        stream.waiting.clear()
        stream.bytes = 0

    def _regulate(self, stream: Stream) -> None:
        """Reads the client, or does not."""
        is_too_much = len(stream.waiting) >= WAITING or stream.bytes >= WAITING_BYTES
        if is_too_much and not stream.paused and not stream.closed:
            stream.paused = True
            stream.client.connection.pause_recv()
        elif stream.paused and not stream.waiting:
            stream.paused = False
            if not stream.closed:
                stream.client.connection.resume_recv()


def least_connections(mates: Sequence[Mate], stream: Stream, kind: int, body: Any) -> Mate:
    """The one with the fewest clients. GatewayWorker: ROUTER_LEAST_CONNECTIONS."""
    return min(mates, key=lambda mate: len(mate.streams))


def at_random(mates: Sequence[Mate], stream: Stream, kind: int, body: Any) -> Mate:
    """GatewayWorker: ROUTER_RANDOM."""
    return random.choice(mates)


def _size(body: Any) -> int:
    return len(body) if isinstance(body, (str, bytes)) else 0
