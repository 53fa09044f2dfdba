"""The nats:// engine of Channel, on a real nats-server: every promise, and what a kill -9 of it leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.services.channel.faults import items_survive, publishers_learn_what_was_lost
from tests.services.servers import Server, nats_server
from workermand import ConfigError
from workermand.services.channel.engine import ChannelError, Item, Promise
from workermand.services.channel.nats import NatsEngine
from workermand.services.links.errors import Unauthorized, Unreachable, Unsupported
from workermand.testing import channels
from workermand.testing.probes import Probe, clients, fresh

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with nats_server() as running:
        yield running


@pytest.mark.parametrize("check", channels.CHECKS, ids=lambda check: check.name)
def test_it_keeps_its_promises(check: channels.Check, server: Server) -> None:
    async def main() -> None:
        async with clients(lambda: NatsEngine(server.url), 1) as (probe,):
            promises = probe.engine.promises
        assert promises == set(Promise) - {Promise.COUNTS}
        if check.needs <= promises:
            await check(lambda: NatsEngine(server.url))

    asyncio.run(main())


def test_without_jetstream_there_are_no_queues() -> None:
    async def main(url: str) -> None:
        async with clients(lambda: NatsEngine(url), 1) as (probe,):
            assert probe.engine.promises == {Promise.ONE_OF_MANY, Promise.PATTERNS, Promise.ORDER}
            with pytest.raises(Unsupported, match="JetStream"):
                await probe.engine.enqueue(["jobs"], b"x")
            with pytest.raises(Unsupported, match="JetStream"):
                await probe.engine.watch("jobs")

    with nats_server("--name", "plain") as running:
        asyncio.run(main(running.url))


def test_who_cannot_come_in_says_why() -> None:
    async def main(url: str) -> None:
        engine = NatsEngine(url)
        with pytest.raises(Unauthorized, match=r"nats at 127\.0\.0\.1"):
            await engine.start(Probe(engine))
        engine = NatsEngine(url.replace("://", "://wm:secret@"))
        await engine.start(Probe(engine))
        await engine.close()

    with nats_server("--user", "wm", "--pass", "secret") as running:
        asyncio.run(main(running.url))


def test_nobody_there() -> None:
    async def main() -> None:
        engine = NatsEngine("nats://127.0.0.1:1")
        with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1"):
            await engine.start(Probe(engine))

    asyncio.run(main())


@pytest.mark.parametrize("url", ["nats://127.0.0.1:port", "nats://", "nats://a,nats://"])
def test_an_url_that_is_none(url: str) -> None:
    with pytest.raises(ConfigError, match="nats://"):
        NatsEngine(url)


def test_what_is_not_in_hand_cannot_be_acknowledged(server: Server) -> None:
    async def main() -> None:
        async with clients(lambda: NatsEngine(server.url), 1) as (probe,):
            for call in (probe.engine.acknowledge, probe.engine.refuse):
                with pytest.raises(ChannelError, match="not in these hands"):
                    await call(Item(fresh("jobs"), "1", 1, b""))

    asyncio.run(main())


def test_after_kill_9_all_is_subscribed_again_and_publishers_learn_what_was_lost() -> None:
    with nats_server() as running:
        asyncio.run(publishers_learn_what_was_lost(lambda **limits: NatsEngine(running.url, **limits), running))


@pytest.mark.soak
def test_confirmed_items_survive_kill_9(full: bool) -> None:
    with nats_server() as running:
        asyncio.run(items_survive(lambda **limits: NatsEngine(running.url, **limits), running, 100 if full else 5))
