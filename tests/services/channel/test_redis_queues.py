"""The consumer's side of redis:// queues: calls that change their mind."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.services.servers import Server, redis_server
from workermand.services.channel.redis import RedisEngine
from workermand.testing.probes import clients, fresh, soon

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with redis_server() as running:
        yield running


def test_an_item_that_nobody_waits_for_any_more_goes_back(server: Server) -> None:
    async def main() -> None:
        async with clients(lambda: RedisEngine(server.url), 2) as (first, second):
            queue = fresh("jobs")
            await first.engine.enqueue([queue], b"x")
            given_up = first.engine.reserve(queue, wait=5.0)
            given_up.cancel()  # type: ignore[attr-defined]
            item = await soon("the item", second.engine.reserve(queue, wait=20.0))
            assert item is not None
            assert item.envelope == b"x"

    asyncio.run(main())


def test_watching_again_changes_the_settings(server: Server) -> None:
    async def main() -> None:
        async with clients(lambda: RedisEngine(server.url), 1) as (probe,):
            queue = fresh("jobs")
            await probe.engine.watch(queue, credit=1)
            await probe.engine.watch(queue, credit=3)
            for _ in range(4):
                await probe.engine.enqueue([queue], b"x")
            items = [await probe.item() for _ in range(3)]
            assert await probe.engine.reserve(fresh("empty"), wait=0.2) is None
            assert probe.items.empty()
            await probe.engine.acknowledge(items[0])
            await probe.item()
            await probe.engine.unwatch(queue)
            await probe.engine.unwatch(queue)

    asyncio.run(main())


def test_a_reserve_and_a_watch_of_one_queue(server: Server) -> None:
    async def main() -> None:
        async with clients(lambda: RedisEngine(server.url), 1) as (probe,):
            queue = fresh("jobs")
            waiting = probe.engine.reserve(queue, wait=20.0)
            await probe.engine.watch(queue)
            await probe.engine.enqueue([queue], b"1")
            await probe.engine.enqueue([queue], b"2")
            item = await soon("an item", waiting)
            assert item is not None
            assert {item.envelope, (await probe.item()).envelope} == {b"1", b"2"}

    asyncio.run(main())
