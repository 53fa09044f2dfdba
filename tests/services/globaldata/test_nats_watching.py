"""What JetStream delivers of the bucket: many keys, those of others, and what comes after a watch has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.services.servers import Server, nats_server
from workermand.services.globaldata.nats import NatsEngine
from workermand.services.globaldata.nats_watching import is_marker
from workermand.services.globaldata.wire import pack_value
from workermand.testing import globaldata_suite as suite
from workermand.testing.probes import fresh

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with nats_server() as running:
        yield running


def test_more_keys_than_fit_into_a_message(server: Server) -> None:
    async def main() -> None:
        async with suite.clients(lambda: NatsEngine(server.url), 1) as (client,):
            root = fresh("many")
            values = {f"{root}.{number:04}": pack_value(number) for number in range(2000)}
            await client.engine.set_many(values)
            await client.engine.delete(f"{root}.0007")
            assert await client.engine.keys(f"{root}.") == [key for key in values if not key.endswith(".0007")]
            assert await client.engine.keys(f"{root}.00") == [f"{root}.{n:04}" for n in range(100) if n != 7]
            assert await client.engine.keys(fresh("none")) == []

    asyncio.run(main())


def test_a_key_that_is_watched_again_is_told_again(server: Server) -> None:
    async def main() -> None:
        async with suite.clients(lambda: NatsEngine(server.url), 1) as (client,):
            key = fresh("key")
            await client.engine.set(key, pack_value(1))
            for _ in range(2):
                await client.engine.watch(key)
                await client.sees(key, pack_value(1))
                await client.engine.unwatch(key)
            await client.engine.unwatch(key)
            client.engine.watch(key)
            client.engine.unwatch(key)
            await client.engine.set(key, pack_value(2))
            await client.engine.watch(key)
            await client.sees(key, pack_value(2))

    asyncio.run(main())


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, False),
        ({"KV-Operation": "DEL"}, True),
        ({"KV-Operation": "PURGE"}, True),
        ({"Nats-Marker-Reason": "MaxAge"}, True),
        ({"KV-Operation": "PUT"}, False),
    ],
)
def test_deletions(headers: dict[str, str], expected: bool) -> None:
    assert is_marker(headers) is expected
