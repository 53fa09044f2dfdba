"""sharded.Sharded: several real servers behind one client."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import uvloop

from tests.services.globaldata.conftest import connected, serving
from workermand import ConfigError
from workermand.services.globaldata import BlockingGlobalData, wire
from workermand.services.globaldata.embedded import Embedded
from workermand.services.globaldata.engine import Engine, Promise
from workermand.services.globaldata.sharded import Sharded
from workermand.services.links.address import parse
from workermand.services.links.errors import Unreachable
from workermand.testing import globaldata_suite as suite

KEYS = [f"mine{number}" for number in range(60)]


@pytest.fixture(scope="module")
def urls() -> Iterator[list[str]]:
    with serving() as (_a, a), serving() as (_b, b), serving() as (_c, c):
        yield [a, b, c]


@pytest.mark.parametrize("check", suite.CHECKS, ids=lambda check: check.name)
def test_it_keeps_its_promises(check: suite.Check, urls: list[str]) -> None:
    def make() -> Engine:
        return Sharded({url: Embedded(*parse(url, wire.SERVICE, wire.PORT)) for url in urls})

    async def main() -> None:
        async with suite.clients(make, 1) as (client,):
            assert client.engine.promises == set(Promise) - {Promise.PERSISTENCE, Promise.ATOMIC_MANY}
            if not check.needs <= client.engine.promises:
                return
        await check(make)

    uvloop.run(main())


def test_three_servers(urls: list[str]) -> None:
    async def play(url: str, each: list[str]) -> None:
        async with connected(url) as data, contextlib.AsyncExitStack() as stack:
            assert Promise.VERSIONS in data.promises and Promise.ATOMIC_MANY not in data.promises
            assert not await data.keys("mine")
            await data.set_many({key: number for number, key in enumerate(KEYS)})
            assert await data.get_many([*KEYS, "missing"]) == {key: number for number, key in enumerate(KEYS)}
            assert await data.keys("mine") == sorted(KEYS)
            singles = [await stack.enter_async_context(connected(one)) for one in each]
            shares = [await single.keys("mine") for single in singles]
            assert all(shares) and sorted(key for share in shares for key in share) == sorted(KEYS)
            with BlockingGlobalData(url) as blocking:
                assert blocking.get_many(KEYS) == await data.get_many(KEYS)
                assert blocking.keys("mine") == sorted(KEYS)
                blocking.set_many(dict.fromkeys(KEYS, 0))
            for key in KEYS:
                assert await data.increment(key) == 1
                assert await data.cas(key, 1, "x") and not await data.add(key, 1)
                assert await data.ttl(key) == float("inf") and await data.expire(key, 100)
                versioned = await data.get_versioned(key)
                assert versioned is not None and await data.cas_version(key, versioned[1], "y")
            changes: asyncio.Queue[Any] = asyncio.Queue()
            for key in KEYS[:6]:
                await data.watch(key, changes.put_nowait)
            assert sorted([(await changes.get()).key for _ in range(6)]) == KEYS[:6]
            await data.unwatch(KEYS[0])
            async with data.lock("report", ttl=30):
                pass
            assert await data.delete(KEYS[0]) and not await data.exists(KEYS[0])

    uvloop.run(play(",".join([urls[0], *(url.removeprefix("globaldata://") for url in urls[1:])]), urls))


def test_one_of_them_is_not_there() -> None:
    async def play(url: str) -> None:
        with pytest.raises(Unreachable):
            async with connected(url):
                pass
        with pytest.raises(ConfigError, match="named twice"):
            async with connected("globaldata://a:1,a:1"):
                pass

    with serving() as (_server, url):
        uvloop.run(play(f"{url},127.0.0.1:1"))
