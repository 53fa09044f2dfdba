"""The planner as a table: settings before and after, and the steps between."""

from __future__ import annotations

import msgspec
import pytest

from workermand.master import plan
from workermand.spec import ListenSpec, ServerSpec, TlsSpec, WorkerSpec


def listen(port: int, host: str = "127.0.0.1") -> ListenSpec:
    return ListenSpec(uri=f"text://{host}:{port}", transport="tcp", protocol="text", host=host, port=port)


def worker(name: str = "echo", **settings: object) -> WorkerSpec:
    return WorkerSpec(name=name, handler=f"apps.{name}", **settings)  # type: ignore[arg-type]


def server(*workers: WorkerSpec) -> ServerSpec:
    return ServerSpec(name="t", run_dir="/run/t", state_dir="/var/t", workers={w.name: w for w in workers})


def running(*workers: WorkerSpec) -> plan.Running:
    return plan.Running(
        {w.name: w for w in workers},
        {w.name: frozenset(range(w.count)) for w in workers},
        frozenset(address.address for w in workers for address in w.listen),
    )


def steps(its_plan: plan.Plan) -> list[str]:
    return [str(step) for step in its_plan.steps]


RELOADS = {
    "nothing changed in the file: the code may have": (
        [worker(count=2)],
        [worker(count=2)],
        ["open echo", "spawn echo#0", "awaitready echo#0", "commit", "handover echo#0",
         "spawn echo#1", "awaitready echo#1", "handover echo#1"],
    ),
    "a lower count": (
        [worker(count=3)],
        [worker(count=1)],
        ["open echo", "spawn echo#0", "awaitready echo#0", "commit", "handover echo#0",
         "retire echo#1", "retire echo#2"],
    ),
    "a higher count": (
        [worker(count=1)],
        [worker(count=2)],
        ["open echo", "spawn echo#0", "awaitready echo#0", "commit", "handover echo#0",
         "spawn echo#1", "awaitready echo#1", "handover echo#1"],
    ),
    "a new worker": (
        [],
        [worker()],
        ["open echo", "spawn echo#0", "awaitready echo#0", "commit", "handover echo#0"],
    ),
    "a worker less": (
        [worker(listen=(listen(1),))],
        [],
        ["commit", "retire echo#0", "close tcp:127.0.0.1:1"],
    ),
    "every changed worker proves its code before any is handed over": (
        [worker("a"), worker("b")],
        [worker("a"), worker("b")],
        ["open a", "open b", "spawn a#0", "spawn b#0", "awaitready a#0", "awaitready b#0", "commit",
         "handover a#0", "handover b#0"],
    ),
    "another address: the old one is closed last": (
        [worker(listen=(listen(1),))],
        [worker(listen=(listen(2),))],
        ["open echo", "spawn echo#0", "awaitready echo#0", "commit", "handover echo#0", "close tcp:127.0.0.1:1"],
    ),
    "a renamed worker keeps the address": (
        [worker("a", listen=(listen(1),))],
        [worker("b", listen=(listen(1),))],
        ["open b", "spawn b#0", "awaitready b#0", "commit", "handover b#0", "retire a#0"],
    ),
    "not reloadable: the processes stay": (
        [worker(count=2, reloadable=False)],
        [worker(count=2, reloadable=False)],
        ["open echo", "commit", "refresh echo#0", "refresh echo#1"],
    ),
    "not reloadable, higher count": (
        [worker(reloadable=False)],
        [worker(count=2, reloadable=False)],
        ["open echo", "commit", "refresh echo#0", "spawn echo#1", "awaitready echo#1", "handover echo#1"],
    ),
    "not reloadable, lower count": (
        [worker(count=2, reloadable=False)],
        [worker(reloadable=False)],
        ["open echo", "commit", "refresh echo#0", "retire echo#1"],
    ),
    "not reloadable, other address: the old one stays open": (
        [worker(reloadable=False, listen=(listen(1),))],
        [worker(reloadable=False, listen=(listen(2),))],
        ["open echo", "commit", "refresh echo#0"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("before", "after", "expected"), RELOADS.values(), ids=RELOADS)
def test_reload(before: list[WorkerSpec], after: list[WorkerSpec], expected: list[str]) -> None:
    assert steps(plan.reload(running(*before), server(*after))) == expected


def test_what_is_not_reloadable_waits_with_what_a_process_cannot_change() -> None:
    before = worker(reloadable=False, listen=(listen(1),), options={"a": 1})
    after = worker(reloadable=False, listen=(listen(2),), options={"a": 2}, user="nobody")
    its_plan = plan.reload(running(before), server(after))
    assert its_plan.workers["echo"].listen == before.listen
    assert its_plan.workers["echo"].options == {"a": 2}, "options take effect in place"
    assert its_plan.deferred == {"echo": after}
    assert its_plan.waits_for_restart == ["echo: the changed listen, user waits for `workermanctl restart echo`"]


def test_restart_applies_what_waited_and_goes_stop_first() -> None:
    before = worker(reloadable=False, listen=(listen(1),))
    wanted = worker(reloadable=False, listen=(listen(2),))
    its_plan = plan.restart(running(before), ["echo"], {"echo": wanted})
    assert steps(its_plan) == [
        "open echo", "commit", "end echo#0", "spawn echo#0", "awaitready echo#0", "handover echo#0",
        "close tcp:127.0.0.1:1",
    ]  # fmt: skip
    assert its_plan.workers["echo"] == wanted
    assert not its_plan.deferred


def test_restart_of_a_reloadable_worker_overlaps_and_leaves_the_others() -> None:
    its_plan = plan.restart(running(worker("a"), worker("b")), ["a"], {"b": worker("b", count=7)})
    assert steps(its_plan) == ["open a", "commit", "spawn a#0", "awaitready a#0", "handover a#0"]
    assert its_plan.workers["b"].count == 1
    assert set(its_plan.deferred) == {"b"}


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (2, ["open echo", "commit"]),
        (3, ["open echo", "commit", "spawn echo#2", "awaitready echo#2", "handover echo#2"]),
        (1, ["open echo", "commit", "retire echo#1"]),
    ],
)
def test_scale_touches_no_child_that_stays(count: int, expected: list[str]) -> None:
    its_plan = plan.scale(running(worker(count=2)), "echo", count, {})
    assert steps(its_plan) == expected
    assert its_plan.workers["echo"].count == count


def test_recycle() -> None:
    now = running(worker("a", count=2), worker("b", reloadable=False))
    assert steps(plan.recycle(now, "a", 1, {})) == ["spawn a#1", "awaitready a#1", "handover a#1"]
    assert steps(plan.recycle(now, "b", 0, {})) == ["end b#0", "spawn b#0", "awaitready b#0", "handover b#0"]


def test_a_slot_that_is_empty_by_a_crash_is_filled_by_the_reload() -> None:
    now = plan.Running({"echo": worker(count=2, reloadable=False)}, {"echo": frozenset({1})})
    assert steps(plan.reload(now, server(worker(count=2, reloadable=False)))) == [
        "open echo", "commit", "refresh echo#1", "spawn echo#0", "awaitready echo#0", "handover echo#0",
    ]  # fmt: skip


def test_planning_changes_nothing() -> None:
    now = running(worker(count=2))
    copy = msgspec.structs.replace(now.workers["echo"])
    plan.reload(now, server(worker(count=5)))
    assert now.workers["echo"] == copy


def test_other_certificates_need_no_other_process() -> None:
    """Whether there is TLS at all is another matter: listeners are what they are."""
    plain, kept = worker(reloadable=False), worker(reloadable=False, tls=TlsSpec(cert="a"))
    renewed = worker(reloadable=False, tls=TlsSpec(cert="b"))
    assert plan.settle(kept, renewed) == renewed
    assert plan.settle(kept, plain) == kept and plan.settle(plain, kept) == plain
    its_plan = plan.reload(running(plain), server(kept))
    assert its_plan.waits_for_restart == ["echo: the changed tls waits for `workermanctl restart echo`"]
