"""A rollout driven by hand: children without processes, whose events the test decides."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec
import pytest

from workermand.errors import ConfigError
from workermand.link import Words
from workermand.master import plan
from workermand.master.child import Child, Event, Phase
from workermand.master.plan import Address
from workermand.master.rollout import Rollout
from workermand.master.slots import Slot
from workermand.spec import ListenSpec, ServerSpec, WorkerSpec


class Fake(Child):
    """Its events come from the test."""

    def __init__(self, worker: WorkerSpec, slot: int, *, running: bool = False) -> None:
        super().__init__(server(worker), worker, slot, 1)
        self.told: list[object] = []
        if running:
            self.handle(Event.READY)

    def tell(self, message: object, fds: object = ()) -> None:
        self.told.append(message)

    def signal(self, signum: object) -> None:
        pass

    def die(self, words: str = "") -> None:
        self.words = Words("import failed", words)
        self.handle(Event.EXITED)


class Crew:
    """What the master does for a rollout, as a record."""

    def __init__(self, *workers: WorkerSpec) -> None:
        self.workers = workers
        self.all: dict[tuple[str, int], Slot] = {}
        self.spawned: list[Fake] = []
        self.closed: list[Address] = []
        self.commits = 0
        self.refreshed: list[Child] = []
        self.open_error: ConfigError | None = None
        for worker in workers:
            for index in range(worker.count):
                self.slot(worker.name, index).current = Fake(worker, index, running=True)

    def slot(self, worker: str, index: int) -> Slot:
        return self.all.setdefault((worker, index), Slot(worker, index))

    def spawn(self, slot: Slot, target: ServerSpec) -> Child:
        child = Fake(target.workers[slot.worker], slot.index)
        slot.incoming = child
        self.spawned.append(child)
        return child

    def open(self, worker: str, target: ServerSpec) -> list[Address]:
        if self.open_error is not None:
            raise self.open_error
        return [listen.address for listen in target.workers[worker].listen]

    def close_address(self, address: Address) -> None:
        self.closed.append(address)

    def commit(self, rollout: Rollout) -> None:
        self.commits += 1

    def refresh(self, child: Child) -> None:
        self.refreshed.append(child)

    def reload(self, *wanted: WorkerSpec) -> Rollout:
        slots = {w.name: frozenset(range(w.count)) for w in self.workers}
        its_plan = plan.reload(plan.Running({w.name: w for w in self.workers}, slots), server(*wanted))
        target = msgspec.structs.replace(server(*wanted), workers=its_plan.workers)
        return Rollout("reload", its_plan, target, self, [])


def worker(name: str = "echo", **settings: object) -> WorkerSpec:
    return WorkerSpec(name=name, handler=f"apps.{name}", **settings)  # type: ignore[arg-type]


def server(*workers: WorkerSpec) -> ServerSpec:
    return ServerSpec(name="t", run_dir="/run/t", state_dir="/var/t", workers={w.name: w for w in workers})


def settle(rollout: Rollout, crew: Crew, each: Callable[[Fake], None]) -> bool:
    """Advances, and lets ``each`` decide what a new child does, until the rollout is over or nothing moves."""
    done = 0
    while not rollout.advance():
        if len(crew.spawned) == done and not any(c.accepting for s in crew.all.values() for c in s.draining):
            return False
        for child in crew.spawned[done:]:
            each(child)
            done += 1
        for slot in crew.all.values():
            for old in slot.draining:
                if old.phase is Phase.STOPPING:
                    old.handle(Event.DRAINING)
    return True


def test_all_slots_are_handed_over_one_by_one() -> None:
    crew = Crew(worker(count=3))
    old = [crew.slot("echo", index).current for index in range(3)]
    rollout = crew.reload(worker(count=3))
    assert settle(rollout, crew, lambda child: child.handle(Event.READY))
    assert not rollout.failure
    assert [crew.slot("echo", index).current for index in range(3)] == crew.spawned
    assert [crew.slot("echo", index).draining for index in range(3)] == [[child] for child in old]
    assert all(child is not None and child.phase is Phase.STOPPING for child in old)


def test_the_old_child_accepts_until_the_new_one_is_ready() -> None:
    crew = Crew(worker(count=1))
    old = crew.slot("echo", 0).current
    rollout = crew.reload(worker(count=1))
    assert not rollout.advance()
    assert old is not None and old.phase is Phase.RUNNING
    crew.spawned[0].handle(Event.READY)
    assert not rollout.advance(), "waits until the old one accepts no more"
    assert old.phase is Phase.STOPPING
    old.handle(Event.DRAINING)
    assert rollout.advance()


def test_a_first_child_that_fails_changes_nothing() -> None:
    crew = Crew(worker("a", count=2), worker("b"))
    before = {key: slot.current for key, slot in crew.all.items()}
    rollout = crew.reload(
        worker("a", count=2),
        worker("b", listen=(ListenSpec(uri="tcp://127.0.0.1:9", transport="tcp", protocol="raw"),)),
    )
    assert not rollout.advance()
    crew.spawned[0].handle(Event.READY)
    crew.spawned[1].die("SyntaxError: invalid syntax")
    assert rollout.advance()
    assert "SyntaxError: invalid syntax" in rollout.failure
    assert not crew.commits
    assert {key: slot.current for key, slot in crew.all.items()} == before
    assert all(child is not None and child.phase is Phase.RUNNING for child in before.values())
    assert crew.spawned[0].phase is Phase.STOPPING, "nobody needs it, but it may have clients"
    assert [message.how for message in crew.spawned[0].told] == ["retire"]  # type: ignore[attr-defined]
    assert crew.closed == [("tcp", "", 0)], "what was opened for it is closed"


def test_a_later_failure_keeps_the_remaining_old_children() -> None:
    crew = Crew(worker(count=3))
    old = [crew.slot("echo", index).current for index in range(3)]

    def second_one_fails(child: Fake) -> None:
        if child.slot == 1:
            child.die("ImportError: by chance")
        else:
            child.handle(Event.READY)

    rollout = crew.reload(worker(count=3))
    assert settle(rollout, crew, second_one_fails)
    assert "ImportError: by chance" in rollout.failure
    assert rollout.committed
    assert crew.slot("echo", 0).current is crew.spawned[0]
    assert [crew.slot("echo", index).current for index in (1, 2)] == old[1:]
    assert len(crew.spawned) == 2


def test_a_proof_that_dies_before_its_handover_fails_the_reload() -> None:
    crew = Crew(worker("a"), worker("b"))
    rollout = crew.reload(worker("a"), worker("b"))
    rollout.advance()
    first, second = crew.spawned
    first.handle(Event.READY)
    rollout.advance()
    first.die("killed by somebody")
    crew.slot("a", 0).forget(first)
    second.handle(Event.READY)
    assert rollout.advance()
    assert "killed by somebody" in rollout.failure
    assert crew.slot("a", 0).current is not None


def test_an_address_that_cannot_be_opened_changes_nothing() -> None:
    crew = Crew(worker())
    crew.open_error = ConfigError("worker.echo.listen", "text://0.0.0.0:80 is in use")
    rollout = crew.reload(worker())
    assert rollout.advance()
    assert "in use" in rollout.failure and not crew.spawned


def test_what_is_not_reloadable_is_refreshed() -> None:
    crew = Crew(worker(count=2, reloadable=False))
    rollout = crew.reload(worker(count=2, reloadable=False, options={"a": 1}))
    assert rollout.advance() and not rollout.failure
    assert crew.refreshed == [crew.slot("echo", 0).current, crew.slot("echo", 1).current]


def test_one_that_is_starting_after_a_crash_is_refreshed_when_it_is_ready() -> None:
    crew = Crew(worker(reloadable=False))
    starting = Fake(worker(reloadable=False), 0)
    crew.slot("echo", 0).current = starting
    rollout = crew.reload(worker(reloadable=False, options={"a": 1}))
    assert not rollout.advance() and not crew.refreshed
    starting.handle(Event.READY)
    assert rollout.advance() and crew.refreshed == [starting]


def test_stop_first_waits_for_the_end_of_the_old_one() -> None:
    state = worker(reloadable=False)
    crew = Crew(state)
    old = crew.slot("echo", 0).current
    its_plan = plan.restart(plan.Running({"echo": state}, {"echo": frozenset({0})}), ["echo"], {})
    rollout = Rollout("restart echo", its_plan, server(state), crew, [])
    assert not rollout.advance()
    assert not crew.spawned, "it never runs twice"
    assert old is not None
    old.handle(Event.EXITED)
    crew.slot("echo", 0).forget(old)
    assert not rollout.advance()
    crew.spawned[0].handle(Event.READY)
    assert rollout.advance() and not rollout.failure
    assert crew.slot("echo", 0).current is crew.spawned[0]


def test_two_generations_at_most() -> None:
    crew = Crew(worker())
    first = crew.slot("echo", 0).current
    assert settle(crew.reload(worker()), crew, lambda child: child.handle(Event.READY))
    assert isinstance(first, Fake) and first.phase is Phase.STOPPING and len(first.told) == 1
    crew.spawned.clear()
    assert settle(crew.reload(worker()), crew, lambda child: child.handle(Event.READY))
    assert [message.how for message in first.told] == ["retire", "fast"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("overdue", [True, False])
def test_a_child_that_never_gets_ready_ends_the_wait(overdue: bool) -> None:
    crew = Crew(worker())
    rollout = crew.reload(worker())
    assert not rollout.advance()
    if overdue:
        crew.spawned[0].tick(time.monotonic() + 31)
    else:
        crew.spawned[0].leaving = "stop()"
        crew.spawned[0].handle(Event.DRAINING)
    assert rollout.advance()
    assert ("killed: start deadline" if overdue else "it left: stop()") in rollout.failure
    assert crew.slot("echo", 0).current is not None
