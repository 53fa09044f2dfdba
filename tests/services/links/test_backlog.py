"""The backlog of engines: order, limits, and what a broken connection does to whom."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from workermand.services.links import backlog
from workermand.services.links.backlog import Backlog, Call
from workermand.services.links.errors import Dropped, ServiceError, TimedOut, Unreachable
from workermand.services.links.later import Later


class Server:
    """Answers batches, or breaks off."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None

    async def run(self, calls: list[Call]) -> None:
        self.batches.append([call.later.what for call in calls])
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        for call in calls:
            call.later.fulfil(call.later.what)


def call(what: str, **options: Any) -> Call:
    return Call(Later(what), **options)


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, 30))


def test_calls_run_in_order_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, "BATCH", 2)

    async def main() -> None:
        server = Server()
        waiting = Backlog(server.run, limits={})
        calls = [call(str(number)) for number in range(5)]
        for one in calls:
            waiting.add(one)
        assert server.batches == []
        waiting.resume()
        assert await asyncio.gather(*(one.later for one in calls)) == list("01234")
        assert server.batches == [["0", "1"], ["2", "3"], ["4"]]

    run(main())


def test_a_kind_has_room_for_so_many_bytes() -> None:
    async def main() -> None:
        server, dropped = Server(), []
        waiting = Backlog(server.run, limits={"events": 10}, on_dropped=lambda what, count: dropped.append(count))
        first, second, other = call("a", kind="events", size=6), call("b", kind="events", size=6), call("c", size=99)
        for one in (first, second, other):
            waiting.add(one)
        with pytest.raises(Dropped, match="events: no room, 10 bytes"):
            await second.later
        assert dropped == [1]
        waiting.resume()
        assert await asyncio.gather(first.later, other.later) == ["a", "c"]
        again = call("d", kind="events", size=10)
        waiting.add(again)
        assert await again.later == "d"

    run(main())


@pytest.mark.parametrize("broken", ["raises", "paused"])
def test_what_has_no_answer_is_done_again_or_fails(broken: str) -> None:
    async def main() -> None:
        server = Server()
        waiting = Backlog(server.run, limits={"items": 100})
        waiting.resume()
        server.gate.clear()
        item, event, after = call("item", repeats=True, kind="items", size=3), call("event"), call("after")
        waiting.add(item)
        waiting.add(event)
        await asyncio.sleep(0)
        waiting.add(after)
        if broken == "raises":
            server.error = Unreachable("gone")
            server.gate.set()
        else:
            waiting.pause()
        with pytest.raises(Unreachable):
            await event.later
        assert not item.later.done()
        assert not after.later.done()
        server.error = None
        server.gate.set()
        waiting.resume()
        assert await asyncio.gather(item.later, after.later) == ["item", "after"]
        assert server.batches == [["item", "event"], ["item", "after"]]

    run(main())


def test_a_batch_that_fails_is_not_the_end() -> None:
    async def main() -> None:
        server = Server()
        waiting = Backlog(server.run, limits={})
        waiting.resume()
        server.error = RuntimeError("our mistake")
        broken = call("a", repeats=True)
        waiting.add(broken)
        with pytest.raises(ServiceError, match="our mistake"):
            await broken.later
        server.error = None
        fine = call("b")
        waiting.add(fine)
        assert await fine.later == "b"

    run(main())


def test_calls_wait_for_the_server_up_to_their_deadline() -> None:
    async def main() -> None:
        waiting = Backlog(Server().run, limits={}, timeout=0.05)
        calls = [call("a"), call("b")]
        for one in calls:
            waiting.add(one)
        for one in calls:
            with pytest.raises(TimedOut, match=r"0\.05 seconds"):
                await one.later

    run(main())


def test_closing_fails_what_waits_and_what_comes() -> None:
    async def main() -> None:
        server = Server()
        server.gate.clear()
        waiting = Backlog(server.run, limits={})
        waiting.resume()
        calls = [call("a", repeats=True), call("b")]
        waiting.add(calls[0])
        await asyncio.sleep(0)
        waiting.add(calls[1])
        await waiting.close("closed")
        late = call("c")
        waiting.add(late)
        for one in (*calls, late):
            with pytest.raises(Unreachable):
                await one.later

    run(main())


def test_drained_waits_for_all_answers() -> None:
    async def main() -> None:
        server = Server()
        waiting = Backlog(server.run, limits={})
        calls = [call(str(number)) for number in range(3)]
        for one in calls:
            waiting.add(one)
        await waiting.drained()  # nothing flows: nothing to wait for
        waiting.resume()
        await waiting.drained()
        assert all(one.later.done() for one in calls)

    run(main())
