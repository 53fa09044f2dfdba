"""The scripts of the redis:// engine by themselves: MessagePack's integers, byte for byte."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import pytest

from tests.services.servers import Server, redis_server
from workermand.services.globaldata.redis_scripts import SCRIPTS
from workermand.services.globaldata.wire import pack_value
from workermand.services.links.redis import RedisLink

pytestmark = pytest.mark.real


@pytest.fixture
def server() -> Iterator[Server]:
    with redis_server() as running:
        yield running


async def nothing() -> None: ...


def test_what_lua_adds_is_packed_as_we_pack_it(server: Server) -> None:
    async def main() -> None:
        link = RedisLink(
            server.url,
            scripts=SCRIPTS,
            on_push=lambda message: None,
            on_connect=nothing,
            on_up=lambda: None,
            on_down=lambda: None,
        )
        await link.open()
        edges = [
            sign * (2**bits + more) for sign in (1, -1) for bits in (0, 5, 7, 8, 15, 16, 31, 32) for more in (-1, 0, 1)
        ]
        cases = [(number, step) for number in edges for step in (-1, 0, 1)]
        cases += [(random.randint(-(2**52), 2**52), random.randint(-(2**52), 2**52)) for _ in range(500)]
        for number, step in cases:
            _, (old, *rest), stored = await link.run(
                [
                    link.script("set", (), "", "key", pack_value(number)),
                    link.script("increment", (), "key", str(step)),
                    ("HGET", "wm:g:key", "v"),
                ]
            )
            assert old == pack_value(number)
            if rest:
                assert (rest[0], stored) == (number + step, pack_value(number + step))
            else:  # the long way
                assert abs(number) > 2**31
        await link.close()

    asyncio.run(main())
