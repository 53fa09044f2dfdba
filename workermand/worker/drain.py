"""How a child leaves: step by step, with a deadline that holds.

    STARTING   on_worker_start is at work; a stop waits for its end, or for the deadline
    SERVING    nobody has asked yet
    RELOADING  on_worker_reload runs, for RELOAD_TIME at most
    LEAVING    the listeners are closed; connections end, each in its time

How connections end: with "retire" by themselves, but those that can be told (Protocol.moves): an idle HTTP connection
within a second, a busy one with its next answer; WebSockets in turn over most of the time there is, so that they do
not all come back in one moment. With "drain" as soon as they have had a message, are between messages and have nothing
unsent; with "fast" at once, but for the words that a protocol has for it. One that has had no message yet is never
closed before the deadline: its request may be on the way (closing all idle ones lost 93 of 10,642 requests, sparing
those lost none). A second stop may only tighten. At the deadline what is left is closed. Outgoing connections hold up
nothing: only clients are waited for. Then ``done`` is set, and runtime.py runs on_worker_stop.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from workermand.errors import CloseReason
from workermand.link import StopHow

if TYPE_CHECKING:
    from workermand.worker.connection import Connection
    from workermand.worker.listening import Listeners
    from workermand.worker.worker import Worker

RELOAD_TIME = 1.0
"""Seconds for on_worker_reload."""
LINGER = 0.2
"""Seconds beyond the deadline for the last bytes; the master kills a second after it."""
PENDING_TIME = 0.02
"""Seconds between looks at connections whose accept, or whose on_close, is under way."""

QUIET = 1.0
"""Seconds: an HTTP connection that brings nothing for so long is idle; the request of another may be on its way."""
SPREAD = 0.8
"""Of the time that is left: over so much of it WebSockets are closed."""
SLICE = 0.1
"""Seconds between two groups of them, at least."""

STRICTNESS: dict[StopHow, int] = {"retire": 0, "drain": 1, "fast": 2}


class Phase(enum.Enum):
    STARTING = "starting"
    SERVING = "serving"
    RELOADING = "reloading"
    LEAVING = "leaving"


class Drain:
    """Process: the child; thread: the one that runs the loop. ``left`` is told the reason, once the listeners are
    closed; ``reload`` makes the coroutine that runs on_worker_reload."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        worker: Worker,
        listeners: Listeners,
        reload: Callable[[], asyncio.Task[None]],
        left: Callable[[str], None],
    ) -> None:
        self.done: asyncio.Future[None] = loop.create_future()
        self._loop = loop
        self._worker = worker
        self._listeners = listeners
        self._reload = reload
        self._left = left
        self._phase = Phase.STARTING
        self._start: asyncio.Task[Any] | None = None
        self._how: StopHow = "retire"
        self._reason = ""
        self._deadline: float | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._next_look: asyncio.TimerHandle | None = None
        self._is_moving = False

    @property
    def is_asked(self) -> bool:
        """Somebody has asked this process to stop."""
        return self._deadline is not None

    def remaining(self) -> float:
        """Seconds until the deadline, 0 when it has passed."""
        return max(0.0, (self._deadline or 0.0) - self._loop.time())

    def starting(self, start: asyncio.Task[Any]) -> None:
        """on_worker_start is at work: a stop may have to cancel it."""
        self._start = start

    def started(self) -> None:
        """on_worker_start has returned; if a stop came meanwhile, its turn is now."""
        self._phase = Phase.SERVING
        if self.is_asked:
            self._leave()

    def begin(self, how: StopHow, seconds: float, reason: str, *, reload: bool = False) -> None:
        """Stops this process within ``seconds``. Called again it may only tighten."""
        deadline = self._loop.time() + seconds
        self._deadline = deadline if self._deadline is None else min(deadline, self._deadline)
        self._how = max(how, self._how, key=STRICTNESS.__getitem__)
        self._reason = self._reason or reason
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = self._loop.call_at(self._deadline, self._overdue)
        if self._phase is Phase.STARTING and how == "fast":
            self._cancel_start()
        elif self._phase is Phase.LEAVING:
            self._press()
        elif self._phase is Phase.SERVING and reload:
            self._phase = Phase.RELOADING
            self._reload().add_done_callback(lambda _task: self._leave())
        elif self._phase is Phase.SERVING:
            self._leave()

    def _cancel_start(self) -> None:
        if self._start is not None:
            self._start.cancel()

    def _leave(self) -> None:
        if self._phase is Phase.LEAVING:  # the deadline came before on_worker_reload had ended
            return
        self._phase = Phase.LEAVING
        self._listeners.stop()
        self._left(self._reason)
        self._worker.when_empty(self._maybe_done)
        self._press()

    def _press(self) -> None:
        """Tells every connection what ``how`` asks of it."""
        self._next_look = None
        if self._how == "fast":
            self._listeners.hang_up()
        for connection in list(self._worker.connections.values()):
            if self._how == "drain":
                connection.finish(CloseReason.RELOADED if self._is_moving else CloseReason.DRAINED)
            elif self._how == "fast" and connection.moves:  # there are words for it
                connection.close_lingering(CloseReason.RELOADED if self._is_moving else CloseReason.STOPPED)
                self._loop.call_later(LINGER, connection.abort, CloseReason.STOPPED)
            elif self._how == "fast":
                connection.abort(CloseReason.STOPPED)
        if self._how == "retire" and not self._is_moving:
            self._is_moving = True
            self._move()
        self._maybe_done()

    def _move(self) -> None:
        """Tells those clients that can be told to come back, and so to another process."""
        connections = list(self._worker.connections.values())
        heard = {connection: connection.bytes_read for connection in connections if connection.moves == "at once"}
        for connection in heard:
            connection.wind_down()
        self._loop.call_later(min(QUIET, self.remaining() / 2), self._move_quiet, heard)
        in_turn = [connection for connection in connections if connection.moves == "in turn"]
        window = SPREAD * self.remaining()
        slices = max(1, min(len(in_turn), int(window / SLICE)))
        self._move_in_turn(in_turn, -(-len(in_turn) // slices), window / slices)

    def _move_quiet(self, heard: dict[Connection, int]) -> None:
        for connection, bytes_then in heard.items():
            if connection.bytes_read == bytes_then:
                connection.finish(CloseReason.RELOADED)

    def _move_in_turn(self, connections: list[Connection], share: int, pause: float) -> None:
        """``share`` of them every ``pause`` seconds."""
        for connection in connections[:share]:
            connection.finish(CloseReason.RELOADED)
        if len(connections) > share:
            self._loop.call_later(pause, self._move_in_turn, connections[share:], share, pause)

    def _maybe_done(self) -> None:
        if self.done.done():
            return
        if self._listeners.pending:
            self._next_look = self._next_look or self._loop.call_later(PENDING_TIME, self._press)
        elif not self._worker.connections:
            self.done.set_result(None)

    def _overdue(self) -> None:
        if self._phase is Phase.STARTING:
            self._cancel_start()
            return
        self._leave()
        for connection in list(self._worker.connections.values()):
            if connection.between_messages or connection.moves:  # the others have no words for it
                connection.close_lingering(CloseReason.DRAIN_DEADLINE)
            else:
                connection.abort(CloseReason.DRAIN_DEADLINE)
        self._loop.call_later(LINGER, self._give_up)

    def _give_up(self) -> None:
        """on_close runs for the last of them, and then it is over, even if one will not go."""
        for connection in list(self._worker.connections.values()):
            connection.abort(CloseReason.DRAIN_DEADLINE)
        self._loop.call_later(PENDING_TIME, self._end)

    def _end(self) -> None:
        if not self.done.done():
            self.done.set_result(None)
