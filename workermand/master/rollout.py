"""Executes a plan, a step at a time, driven by the master's loop: advance() goes as far as it can and returns.

A step is done, or it waits for something that a child's event will bring, or it fails. Before Commit a failure drops
what was built and nothing has changed; after it the remaining old children stay. Deadlines are the children's own: a
child that never gets READY, or never stops, is killed, and that ends the wait.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Protocol

from workermand.errors import ConfigError
from workermand.master.child import Child, Event, Phase
from workermand.master.control import Request
from workermand.master.plan import (
    Address,
    AnyStep,
    AwaitReady,
    Close,
    Commit,
    End,
    Handover,
    Open,
    Plan,
    Refresh,
    Retire,
    SlotStep,
    Spawn,
)  # fmt: skip
from workermand.master.slots import Slot
from workermand.spec import ServerSpec

log = logging.getLogger(__name__)


class Failed(Exception):
    """A step that cannot be done; the text is for the operator, a traceback included."""


class Crew(Protocol):
    """What a rollout needs of the master."""

    def slot(self, worker: str, index: int) -> Slot: ...
    def spawn(self, slot: Slot, server: ServerSpec) -> Child: ...
    def open(self, worker: str, server: ServerSpec) -> list[Address]: ...
    def close_address(self, address: Address) -> None: ...
    def commit(self, rollout: Rollout) -> None: ...
    def refresh(self, child: Child) -> None: ...


class Rollout:
    """One plan under way. ``name`` is for people: "reload", "restart echo"; ``requests`` wait for its end."""

    def __init__(self, name: str, plan: Plan, target: ServerSpec, crew: Crew, requests: list[Request]) -> None:
        self.name = name
        self.plan = plan
        self.target = target
        self.requests = requests
        self.committed = False
        self.failure = ""
        self.began = time.monotonic()
        self._crew = crew
        self._position = 0
        self._opened: list[Address] = []
        self._spawned: list[tuple[Slot, Child]] = []
        self._promoted: Child | None = None

    @property
    def is_reload(self) -> bool:
        return self.name == "reload"

    def advance(self) -> bool:
        """True when the rollout is over: done, or failed with ``failure``."""
        while self._position < len(self.plan.steps):
            step = self.plan.steps[self._position]
            try:
                if not DO[type(step)](self, step):
                    return False
            except (Failed, ConfigError) as error:
                self.failure = str(error)
                self.drop()
                return True
            self._position += 1
        return True

    def drop(self) -> None:
        """Nobody needs what was built: the incoming children, the addresses just opened. One that is READY may have
        clients by now: they are served to their end."""
        for slot, child in self._spawned:
            if slot.incoming is child:
                slot.dismiss(child)
                if child.phase is Phase.RUNNING:
                    child.handle(Event.STOP, how="retire")
                elif child.phase is not Phase.GONE:
                    child.handle(Event.KILL, why=f"{self.name} dropped")
        if not self.committed:
            for address in self._opened:
                self._crew.close_address(address)

    def summary(self) -> dict[str, Any]:
        """What the requests are answered."""
        return {
            "what": self.name,
            "seconds": round(time.monotonic() - self.began, 3),
            "steps": [str(step) for step in self.plan.steps],
            "notes": self.plan.waits_for_restart,
        }

    # ------------------------------------------------------------------ steps: True = done, False = wait

    def _open(self, step: Open) -> bool:
        self._opened += self._crew.open(step.worker, self.target)
        return True

    def _spawn(self, step: Spawn) -> bool:
        slot = self._slot(step)
        child = self._crew.spawn(slot, self.target)
        self._spawned.append((slot, child))
        return True

    def _await_ready(self, step: AwaitReady) -> bool:
        child = self._child_for(step)
        if child.phase is Phase.STARTING:
            return False
        if child.phase is Phase.RUNNING:
            return True
        raise Failed(self._epitaph(child))

    def _handover(self, step: Handover) -> bool:
        """Comes by more than once: the promotion, then the wait until the old one accepts no more."""
        slot, child = self._slot(step), self._child_for(step)
        if self._promoted is not child:
            if child.phase is not Phase.RUNNING:
                raise Failed(self._epitaph(child))
            _make_room(slot)
            self._promoted = child
            if old := slot.promote():
                self._stop(old)
        return not any(old.accepting for old in slot.draining)

    def _retire(self, step: Retire) -> bool:
        slot = self._slot(step)
        if old := slot.current:
            _make_room(slot)
            slot.dismiss(old)
            self._stop(old)
        slot.next_start = None
        return not any(old.accepting for old in slot.draining)

    def _end(self, step: End) -> bool:
        slot = self._slot(step)
        if old := slot.current:
            slot.dismiss(old)
            old.handle(Event.STOP, how="drain", reload=self.is_reload)
        slot.next_start = None
        return not slot.draining

    def _refresh(self, step: Refresh) -> bool:
        """One that is starting, after a crash, has begun with the former settings: its on_worker_start comes first."""
        child = self._slot(step).current
        if child is not None and child.phase is Phase.STARTING:
            return False
        if child is not None and child.phase is Phase.RUNNING:
            self._crew.refresh(child)
        return True

    def _commit(self, step: Commit) -> bool:
        self.committed = True
        self._crew.commit(self)
        return True

    def _close(self, step: Close) -> bool:
        self._crew.close_address(step.address)
        return True

    # ------------------------------------------------------------------ helpers

    def _slot(self, step: SlotStep) -> Slot:
        return self._crew.slot(step.worker, step.slot)

    def _child_for(self, step: SlotStep) -> Child:
        slot = self._slot(step)
        return next(child for its_slot, child in reversed(self._spawned) if its_slot is slot)

    def _stop(self, old: Child) -> None:
        if old.phase in (Phase.STARTING, Phase.RUNNING):
            old.handle(Event.STOP, how="retire", reload=self.is_reload)

    def _epitaph(self, child: Child) -> str:
        said = (
            child.words.text
            or (child.why and f"killed: {child.why}")
            or (child.leaving and f"it left: {child.leaving}")
            or "it ended before it was ready"
        )
        return f"{child}: {child.words.reason or 'not ready'}\n{said}".rstrip()


def _make_room(slot: Slot) -> None:
    """Two generations at most: who still drains from an earlier change is cut now."""
    for older in slot.draining:
        if older.phase is Phase.STOPPING:
            older.handle(Event.STOP, how="fast")


DO: dict[type[AnyStep], Callable[[Rollout, Any], bool]] = {
    Open: Rollout._open,
    Spawn: Rollout._spawn,
    AwaitReady: Rollout._await_ready,
    Handover: Rollout._handover,
    Retire: Rollout._retire,
    End: Rollout._end,
    Refresh: Rollout._refresh,
    Commit: Rollout._commit,
    Close: Rollout._close,
}
