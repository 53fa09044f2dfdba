"""Wait statuses and last words in, reasons out."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from workermand.link import Words
from workermand.master import exits as exits_module
from workermand.master.child import Child, Phase
from workermand.master.exits import Exits, OomCounter, reason_of, signal_name
from workermand.spec import ServerSpec, WorkerSpec

WORKER = WorkerSpec(name="echo", handler="apps.echo")
SERVER = ServerSpec(name="t", run_dir="/run/t", state_dir="/var/t", workers={"echo": WORKER})


def ended(status: int, **said: object) -> Child:
    child = Child(SERVER, WORKER, 0, 1)
    child.wait_status = status
    child.phase = Phase.RUNNING
    for key, value in said.items():
        setattr(child, key, value)
    return child


def exited(code: int) -> int:
    return code << 8


@pytest.mark.parametrize(
    ("child", "reason"),
    [
        (ended(exited(0)), "exit 0"),
        (ended(exited(0), recycle="requests limit"), "requests limit"),
        (ended(exited(0), recycle="memory limit"), "memory limit"),
        (ended(exited(3), words=Words("import failed", "Traceback")), "import failed"),
        (ended(exited(3), words=Words("on_worker_start failed", "Traceback")), "on_worker_start failed"),
        (ended(exited(250), words=Words("uncaught exception", "Traceback")), "exit 250 (uncaught exception)"),
        (ended(exited(250)), "exit 250 (uncaught exception)"),
        (ended(exited(7)), "exit 7"),
        (ended(signal.SIGKILL), "SIGKILL"),
        (ended(signal.SIGSEGV), "SIGSEGV"),
        (ended(signal.SIGSEGV | 0x80), "SIGSEGV"),
        (ended(signal.SIGKILL, phase=Phase.KILLED, why="stop deadline"), "SIGKILL (stop deadline)"),
        (ended(signal.SIGKILL, phase=Phase.KILLED, why="start deadline"), "SIGKILL (start deadline)"),
        (ended(signal.SIGABRT, phase=Phase.KILLED, why="busy deadline"), "SIGABRT (busy deadline)"),
    ],
)
def test_reason(child: Child, reason: str) -> None:
    assert reason_of(child, lambda: False) == reason


def test_out_of_memory_is_told_from_another_sigkill() -> None:
    assert reason_of(ended(signal.SIGKILL), lambda: True) == "SIGKILL (out of memory)"
    deadline = ended(signal.SIGKILL, phase=Phase.KILLED, why="stop deadline")
    assert reason_of(deadline, lambda: True) == "SIGKILL (stop deadline)"


@pytest.mark.parametrize(
    ("groups", "file", "text"),
    [
        ("0::/system.slice/w.service", "system.slice/w.service/memory.events", "low 0\nmax 9\noom {0}\noom_kill {0}\n"),
        (
            "5:cpu,cpuacct:/x\n4:memory:/w\n0::/x",
            "memory/w/memory.oom_control",
            "oom_kill_disable 0\nunder_oom 0\noom_kill {0}\n",
        ),
    ],
    ids=["v2", "v1"],
)
def test_the_cgroups_count(groups: str, file: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(groups + "\n")
    count = tmp_path / "sys/fs/cgroup" / file
    count.parent.mkdir(parents=True)
    count.write_text(text.format(3))
    counter = OomCounter(tmp_path)
    monkeypatch.setattr(exits_module, "OomCounter", lambda: counter)
    exits = Exits()
    assert exits.record(ended(signal.SIGKILL)) == "SIGKILL"
    count.write_text(text.format(4))
    assert exits.record(ended(exited(0))) == "exit 0"
    assert exits.record(ended(signal.SIGKILL)) == "SIGKILL (out of memory)"
    assert exits.record(ended(signal.SIGKILL)) == "SIGKILL"


def test_without_a_cgroup_nothing_is_counted(tmp_path: Path) -> None:
    assert not OomCounter(tmp_path).has_risen()


def test_real_time_signals_have_a_number() -> None:
    assert signal_name(40) == "signal 40"


def test_the_table_counts_by_worker_and_reason() -> None:
    exits = Exits()
    for _ in range(3):
        exits.record(ended(signal.SIGSEGV))
    exits.record(ended(exited(3), words=Words("import failed", "No module named apps.nothing")))
    rows = {row["reason"]: row for row in exits.rows()}
    assert rows["SIGSEGV"]["count"] == 3
    assert rows["import failed"]["words"] == "No module named apps.nothing"
    assert all(row["worker"] == "echo" and row["last"] > 0 for row in rows.values())
