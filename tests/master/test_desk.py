"""What is asked of the master and what it answers: requests without a socket, children without processes."""

from __future__ import annotations

import resource
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from workermand.link import Ask, Message, Server, ServerAnswer, Status
from workermand.master import desk as module
from workermand.master.child import Child, Event
from workermand.master.desk import Desk, write_aside
from workermand.master.slots import Slot
from workermand.master.status import Server as Facts
from workermand.spec import ServerSpec, WorkerSpec


class Request:
    def __init__(self, verb: str, **args: Any) -> None:
        self.verb, self.args = verb, args
        self.said: Any = None

    def reply(self, data: dict[str, Any]) -> None:
        self.said = data

    def fail(self, error: str, code: int = 1) -> None:
        self.said = (error, code)


class Fake(Child):
    def __init__(self, spec: ServerSpec) -> None:
        super().__init__(spec, spec.workers["echo"], 0, 1)
        self.told: list[Message] = []
        self.handle(Event.READY)

    def tell(self, message: Message, fds: object = ()) -> None:
        self.told.append(message)


class Master:
    def __init__(self, run_dir: Path) -> None:
        echo = WorkerSpec(name="echo", handler="apps.echo")
        self.spec = ServerSpec(name="t", run_dir=str(run_dir), state_dir="/s", workers={"echo": echo})
        self.crew = self.exits = self.changes = self
        self.slot = Slot("echo", 0)
        self.slot.current = self.child = Fake(self.spec)
        self.asked: list[Any] = []
        self.stopped: list[Any] = []
        self.desk = Desk(self)  # type: ignore[arg-type]

    def slots(self) -> list[Slot]:
        return [self.slot]

    def children(self) -> list[Child]:
        return list(self.slot.children())

    def rows(self) -> list[dict[str, Any]]:
        return []

    def describe(self) -> Facts:
        return Facts(self.spec, 1, "running", "", time.time())

    def ask(self, *operation: Any, request: Any = None) -> None:
        self.asked.append((*operation, request))

    def stop(self, *how: Any) -> None:
        self.stopped.append(how)

    def answer(self, **figures: Any) -> None:
        """The child answers the last question."""
        ask = self.child.told[-1]
        assert isinstance(ask, Ask)
        status = Status(asked=ask.asked, **figures)
        self.child.hear(status)
        self.desk.hear(self.child, status)
        self.desk.finish(time.monotonic())


@pytest.fixture
def master(tmp_path: Path) -> Master:
    return Master(tmp_path)


def serve(master: Master, verb: str, **args: Any) -> Request:
    request = Request(verb, **args)
    master.desk.serve(request)  # type: ignore[arg-type]
    return request


def test_status_waits_for_fresh_figures(master: Master) -> None:
    request = serve(master, "status")
    assert request.said is None and master.desk.next_deadline() is not None
    master.answer(connections=7)
    assert request.said["processes"][0]["connections"] == 7
    assert request.said["processes"][0]["state"] == "idle"
    assert master.desk.next_deadline() is None


def test_a_blocked_child_delays_it_by_a_moment_only(master: Master) -> None:
    request = serve(master, "status")
    deadline = master.desk.next_deadline()
    assert deadline is not None and deadline - time.monotonic() <= 0.1
    master.desk.finish(deadline)
    assert request.said["processes"][0]["state"] == "busy"


def test_connections(master: Master) -> None:
    request = serve(master, "connections")
    assert master.child.told == [Ask(master.child.told[-1].asked, "connections")]  # type: ignore[attr-defined]
    master.desk.finish(time.monotonic() + 1)
    assert request.said == {"version": 1, "connections": [], "busy": [0]}


@pytest.mark.parametrize(
    ("verb", "args", "asked"),
    [
        ("reload", {}, ("reload",)),
        ("restart", {"name": "echo"}, ("restart", "echo")),
        ("restart", {}, ("restart", None)),
        ("scale", {"name": "echo", "count": 3}, ("scale", "echo", 3)),
    ],
)
def test_changes_are_queued_and_answered_at_their_end(
    verb: str, args: dict[str, Any], asked: tuple[Any, ...], master: Master
) -> None:
    request = serve(master, verb, **args)
    assert master.asked == [(*asked, request)]
    assert request.said is None


def test_a_reload_need_not_be_waited_for(master: Master) -> None:
    assert serve(master, "reload", wait=False).said == {"what": "reload", "queued": True}
    assert master.asked == [("reload", None)]


@pytest.mark.parametrize(
    ("verb", "args", "error", "code"),
    [
        ("dance", {}, "unknown verb 'dance'; there are status", 2),
        ("restart", {"name": "nobody"}, "no worker 'nobody'; there are echo", 4),
        ("scale", {"name": "nobody", "count": 1}, "no worker 'nobody'", 4),
        ("scale", {"name": "echo", "count": 0}, "not a number of processes", 2),
        ("scale", {"name": "echo", "count": True}, "not a number of processes", 2),
        ("scale", {"name": "echo", "count": "3"}, "not a number of processes", 2),
        ("scale", {"name": ["echo"], "count": 3}, "no worker", 4),
    ],
)
def test_what_is_wrong_with_a_request_is_its_answer(
    verb: str, args: dict[str, Any], error: str, code: int, master: Master
) -> None:
    said = serve(master, verb, **args).said
    assert error in said[0] and said[1] == code
    assert not master.asked


def test_stop(master: Master) -> None:
    gentle, now = serve(master, "stop"), serve(master, "stop", now=True)
    assert master.stopped == [("drain", gentle), ("fast", now)]


def test_ping_and_version_need_no_child(master: Master) -> None:
    assert serve(master, "ping").said["pong"] is True
    assert set(serve(master, "version").said) == {"version", "workermand", "name", "pid", "python", "uvloop"}


def test_a_child_may_ask_too(master: Master) -> None:
    master.desk.serve_child(master.child, Server(5, "status"))
    master.answer(connections=2)
    answer = master.child.told[-1]
    assert isinstance(answer, ServerAnswer) and answer.request == 5 and answer.answer is not None
    assert answer.answer["processes"][0]["connections"] == 2
    master.desk.serve_child(master.child, Server(6, "reload"))
    master.desk.serve_child(master.child, Server(7, "stop"))
    assert master.asked == [("reload", None)] and master.stopped == [("drain",)]
    assert master.child.told[-1] == ServerAnswer(7, {})


def test_the_table_is_written_aside(master: Master, tmp_path: Path) -> None:
    master.desk.dump()
    master.answer()
    path = tmp_path / "status.txt"
    assert "echo" in path.read_text() and stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [entry.name for entry in tmp_path.iterdir()] == ["status.txt"]


def test_a_directory_that_cannot_be_written_is_logged(
    master: Master, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_aside", refuse)
    master.desk.dump()
    master.answer()
    assert "No space left on device" in caplog.text


def test_a_table_that_does_not_fit_leaves_nothing(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_aside(tmp_path / "status.txt", "a table of more than ten characters")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_no_planted_link_is_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (tmp_path / "status.txt").symlink_to(precious)
    write_aside(tmp_path / "status.txt", "table")
    assert precious.read_text() == "precious" and (tmp_path / "status.txt").read_text() == "table"
