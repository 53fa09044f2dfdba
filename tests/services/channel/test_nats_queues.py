"""The consumer's side of nats:// queues: calls that change their mind, and consumers that an administrator deletes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.services.servers import Server, nats_server
from workermand.services.channel import nats_queues
from workermand.services.channel.nats import NatsEngine
from workermand.testing.probes import clients, fresh, soon

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with nats_server() as running:
        yield running


def test_an_item_that_nobody_waits_for_any_more_goes_back(server: Server) -> None:
    async def main() -> None:
        async with clients(lambda: NatsEngine(server.url), 2) as (first, second):
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
        async with clients(lambda: NatsEngine(server.url), 1) as (probe,):
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


def test_a_request_that_ends_is_made_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nats_queues, "PULL", 0.1)

    async def main() -> None:
        async with clients(lambda: NatsEngine(server.url), 1) as (probe,):
            queue = fresh("jobs")
            await probe.engine.watch(queue)
            assert await probe.engine.reserve(fresh("empty"), wait=0.5) is None
            await probe.engine.enqueue([queue], b"x")
            assert (await probe.item()).envelope == b"x"

    asyncio.run(main())


def test_a_consumer_that_was_deleted_is_made_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nats_queues, "RENEWAL", 0.1)

    async def main() -> None:
        engine = NatsEngine(server.url)
        async with clients(lambda: engine, 1) as (probe,):
            queue = fresh("jobs")
            await probe.engine.watch(queue)
            await engine.link.api(f"CONSUMER.DELETE.wm_queues.{nats_queues._durable(queue)}")
            await probe.engine.enqueue([queue], b"x")
            assert (await probe.item()).envelope == b"x"

    asyncio.run(main())
