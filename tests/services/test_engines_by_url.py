"""What users call, by redis:// and nats://: the same clients, the same answers."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest

from tests.services.servers import nats_server, redis_server
from workermand import ConfigError
from workermand.services.channel import Channel, ChannelError
from workermand.services.globaldata import GlobalData
from workermand.testing.probes import fresh, soon

pytestmark = pytest.mark.real


@pytest.fixture(scope="module", params=[redis_server, nats_server], ids=["redis", "nats"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    with request.param() as running:
        yield running.url


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, 60))


def test_events_and_requests(url: str) -> None:
    async def main() -> None:
        async with await Channel.connect(url) as first, await Channel.connect(url) as second:
            room = fresh("room")
            heard: asyncio.Queue[tuple[Any, str]] = asyncio.Queue()
            await first.on(f"{room}.*", lambda data, event: heard.put_nowait((data, event)))
            await second.publish(f"{room}.1", {"text": "hi", "bytes": b"\xff", "list": [1, None]})
            assert await soon("it", heard.get()) == ({"text": "hi", "bytes": b"\xff", "list": [1, None]}, f"{room}.1")

            question = fresh("question")
            await first.on(question, lambda data: data * 2)
            assert await second.request(question, 21) == 42

            def fail(data: Any) -> None:
                raise ValueError(f"no {data}")

            await first.on(question, fail)
            with pytest.raises(ChannelError, match="no way"):
                await second.request(question, "way")

    run(main())


def test_queues(url: str) -> None:
    async def main() -> None:
        async with await Channel.connect(url, require=["queues", "dead letters", "persistence"]) as channel:
            queue = fresh("jobs")
            done: asyncio.Queue[Any] = asyncio.Queue()
            failures = 2

            async def work(data: Any) -> None:
                nonlocal failures
                if failures:
                    failures -= 1
                    raise RuntimeError("not yet")
                done.put_nowait(data)

            await channel.watch(queue, work, retry_delay=0.05)
            await channel.enqueue(queue, {"job": 1})
            assert await soon("it", done.get()) == {"job": 1}
            assert await channel.dead_letters(queue) == []

    run(main())


def test_variables_and_a_lock(url: str) -> None:
    async def main() -> None:
        async with await GlobalData.connect(url) as first, await GlobalData.connect(url) as second:
            counter, lock = fresh("counter"), fresh("lock")
            await first.set(counter, 0)

            async def count(data: GlobalData) -> None:
                for _ in range(10):
                    async with data.lock(lock, ttl=30.0, wait=30.0):
                        await data.set(counter, await data.get(counter) + 1)

            await asyncio.gather(count(first), count(second))
            assert await second.get(counter) == 20
            assert await first.increment(counter, 0.5) == 20.5
            assert await first.cas(counter, 20.5, {"x": [1]})
            assert await second.get_many([counter, fresh("none")]) == {counter: {"x": [1]}}

            seen: asyncio.Queue[Any] = asyncio.Queue()
            await second.watch(counter, lambda change: seen.put_nowait((change.key, change.value)))
            await first.set(counter, "new")
            while (await soon("the change", seen.get())) != (counter, "new"):
                pass

    run(main())


def test_what_an_engine_does_not_promise_cannot_be_required(url: str) -> None:
    async def main() -> None:
        with pytest.raises(ConfigError, match="counts"):
            await Channel.connect(url, require=["counts"])
        if url.startswith("nats"):
            with pytest.raises(ConfigError, match="atomic many"):
                await GlobalData.connect(url, require=["atomic many"])

    run(main())
