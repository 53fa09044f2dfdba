"""The sweep: what the master is told, when the child asks to be replaced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from workermand.errors import CloseReason
from workermand.link import Status
from workermand.spec import Limits, WorkerSpec
from workermand.worker import janitor as janitor_module
from workermand.worker.janitor import JITTER, MEMORY_EVERY, Janitor, Quota, resident_memory
from workermand.worker.worker import Worker

SPEC = WorkerSpec(name="echo", handler="apps.echo")


class Clock:
    """A loop of which only the clock is used: each sweep is put at its exact time."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.planned: list[float] = []
        self._next: Callable[[], None] | None = None

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], None]) -> None:
        self.planned.append(when)
        self._next = callback

    def advance(self, late: float = 0.0) -> None:
        assert self._next is not None
        self.now = self.planned[-1] + late
        self._next()


class Doors:
    paused = False


class Scene:
    def __init__(self, **settings: Any) -> None:
        self.clock = Clock()
        self.worker = Worker(msgspec.structs.replace(SPEC, **settings), loop=self.clock)  # type: ignore[arg-type]
        self.doors = Doors()
        self.told: list[Status] = []
        self.recycled: list[str] = []
        self.flushed = 0
        self.janitor = Janitor(
            self.clock,  # type: ignore[arg-type]
            self.worker,
            self.doors,  # type: ignore[arg-type]
            [1, 2, 3],  # type: ignore[arg-type]
            self.told.append,
            self.recycled.append,
            self.flush,
        )
        self.janitor.start()

    def flush(self) -> None:
        self.flushed += 1


def test_once_a_second_on_a_grid_and_its_lateness_is_the_lag() -> None:
    scene = Scene()
    for late in (0.0, 0.25, 3.5, 0.0):
        scene.clock.advance(late)
    assert scene.clock.planned == [1001, 1002, 1003, 1007, 1008]
    assert [status.loop_lag for status in scene.told] == [0.0, 0.25, 3.5, 0.0]
    assert scene.flushed == 4


def test_the_status_has_every_counter() -> None:
    scene = Scene()
    scene.worker.connections[1] = None  # type: ignore[assignment]
    stats = scene.worker.stats
    scene.worker.outgoing.update(dict.fromkeys(range(5)))  # type: ignore[arg-type]
    stats.total_request, stats.send_fail, stats.exceptions, stats.accepted = 10, 2, 3, 4
    stats.closed[CloseReason.IDLE] += 6
    scene.doors.paused = True
    assert scene.janitor.status(asked=9) == Status(
        asked=9,
        connections=1,
        outgoing=5,
        total_request=10,
        send_fail=2,
        exceptions=3,
        timers=3,
        accepted=4,
        paused=True,
        closed={"idle timeout": 6},
    )


def test_the_requests_limit_is_told_once() -> None:
    scene = Scene(limits=Limits(requests=100))
    scene.clock.advance()
    assert scene.recycled == []
    scene.worker.stats.total_request = 111
    for _ in range(3):
        scene.clock.advance()
    assert scene.recycled == ["requests limit"]


def test_a_new_limit_counts_anew() -> None:
    scene = Scene(limits=Limits(requests=10))
    scene.worker.stats.total_request = 1000
    scene.clock.advance()
    scene.worker.apply(msgspec.structs.replace(SPEC, limits=Limits(requests=2000)))
    scene.janitor.renew_limits()
    scene.clock.advance()
    scene.worker.stats.total_request = 3000
    scene.clock.advance()
    assert scene.recycled == ["requests limit"] * 2


def test_the_memory_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(limits=Limits(memory=100 << 20))
    used = 99 << 20
    monkeypatch.setattr(janitor_module, "resident_memory", lambda: used)
    for _ in range(2 * MEMORY_EVERY):
        scene.clock.advance()
    assert scene.recycled == []
    used = 101 << 20
    for _ in range(2 * MEMORY_EVERY):
        scene.clock.advance()
    assert scene.recycled == ["memory limit"]


def test_the_jitter_is_within_a_tenth() -> None:
    thresholds = set()
    for _ in range(50):
        quota = Quota(Limits(requests=1000))
        thresholds.add(next(count for count in range(2000) if quota.exceeded(count, look=False)))
    assert len(thresholds) > 5
    assert all(1000 * (1 - JITTER) <= threshold <= 1000 * (1 + JITTER) + 1 for threshold in thresholds)


def test_resident_memory_is_ours() -> None:
    before = resident_memory()
    assert 4 << 20 < before < 4 << 30
    ballast = bytearray(b"x" * (32 << 20))
    assert resident_memory() > before + (16 << 20)
    del ballast
