"""Callbacks: how they are called, in which order, and what becomes of those that fail."""

from __future__ import annotations

import asyncio
import functools
from typing import Any

import pytest
import uvloop

from tests.services.channel.conftest import turns
from workermand.services.channel.callbacks import Failures, Listener, takes_name


class Bound:
    def one(self, data: Any) -> None: ...

    def two(self, data: Any, name: str) -> None: ...

    def __call__(self, data: Any, name: str) -> None: ...


@pytest.mark.parametrize(
    ("callback", "both"),
    [
        (lambda data: None, False),
        (lambda data, name: None, True),
        (lambda data, kept=1: None, False),
        (lambda *everything: None, False),
        (Bound().one, False),
        (Bound().two, True),
        (Bound(), True),
        (functools.partial(Bound().two, "data"), False),
        (print, False),
        ([].append, False),
    ],
)
def test_what_a_callback_takes(callback: Any, both: bool) -> None:
    assert takes_name(callback) is both


@pytest.mark.parametrize("callback", [lambda: None, lambda a, b, c: None, "name", None])
def test_what_is_no_callback(callback: Any) -> None:
    with pytest.raises(TypeError, match="a callback"):
        takes_name(callback)


class Scene:
    """A listener, and what it has told."""

    def __init__(self, callback: Any, pending: int = 3) -> None:
        self.failures = Failures()
        self.dropped: list[tuple[str, int]] = []
        self.answers: list[tuple[bool, Any]] = []
        self.listener = Listener(
            "room", callback, self.failures, pending, lambda what, n: self.dropped.append((what, n))
        )

    def hear(self, data: Any) -> None:
        self.listener.hear(data, "room.1", lambda good, value: self.answers.append((good, value)))


def test_one_event_after_the_other_and_no_more_than_may_wait() -> None:
    async def scene() -> None:
        gate = asyncio.Event()
        log: list[str] = []

        async def callback(data: int, event: str) -> int:
            log.append(f"begin {data}")
            await gate.wait()
            log.append(f"end {data}")
            return data

        scene = Scene(callback)
        for number in range(6):
            scene.hear(number)
        await asyncio.sleep(0)
        assert log == ["begin 0"]
        assert len(scene.dropped) == 2 and scene.dropped[0] == ("events: the callback of room has 3 events waiting", 1)
        assert scene.answers == [(False, "the callback of room has 3 events waiting")] * 2
        gate.set()
        await turns()
        assert log == [f"{what} {number}" for number in range(4) for what in ("begin", "end")]
        assert scene.answers[2:] == [(True, number) for number in range(4)]
        scene.hear(9)
        assert log[-1] == "end 3"
        await turns()

    uvloop.run(scene())


def test_one_that_fails_does_not_stop_the_next(caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        async def callback(data: int) -> int:
            await asyncio.sleep(0)
            return 10 // data

        scene = Scene(callback)
        for number in (0, 1, 0, 2):
            scene.hear(number)
        await turns()
        assert [good for good, _value in scene.answers] == [False, True, False, True]
        assert scene.answers[0][1].startswith("ZeroDivisionError: ")
        assert scene.failures.count == 2

    uvloop.run(scene())
    assert "exception in the callback of room.1" in caplog.text


def test_a_plain_one_may_return_something_to_wait_for() -> None:
    async def scene() -> None:
        async def later(data: int) -> int:
            return data

        scene = Scene(lambda data: later(data) if data else "at once")
        scene.hear(1)
        scene.hear(0)
        scene.hear(2)
        await turns()
        assert scene.answers == [(True, 1), (True, "at once"), (True, 2)]

    uvloop.run(scene())


def test_closed_means_that_nothing_more_begins() -> None:
    async def scene() -> None:
        gate = asyncio.Event()
        begun: list[int] = []

        async def callback(data: int) -> None:
            begun.append(data)
            await gate.wait()

        scene = Scene(callback)
        scene.hear(1)
        scene.hear(2)
        await asyncio.sleep(0)
        scene.listener.close()
        gate.set()
        await turns()
        assert begun == [1]

    uvloop.run(scene())
