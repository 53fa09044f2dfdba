"""The redis:// engine of GlobalData, on a real redis-server: every promise, and what a kill -9 of it leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.services.globaldata.faults import confirmed_values_survive, watches_go_on
from tests.services.servers import Server, redis_server
from workermand.services.globaldata.engine import Promise
from workermand.services.globaldata.redis import RedisEngine
from workermand.testing import globaldata_suite as suite

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with redis_server() as running:
        yield running


@pytest.mark.parametrize("check", suite.CHECKS, ids=lambda check: check.name)
def test_it_keeps_its_promises(check: suite.Check, server: Server) -> None:
    async def main() -> None:
        async with suite.clients(lambda: RedisEngine(server.url), 1) as (client,):
            assert client.engine.promises == set(Promise)
        await check(lambda: RedisEngine(server.url))

    asyncio.run(main())


def test_after_kill_9_watches_go_on_and_calls_have_waited() -> None:
    with redis_server() as running:
        asyncio.run(watches_go_on(lambda: RedisEngine(running.url), running))


@pytest.mark.soak
def test_confirmed_values_survive_kill_9(full: bool) -> None:
    with redis_server() as running:
        asyncio.run(confirmed_values_survive(lambda: RedisEngine(running.url), running, 100 if full else 5))
