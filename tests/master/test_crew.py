"""Slots that empty and fill: a master without processes, whose forks are recorded."""

from __future__ import annotations

import errno
import os
import selectors
import signal
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from workermand.link import Adopt, Draining, Link, Listen, Listening, Ready, Recycle, Words
from workermand.master import crew as module
from workermand.master.bundles import Bundles
from workermand.master.child import Child, Phase
from workermand.master.crew import Crew
from workermand.master.sockets import Listeners, Sockets
from workermand.master.status import State
from workermand.spec import ListenSpec, ServerSpec, WorkerSpec


class Fake(Child):
    """Its process is a pipe end that stands for the pidfd, and a link whose other end the test holds."""

    made: list[Fake] = []  # noqa: RUF012

    def fork(self, listeners: Listeners, keep: object) -> None:
        self.link, self.theirs = Link.pair()
        self.pidfd, self._other = os.pipe()
        self.pid = 100_000 + len(self.made)
        self.signals: list[signal.Signals] = []
        self.holds = {sock.fileno() for _listen, socks in listeners for sock in socks}
        self.made.append(self)

    def signal(self, signum: signal.Signals) -> None:
        self.signals.append(signum)

    def reap(self) -> bool:
        return self.wait_status is not None

    def die(self, status: int = 0) -> None:
        self.wait_status = status
        os.close(self._other)
        self.theirs.close()


class Changes:
    def __init__(self) -> None:
        self.asked: list[Any] = []

    def generation_of(self, server: ServerSpec) -> int:
        return 1

    def ask(self, *operation: Any) -> None:
        self.asked.append(operation)


class Master:
    """What Crew needs of the master."""

    def __init__(self, *workers: WorkerSpec) -> None:
        self.spec = ServerSpec(name="t", run_dir="/r", state_dir="/s", workers={w.name: w for w in workers})
        self.state = State.RUNNING
        self.selector = selectors.EpollSelector()
        self.sockets = Sockets()
        self.bundles = Bundles()
        self.outputs = self
        self.changes = Changes()
        self.stopped: list[Any] = []
        self.crew = Crew(self)  # type: ignore[arg-type]

    def descriptors(self) -> list[int]:
        return []

    def stop(self, how: str, exit_code: int) -> None:
        self.stopped.append((how, exit_code))

    def turn(self) -> None:
        self.crew.turn([key.fd for key, _ in self.selector.select(0)])
        self.crew.fill(time.monotonic())


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Any:
    Fake.made = []
    monkeypatch.setattr(module, "Child", Fake)
    yield Fake.made
    for child in Fake.made:
        child.close()
        child.theirs.close()


def start(master: Master, name: str = "echo", count: int = 1, *, ready: bool = True) -> None:
    for index in range(count):
        master.crew.start(master.crew.slot(name, index))
    for child in Fake.made[-count:] if ready else ():
        child.theirs.send(Ready())
    master.turn()


def test_a_crash_is_followed_at_once_and_then_later(made: list[Fake]) -> None:
    master = Master(WorkerSpec(name="echo", handler="a"))
    start(master)
    made[0].die(9)
    master.turn()
    assert len(made) == 2, "the first crash is answered at once"
    made[1].theirs.send(Words("import failed", "Traceback"))
    made[1].die(3 << 8)
    master.turn()
    assert len(made) == 2, "the second waits"
    slot = master.crew.slot("echo", 0)
    assert slot.next_start is not None and slot.next_start > time.monotonic()
    assert master.crew.next_deadline() == slot.next_start
    assert {row["reason"]: row["words"] for row in master.crew.exits.rows()} == {
        "SIGKILL": "",
        "import failed": "Traceback",
    }
    assert master.crew.missing() == [slot]


def test_a_child_that_leaves_is_followed_before_it_is_gone(made: list[Fake]) -> None:
    master = Master(WorkerSpec(name="echo", handler="a"))
    start(master)
    made[0].ready_at = time.monotonic() - 5
    made[0].theirs.send(Draining("stop()"))
    master.turn()
    assert len(made) == 2
    assert made[0].phase is Phase.STOPPING and master.crew.slot("echo", 0).draining == [made[0]]


def test_what_is_not_reloadable_never_runs_twice(made: list[Fake]) -> None:
    master = Master(WorkerSpec(name="echo", handler="a", reloadable=False))
    start(master)
    made[0].ready_at = time.monotonic() - 5
    made[0].theirs.send(Draining("stop()"))
    master.turn()
    assert len(made) == 1
    made[0].die()
    master.turn()
    assert len(made) == 2


def test_nobody_is_started_while_the_daemon_stops(made: list[Fake]) -> None:
    master = Master(WorkerSpec(name="echo", handler="a"))
    start(master)
    master.state = State.STOPPING
    made[0].die(9)
    master.turn()
    assert len(made) == 1


def test_a_slot_that_waits_for_its_next_start_has_its_socket_looked_after(
    made: list[Fake], free_port: Callable[[], int]
) -> None:
    port = free_port()
    uri = f"tcp://127.0.0.1:{port}"
    listen = ListenSpec(uri=uri, transport="tcp", protocol="raw", host="127.0.0.1", port=port)
    worker = WorkerSpec(name="echo", handler="a", listen=(listen,), count=2, reuse_port=True)
    master = Master(worker)
    master.sockets.open(worker)
    start(master, count=2)
    made[1].die(9)
    master.turn()
    assert not made[0].theirs.receive(), "another child comes at once"
    made[2].die(9)
    master.turn()
    ((message, fds),) = made[0].theirs.receive()
    assert message == Adopt(uri) and len(fds) == 1
    os.close(fds[0])
    master.sockets.close_all()


def test_who_listens_while_the_daemon_stops_is_refused(made: list[Fake]) -> None:
    master = Master(WorkerSpec(name="echo", handler="a"))
    start(master)
    master.state = State.STOPPING
    made[0].theirs.send(Listen(1, "text://127.0.0.1:5678"))
    master.turn()
    answers = [message for message, _fds in made[0].theirs.receive() if isinstance(message, Listening)]
    assert [answer.error for answer in answers] == ["the daemon is stopping"]


def test_what_a_worker_that_is_gone_has_opened_is_closed(made: list[Fake], free_port: Callable[[], int]) -> None:
    master = Master(WorkerSpec(name="echo", handler="a"), WorkerSpec(name="old", handler="a"))
    start(master, "old")
    made[0].theirs.send(Listen(1, f"text://127.0.0.1:{free_port()}"))
    master.turn()
    assert master.sockets.addresses()
    master.spec = msgspec.structs.replace(master.spec, workers={"echo": master.spec.workers["echo"]})
    made[0].die()
    master.turn()
    assert not master.sockets.addresses()


def test_a_hundred_sockets_without_a_child_are_handed_over_in_batches(
    made: list[Fake], free_port: Callable[[], int]
) -> None:
    port = free_port()
    uri = f"tcp://127.0.0.1:{port}"
    listen = ListenSpec(uri=uri, transport="tcp", protocol="raw", host="127.0.0.1", port=port)
    worker = WorkerSpec(name="echo", handler="a", listen=(listen,), count=100, reuse_port=True)
    master = Master(worker)
    master.sockets.open(worker)
    start(master)
    fewer = msgspec.structs.replace(worker, count=1)
    master.spec = msgspec.structs.replace(master.spec, workers={"echo": fewer})
    master.crew.share_out()
    adopted = [fds for message, fds in made[0].theirs.receive() if message == Adopt(uri)]
    assert sum(map(len, adopted)) == 99, "one it had"
    for fd in (fd for fds in adopted for fd in fds):
        os.close(fd)
    master.sockets.close_all()


def test_a_limit_is_passed_on_as_an_operation(made: list[Fake]) -> None:
    master = Master(WorkerSpec(name="echo", handler="a", count=2))
    start(master, count=2)
    made[1].theirs.send(Recycle("requests limit"))
    master.turn()
    assert master.changes.asked == [("recycle", "echo", 1)]
    assert made[1].recycle == "requests limit"


def test_at_the_first_start_a_worker_without_a_ready_child_ends_the_daemon(made: list[Fake]) -> None:
    master = Master(WorkerSpec(name="echo", handler="a", count=2))
    master.state = State.STARTING
    start(master, count=2, ready=False)
    made[0].die(3 << 8)
    master.turn()
    assert not master.stopped and len(made) == 2, "the other may still do it"
    made[1].die(3 << 8)
    master.turn()
    assert master.stopped == [("fast", 3)]


def test_at_the_first_start_a_slot_that_failed_is_filled_once_another_has_shown_that_it_works(made: list[Fake]) -> None:
    master = Master(WorkerSpec(name="echo", handler="a", count=2))
    master.state = State.STARTING
    start(master, count=2, ready=False)
    made[0].die(9)
    master.turn()
    assert len(made) == 2
    made[1].theirs.send(Ready())
    master.turn()
    assert len(made) == 3 and made[2].slot == 0 and not master.stopped


def test_a_fork_that_fails_is_tried_again_also_at_the_first_start(
    made: list[Fake], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_process(*_: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    master = Master(WorkerSpec(name="echo", handler="a"))
    master.state = State.STARTING
    with monkeypatch.context() as patch:
        patch.setattr(Fake, "fork", no_process)
        master.crew.start(master.crew.slot("echo", 0))
    assert not made
    master.crew.fill(time.monotonic() + module.FORK_RETRY + 1)
    assert len(made) == 1


def test_a_slot_that_nobody_wants_is_forgotten(made: list[Fake]) -> None:
    master = Master(WorkerSpec(name="echo", handler="a", count=1))
    start(master)
    master.crew.slot("gone", 0)
    master.turn()
    assert [str(slot) for slot in master.crew.slots()] == ["echo#0"]
    assert master.crew.occupied() == {"echo": frozenset({0})}


def test_garbage_on_a_link_harms_nobody(made: list[Fake]) -> None:
    master = Master(WorkerSpec(name="echo", handler="a"))
    start(master)
    made[0].theirs.sock.send(b"\xc1 nonsense")
    made[0].theirs.sock.send(msgspec.msgpack.encode({"type": "_InMemfd", "size": 5}))
    master.turn()
    assert made[0].phase is Phase.RUNNING
