"""Changes to the running daemon: reload, restart, scale, and the replacement of a child that has reached a limit.

They wait in line: one rollout at a time, what waits already is not queued twice, a second reload is never lost. This
file owns the settings in force and their generation; nothing else moves them.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import msgspec

from workermand import places
from workermand.errors import ConfigError
from workermand.link import Passed, Refresh
from workermand.master import plan
from workermand.master.child import Child
from workermand.master.control import Request
from workermand.master.plan import Address
from workermand.master.rollout import Rollout
from workermand.master.slots import Slot
from workermand.master.status import State
from workermand.spec import ServerSpec, WorkerSpec

if TYPE_CHECKING:
    from workermand.master.master import Master

log = logging.getLogger(__name__)

FIXED = ("name", "run_dir", "state_dir", "control_group")
"""[server] settings that the master itself stands on: they change with a restart of the daemon."""
MARGIN = 5.0
"""Seconds that systemd is asked for beyond our own deadlines."""

Kind = Literal["reload", "restart", "scale", "recycle"]


@dataclass(slots=True)
class Operation:
    kind: Kind
    worker: str | None = None
    number: int = 0
    """The count to scale to, or the slot to recycle."""
    requests: list[Request] = field(default_factory=list)
    """Who waits for the end of it."""

    def __str__(self) -> str:
        match self.kind:
            case "scale":
                return f"scale {self.worker} {self.number}"
            case "recycle":
                return f"recycle {self.worker}#{self.number}"
            case _:
                return f"{self.kind} {self.worker}" if self.worker else self.kind


class Changes:
    """Process: the master. ``spec`` is in force, ``_deferred`` waits for `restart NAME`."""

    def __init__(self, master: Master, spec: ServerSpec, reread: Callable[[], ServerSpec]) -> None:
        self.spec = spec
        self.generation = 1
        self.half_done = False
        """The last reload failed after its Commit: some slots have new children, the others kept their old ones."""
        self._master = master
        self._reread = reread
        self._deferred: dict[str, WorkerSpec] = {}
        self._waits: list[str] = []
        """The same in words."""
        self._trouble = ""
        """Why the last change failed, until a reload succeeds."""
        self._waiting: deque[Operation] = deque()
        self._rollout: Rollout | None = None

    # ------------------------------------------------------------------ the line

    def ask(self, kind: Kind, worker: str | None = None, number: int = 0, *, request: Request | None = None) -> None:
        """Queues an operation; ``request`` is answered at its end."""
        if self._master.state is State.STOPPING:
            if request is not None:
                request.fail("the daemon is stopping")
            return
        operation = Operation(kind, worker, number, [request] if request is not None else [])
        for waiting in self._waiting:
            if str(waiting) == str(operation):
                waiting.requests += operation.requests
                return
        self._waiting.append(operation)

    @property
    def note(self) -> str:
        """What the operator should know: why the last change failed, what waits for a restart."""
        return "; ".join(filter(None, [self._trouble, *self._waits]))

    @property
    def reloading(self) -> bool:
        return self._rollout is not None and self._rollout.is_reload

    def advance(self) -> None:
        """Moves the rollout on, ends it, begins the next."""
        while self._rollout is not None or self._waiting:
            if self._rollout is None:
                self._begin(self._waiting.popleft())
            elif self._rollout.advance():
                self._end(self._rollout)
            else:
                return

    def abandon(self, why: str) -> None:
        """The daemon stops: nothing is begun any more, who waits is told."""
        requests = [request for operation in self._waiting for request in operation.requests]
        self._waiting.clear()
        if self._rollout is not None:
            self._rollout.drop()
            requests += self._rollout.requests
            self._rollout = None
            self._master.bundles.drop()
        for request in requests:
            request.fail(why)

    # ------------------------------------------------------------------ begin

    def _begin(self, operation: Operation) -> None:
        try:
            target, its_plan = self._plan(operation)
            self._read_certificates(operation, its_plan)
            if operation.kind == "reload":
                self._master.outputs.open(target.log)
        except ConfigError as error:
            self._refuse(operation, str(error))
            return
        if operation.kind == "reload":
            self._master.notify.reloading()
            self._master.notify.extend(_longest(target))
        log.info("%s: %s", operation, ", ".join(str(step) for step in its_plan.steps))
        target = msgspec.structs.replace(target, workers=its_plan.workers)
        self._rollout = Rollout(str(operation), its_plan, target, self, operation.requests)

    def _plan(self, operation: Operation) -> tuple[ServerSpec, plan.Plan]:
        """Raises ConfigError: nothing has changed."""
        crew, name = self._master.crew, operation.worker or ""
        extras = crew.extras.addresses()
        running = plan.Running(self.spec.workers, crew.occupied(), self._master.sockets.addresses() - extras)
        if operation.kind == "reload":
            target = self._read_again()
            return target, plan.reload(running, target)
        if name and name not in running.workers:
            raise ConfigError(str(operation), "there is no such worker any more")
        if operation.kind == "restart":
            return self.spec, plan.restart(running, [name] if name else list(running.workers), self._deferred)
        if operation.kind == "scale":
            return self.spec, plan.scale(running, name, operation.number, self._deferred)
        return self.spec, plan.recycle(running, name, operation.number, self._deferred)

    def _read_certificates(self, operation: Operation, its_plan: plan.Plan) -> None:
        """For all that the change brings new processes or settings. Raises ConfigError."""
        if operation.kind == "reload":
            self._master.bundles.read(its_plan.workers.values())
        elif operation.kind == "restart":
            names = [operation.worker] if operation.worker else list(its_plan.workers)
            self._master.bundles.read(its_plan.workers[name] for name in names)

    def _read_again(self) -> ServerSpec:
        target = self._reread()
        for key in FIXED:
            if getattr(target, key) != getattr(self.spec, key):
                where = f"{self.spec.label}: server.{key}"
                raise ConfigError(where, "a reload cannot change it", "restart the daemon, or undo the edit")
        prepare(target)
        return target

    def _refuse(self, operation: Operation, why: str) -> None:
        self._master.bundles.drop()
        log.error("%s failed, nothing has changed: %s", operation, why)
        self._trouble = f"last {operation} failed: {why.splitlines()[0]}"
        for request in operation.requests:
            request.fail(why)

    # ------------------------------------------------------------------ end

    def _end(self, rollout: Rollout) -> None:
        self._rollout = None
        self._master.bundles.drop()
        if rollout.is_reload:
            self._master.notify.ready()
        self._master.crew.share_out()
        self._master.crew.start_what_is_left()
        if rollout.failure:
            self._failed(rollout)
            return
        if rollout.is_reload:
            self._trouble = ""
        log.info("%s done in %.2f s", rollout.name, time.monotonic() - rollout.began)
        for request in rollout.requests:
            request.reply(rollout.summary())

    def _failed(self, rollout: Rollout) -> None:
        outcome = "the remaining old children stay" if rollout.committed else "nothing has changed"
        text = f"{rollout.name} failed, {outcome}: {rollout.failure}"
        log.error("%s", text)
        self._trouble = f"last {text.splitlines()[0]}"
        if rollout.is_reload:
            self.half_done = rollout.committed
        for request in rollout.requests:
            request.fail(text)

    # ------------------------------------------------------------------ what a rollout asks of us (rollout.Crew)

    def slot(self, worker: str, index: int) -> Slot:
        return self._master.crew.slot(worker, index)

    def spawn(self, slot: Slot, server: ServerSpec) -> Child:
        return self._master.crew.spawn(slot, server)

    def generation_of(self, server: ServerSpec) -> int:
        """A child of a reload that is not committed yet belongs to the next generation already."""
        return self.generation + (self.reloading and server is not self.spec)

    def open(self, worker: str, server: ServerSpec) -> list[Address]:
        return self._master.sockets.open(server.workers[worker])

    def close_address(self, address: Address) -> None:
        self._master.sockets.close(address)

    def commit(self, rollout: Rollout) -> None:
        self.generation = self.generation_of(rollout.target)
        self.spec = rollout.target
        self._master.bundles.commit(self.spec.workers)
        self._deferred = rollout.plan.deferred
        self._waits = rollout.plan.waits_for_restart
        if rollout.is_reload:
            self.half_done = False

    def refresh(self, child: Child) -> None:
        child.server, child.worker = self.spec, self.spec.workers[child.worker.name]
        reopened, fds = self._master.outputs.to_pass()
        kinds: list[Passed] = [*reopened]
        child.certificates = self._master.bundles.fd(child.worker.name)
        if child.certificates is not None:
            kinds.append("certificates")
            fds = [*fds, child.certificates]
        child.tell(Refresh(msgspec.msgpack.encode(child.worker), kinds), fds)


def prepare(spec: ServerSpec) -> None:
    """What the machine must allow before anything is opened. Raises ConfigError."""
    places.make_directories(spec)
    for problem in places.verify_users(spec):
        raise problem


def _longest(spec: ServerSpec) -> float:
    return MARGIN + sum(
        worker.count * (worker.timeouts.start + worker.timeouts.stop) for worker in spec.workers.values()
    )
