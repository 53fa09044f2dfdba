"""The inner side of a real gateway, spoken to by hand."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvloop

from tests.services.gateway.conftest import Client, cluster, register_of
from workermand.services.gateway import messages, registry
from workermand.services.gateway.inner import address_of
from workermand.services.gateway.messages import Place
from workermand.services.links import wire
from workermand.services.links.client import Link
from workermand.services.links.errors import ServiceError
from workermand.testing import RunningServer

A_CLIENT = "0" * 20


@contextlib.asynccontextmanager
async def linked(place: Place) -> AsyncIterator[tuple[Link, asyncio.Queue[list[Any]]]]:
    heard: asyncio.Queue[list[Any]] = asyncio.Queue()
    link = Link(address_of(place), messages.service(place.prefix), on_message=heard.put_nowait)
    await link.open()
    try:
        yield link, heard
    finally:
        await link.close()


async def place_of(server: RunningServer) -> Place:
    (found,) = registry.servers(register_of(server), "")
    link = Link(found.address, messages.REGISTER, on_message=lambda message: None)
    await link.open()
    (place,) = messages.places(await link.request(messages.LIST))
    await link.close()
    return place


def test_news_of_uids_and_groups() -> None:
    async def play(server: RunningServer, id: str) -> None:
        async with linked(await place_of(server)) as (link, heard):
            answer = link.request(messages.CALL, "send_to_uids", [["7"], "x", False], ["7"])
            assert await heard.get() == [messages.NEWS, 0, "uid", "7", False]
            assert await answer == [0, 0]
            assert await link.request(messages.CALL, "send_to_groups", [["g"], [], "x", False]) == [0, 0]
            await link.request(messages.CALL, "bind_uid", [[id], "7"])
            await link.request(messages.CALL, "join_group", [[id], "g"])
            assert await heard.get() == [messages.NEWS, 0, "uid", "7", True]
            await link.request(messages.CALL, "unbind_uid", [[id]])
            assert await heard.get() == [messages.NEWS, 0, "uid", "7", False]
            link.send(wire.pack([messages.UNWATCH, 0, "uid", "7"]))
            await link.request(messages.CALL, "bind_uid", [[id], "7"])
            assert heard.empty()

    with cluster() as server, Client(server) as client:
        uvloop.run(play(server, client.hear().removeprefix("id ")))


def test_a_business_worker_by_hand() -> None:
    """It gets events, acknowledges, and leaves; what it does not do is done by the other one."""

    async def play(server: RunningServer) -> None:
        async with linked(await place_of(server)) as (link, heard):
            assert await link.request(messages.ENLIST, "ours:0", 60.0) is None
            with pytest.raises(ServiceError, match="enlisted already"):
                await link.request(messages.ENLIST, "ours:0", 60.0)
            with Client(server) as client:
                event = await heard.get()
                op, number, kind, id, body, session, applied, origin = event
                assert (op, number, kind) == (messages.EVENT, 0, messages.ON_CONNECT)
                assert (body, session, applied) == (None, b"", 0)
                assert origin[0] == "127.0.0.1"
                assert await link.request(messages.CHANGE, 5, "patch_session", [[id], {"n": 1}, []]) == 1
                client.say("hello")
                event = await heard.get()
                assert event[2:] == [messages.ON_MESSAGE, id, "hello", b"\x81\xa1n\x01", 5, origin]
                await link.request(messages.LEAVE)
                client.say("again")
                assert await link.request(messages.CALL, "count", []) == 2
                assert heard.empty()
                link.send(wire.pack([messages.DONE, 0, [id, id, A_CLIENT]]))
                assert await asyncio.to_thread(client.hear) == "AGAIN"
                assert await asyncio.to_thread(client.ask, "session") == "{'n': 1}"

    # The other business worker has clients already, so that ours is the next one's.
    with cluster() as server, Client(server) as one:
        one.hear()
        uvloop.run(play(server))


def test_a_silent_business_worker_is_gone() -> None:
    async def play(server: RunningServer) -> None:
        async with linked(await place_of(server)) as (link, heard):
            await link.request(messages.ENLIST, "ours:0", 0.05)
            with Client(server) as client:
                assert (await heard.get())[2] == messages.ON_CONNECT
                await asyncio.to_thread(server.wait_for, "business worker ours:0 is silent")
                assert await asyncio.to_thread(client.ask, "hello") == "HELLO"

    with cluster() as server, Client(server) as one:
        one.hear()
        uvloop.run(play(server))


BAD: list[list[Any]] = [
    [99],
    [messages.CALL],
    [messages.CALL, 7, []],
    [messages.CALL, "nothing", []],
    [messages.CALL, "count", [1]],
    [messages.CALL, "count", [], ["x"]],
    [messages.CALL, "send_to_uids", [["7"], "x", False], [7]],
    [messages.CHANGE, 1, "count", []],
    [messages.CHANGE, "x", "set_session", [[], {}]],
    [messages.CHANGE, 1, "set_session", [7, {}]],
    [messages.ENLIST, "", 1],
    [messages.ENLIST, "x", 0],
    [messages.LEAVE],
    [messages.UNWATCH, 7, 7],
]


@pytest.mark.parametrize("request_", BAD, ids=str)
def test_bad_requests_are_refused_in_words(request_: list[Any]) -> None:
    async def play(server: RunningServer) -> None:
        async with linked(await place_of(server)) as (link, _heard):
            with pytest.raises(ServiceError, match=r"\w"):
                await link.request(*request_)
            link.send(wire.pack([messages.DONE, 0, "nonsense"]))
            assert await link.request(messages.CALL, "count", []) == 0

    with cluster() as server:
        uvloop.run(play(server))


def test_nobody_takes_it_for_the_one_before() -> None:
    async def play(server: RunningServer) -> None:
        place = await place_of(server)
        with pytest.raises(ServiceError, match="not gateway 00000000"):
            async with linked(place._replace(prefix="00000000")):
                pass

    with cluster() as server:
        uvloop.run(play(server))
