"""phpregistry: what Registers in PHP say. The one here is ours, at its door for PHP: test_phpregister.py."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import pytest
import uvloop

from tests.services.gateway.php.test_register import listening
from tests.services.gateway.test_client import until
from workermand import ConfigError
from workermand.services.gateway.messages import Place
from workermand.services.gateway.php import registry as phpregistry
from workermand.services.gateway.php.registry import PhpRegistry, Settings
from workermand.services.links.address import Address, Server

PLACE = Place("", "0a0000090b54", "10.0.0.9:2900")


class News:
    """What a registry tells."""

    def __init__(self, ports: list[int], key: str) -> None:
        self.queue: asyncio.Queue[set[Place]] = asyncio.Queue()
        self.registry = PhpRegistry([Address("127.0.0.1", port, "") for port in ports], key, self.queue.put_nowait)


def play(piece: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await piece()

    uvloop.run(bounded())


async def announce(port: int, address: str, key: str = "") -> asyncio.StreamWriter:
    _reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b'{"event":"gateway_connect", "address":"%s", "secret_key":"%s"}\n' % (address.encode(), key.encode()))
    return writer


def test_gateways_come_and_go() -> None:
    async def piece() -> None:
        news = News([port], "swordfish")
        await news.registry.first()
        gateway = await announce(port, "10.0.0.9:2900", "swordfish")
        assert await news.queue.get() == {PLACE}
        gateway.close()
        assert await news.queue.get() == set()
        await news.registry.close()

    with listening("swordfish") as port:
        play(piece)


def test_several_are_taken_together_and_what_a_lost_one_has_said_holds() -> None:
    async def piece() -> None:
        news = News([port, second], "")
        gateways = [await announce(port, "10.0.0.9:2900"), await announce(second, "10.0.0.9:2901")]
        found: set[Place] = set()
        while len(found) < 2:
            found = await news.queue.get()
        await asyncio.to_thread(both.close)
        gateways.append(await announce(port, "10.0.0.9:2902"))
        assert {place.php for place in await news.queue.get()} == {f"10.0.0.9:{2900 + n}" for n in range(3)}
        await news.registry.close()
        for gateway in gateways:
            gateway.close()

    with listening() as port, contextlib.ExitStack() as both:
        second = both.enter_context(listening())
        play(piece)


def test_a_wrong_key_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    async def said(words: str) -> bool:
        return words in caplog.text

    async def piece() -> None:
        news = News([port], "wrong")
        await until("it is said", lambda: said("closed the connection at once: is options.php.secret_key"))
        await news.registry.close()
        assert "wrong" not in caplog.text

    with listening("swordfish") as port:
        play(piece)


@pytest.mark.parametrize("line", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"{}\n", b"\xff\xff\n"])
def test_one_that_is_none(line: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def piece() -> None:
        async def guest(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            assert await reader.readline() == b'{"event":"worker_connect","secret_key":""}\n'
            writer.write(line)
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
            writer.close()
            left.set()

        left = asyncio.Event()
        server = await asyncio.start_server(guest, "127.0.0.1", 0)
        try:
            news = News([server.sockets[0].getsockname()[1]], "")
            await left.wait()
            await news.registry.close()
        finally:
            server.close()
        assert "no line of a Register's" in caplog.text

    play(piece)


def test_addresses() -> None:
    assert phpregistry.addresses(Settings()) == []
    assert phpregistry.addresses(Settings(register="text://10.0.0.9")) == [Address("10.0.0.9", 1236, "")]
    several = Settings(register=["text://a:1,b:2", "text://c:3"])
    assert phpregistry.addresses(several) == [Address("a", 1, ""), Address("b", 2, ""), Address("c", 3, "")]


@pytest.mark.parametrize("url", ["register://10.0.0.9:1236", "10.0.0.9:1236", "text:///run/register.sock"])
def test_addresses_that_cannot_be(url: str) -> None:
    with pytest.raises(ConfigError):
        phpregistry.addresses(Settings(register=url))


def test_ours_may_miss_where_those_of_php_are_named() -> None:
    php = Settings(register="text://10.0.0.9")
    ours = [Server(Address("10.0.0.1", 1236, ""), "x")]
    assert phpregistry.ours("", "", php) == []
    assert phpregistry.ours("register://10.0.0.1", "x", php) == ours
    with pytest.raises(RuntimeError):
        phpregistry.ours("", "", Settings())
    with pytest.raises(ConfigError):
        phpregistry.ours("http://", "", php)
