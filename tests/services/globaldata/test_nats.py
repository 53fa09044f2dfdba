"""The nats:// engine of GlobalData, on a real nats-server: every promise, and what a kill -9 of it leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.services.globaldata.faults import confirmed_values_survive, watches_go_on
from tests.services.servers import Server, nats_server
from workermand.services.globaldata.engine import GlobalDataError, Promise
from workermand.services.globaldata.nats import NatsEngine
from workermand.services.globaldata.wire import pack_value
from workermand.services.links.errors import Unsupported
from workermand.testing import globaldata_suite as suite
from workermand.testing.probes import fresh

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with nats_server() as running:
        yield running


@pytest.mark.parametrize("check", suite.CHECKS, ids=lambda check: check.name)
def test_it_keeps_its_promises(check: suite.Check, server: Server) -> None:
    async def main() -> None:
        async with suite.clients(lambda: NatsEngine(server.url), 1) as (client,):
            promises = client.engine.promises
        assert promises == set(Promise) - {Promise.ATOMIC_MANY}
        if check.needs <= promises:
            await check(lambda: NatsEngine(server.url))

    asyncio.run(main())


def test_without_jetstream_there_is_no_globaldata() -> None:
    async def main(url: str) -> None:
        engine = NatsEngine(url)
        with pytest.raises(Unsupported, match="--jetstream"):
            await engine.start(suite.Watcher(engine))

    with nats_server("--name", "plain") as running:
        asyncio.run(main(running.url))


def test_a_value_that_nats_does_not_take_is_refused(server: Server) -> None:
    async def main() -> None:
        async with suite.clients(lambda: NatsEngine(server.url), 1) as (client,):
            key = fresh("key")
            with pytest.raises(GlobalDataError, match="max_payload"):
                await client.engine.set(key, pack_value(b"x" * 1_100_000))
            assert await client.engine.exists(key) is False

    asyncio.run(main())


def test_after_kill_9_watches_go_on_and_calls_have_waited() -> None:
    with nats_server() as running:
        asyncio.run(watches_go_on(lambda: NatsEngine(running.url), running))


@pytest.mark.soak
def test_confirmed_values_survive_kill_9(full: bool) -> None:
    with nats_server() as running:
        asyncio.run(confirmed_values_survive(lambda: NatsEngine(running.url), running, 100 if full else 5))
