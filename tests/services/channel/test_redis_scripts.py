"""The scripts of the redis:// engine by themselves: what clients that were killed leave behind goes away."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.services.servers import Server, redis_server
from workermand.services.channel.redis_scripts import SCRIPTS
from workermand.services.links.redis import RedisLink

pytestmark = pytest.mark.real


@pytest.fixture
def server() -> Iterator[Server]:
    with redis_server() as running:
        yield running


async def nothing() -> None: ...


def link_to(server: Server) -> RedisLink:
    return RedisLink(
        server.url,
        scripts=SCRIPTS,
        on_push=lambda message: None,
        on_connect=nothing,
        on_up=lambda: None,
        on_down=lambda: None,
    )


def test_dead_subscribers_are_forgotten(server: Server) -> None:
    async def main() -> None:
        link = link_to(server)
        await link.open()
        await link.listen("SUBSCRIBE", ["wm:c:alive"])
        await link.run([link.script("join", (), "dead", "room.*"), link.script("join", (), "alive", "room.*")])
        for _ in range(50):
            await link.run([link.script("join", (), "alive", "room.*")])
        members, patterns = await link.run([("ZRANGE", "wm:s:room.*", 0, -1), ("SMEMBERS", "wm:patterns")])
        assert (members, patterns) == ([b"alive"], [b"room.*"])
        await link.run([link.script("leave", (), "alive", "room.*")])
        assert await link.run([("EXISTS", "wm:s:room.*"), ("SMEMBERS", "wm:patterns")]) == [0, []]
        await link.close()

    asyncio.run(main())


def test_one_of_many_passes_over_the_dead(server: Server) -> None:
    async def main() -> None:
        link = link_to(server)
        await link.open()
        await link.listen("SUBSCRIBE", ["wm:c:alive"])
        names = [link.script("join", (), client, name) for client in ("d1", "alive", "d2") for name in ("a.b", "a*b")]
        await link.run(names)
        assert await link.run([link.script("one", (), "a.b", b"x")] * 3) == [1, 1, 1]
        await link.listen("UNSUBSCRIBE", ["wm:c:alive"])
        assert await link.run([link.script("one", (), "a.b", b"x")]) == [0]
        await link.close()

    asyncio.run(main())


def test_consumers_that_are_dead_leave_no_trace(server: Server) -> None:
    async def main() -> None:
        link = link_to(server)
        await link.open()
        take = ("jobs", "dead", 1, 60_000, 5, 1)
        await link.run([link.script("put", (), "jobs", 0, b"x"), link.script("take", (), *take)])
        await link.listen("SUBSCRIBE", ["wm:c:alive"])
        _, ((id, attempt, envelope),) = (await link.run([link.script("take", (), "jobs", "alive", 1, 60_000, 5, 1)]))[0]
        assert (attempt, envelope) == (2, b"x")
        assert await link.run([link.script("done", (), "jobs", id, 1), link.script("done", (), "jobs", id, 2)]) == [
            0,
            1,
        ]
        await link.run([link.script("take", (), "jobs", "alive", 1, 60_000, 5, 1)])
        (consumers,) = await link.run([("XINFO", "CONSUMERS", "wm:q:jobs", "wm")])
        assert [consumer[1] for consumer in consumers] == [b"alive"]
        assert await link.run([("XLEN", "wm:q:jobs"), ("ZCARD", "wm:l:jobs")]) == [0, 0]
        await link.close()

    asyncio.run(main())
