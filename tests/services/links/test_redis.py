"""The two connections to redis: broken, silent, without their scripts."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from redis.exceptions import ResponseError

from tests.services.servers import Server, redis_server
from workermand import ConfigError
from workermand.services.links import redis as links_redis
from workermand.services.links.errors import Unreachable
from workermand.services.links.redis import RedisLink
from workermand.testing.probes import soon

pytestmark = pytest.mark.real


@pytest.fixture
def server() -> Iterator[Server]:
    with redis_server() as running:
        yield running


class Client:
    def __init__(self, url: str) -> None:
        self.pushes: list[list[Any]] = []
        self.connected = 0
        self.up, self.down = asyncio.Event(), asyncio.Event()
        self.link = RedisLink(
            url,
            scripts={"add": "return ARGV[1] + ARGV[2]"},
            on_push=self.pushes.append,
            on_connect=self._connect,
            on_up=self.up.set,
            on_down=self.down.set,
        )

    async def _connect(self) -> None:
        self.connected += 1
        await self.link.listen("SUBSCRIBE", ["news"])


def test_commands_scripts_and_what_is_refused(server: Server) -> None:
    async def main() -> None:
        client = Client(server.url)
        await client.link.open()
        answers = await client.link.run(
            [("SET", "a", b"\xff"), ("LPUSH", "a", "x"), client.link.script("add", (), 2, 3), ("PUBLISH", "news", "hi")]
        )
        assert answers[0] == b"OK"
        assert isinstance(answers[1], ResponseError)
        assert answers[2:] == [5, 1]
        await client.link.listen("UNSUBSCRIBE", ["news"])
        assert [message[0] for message in client.pushes] == [b"subscribe", b"message", b"unsubscribe"]
        await client.link.close()

    asyncio.run(main())


def test_scripts_that_are_gone_are_loaded_again(server: Server) -> None:
    async def main() -> None:
        client = Client(server.url)
        await client.link.open()
        await client.link.run([("SCRIPT", "FLUSH")])
        with pytest.raises(Unreachable, match="scripts"):
            await client.link.run([client.link.script("add", (), 2, 3)])
        await soon("up", client.up.wait())
        assert await client.link.run([client.link.script("add", (), 2, 3)]) == [5]
        assert client.connected == 2
        await client.link.close()

    asyncio.run(main())


def test_a_server_that_says_nothing_is_left(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links_redis, "PING", 0.2)

    async def main() -> None:
        client = Client(server.url)
        await client.link.open()
        with server.frozen():
            await soon("down", client.down.wait())
            assert "no sign of life" in client.link.reason
            monkeypatch.undo()
        await soon("up", client.up.wait())
        assert len(await client.link.run([("PING",)])) == 1
        await client.link.close()

    asyncio.run(main())


def test_an_answer_that_does_not_come_has_a_deadline(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        client = Client(server.url)
        await client.link.open()
        monkeypatch.setattr(links_redis, "TIMEOUT", 0.3)
        with server.frozen(), pytest.raises(Unreachable, match="may not have arrived"):
            await client.link.run([("PING",)])
        await client.link.close()

    asyncio.run(main())


def test_passwords_are_not_shown() -> None:
    async def main() -> None:
        with pytest.raises(ConfigError) as caught:
            Client("redis://user:hunter2@127.0.0.1:port/1")
        assert "hunter2" not in str(caught.value)
        client = Client("redis://user:hunter2@127.0.0.1:1/1")
        with pytest.raises(Unreachable) as failed:
            await client.link.open()
        assert "hunter2" not in str(failed.value)

    asyncio.run(main())
