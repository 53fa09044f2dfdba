"""The status document from slots and children without processes."""

from __future__ import annotations

import os
import time

from workermand.link import Ask, ConnectionRow, Connections, Message, Status
from workermand.master import status
from workermand.master.child import Child, Event, Phase
from workermand.master.slots import Slot
from workermand.master.status import Gathering, Server
from workermand.spec import ListenSpec, ServerSpec, WorkerSpec

LISTEN = ListenSpec(uri="text://0.0.0.0:2347", transport="tcp", protocol="text", host="0.0.0.0", port=2347)
ECHO = WorkerSpec(name="echo", handler="apps.echo", count=2, listen=(LISTEN,), user="nobody")
SPEC = ServerSpec(name="t", run_dir="/run/t", state_dir="/var/t", workers={"echo": ECHO})


class Fake(Child):
    """A child without a process; it has our own pid, so that it has memory."""

    def __init__(self, slot: int = 0, *, running: bool = True) -> None:
        super().__init__(SPEC, ECHO, slot, 3)
        self.pid = os.getpid()
        self.told: list[Message] = []
        if running:
            self.handle(Event.READY)

    def tell(self, message: Message, fds: object = ()) -> None:
        self.told.append(message)


def slot(index: int, current: Child | None = None) -> Slot:
    made = Slot("echo", index)
    made.current = current
    return made


def document(*slots: Slot, busy: set[Child] | None = None, uss: bool = False) -> dict[str, object]:
    facts = Server(SPEC, 3, "running", "", time.time() - 60)
    return status.document(facts, slots, [], busy or set(), uss=uss)


def test_the_shape() -> None:
    child = Fake()
    closed, figures = {"idle timeout": 3}, {"players": 12}
    child.hear(Status(connections=7, total_request=100, send_fail=1, timers=2, closed=closed, figures=figures))
    made = document(slot(0, child), slot(1), uss=True)
    assert made["version"] == 1
    server = made["server"]
    assert isinstance(server, dict)
    assert server["pid"] == os.getpid() and server["generation"] == 3 and server["uptime"] >= 60
    assert server["run_dir"] == "/run/t"
    [worker] = made["workers"]  # type: ignore[misc]
    assert worker == {
        "name": "echo", "listen": ["text://0.0.0.0:2347"], "handler": "apps.echo", "user": "nobody", "count": 2,
        "running": 1, "state": "degraded", "reloadable": True, "connections": 7, "total_request": 100, "send_fail": 1,
        "note": "",
    }  # fmt: skip
    [process] = made["processes"]  # type: ignore[misc]
    assert process["state"] == "idle" and process["listening"] == "text://0.0.0.0:2347"
    assert process["connections"] == 7 and process["closed"] == {"idle timeout": 3}
    assert process["figures"] == {"players": 12}
    assert process["memory"] > process["uss"] > 0


def test_states() -> None:
    busy, starting, draining = Fake(0), Fake(1, running=False), Fake(1)
    draining.handle(Event.STOP, how="retire")
    second = slot(1, starting)
    second.draining.append(draining)
    made = document(slot(0, busy), second, busy={busy})
    assert [row["state"] for row in made["processes"]] == ["busy", "starting", "draining"]  # type: ignore[attr-defined]
    assert made["workers"][0]["state"] == "starting"  # type: ignore[index]


def test_a_crash_loop_is_explained() -> None:
    empty = slot(1)
    for _ in range(3):
        empty.schedule(Fake(1, running=False), jitter=lambda: 0.0)
    worker = document(slot(0, Fake()), empty)["workers"][0]  # type: ignore[index]
    assert worker["state"] == "backoff"
    assert "echo#1 crashed 3 times, next start in 2 s" in worker["note"]


def test_the_rate_is_made_of_the_regular_figures() -> None:
    child = Fake()
    child.heard = before = time.monotonic() - 2
    child.counted = (before, 100)
    child.hear(Status(asked=9, total_request=200))
    assert child.qps == 0, "an answer is no clock"
    assert child.status.total_request == 200 and child.heard > before, "but it is the latest"
    child.hear(Status(total_request=300))
    assert 90 < child.qps < 101


def test_a_gathering_is_over_when_all_have_answered_or_time_is_up() -> None:
    first, second, gone = Fake(0), Fake(1), Fake(1)
    gone.phase = Phase.GONE
    done: list[Gathering] = []
    gathering = Gathering.ask("status", [first, second, gone, Fake(running=False)], done.append)
    assert first.told == [Ask(gathering.asked, "status")] and not gone.told
    gathering.hear(first, Status(asked=gathering.asked - 1))
    assert gathering.waiting == {first, second}, "an answer to another question"
    gathering.hear(first, Status(asked=gathering.asked))
    assert not gathering.over(time.monotonic())
    assert gathering.over(gathering.deadline)
    second.phase = Phase.GONE
    assert gathering.over(time.monotonic()), "nobody to wait for"


def test_connections_name_who_did_not_answer() -> None:
    child, busy = Fake(0), Fake(1)
    gathering = Gathering.ask("connections", [child, busy], lambda _gathering: None)
    row = ConnectionRow(1, "tcp", "text", True, False, 0, 0, 7, 8, "ESTABLISHED", "127.0.0.1:1", "127.0.0.1:2")
    gathering.hear(child, Connections(gathering.asked, [row]))
    made = status.connections(gathering)
    assert made["connections"][0]["worker"] == "echo" and made["connections"][0]["bytes_written"] == 8
    assert made["busy"] == [busy.pid]
