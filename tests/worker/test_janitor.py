"""The sweep: what is closed as idle or stalled, what the master is told, when the child asks to be replaced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from workermand.errors import CloseReason
from workermand.link import Status
from workermand.spec import Limits, Timeouts, WorkerSpec
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


class Connection:
    def __init__(self, **state: Any) -> None:
        self.bytes_read = self.bytes_written = 0
        self.unsent = 0
        self.is_waiting_for_handler = False
        self.closed: CloseReason | None = None
        for name, value in state.items():
            setattr(self, name, value)

    def get_send_buffer_size(self) -> int:
        return self.unsent

    def close_lingering(self, reason: CloseReason) -> None:
        self.closed = reason

    abort = close_lingering


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

    def client(self, **state: Any) -> Connection:
        made = Connection(**state)
        self.worker.connections[self.worker.next_connection_id()] = made  # type: ignore[assignment]
        return made


def test_once_a_second_on_a_grid_and_its_lateness_is_the_lag() -> None:
    scene = Scene()
    for late in (0.0, 0.25, 3.5, 0.0):
        scene.clock.advance(late)
    assert scene.clock.planned == [1001, 1002, 1003, 1007, 1008]
    assert [status.loop_lag for status in scene.told] == [0.0, 0.25, 3.5, 0.0]
    assert scene.flushed == 4


def test_the_status_has_every_counter() -> None:
    scene = Scene()
    scene.client()
    stats = scene.worker.stats
    stats.total_request, stats.send_fail, stats.exceptions, stats.accepted, stats.outgoing = 10, 2, 3, 4, 5
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


def test_idle_connections_are_closed_and_no_others() -> None:
    scene = Scene(timeouts=Timeouts(idle=10))
    silent, talking, at_work = scene.client(), scene.client(), scene.client(is_waiting_for_handler=True)
    for _ in range(9):
        scene.clock.advance()
        talking.bytes_read += 1
    assert silent.closed is None
    for _ in range(3):
        scene.clock.advance()
        talking.bytes_read += 1
    assert silent.closed is CloseReason.IDLE
    assert talking.closed is None and at_work.closed is None


def test_an_answer_that_took_long_is_followed_by_a_whole_idle_time() -> None:
    scene = Scene(timeouts=Timeouts(idle=3))
    client = scene.client(is_waiting_for_handler=True)
    for _ in range(20):
        scene.clock.advance()
    client.is_waiting_for_handler = False
    scene.clock.advance()
    assert client.closed is None


def test_without_an_idle_timeout_nobody_is_watched() -> None:
    scene = Scene()
    client = scene.client()
    for _ in range(50):
        scene.clock.advance()
    assert client.closed is None and scene.janitor._heard == {}


def test_a_long_idle_timeout_costs_a_look_now_and_then() -> None:
    scene = Scene(timeouts=Timeouts(idle=1000))
    looks = 0

    class Counted(Connection):
        @property
        def bytes_read(self) -> int:
            nonlocal looks
            looks += 1
            return 0

        @bytes_read.setter
        def bytes_read(self, value: int) -> None: ...

    client = Counted()
    scene.worker.connections[1] = client  # type: ignore[assignment]
    for _ in range(1102):
        scene.clock.advance()
    assert looks <= 13
    assert client.closed is CloseReason.IDLE


def test_a_client_that_reads_nothing_is_aborted_and_a_slow_one_is_not() -> None:
    scene = Scene(timeouts=Timeouts(write_stall=5))
    stuck = scene.client(bytes_written=1000, unsent=600)
    slow = scene.client(bytes_written=1000, unsent=600)
    scene.worker.stalled.update([stuck, slow])  # type: ignore[arg-type]
    for _ in range(7):
        scene.clock.advance()
        slow.unsent -= 1
        stuck.bytes_written += 10  # more is sent to it, and only the buffer grows
        stuck.unsent += 10
    assert stuck.closed is CloseReason.WRITE_STALL
    assert slow.closed is None


def test_write_stall_may_be_switched_off() -> None:
    scene = Scene(timeouts=Timeouts(write_stall=0))
    stuck = scene.client(bytes_written=1000, unsent=600)
    scene.worker.stalled.add(stuck)  # type: ignore[arg-type]
    for _ in range(100):
        scene.clock.advance()
    assert stuck.closed is None


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
