"""A real Register, asked over links."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import uvloop

from workermand.services.gateway import messages
from workermand.services.gateway.messages import Place
from workermand.services.links.address import Address
from workermand.services.links.client import Link
from workermand.services.links.errors import ServiceError
from workermand.testing import RunningServer, ServerFailed, running_server

HANDLER = "workermand.services.gateway.register"
ONE, TWO = Place("tcp://10.0.0.1:2000", "00000001"), Place("tcp://10.0.0.2:2000", "00000002", "10.0.0.2:2900")


@contextlib.contextmanager
def register(secret: str = "", **keys: Any) -> Iterator[tuple[RunningServer, Address]]:
    keys = {"listen": "frame://127.0.0.1:0", "options": {"secret": secret}, "reloadable": False, **keys}
    with running_server(HANDLER, **keys) as server:
        yield server, Address(str(server.address[0]), server.port, "")


@contextlib.asynccontextmanager
async def linked(address: Address, secret: str = "") -> AsyncIterator[tuple[Link, asyncio.Queue[list[Any]]]]:
    heard: asyncio.Queue[list[Any]] = asyncio.Queue()
    link = Link(address, messages.REGISTER, secret=secret, on_message=heard.put_nowait)
    await link.open()
    try:
        yield link, heard
    finally:
        await link.close()


def test_gateways_come_and_go() -> None:
    async def play(address: Address) -> None:
        async with linked(address, "swordfish") as (watcher, heard):
            assert await watcher.request(messages.WATCH) is None
            assert (await heard.get())[2] == []
            async with linked(address, "swordfish") as (one, _), linked(address, "swordfish") as (two, _):
                await one.request(messages.ANNOUNCE, ONE, 5.0)
                assert messages.places((await heard.get())[2]) == [ONE]
                await two.request(messages.ANNOUNCE, TWO, 5.0)
                assert messages.places((await heard.get())[2]) == [ONE, TWO]
                assert messages.places(await watcher.request(messages.LIST)) == [ONE, TWO]
            assert len(messages.places((await heard.get())[2])) == 1
            assert (await heard.get())[2] == []

    with register("swordfish") as (_server, address):
        uvloop.run(play(address))


def test_who_comes_to_an_address_has_it_alone() -> None:
    """A gateway that was killed while it was cut off is here again before anybody misses its former self."""

    async def play(address: Address) -> None:
        again = ONE._replace(prefix="0000000a")
        async with linked(address) as (watcher, heard), linked(address) as (former, _), linked(address) as (later, _):
            await watcher.request(messages.WATCH)
            assert (await heard.get())[2] == []
            await former.request(messages.ANNOUNCE, ONE, 60.0)
            assert messages.places((await heard.get())[2]) == [ONE]
            await later.request(messages.ANNOUNCE, again, 60.0)
            assert messages.places((await heard.get())[2]) == [again]
            await former.close()
            await later.request(messages.ANNOUNCE, again, 60.0)
            assert messages.places((await heard.get())[2]) == [again]

    with register() as (_server, address):
        uvloop.run(play(address))


def test_a_gateway_that_is_silent_is_gone() -> None:
    """Its connection lives, and nothing comes: as behind a cut cable."""

    async def play(address: Address) -> None:
        async with linked(address) as (watcher, heard), linked(address) as (one, _):
            await watcher.request(messages.WATCH)
            assert (await heard.get())[2] == []
            await one.request(messages.ANNOUNCE, ONE, 0.05)
            assert len((await heard.get())[2]) == 1
            assert (await heard.get())[2] == []

    with register() as (server, address):
        uvloop.run(play(address))
        server.wait_for("the gateway at tcp://10.0.0.1:2000 is silent")


BAD: list[list[Any]] = [
    [99],
    [messages.ANNOUNCE],
    [messages.ANNOUNCE, ["x"], 5.0],
    [messages.ANNOUNCE, ONE, -1],
    [messages.WATCH, 1],
]


@pytest.mark.parametrize("request_", BAD)
def test_what_it_does_not_understand(request_: list[Any]) -> None:
    async def play(address: Address) -> None:
        async with linked(address) as (link, _):
            with pytest.raises(ServiceError, match=r"gateway|ANNOUNCE, LIST or WATCH"):
                await link.request(*request_)
            assert await link.request(messages.LIST) == []

    with register() as (_server, address):
        uvloop.run(play(address))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"count": 2}, "count = 2, write 1"),
        ({"listen": "frame://0.0.0.0:0"}, "can be reached from other machines"),
        ({"listen": None}, "listens nowhere"),
        ({"options": {"secrets": "x"}}, "did you mean"),
    ],
)
def test_options_that_cannot_be(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ServerFailed, match=words), register(**keys):
        pass
