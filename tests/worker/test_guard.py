"""What user code may do to the loop, and that the loop goes on."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import uvloop

from workermand.errors import LoadError
from workermand.worker import guard


class Guarded:
    def __init__(self) -> None:
        self.loop = uvloop.new_event_loop()
        self.failures: list[tuple[str, BaseException]] = []
        guard.install(self.loop, self.failed)

    def failed(self, where: str, _connection: None, error: BaseException) -> None:
        self.failures.append((where, error))

    def run(self, coroutine: Any) -> Any:
        """Like process.run does, for at most 20 seconds."""
        task = self.loop.create_task(asyncio.wait_for(coroutine, 20))
        guard.run_until(self.loop, task, self.failed)
        return task.result()


@pytest.fixture
def guarded() -> Iterator[Guarded]:
    made = Guarded()
    yield made
    gc.collect()
    made.loop.close()


def leave() -> None:
    sys.exit(3)


async def leave_later() -> None:
    await asyncio.sleep(0)
    sys.exit(3)


def test_an_exit_in_a_task_is_its_exception(guarded: Guarded) -> None:
    async def main() -> str:
        with pytest.raises(guard.ExitInTask, match=r"SystemExit\(3\) in a task"):
            await asyncio.create_task(leave_later())
        return "still here"

    assert guarded.run(main()) == "still here"
    assert not guarded.failures, "it was caught: nothing to report"


def test_an_exit_that_nobody_awaits_is_reported_once(guarded: Guarded) -> None:
    async def main() -> None:
        task = asyncio.create_task(leave_later())
        await asyncio.wait({task})
        del task
        gc.collect()

    guarded.run(main())
    assert [type(error) for _where, error in guarded.failures] == [guard.ExitInTask]


def test_an_exception_that_nobody_awaits_is_reported(guarded: Guarded) -> None:
    async def broken() -> None:
        raise ValueError("nobody looks")

    async def main() -> None:
        task = asyncio.create_task(broken())
        await asyncio.wait({task})
        del task
        gc.collect()

    guarded.run(main())
    ((where, error),) = guarded.failures
    assert str(error) == "nobody looks"
    assert where.startswith("task ") and where.endswith("broken, which nobody awaited")


def test_a_future_that_nobody_awaits_is_reported(guarded: Guarded) -> None:
    async def main() -> None:
        future = asyncio.get_running_loop().create_future()
        future.set_exception(ValueError("refused"))
        del future
        gc.collect()

    guarded.run(main())
    ((where, error),) = guarded.failures
    assert (where, str(error)) == ("something that nobody awaited", "refused")


def test_an_exit_in_a_task_group_ends_as_a_group(guarded: Guarded) -> None:
    async def main() -> None:
        with pytest.raises(ExceptionGroup) as caught:
            await two()
        assert isinstance(caught.value.exceptions[0], guard.ExitInTask)

    async def two() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(leave_later())
            group.create_task(asyncio.sleep(100))

    guarded.run(main())


def test_exits_in_bare_callbacks_are_reported_and_the_loop_is_entered_again(guarded: Guarded) -> None:
    reader, writer = os.pipe()
    went_on: list[str] = []

    def readable() -> None:
        asyncio.get_running_loop().remove_reader(reader)
        sys.exit("reader")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(leave)
        loop.call_soon(went_on.append, "the callback after it")
        await reported(1)
        loop.call_later(0.001, leave)
        await reported(2)
        loop.add_reader(reader, readable)
        os.write(writer, b"x")
        await reported(3)

    async def reported(count: int) -> None:
        while len(guarded.failures) < count:  # noqa: ASYNC110 -- nothing else tells
            await asyncio.sleep(0.001)

    guarded.run(main())
    assert all(isinstance(error, SystemExit) for _where, error in guarded.failures)
    assert went_on == ["the callback after it"]
    os.close(reader)
    os.close(writer)


def test_loop_stop_does_not_end_the_process(guarded: Guarded) -> None:
    async def main() -> str:
        asyncio.get_running_loop().stop()
        await asyncio.sleep(0.001)
        return "went on"

    assert guarded.run(main()) == "went on"


def test_an_exception_in_a_bare_callback_is_reported(guarded: Guarded) -> None:
    async def main() -> None:
        asyncio.get_running_loop().call_soon(lambda: 1 / 0)
        await asyncio.sleep(0.001)

    guarded.run(main())
    ((where, error),) = guarded.failures
    assert isinstance(error, ZeroDivisionError) and where == "a callback of the event loop"


def test_a_task_cancelled_before_it_began_warns_of_nothing(guarded: Guarded) -> None:
    """filterwarnings=error: "coroutine ... was never awaited" would fail this."""

    async def main() -> None:
        task = asyncio.create_task(leave_later())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        del task
        gc.collect()

    guarded.run(main())
    assert not guarded.failures


def test_tasks_keep_name_result_cancellation_and_the_face_of_their_coroutine(guarded: Guarded) -> None:
    async def work() -> int:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            return 7
        return 0

    async def main() -> None:
        task = asyncio.create_task(work(), name="mine")
        await asyncio.sleep(0)
        assert task.get_name() == "mine"
        assert "work()" in repr(task)
        assert task.get_stack()[-1].f_code.co_name == "work"
        task.cancel()
        assert await task == 7

    guarded.run(main())


def test_a_signal_that_comes_while_the_loop_is_left_is_told_when_it_runs_again(guarded: Guarded) -> None:
    told = guarded.loop.create_future()

    async def main() -> None:
        guarded.loop.add_signal_handler(signal.SIGALRM, told.set_result, "alarm")

    guarded.run(main())
    signal.raise_signal(signal.SIGALRM)
    guarded.run(asyncio.wait_for(told, 20))
    guarded.run(remove(guarded.loop))
    assert told.result() == "alarm"


async def remove(loop: asyncio.AbstractEventLoop) -> None:
    loop.remove_signal_handler(signal.SIGALRM)


def test_call_takes_sync_and_async() -> None:
    got: list[object] = []

    async def work(value: object) -> None:
        await asyncio.sleep(0)
        got.append(value)

    async def main() -> None:
        await guard.call(got.append, 1)
        await guard.call(work, 2)
        await guard.call(lambda: work(3))

    uvloop.run(main())
    assert got == [1, 2, 3]


def test_last_words_begin_with_the_user() -> None:
    async def main() -> None:
        await guard.call(lambda: int("many"))

    with pytest.raises(ValueError, match="invalid literal") as caught:
        uvloop.run(main())
    error = caught.value
    # The frames of pytest and asyncio are not ours either: look from guard.call on.
    tb = error.__traceback__
    while tb is not None and tb.tb_frame.f_code.co_name != "call":
        tb = tb.tb_next
    words = guard.last_words(error.with_traceback(tb))
    assert guard.__file__ not in words
    assert words.startswith("Traceback") and words.endswith("'many'")


def test_a_load_error_needs_no_traceback() -> None:
    assert guard.last_words(LoadError("no such callback")) == "no such callback"
