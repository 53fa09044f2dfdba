"""bus: order, and a server that is away, goes and comes."""

from __future__ import annotations

import asyncio

import pytest
import uvloop

from tests.services.gateway.test_client import until
from tests.services.servers import Server, nats_server
from workermand import ConfigError
from workermand.services.gateway.bus.connection import Bus, split
from workermand.services.links.errors import Unauthorized

pytestmark = pytest.mark.real


def test_urls() -> None:
    assert split("nats://u:p@a:1,b:2") == ("nats://u:p@a:1,b:2", "gateway")
    assert split("tls://a/chat") == ("tls://a", "chat")
    for url, words in [
        ("redis://x", "expected nats:// or tls://"),
        ("nats:x", "expected nats://"),
        ("nats://", "and a host"),
        ("nats://a/x.y", '"/x.y" is no name of a cluster'),
        ("nats://a/", '"/" is no name of a cluster'),
    ]:
        with pytest.raises(ConfigError, match=words):
            split(url)


async def opened(url: str) -> Bus:
    bus = Bus(url)
    await bus.opened()
    return bus


def test_what_is_published_and_subscribed_keeps_its_order(nats: Server) -> None:
    """A subscription holds for what its own side says next, and names keep clusters apart."""

    async def play() -> None:
        one, two, stranger = [await opened(f"{nats.url}/{name}") for name in ("order", "order", "other")]
        heard: list[str] = []
        for bus in (one, two, stranger):
            bus.route("x", lambda rest, reply, data, nobody: heard.append(rest))
            bus.route("ask", lambda rest, reply, data, nobody, bus=bus: bus.publish(reply, data))  # type: ignore[misc]
        stranger.listen("x.>")
        two.listen("ask")
        two.route("ready", lambda *_: None)
        asked = asyncio.Event()
        one.route("answer", lambda *_: asked.set())
        one.listen("answer")
        while not asked.is_set():
            one.publish("ask", b"", "answer")
            await asyncio.sleep(0.01)
        for number in range(300):
            one.listen(f"x.{number}")
            one.publish(f"x.{number}", b"")
        one.listen("x.last")
        one.publish("x.last", b"")
        await until("all came", lambda: came(heard))
        assert [rest for rest in heard if rest != "last"] == [str(number) for number in range(300)]
        await asyncio.gather(one.close(), two.close(), stranger.close())

    async def came(heard: list[str]) -> bool:
        return "last" in heard

    uvloop.run(play())


def test_nobody_is_told(nats: Server) -> None:
    async def play() -> None:
        bus = await opened(nats.url)
        told: asyncio.Queue[tuple[str, bool]] = asyncio.Queue()
        bus.route("own", lambda rest, reply, data, nobody: told.put_nowait((rest, nobody)))
        bus.listen("own.*")
        bus.publish("nobody.there", b"x", "own.1")
        assert await told.get() == ("1", True)
        await bus.close()

    uvloop.run(play())


def test_a_server_that_is_killed_comes_back() -> None:
    async def play(server: Server) -> None:
        bus = Bus(server.url)
        states: asyncio.Queue[str] = asyncio.Queue()
        heard: asyncio.Queue[bytes] = asyncio.Queue()
        bus.on_up.append(lambda: states.put_nowait("up"))
        bus.on_down.append(lambda: states.put_nowait("down"))
        bus.route("x", lambda rest, reply, data, nobody: heard.put_nowait(data))
        bus.listen("x")
        assert not bus.up
        bus.publish("x", b"nothing while it is away")
        server.start()
        for number in range(3):
            assert await states.get() == "up"
            bus.publish("x", b"%d" % number)
            assert await heard.get() == b"%d" % number
            server.kill()
            assert await states.get() == "down"
            bus.publish("x", b"nothing")
            bus.listen(f"x.{number}")
            server.start()
        assert await states.get() == "up"
        bus.publish("x.1", b"the new ones too")
        assert await heard.get() == b"the new ones too"
        await bus.close()
        assert heard.empty()

    with nats_server("--no_advertise") as server:
        server.kill()
        uvloop.run(play(server))


def test_a_wrong_password(caplog: pytest.LogCaptureFixture) -> None:
    async def play(server: Server) -> None:
        bus = Bus(server.url.replace("://", "://us:wrong-word@"))
        with pytest.raises(Unauthorized):
            await bus.opened()
        await bus.close()
        bus = await opened(server.url.replace("://", "://us:swordfish@"))
        await bus.close()

    with nats_server("--user", "us", "--pass", "swordfish") as server:
        uvloop.run(play(server))
    assert "wrong-word" not in caplog.text
