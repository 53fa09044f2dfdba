from __future__ import annotations

import time

import pytest

from workermand.master.child import Child, Phase
from workermand.master.slots import Slot, backoff
from workermand.spec import ServerSpec, WorkerSpec

WORKER = WorkerSpec(name="echo", handler="apps.echo")
SERVER = ServerSpec(name="t", run_dir="/run/t", state_dir="/var/t", workers={"echo": WORKER})


def child(served: float | None = None, **said: str) -> Child:
    made = Child(SERVER, WORKER, 0, 1)
    if served is not None:
        made.phase, made.ready_at = Phase.RUNNING, time.monotonic() - served
    for key, value in said.items():
        setattr(made, key, value)
    return made


def test_backoff_doubles_up_to_its_bound() -> None:
    assert [backoff(crashes) for crashes in range(9)] == [0, 1, 2, 4, 8, 16, 30, 30, 30]


@pytest.mark.parametrize("served", [None, 0.1, 30])
def test_crashes_in_a_row_wait_longer_each_time(served: float | None) -> None:
    slot = Slot("echo", 0)
    assert [slot.schedule(child(served), jitter=lambda: 0.0) for _ in range(4)] == [0, 1, 2, 4]
    assert slot.schedule(child(served), jitter=lambda: 1.0) == pytest.approx(8 * 1.2)


def test_a_minute_of_health_forgives() -> None:
    slot = Slot("echo", 0)
    for _ in range(5):
        slot.schedule(child())
    assert slot.schedule(child(served=61)) == 0


@pytest.mark.parametrize("said", [{"leaving": "stop()"}, {"recycle": "requests limit"}])
def test_a_child_that_leaves_after_serving_is_followed_at_once(said: dict[str, str]) -> None:
    slot = Slot("echo", 0)
    assert [slot.schedule(child(served=2, **said)) for _ in range(5)] == [0] * 5


def test_stop_in_on_worker_start_is_a_crash_loop() -> None:
    slot = Slot("echo", 0)
    assert [slot.schedule(child(None, leaving="stop()"), jitter=lambda: 0.0) for _ in range(3)] == [0, 1, 2]


def test_promotion_keeps_the_old_child_until_it_is_gone() -> None:
    slot = Slot("echo", 0)
    old, new = child(served=5), child(served=0)
    slot.current, slot.incoming = old, new
    assert slot.promote() is old
    assert (slot.current, slot.incoming, slot.draining) == (new, None, [old])
    assert list(slot.children()) == [new, old]
    old.phase = Phase.GONE
    slot.forget(old)
    assert list(slot.children()) == [new]


def test_a_child_that_leaves_by_itself_drains_outside_the_slot() -> None:
    slot = Slot("echo", 0)
    slot.current = leaving = child(served=5)
    slot.dismiss(leaving)
    assert slot.current is None and slot.draining == [leaving]
