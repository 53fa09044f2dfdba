"""Jobs: what is acknowledged, what is refused, and by whom."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import uvloop

from tests.services.channel.conftest import turns
from workermand.services.channel import wire
from workermand.services.channel.callbacks import Failures
from workermand.services.channel.engine import Item
from workermand.services.channel.jobs import Job, Watcher
from workermand.services.links.later import Later


class Ledger:
    """An engine that notes what becomes of items."""

    def __init__(self) -> None:
        self.done: list[tuple[Any, ...]] = []

    def acknowledge(self, item: Item) -> Later[None]:
        self.done.append(("done", item.id))
        return Later.of("acknowledge", None)

    def refuse(self, item: Item, *, delay: float | None = None, dead: bool = False) -> Later[None]:
        self.done.append(("refused", item.id, delay, dead))
        return Later.of("refuse", None)


def item(id: str, data: Any) -> Item:
    return Item("mail", id, 1, wire.pack_envelope(data))


def taken(callback: Any, *items: Item) -> list[tuple[Any, ...]]:
    async def scene() -> list[tuple[Any, ...]]:
        ledger: Any = Ledger()
        watcher = Watcher("mail", callback, ledger, Failures())
        for one in items:
            watcher.take(one)
        await turns()
        return list(ledger.done)

    return uvloop.run(scene())


def test_done_when_it_returns_refused_when_it_raises(caplog: pytest.LogCaptureFixture) -> None:
    assert taken(lambda data: 1 / data, item("a", 1), item("b", 0), item("c", 2)) == [
        ("done", "a"),
        ("refused", "b", None, False),
        ("done", "c"),
    ]
    assert "exception in the callback of queue mail, item b, attempt 1" in caplog.text


def test_async_ones_are_at_work_at_once() -> None:
    order: list[int] = []

    async def callback(data: int, queue: str) -> None:
        assert queue == "mail"
        for _ in range(data):
            await asyncio.sleep(0)
        order.append(data)
        if data == 2:
            raise ValueError(data)

    done = taken(callback, item("a", 9), item("b", 2), item("c", 0))
    assert order == [0, 2, 9]
    assert done == [("done", "c"), ("refused", "b", None, False), ("done", "a")]


def test_what_is_no_envelope_is_dead() -> None:
    assert taken(print, Item("mail", "a", 1, b"\xc1")) == [("refused", "a", None, True)]


def test_a_job() -> None:
    async def scene() -> None:
        ledger: Any = Ledger()
        job = Job(item("7", {"to": "you"}), ledger)
        assert (job.data, job.queue, job.id, job.attempt) == ({"to": "you"}, "mail", "7", 1)
        assert repr(job) == "<Job 7 of mail, attempt 1>"
        await job.acknowledge()
        await job.refuse(delay=3.0, dead=True)
        assert ledger.done == [("done", "7"), ("refused", "7", 3.0, True)]

    uvloop.run(scene())
