"""The redis:// engine of Channel, on a real redis-server: every promise, and what a kill -9 of it leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.services.channel.faults import items_survive, publishers_learn_what_was_lost
from tests.services.servers import Server, redis_server
from workermand import ConfigError
from workermand.services.channel.engine import ChannelError, Item, Promise
from workermand.services.channel.redis import RedisEngine
from workermand.services.links.errors import Unauthorized, Unreachable
from workermand.testing import channels
from workermand.testing.probes import Probe, clients, fresh, soon

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with redis_server() as running:
        yield running


@pytest.mark.parametrize("check", channels.CHECKS, ids=lambda check: check.name)
def test_it_keeps_its_promises(check: channels.Check, server: Server) -> None:
    async def main() -> None:
        engine = RedisEngine(server.url)
        await engine.start(Probe(engine))
        promises = engine.promises
        await engine.close()
        assert promises == set(Promise) - {Promise.COUNTS}
        if check.needs <= promises:
            await check(lambda: RedisEngine(server.url))

    asyncio.run(main())


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        (("--appendonly", "no"), False),
        (("--appendonly", "yes", "--appendfsync", "everysec"), False),
        (("--appendonly", "yes", "--appendfsync", "always"), True),
        (("--appendonly", "yes", "--appendfsync", "always", "--rename-command", "CONFIG", ""), False),
    ],
)
def test_persistence_is_promised_with_what_redis_is_set_to(settings: tuple[str, ...], kept: bool) -> None:
    async def main(url: str) -> None:
        engine = RedisEngine(url)
        await engine.start(Probe(engine))
        assert (Promise.PERSISTENCE in engine.promises) is kept
        await engine.close()

    with redis_server(*settings) as running:
        asyncio.run(main(running.url))


def test_who_cannot_come_in_says_why() -> None:
    async def main(url: str) -> None:
        engine = RedisEngine(url)
        with pytest.raises(Unauthorized, match=r"redis at 127\.0\.0\.1"):
            await engine.start(Probe(engine))
        engine = RedisEngine(url.replace("://", "://:secret@"))
        await engine.start(Probe(engine))
        await engine.close()

    with redis_server("--requirepass", "secret") as running:
        asyncio.run(main(running.url))


def test_nobody_there() -> None:
    async def main() -> None:
        engine = RedisEngine("redis://127.0.0.1:1")
        with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1"):
            await engine.start(Probe(engine))

    asyncio.run(main())


def test_an_url_that_is_none() -> None:
    async def main() -> None:
        with pytest.raises(ConfigError, match="redis://"):
            RedisEngine("redis://127.0.0.1:port")

    asyncio.run(main())


def test_what_is_not_in_hand_cannot_be_acknowledged(server: Server) -> None:
    async def main() -> None:
        async with clients(lambda: RedisEngine(server.url), 1) as (probe,):
            queue = fresh("jobs")
            with pytest.raises(ChannelError, match="not in these hands"):
                await probe.engine.acknowledge(Item(queue, "1-1", 1, b""))
            await probe.engine.enqueue([queue], b"x")
            item = await soon("the item", probe.engine.reserve(queue, wait=5.0))
            assert item is not None
            await probe.engine.acknowledge(item)
            with pytest.raises(ChannelError, match="not in these hands"):
                await probe.engine.refuse(item)

    asyncio.run(main())


def test_after_kill_9_all_is_subscribed_again_and_publishers_learn_what_was_lost() -> None:
    with redis_server() as running:
        asyncio.run(publishers_learn_what_was_lost(lambda **limits: RedisEngine(running.url, **limits), running))


@pytest.mark.soak
def test_confirmed_items_survive_kill_9(full: bool) -> None:
    with redis_server() as running:
        asyncio.run(items_survive(lambda **limits: RedisEngine(running.url, **limits), running, 100 if full else 5))
