"""One child process as the master sees it: a life in a table, and the fork that begins it.

TABLE is the whole supervisor of a process: what each event does in each phase. A pair that is not in it can't happen:
it is logged as our bug, never raised in the master's loop. ``handle`` is the only place where the phase changes.

    STARTING   forked, its handlers are being imported
    RUNNING    READY: it accepts and serves
    STOPPING   it has been asked to stop, or says that it does; bounded by a deadline
    KILLED     it has been sent SIGKILL (or SIGABRT, for a traceback first)
    GONE       reaped
"""

from __future__ import annotations

import contextlib
import enum
import logging
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterable
from typing import NoReturn

from workermand.errors import ExitCode
from workermand.link import Link, LinkClosed, Message, Status, Stop, StopHow, Words
from workermand.master.sockets import Listeners
from workermand.spec import ServerSpec, WorkerSpec
from workermand.worker import process

log = logging.getLogger(__name__)

TRACEBACK_TIME = 1.0
"""Seconds a blocked child has to print where it is, between SIGABRT and SIGKILL."""
FAST_STOP = 3.0
"""Seconds for on_close and on_worker_stop in a fast stop, unless timeouts.stop is shorter."""
STATUS_PERIOD = 1.0
"""Seconds between two regular Statuses: so long a silence says nothing."""
KILL_GRACE = 2.0
"""Seconds a child has beyond the deadline it was told: it closes connections at that deadline, and then ends."""


class Phase(enum.Enum):
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "draining"
    KILLED = "killed"
    GONE = "gone"


class Event(enum.Enum):
    READY = "ready"
    DRAINING = "draining"
    """It says that it accepts no more."""
    STOP = "stop"
    """It is to stop: a reload, a restart, the end of the daemon."""
    OVERDUE = "overdue"
    """The deadline of its phase has passed."""
    SILENT = "silent"
    """Its loop has been blocked for longer than timeouts.busy."""
    KILL = "kill"
    """Now, without asking: a second signal, a dropped reload."""
    EXITED = "exited"


class Child:
    """Process: the master's. ``why`` says in two words why the master killed it; the exit table shows them."""

    def __init__(self, server: ServerSpec, worker: WorkerSpec, slot: int, generation: int) -> None:
        self.server = server
        self.worker = worker
        self.slot = slot
        self.generation = generation
        self.phase = Phase.STARTING
        self.pid = 0
        self.pidfd = -1
        self.link: Link | None = None
        self.accepting = True
        self.started = time.monotonic()
        self.ready_at: float | None = None
        self.deadline: float | None = self.started + worker.timeouts.start
        self.why = ""
        self.words = Words("", "")
        self.leaving = ""
        """Why it stops, in its own words: "stop()", "TERM"."""
        self.recycle = ""
        """The limit it has reached: "requests limit"."""
        self.status = Status()
        self.heard = self.started
        self.qps = 0.0
        self.counted = (self.started, 0)
        """When the last regular Status came, and its total_request: what the rate is reckoned from."""
        self.wait_status: int | None = None
        self.holds: set[int] = set()
        """The listening sockets it was given, by the master's descriptor numbers."""
        self.certificates: int | None = None
        """The descriptor of what `tls` names."""
        self._pending: list[tuple[Message, list[int]]] = []

    def __str__(self) -> str:
        return f"{self.worker.name}#{self.slot} (pid {self.pid})"

    # ------------------------------------------------------------------ events

    def handle(self, event: Event, *, how: StopHow = "drain", why: str = "", reload: bool = False) -> None:
        """Looks the event up and does what the table says. ``how``, ``why`` and ``reload`` go with STOP."""
        try:
            phase, action = TABLE[self.phase, event]
        except KeyError:
            log.error("can't happen: %s in phase %s got %s", self, self.phase.name, event.name)
            return
        self.phase = phase
        action(self, how, why, reload)

    def tick(self, now: float) -> None:
        """The deadlines, looked at once a turn of the master's loop."""
        if self.deadline is not None and now >= self.deadline:
            self.handle(Event.OVERDUE)
        if (silent := self._silent_at()) is not None and now >= silent:
            self.handle(Event.SILENT)

    def next_deadline(self) -> float | None:
        return min((d for d in (self.deadline, self._silent_at()) if d is not None), default=None)

    def _silent_at(self) -> float | None:
        """When its loop will certainly have been blocked for timeouts.busy, if nothing is heard."""
        busy = self.worker.timeouts.busy
        return self.heard + busy + STATUS_PERIOD if busy and self.phase is Phase.RUNNING else None

    def hear(self, status: Status) -> None:
        """A Status has come; the regular ones, a second apart, make the rate."""
        now = time.monotonic()
        since, total = self.counted
        if not status.asked and now > since:
            self.qps = max(0.0, (status.total_request - total) / (now - since))
            self.counted = (now, status.total_request)
        self.status, self.heard = status, now

    # ------------------------------------------------------------------ the link

    def tell(self, message: Message, fds: Iterable[int] = ()) -> None:
        """Sends, or keeps for flush() when the link is full: nothing that the master says may be lost."""
        self._pending.append((message, list(fds)))
        self.flush()

    def flush(self) -> None:
        while self._pending and self.link is not None:
            try:
                if not self.link.send(*self._pending[0]):
                    return
            except LinkClosed:
                self._pending.clear()
                return
            del self._pending[0]

    @property
    def has_unsent(self) -> bool:
        return bool(self._pending)

    def signal(self, signum: signal.Signals) -> None:
        if self.pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signum)

    # ------------------------------------------------------------------ life

    def fork(self, listeners: Listeners, keep: Iterable[int]) -> None:
        """``keep``: descriptors the child may have besides its own. Raises OSError when there is none to be had."""
        self.holds = {sock.fileno() for _listen, socks in listeners for sock in socks}
        ours, theirs = Link.pair()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            master = os.getpid()
            self.pid = os.fork()
            if self.pid == 0:
                self._become(listeners, theirs, keep, master)
        except OSError:
            ours.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()
        self.link = ours
        self.pidfd = os.pidfd_open(self.pid)

    def _become(self, listeners: Listeners, link: Link, keep: Iterable[int], master: int) -> NoReturn:
        """In the child, signals still masked. Never returns into the master's frames."""
        try:
            # A signal for us must not wake the master through the descriptor that we share with it.
            signal.set_wakeup_fd(-1)
            # The master's epoll is only closed: to unregister from it here would blind the master.
            mine = () if self.certificates is None else (self.certificates,)
            close_all_but({0, 1, 2, link.fileno(), *self.holds, *mine, *keep})
            process.run(
                self.server,
                self.worker,
                self.slot,
                listeners,
                link,
                generation=self.generation,
                master_pid=master,
                certificates=self.certificates,
            )
        except BaseException:
            with contextlib.suppress(OSError):
                os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(ExitCode.CRASHED)

    def reap(self) -> bool:
        """True when the process is gone; its wait status is kept. Never blocks."""
        try:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:  # can't happen: nobody else waits for it
            pid, status = self.pid, 0
        if not pid:
            return False
        self.wait_status = status
        return True

    def close(self) -> None:
        """After the exit: gives the descriptors back."""
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1
        if self.link is not None:
            self.link.close()
            self.link = None


# ---------------------------------------------------------------------- actions, named by what they do


def _ready(child: Child, how: StopHow, why: str, reload: bool) -> None:
    child.ready_at = child.heard = time.monotonic()
    child.counted = (child.ready_at, 0)
    child.deadline = None


def _stop(child: Child, how: StopHow, why: str, reload: bool) -> None:
    seconds = child.worker.timeouts.stop
    if how == "fast":
        seconds = min(seconds, FAST_STOP)
    child.deadline = time.monotonic() + seconds + KILL_GRACE
    child.tell(Stop(how, seconds, reload))


def _stop_start(child: Child, how: StopHow, why: str, reload: bool) -> None:
    """TERM too: while its handler is imported it does not read the link, and TERM just ends it."""
    _stop(child, how, why, reload)
    child.signal(signal.SIGTERM)


def _stop_again(child: Child, how: StopHow, why: str, reload: bool) -> None:
    """A later stop may only tighten; what the child makes of ``how`` is its own affair."""
    before = child.deadline
    _stop(child, how, why, reload)
    child.deadline = min(d for d in (before, child.deadline) if d is not None)


def _leave(child: Child, how: StopHow, why: str, reload: bool) -> None:
    """It stops of its own accord: stop() in a handler, or somebody's TERM."""
    child.accepting = False
    child.deadline = time.monotonic() + child.worker.timeouts.stop + KILL_GRACE


def _no_more(child: Child, how: StopHow, why: str, reload: bool) -> None:
    child.accepting = False


def _kill(child: Child, how: StopHow, why: str, reload: bool) -> None:
    child.why = why
    child.deadline = None
    child.signal(signal.SIGKILL)


def _never_ready(child: Child, how: StopHow, why: str, reload: bool) -> None:
    _show_and_kill(child, "start deadline")


def _never_stopped(child: Child, how: StopHow, why: str, reload: bool) -> None:
    _kill(child, how, "stop deadline", reload)


def _blocked(child: Child, how: StopHow, why: str, reload: bool) -> None:
    _show_and_kill(child, "busy deadline")


def _show_and_kill(child: Child, why: str) -> None:
    """faulthandler prints where it hangs; SIGKILL follows if that does not end it."""
    child.why = why
    child.deadline = time.monotonic() + TRACEBACK_TIME
    child.signal(signal.SIGABRT)


def _kill_at_last(child: Child, how: StopHow, why: str, reload: bool) -> None:
    _kill(child, how, child.why, reload)


def _gone(child: Child, how: StopHow, why: str, reload: bool) -> None:
    child.accepting = False
    child.deadline = None
    child.close()


def _nothing(child: Child, how: StopHow, why: str, reload: bool) -> None:
    """Crossed on the way: true when it was sent, of no use now."""


Action = Callable[[Child, StopHow, str, bool], None]

TABLE: dict[tuple[Phase, Event], tuple[Phase, Action]] = {
    (Phase.STARTING, Event.READY): (Phase.RUNNING, _ready),
    (Phase.STARTING, Event.DRAINING): (Phase.STOPPING, _leave),
    (Phase.STARTING, Event.STOP): (Phase.STOPPING, _stop_start),
    (Phase.STARTING, Event.OVERDUE): (Phase.KILLED, _never_ready),
    (Phase.STARTING, Event.KILL): (Phase.KILLED, _kill),
    (Phase.STARTING, Event.EXITED): (Phase.GONE, _gone),
    (Phase.RUNNING, Event.DRAINING): (Phase.STOPPING, _leave),
    (Phase.RUNNING, Event.STOP): (Phase.STOPPING, _stop),
    (Phase.RUNNING, Event.SILENT): (Phase.KILLED, _blocked),
    (Phase.RUNNING, Event.KILL): (Phase.KILLED, _kill),
    (Phase.RUNNING, Event.EXITED): (Phase.GONE, _gone),
    (Phase.STOPPING, Event.READY): (Phase.STOPPING, _nothing),
    (Phase.STOPPING, Event.DRAINING): (Phase.STOPPING, _no_more),
    (Phase.STOPPING, Event.STOP): (Phase.STOPPING, _stop_again),
    (Phase.STOPPING, Event.OVERDUE): (Phase.KILLED, _never_stopped),
    (Phase.STOPPING, Event.KILL): (Phase.KILLED, _kill),
    (Phase.STOPPING, Event.EXITED): (Phase.GONE, _gone),
    (Phase.KILLED, Event.READY): (Phase.KILLED, _nothing),
    (Phase.KILLED, Event.DRAINING): (Phase.KILLED, _no_more),
    (Phase.KILLED, Event.STOP): (Phase.KILLED, _nothing),
    (Phase.KILLED, Event.OVERDUE): (Phase.KILLED, _kill_at_last),
    (Phase.KILLED, Event.KILL): (Phase.KILLED, _nothing),
    (Phase.KILLED, Event.EXITED): (Phase.GONE, _gone),
}


def close_all_but(keep: set[int]) -> None:
    """Close every other descriptor by number. The Python objects that held them stay referenced by the frames below
    us until os._exit, so that none of them closes a number that has been given anew."""
    below = 0
    for fd in sorted(keep):
        if below < fd:  # closerange(0, 0) closes everything: its end, -1, is the largest number to the kernel
            os.closerange(below, fd)
        below = fd + 1
    os.closerange(below, os.sysconf("SC_OPEN_MAX"))
