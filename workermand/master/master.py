"""The master: supervises processes. It runs no event loop, no protocol, no user code and no thread.

One loop, to be read top to bottom: each turn handles signals, child exits, links, control requests and deadlines, in
this order; then it moves the change under way and fills empty slots. What happens to one child is child.TABLE, to its
slot crew.py; what a reload does is plan.py, how it is done rollout.py, in which order changes.py.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable

import psutil
import setproctitle

from workermand import log, report
from workermand.errors import ConfigError, ExitCode
from workermand.link import StopHow
from workermand.master.bundles import Bundles
from workermand.master.changes import MARGIN, Changes, prepare
from workermand.master.child import Event
from workermand.master.control import Control, Request
from workermand.master.crew import Crew
from workermand.master.desk import Desk
from workermand.master.run_dir import Outputs, PidFile, raise_descriptor_limit
from workermand.master.sockets import AddressInUse, Sockets
from workermand.master.status import Server, State
from workermand.notify import Notify
from workermand.spec import ServerSpec

logger = logging.getLogger(__name__)

BREATH = 1.0
"""Seconds between two turns when one has failed, lest it fill the disk with tracebacks."""


def main(spec: ServerSpec, reread: Callable[[], ServerSpec]) -> int:
    """Runs the daemon in the foreground until it is stopped; returns its exit code. ``reread`` gives the settings anew
    at each reload and raises ConfigError. Called by cli.py, in a process of its own."""
    try:
        return Master(spec, reread).run()
    except ConfigError as error:
        print(f"workermand: {spec.label}: {error}", file=sys.stderr)
        return ExitCode.FAILED if isinstance(error, AddressInUse) else ExitCode.CONFIG


class Master:
    """The daemon: what its parts share, and the loop that drives them."""

    def __init__(self, spec: ServerSpec, reread: Callable[[], ServerSpec]) -> None:
        self.state: State = State.STARTING
        self.selector = selectors.EpollSelector()
        self.notify = Notify(os.environ)
        self.outputs = Outputs()
        self.sockets = Sockets()
        self.bundles = Bundles()
        self.crew = Crew(self)
        self.changes = Changes(self, spec, reread)
        self.desk = Desk(self)
        self._exit_code = int(ExitCode.OK)
        self._terminated = False
        """TERM or INT has come once: the next one kills."""
        self._started = time.time()
        self._began = time.monotonic()
        self._next_ping = time.monotonic()
        self._stoppers: list[Request] = []
        self._wakeup, self._interrupt = socket.socketpair()

    @property
    def spec(self) -> ServerSpec:
        return self.changes.spec

    # ------------------------------------------------------------------ the loop

    def run(self) -> int:
        """Raises ConfigError before the first fork; afterwards whatever happens is logged and survived."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._close)
            self._prepare(stack)
            self._first_start()
            while self.state is not State.STOPPING or next(self.crew.children(), None) is not None:
                try:
                    self._turn()
                except Exception:  # a bug of ours must not take the children's clients along
                    logger.exception("can't happen: the master goes on")
                    time.sleep(BREATH)
            for request in self._stoppers:
                request.reply({"what": "stop", "stopped": True})
        logger.info("stopped")
        return self._exit_code

    def _turn(self) -> None:
        ready = self.selector.select(self._timeout())
        fds = {key.fd: (key.data, mask) for key, mask in ready}
        others = [handle for fd, handle in fds.items() if not self.crew.owns(fd)]
        self._read_signals()
        self.crew.turn(fds)
        for callback, mask in others:
            callback(mask)
        self._deadlines(time.monotonic())
        if self.state is State.RUNNING:
            self.changes.advance()
        self.crew.fill(time.monotonic())
        self.crew.flush()
        self.notify.status(self._summary())

    def _timeout(self) -> float | None:
        """Seconds until something is due; None: only an event wakes us."""
        due = [self.crew.next_deadline(), self.desk.next_deadline(), self._control.next_deadline()]
        due.append(self._next_ping if self.notify.watchdog_interval else None)
        due.append(self._next_patience(time.monotonic()) if self.state is State.STARTING else None)
        earliest = min((d for d in due if d is not None), default=None)
        return None if earliest is None else max(0.0, earliest - time.monotonic())

    def _deadlines(self, now: float) -> None:
        self.crew.tick(now)
        self.desk.finish(now)
        self._control.expire(now)
        if self.notify.watchdog_interval and now >= self._next_ping:
            self.notify.watchdog()
            self._next_ping = now + self.notify.watchdog_interval
        if self.state is State.STARTING:
            self._maybe_started(now)

    # ------------------------------------------------------------------ start

    def _prepare(self, stack: contextlib.ExitStack) -> None:
        """Everything that may fail for the operator's reasons, before the first fork."""
        setproctitle.setproctitle("workermand: master")
        prepare(self.spec)
        stack.enter_context(PidFile(self.spec))
        self.outputs.open(self.spec.log)
        raise_descriptor_limit()
        stack.callback(self.bundles.close)
        self.bundles.read(self.spec.workers.values())
        self.bundles.commit(self.spec.workers)
        stack.callback(self.sockets.close_all)
        self.sockets.offer(os.environ)
        for worker in self.spec.workers.values():
            self.sockets.open(worker)
        self.sockets.close_unclaimed()
        path = os.path.join(self.spec.run_dir, "control.sock")
        self._control = Control(self.selector, path, self.spec.control_group, self.desk.serve)
        stack.callback(self._control.close)
        self._catch_signals()

    def _close(self) -> None:
        """Last of all: what was there before anything could fail."""
        signal.set_wakeup_fd(-1)
        for closable in (self._wakeup, self._interrupt, self.selector, self.notify):
            closable.close()

    def _catch_signals(self) -> None:
        """The handlers do nothing: the number arrives through the wakeup descriptor, and is handled in the loop."""
        for sock in (self._wakeup, self._interrupt):
            sock.setblocking(False)
        self.selector.register(self._wakeup, selectors.EVENT_READ, data=lambda _mask: None)
        signal.set_wakeup_fd(self._interrupt.fileno(), warn_on_full_buffer=False)
        for signum in SIGNALS:
            signal.signal(signum, lambda _signum, _frame: None)

    def _first_start(self) -> None:
        self.notify.extend(max((w.timeouts.start for w in self.spec.workers.values()), default=0.0) + MARGIN)
        if not log.in_journal():
            banner = report.banner(self.spec, psutil.Process().username())
            log.Outlet(1).write(f"{banner}\n".encode())  # a full disk is no reason not to start
        # The collector would write into every object that children share with us.
        gc.collect()
        gc.freeze()
        for name, worker in self.spec.workers.items():
            for index in range(worker.count):
                self.crew.start(self.crew.slot(name, index))

    def _patience(self) -> dict[str, float]:
        """Worker that misses children -> until when READY waits for all of them; afterwards one will do."""
        workers = (self.spec.workers[slot.worker] for slot in self.crew.missing())
        return {worker.name: self._began + worker.timeouts.start for worker in workers}

    def _next_patience(self, now: float) -> float | None:
        return min((until for until in self._patience().values() if until > now), default=None)

    def _maybe_started(self, now: float) -> None:
        if all(now >= until and worker in self.crew.proved for worker, until in self._patience().items()):
            self.state = State.RUNNING
            logger.info("started: %s", self._summary())
            self.notify.ready()

    # ------------------------------------------------------------------ stop and signals

    def stop(self, how: StopHow, request: Request | None = None, *, exit_code: int | None = None) -> None:
        """The end of the daemon: gracefully ("drain"), or "fast". A second call may only hasten it. ``request`` is
        answered when all children are gone."""
        if request is not None:
            self._stoppers.append(request)
        if self.state is State.STOPPING:
            if how == "fast":
                self.crew.handle_all(Event.STOP, how="fast")
            return
        logger.info("stopping %s", "fast" if how == "fast" else "gracefully")
        self.state = State.STOPPING
        self._exit_code = int(ExitCode.OK) if exit_code is None else exit_code
        self.notify.stopping()
        self.notify.extend(max((w.timeouts.stop for w in self.spec.workers.values()), default=0.0) + MARGIN)
        self.changes.abandon("the daemon is stopping")
        self.sockets.close_all()
        self.crew.handle_all(Event.STOP, how=how)

    def _read_signals(self) -> None:
        with contextlib.suppress(BlockingIOError):
            for number in self._wakeup.recv(4096):
                if number in SIGNALS:
                    SIGNALS[signal.Signals(number)](self)

    def _end(self, how: StopHow) -> None:
        """Who has said `workermanctl stop`, or sent QUIT, has not said TERM yet."""
        if self._terminated:
            logger.warning("second signal: killing what is left")
            self.crew.handle_all(Event.KILL, why="second signal")
        else:
            self._terminated = True
            self.stop(how)

    def _hang_up(self) -> None:
        """A reload; but whoever closes the terminal of a daemon in the foreground wants it to end."""
        if self.outputs.terminal_is_gone:
            self.stop("drain")
        else:
            self.changes.ask("reload")

    # ------------------------------------------------------------------ for people

    def describe(self) -> Server:
        notes = {name: self.bundles.note(name) for name in self.spec.workers}
        return Server(
            self.spec, self.changes.generation, self._visible_state(), self.changes.note, self._started, notes
        )

    def _visible_state(self) -> str:
        if self.state is not State.RUNNING:
            return str(self.state.value)
        if self.changes.reloading:
            return "reloading"
        return "degraded" if self.changes.half_done or self.crew.missing() else "running"

    def _summary(self) -> str:
        """STATUS: what `systemctl status` shows. Names what is missing."""
        wanted = sum(worker.count for worker in self.spec.workers.values())
        missing = [str(slot) for slot in self.crew.missing()]
        line = f"{wanted - len(missing)}/{wanted} children of {len(self.spec.workers)} workers serve"
        if missing:
            line += f"; missing: {', '.join(missing[:5])}" + (" ..." if len(missing) > 5 else "")
        return line + (f"; {self.changes.note}" if self.changes.note else "")


SIGNALS: dict[signal.Signals, Callable[[Master], None]] = {
    signal.SIGTERM: lambda master: master._end("drain"),
    signal.SIGINT: lambda master: master._end("fast"),
    signal.SIGQUIT: lambda master: master.stop("drain"),
    signal.SIGHUP: lambda master: master._hang_up(),
    signal.SIGUSR1: lambda master: master.changes.ask("reload"),
    signal.SIGUSR2: lambda master: master.desk.dump(),
}
