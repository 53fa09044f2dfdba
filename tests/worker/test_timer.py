"""Timers: the grid, overlap, deletion, exceptions. Order and cause are asserted, never a duration."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest
import uvloop

from workermand.worker import timer
from workermand.worker.timer import Timer, Timers

SHORT = 0.002


class Bench:
    """A loop with timers on it; exceptions are collected."""

    def __init__(self) -> None:
        self.loop = uvloop.new_event_loop()
        self.failures: list[tuple[str, BaseException]] = []
        self.timers = Timers(self.loop, lambda where, _connection, error: self.failures.append((where, error)))
        timer.install(self.timers)

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(coroutine, 20))


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    timer.install(None)
    made.loop.close()


async def until(condition: Any) -> None:
    while not condition():  # noqa: ASYNC110 -- timers have no event to wait for
        await asyncio.sleep(SHORT)


def test_outside_a_child_there_are_no_timers() -> None:
    for call in (lambda: Timer.add(1, print), lambda: Timer.delete(1), Timer.delete_all):
        with pytest.raises(RuntimeError, match="only a worker process has timers"):
            call()


def test_ticks_again_and_again_with_its_arguments(bench: Bench) -> None:
    got: list[Any] = []
    id = Timer.add(SHORT, lambda *args: got.append(args), ("a", 1))
    bench.run(until(lambda: len(got) >= 3))
    assert set(got) == {("a", 1)}
    assert len(bench.timers) == 1
    assert Timer.delete(id) is True
    assert Timer.delete(id) is False
    assert len(bench.timers) == 0


def test_once(bench: Bench) -> None:
    got: list[int] = []
    id = Timer.add(SHORT, got.append, [1], persistent=False)
    bench.run(until(lambda: got))
    assert len(bench.timers) == 0 and Timer.delete(id) is False
    bench.run(Timer.sleep(5 * SHORT))
    assert got == [1]


def test_deleted_before_its_time_it_never_runs(bench: Bench) -> None:
    got: list[int] = []
    Timer.delete(Timer.add(SHORT, got.append, [1]))
    Timer.add(SHORT, got.append, [2])
    Timer.delete_all()
    Timer.add(3 * SHORT, got.append, [3], persistent=False)
    bench.run(until(lambda: got))
    assert got == [3]


def test_deleted_from_inside_its_own_callback(bench: Bench) -> None:
    got: list[bool] = []
    id = Timer.add(SHORT, lambda: got.append(Timer.delete(id)))
    bench.run(until(lambda: got))
    bench.run(Timer.sleep(5 * SHORT))
    assert got == [True]


def test_an_exception_is_reported_and_the_timer_lives_on(bench: Bench) -> None:
    def broken() -> None:
        raise ValueError("tick")

    Timer.add(SHORT, broken)
    bench.run(until(lambda: len(bench.failures) >= 2))
    where, error = bench.failures[0]
    assert "broken" in where and str(error) == "tick"


def test_an_exit_is_an_exception_like_any_other(bench: Bench) -> None:
    Timer.add(SHORT, lambda: exit(3))
    bench.run(until(lambda: len(bench.failures) >= 2))
    assert isinstance(bench.failures[0][1], SystemExit)


def test_the_result_of_a_cancelled_future_is_an_exception_too(bench: Bench) -> None:
    future = bench.loop.create_future()
    future.cancel()
    Timer.add(SHORT, future.result)
    bench.run(until(lambda: len(bench.failures) >= 3))
    assert {type(error) for _, error in bench.failures} == {asyncio.CancelledError}


def test_an_async_callback_never_overlaps_itself(bench: Bench) -> None:
    at_work = 0
    rounds = 0

    async def slow() -> None:
        nonlocal at_work, rounds
        assert at_work == 0
        at_work += 1
        await asyncio.sleep(4 * SHORT)
        at_work -= 1
        rounds += 1

    Timer.add(SHORT, slow)
    bench.run(until(lambda: rounds >= 3))
    assert not bench.failures


def test_a_lambda_around_an_async_function_is_awaited_too(bench: Bench) -> None:
    got: list[int] = []

    async def work(number: int) -> None:
        got.append(number)

    Timer.add(SHORT, lambda: work(5), persistent=False)
    bench.run(until(lambda: got))
    assert got == [5]


def test_an_async_exception_is_reported_and_the_timer_lives_on(bench: Bench) -> None:
    async def broken() -> None:
        raise ValueError("async tick")

    Timer.add(SHORT, broken)
    bench.run(until(lambda: len(bench.failures) >= 2))


def test_deleting_a_timer_at_work_lets_it_finish_and_come_no_more(bench: Bench) -> None:
    got: list[str] = []

    async def work() -> None:
        Timer.delete(id)
        await asyncio.sleep(SHORT)
        got.append("finished")

    id = Timer.add(SHORT, work)
    bench.run(until(lambda: got))
    bench.run(Timer.sleep(5 * SHORT))
    assert got == ["finished"]


class Clock:
    """A loop of which only the clock and call_at are used: every run of a timer can be put at its exact time."""

    def __init__(self) -> None:
        self.now = 100.0
        self.planned: list[float] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, run: Any, entry: Any) -> Any:
        self.planned.append(when)
        self.run = lambda: run(entry)


def test_no_drift_and_missed_ticks_are_skipped() -> None:
    clock = Clock()
    durations = iter([0.3, 0.0, 7.2, 0.0])

    def work() -> None:
        clock.now += next(durations)

    Timers(clock, pytest.fail).add(2, work, (), True)  # type: ignore[arg-type]
    for late in (0.1, 0.0, 0.0):
        clock.now = clock.planned[-1] + late
        clock.run()
    assert clock.planned == [102, 104, 106, 114], "on the grid of 2 from 100; 108, 110 and 112 were missed"


def test_a_wake_up_a_moment_early_does_not_tick_twice() -> None:
    clock = Clock()
    Timers(clock, pytest.fail).add(1, lambda: None, (), True)  # type: ignore[arg-type]
    clock.now = 100.9996
    clock.run()
    assert clock.planned == [101, 102]


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf")])
def test_intervals_that_mean_nothing_are_refused(bench: Bench, seconds: float) -> None:
    with pytest.raises(ValueError, match="interval"):
        Timer.add(seconds, print)


def test_a_callback_must_be_callable(bench: Bench) -> None:
    with pytest.raises(TypeError, match="callable"):
        Timer.add(1, "print")  # type: ignore[arg-type]


def test_zero_means_as_often_as_the_clock_allows_and_starves_nobody(bench: Bench) -> None:
    got: list[int] = []
    Timer.add(0, got.append, [1])
    bench.run(until(lambda: len(got) >= 3))
