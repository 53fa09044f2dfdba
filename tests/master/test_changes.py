"""The line of operations, and what takes effect when: a master whose crew is made of children without processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from workermand.errors import ConfigError
from workermand.link import Message, Refresh
from workermand.master import changes as module
from workermand.master.bundles import Bundles
from workermand.master.changes import Changes
from workermand.master.child import Child, Event
from workermand.master.slots import Slot
from workermand.master.status import State
from workermand.spec import ServerSpec, WorkerSpec


class Fake(Child):
    def __init__(self, server: ServerSpec, worker: WorkerSpec, slot: int, generation: int) -> None:
        super().__init__(server, worker, slot, generation)
        self.told: list[Message] = []

    def tell(self, message: Message, fds: object = ()) -> None:
        self.told.append(message)

    def signal(self, signum: object) -> None:
        pass


class Answer:
    """A control request."""

    def __init__(self) -> None:
        self.said: Any = None

    def reply(self, data: dict[str, Any]) -> None:
        self.said = data

    def fail(self, error: str, code: int = 1) -> None:
        self.said = (error, code)


class Master:
    """What Changes needs of the master: every part of it that is not under test does nothing, or is a list."""

    def __init__(self, spec: ServerSpec) -> None:
        self.state = State.RUNNING
        self.crew = self.sockets = self.outputs = self.notify = self.extras = self
        self.bundles = Bundles()
        self.all: dict[tuple[str, int], Slot] = {}
        self.spawned: list[Fake] = []
        self.said: list[str] = []
        self.changes = Changes(self, spec, self.reread)  # type: ignore[arg-type]
        self.file: ServerSpec | ConfigError = spec
        for worker in spec.workers.values():
            for index in range(worker.count):
                self.slot(worker.name, index).current = child = Fake(spec, worker, index, 1)
                child.handle(Event.READY)

    def reread(self) -> ServerSpec:
        if isinstance(self.file, ConfigError):
            raise self.file
        return self.file

    def addresses(self) -> frozenset[Any]:
        return frozenset()

    def occupied(self) -> dict[str, frozenset[int]]:
        names = {slot.worker for slot in self.all.values()}
        return {name: frozenset(s.index for s in self.all.values() if s.worker == name and s.current) for name in names}

    def slot(self, worker: str, index: int) -> Slot:
        return self.all.setdefault((worker, index), Slot(worker, index))

    def spawn(self, slot: Slot, server: ServerSpec) -> Child:
        child = Fake(server, server.workers[slot.worker], slot.index, self.changes.generation_of(server))
        slot.incoming = child
        self.spawned.append(child)
        return child

    def open(self, _what: object) -> list[Any]:
        return []

    def to_pass(self) -> tuple[list[Any], list[int]]:
        return [], []

    def share_out(self) -> None: ...
    def start_what_is_left(self) -> None: ...
    def extend(self, _seconds: float) -> None: ...

    def reloading(self) -> None:
        self.said.append("RELOADING")

    def ready(self) -> None:
        self.said.append("READY")

    def work(self, each: Callable[[Fake], None] = lambda child: child.handle(Event.READY)) -> None:
        """Turns the loop until nothing moves any more."""
        for _ in range(50):
            self.changes.advance()
            for child in [child for child in self.spawned if child.phase.value == "starting"]:
                each(child)
            for slot in self.all.values():
                for old in slot.draining:
                    if old.accepting and old.told:
                        old.handle(Event.DRAINING)


@pytest.fixture(autouse=True)
def _a_machine_that_allows_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "prepare", lambda spec: None)


def worker(name: str = "echo", **settings: Any) -> WorkerSpec:
    return WorkerSpec(name=name, handler=f"apps.{name}", **settings)


def server(*workers: WorkerSpec, **settings: Any) -> ServerSpec:
    places = {"name": "t", "run_dir": "/r", "state_dir": "/s", **settings}
    return ServerSpec(workers={w.name: w for w in workers}, **places)


def test_a_reload_puts_the_file_into_force() -> None:
    master = Master(server(worker()))
    master.file = server(worker(count=2))
    request = Answer()
    master.changes.ask("reload", request=request)  # type: ignore[arg-type]
    master.work()
    assert master.changes.spec.workers["echo"].count == 2
    assert master.changes.generation == 2
    assert [child.generation for child in master.spawned] == [2, 2]
    assert request.said["what"] == "reload" and request.said["notes"] == []
    assert master.said == ["RELOADING", "READY"]


def test_a_file_that_cannot_be_used_changes_nothing() -> None:
    master = Master(server(worker()))
    master.file = ConfigError("w.toml: worker.echo.cuont", "unknown key")
    request = Answer()
    master.changes.ask("reload", request=request)  # type: ignore[arg-type]
    master.work()
    assert request.said == ("w.toml: worker.echo.cuont: unknown key", 1)
    assert master.changes.note == "last reload failed: w.toml: worker.echo.cuont: unknown key"
    assert master.changes.generation == 1 and not master.said and not master.changes.half_done


def test_a_failure_half_way_is_remembered_until_a_reload_succeeds() -> None:
    master = Master(server(worker(count=2)))

    def fails(child: Fake) -> None:
        child.handle(Event.EXITED if child.slot == 1 else Event.READY)

    master.changes.ask("reload")
    master.work(fails)
    assert master.changes.half_done and "the remaining old children stay" in master.changes.note
    assert master.said[-1] == "READY", "systemd must see the end of the reload"
    master.changes.ask("reload")
    master.work()
    assert not master.changes.half_done and master.changes.note == ""


def test_what_waits_already_is_not_queued_twice() -> None:
    master = Master(server(worker()))
    requests = [Answer() for _ in range(4)]
    for request in requests:
        master.changes.ask("reload", request=request)  # type: ignore[arg-type]
    master.work()
    assert master.changes.generation == 2
    assert all(request.said["what"] == "reload" for request in requests)


def test_a_second_reload_while_one_runs_is_not_lost() -> None:
    master = Master(server(worker()))
    master.changes.ask("reload")
    master.changes.advance()
    master.changes.ask("reload")
    master.changes.ask("reload")
    master.work()
    assert master.changes.generation == 3


@pytest.mark.parametrize(("key", "value"), [("name", "other"), ("run_dir", "/elsewhere"), ("state_dir", "/s2")])
def test_what_the_master_stands_on_cannot_be_reloaded(key: str, value: str) -> None:
    """To take over the rest alone would leave a relative unix socket in a directory that nobody has made."""
    master = Master(server(worker()))
    master.file = server(worker(options={"a": 1}), **{key: value})
    request = Answer()
    master.changes.ask("reload", request=request)
    master.work()
    error, code = request.said
    assert f"server.{key}: a reload cannot change it" in error and "restart the daemon" in error and code == 1
    assert master.changes.generation == 1 and not master.changes.spec.workers["echo"].options


def test_what_is_not_reloadable_is_refreshed_and_restarted_on_demand() -> None:
    master = Master(server(worker(reloadable=False)))
    child = master.slot("echo", 0).current
    assert isinstance(child, Fake)
    wanted = worker(reloadable=False, options={"a": 1})
    master.file = server(msgspec.structs.replace(wanted, handler="apps.other"))
    master.changes.ask("reload")
    master.work()
    [refresh] = child.told
    assert isinstance(refresh, Refresh)
    spec = msgspec.msgpack.decode(refresh.worker, type=WorkerSpec)
    assert (spec.options, spec.handler) == ({"a": 1}, "apps.echo")
    assert "workermanctl restart echo" in master.changes.note
    master.changes.ask("restart", "echo")
    master.changes.advance()
    child.handle(Event.EXITED)
    master.slot("echo", 0).forget(child)
    master.work()
    assert master.spawned[0].worker.handler == "apps.other"
    assert master.changes.note == "", "nothing waits any more"


def test_scale_and_restart_keep_the_generation() -> None:
    master = Master(server(worker()))
    master.changes.ask("scale", "echo", 3)
    master.changes.ask("restart", "echo")
    master.work()
    assert master.changes.generation == 1
    assert master.changes.spec.workers["echo"].count == 3
    assert len(master.spawned) == 5


def test_a_worker_that_a_reload_has_removed_cannot_be_recycled() -> None:
    master = Master(server(worker("a"), worker("b")))
    request = Answer()
    master.file = server(worker("a"))
    master.changes.ask("reload")
    master.changes.ask("recycle", "b", 0, request=request)  # type: ignore[arg-type]
    master.work()
    assert request.said == ("recycle b#0: there is no such worker any more", 1)


def test_a_daemon_that_stops_tells_everybody_who_waits() -> None:
    master = Master(server(worker()))
    running, waiting, late = Answer(), Answer(), Answer()
    master.changes.ask("reload", request=running)  # type: ignore[arg-type]
    master.changes.advance()
    master.changes.ask("restart", "echo", request=waiting)  # type: ignore[arg-type]
    master.changes.abandon("the daemon is stopping")
    master.state = State.STOPPING
    master.changes.ask("reload", request=late)  # type: ignore[arg-type]
    assert running.said == waiting.said == late.said == ("the daemon is stopping", 1)
    assert master.spawned[0].phase.value == "killed"
