"""Every (phase, event) pair of the child table, and a real fork."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import time

import pytest

from workermand.errors import ExitCode
from workermand.link import Link, Stop
from workermand.master import child as child_module
from workermand.master.child import TABLE, Child, Event, Phase
from workermand.spec import ServerSpec, Timeouts, WorkerSpec

WORKER = WorkerSpec(name="echo", handler="apps.echo", timeouts=Timeouts(start=30, stop=10, busy=5))
SERVER = ServerSpec(name="t", run_dir="/run/t", state_dir="/var/t", workers={"echo": WORKER})


class Recorder(Child):
    """A child without a process: what would be sent and signalled is recorded."""

    def __init__(self, phase: Phase) -> None:
        super().__init__(SERVER, WORKER, 0, 1)
        if phase is not Phase.STARTING:
            self.ready_at = time.monotonic()
            self.deadline = None
        self.phase = phase
        self.sent: list[object] = []
        self.signals: list[signal.Signals] = []

    def tell(self, message: object, fds: object = ()) -> None:
        self.sent.append(message)

    def signal(self, signum: signal.Signals) -> None:
        self.signals.append(signum)


# (phase, event) -> (phase after, told to stop, signal sent)
EXPECTED: dict[tuple[Phase, Event], tuple[Phase, bool, signal.Signals | None]] = {
    (Phase.STARTING, Event.READY): (Phase.RUNNING, False, None),
    (Phase.STARTING, Event.DRAINING): (Phase.STOPPING, False, None),
    (Phase.STARTING, Event.STOP): (Phase.STOPPING, True, signal.SIGTERM),
    (Phase.STARTING, Event.OVERDUE): (Phase.KILLED, False, signal.SIGABRT),
    (Phase.STARTING, Event.KILL): (Phase.KILLED, False, signal.SIGKILL),
    (Phase.STARTING, Event.EXITED): (Phase.GONE, False, None),
    (Phase.RUNNING, Event.DRAINING): (Phase.STOPPING, False, None),
    (Phase.RUNNING, Event.STOP): (Phase.STOPPING, True, None),
    (Phase.RUNNING, Event.SILENT): (Phase.KILLED, False, signal.SIGABRT),
    (Phase.RUNNING, Event.KILL): (Phase.KILLED, False, signal.SIGKILL),
    (Phase.RUNNING, Event.EXITED): (Phase.GONE, False, None),
    (Phase.STOPPING, Event.READY): (Phase.STOPPING, False, None),
    (Phase.STOPPING, Event.DRAINING): (Phase.STOPPING, False, None),
    (Phase.STOPPING, Event.STOP): (Phase.STOPPING, True, None),
    (Phase.STOPPING, Event.OVERDUE): (Phase.KILLED, False, signal.SIGKILL),
    (Phase.STOPPING, Event.KILL): (Phase.KILLED, False, signal.SIGKILL),
    (Phase.STOPPING, Event.EXITED): (Phase.GONE, False, None),
    (Phase.KILLED, Event.READY): (Phase.KILLED, False, None),
    (Phase.KILLED, Event.DRAINING): (Phase.KILLED, False, None),
    (Phase.KILLED, Event.STOP): (Phase.KILLED, False, None),
    (Phase.KILLED, Event.OVERDUE): (Phase.KILLED, False, signal.SIGKILL),
    (Phase.KILLED, Event.KILL): (Phase.KILLED, False, None),
    (Phase.KILLED, Event.EXITED): (Phase.GONE, False, None),
}


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("event", Event)
def test_cell(phase: Phase, event: Event, caplog: pytest.LogCaptureFixture) -> None:
    child = Recorder(phase)
    with caplog.at_level(logging.ERROR):
        child.handle(event, how="drain", why="for a test")
    if (phase, event) not in EXPECTED:
        assert child.phase is phase, "what can't happen changes nothing"
        assert "can't happen" in caplog.text
        assert not child.sent and not child.signals
        return
    after, told, signum = EXPECTED[phase, event]
    assert child.phase is after
    assert bool(child.sent) is told
    assert child.signals == ([signum] if signum else [])
    assert not caplog.records


def test_the_table_and_the_expectation_have_the_same_cells() -> None:
    assert TABLE.keys() == EXPECTED.keys()


def test_starting_has_a_deadline_and_ready_ends_it() -> None:
    child = Recorder(Phase.STARTING)
    assert child.next_deadline() == pytest.approx(child.started + 30)
    child.tick(child.started + 29)
    assert child.phase is Phase.STARTING
    child.handle(Event.READY)
    assert child.deadline is None


def test_overdue_start_is_named() -> None:
    child = Recorder(Phase.STARTING)
    child.tick(child.started + 31)
    assert (child.phase, child.why) == (Phase.KILLED, "start deadline")


def test_stop_is_told_its_deadline_and_killed_after_it() -> None:
    child = Recorder(Phase.RUNNING)
    child.handle(Event.STOP, how="retire", reload=True)
    assert child.sent == [Stop("retire", 10, reload=True)]
    assert child.deadline is not None
    child.tick(child.deadline - 0.5)
    assert child.phase is Phase.STOPPING
    child.tick(child.deadline)
    assert (child.phase, child.why) == (Phase.KILLED, "stop deadline")


def test_a_second_stop_may_only_shorten_the_deadline() -> None:
    child = Recorder(Phase.RUNNING)
    child.handle(Event.STOP, how="fast")
    fast = child.deadline
    child.handle(Event.STOP, how="drain")
    assert child.deadline == fast


def test_a_silent_child_prints_its_traceback_before_it_is_killed() -> None:
    child = Recorder(Phase.RUNNING)
    child.tick(child.heard + 5.9)
    assert child.phase is Phase.RUNNING, "a second of silence says nothing"
    assert child.next_deadline() == child.heard + 6
    child.tick(child.heard + 6)
    assert (child.phase, child.why, child.signals) == (Phase.KILLED, "busy deadline", [signal.SIGABRT])
    assert child.deadline is not None
    child.tick(child.deadline)
    assert child.signals == [signal.SIGABRT, signal.SIGKILL]


def test_what_a_full_link_refuses_is_sent_later() -> None:
    child = Child(SERVER, WORKER, 0, 1)
    child.link, theirs = Link.pair()
    for number in range(1000):
        child.tell(Stop("drain", float(number)))
    assert child.has_unsent
    heard: list[float] = []
    while child.has_unsent:
        heard += [message.deadline for message, _ in theirs.receive() if isinstance(message, Stop)]
        child.flush()
    heard += [message.deadline for message, _ in theirs.receive() if isinstance(message, Stop)]
    assert heard == [float(number) for number in range(1000)]
    child.close()
    theirs.close()


def test_fork_gives_a_child_its_descriptors_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = os.memfd_create("secret")
    reader, writer = os.pipe()

    def run(*args: object, **details: object) -> None:
        names = []
        for fd in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):  # the directory's own is closed by now
                names += [os.readlink(f"/proc/self/fd/{fd}")] if int(fd) > 2 else []
        os.write(writer, "\n".join(names).encode())
        os._exit(ExitCode.OK)

    monkeypatch.setattr(child_module.process, "run", run)
    child = Child(SERVER, WORKER, 0, 1)
    child.fork([], [writer])
    os.close(writer)
    with open(reader) as said:
        names = said.read().splitlines()
    assert len(names) == 2 and not any("secret" in name for name in names), names
    assert select.select([child.pidfd], [], [], 10)[0]
    assert child.reap() and child.wait_status == 0
    child.close()
    os.close(secret)
