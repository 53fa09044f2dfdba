"""roster: gateways that come, go and fall silent, and who wants to know."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

import msgspec
import pytest
import uvloop

from tests.services.gateway.bus.test_connection import opened
from tests.services.gateway.test_client import until
from tests.services.servers import Server, nats_server
from workermand.services.gateway.bus.connection import Bus
from workermand.services.gateway.bus.roster import VERSION, Roster
from workermand.services.gateway.messages import Place
from workermand.services.links.errors import Unauthorized

pytestmark = pytest.mark.real


class Member:
    """One process."""

    def __init__(self, bus: Bus, **options: Any) -> None:
        self.bus = bus
        self.said: list[set[Place]] = []
        self.roster = Roster(bus, on_places=self.said.append, **options)

    async def sees(self, *places: Place) -> None:
        async def condition() -> bool:
            return self.roster.places == set(places)

        await until(f"{places}", condition)

    async def close(self) -> None:
        await self.roster.close()
        await self.bus.close()


def place(number: int) -> Place:
    return Place(f"bus:{number}", f"{number:08}")


def a_name(nats: Server) -> str:
    return f"{nats.url}/{secrets.token_hex(4)}"


async def member(url: str, **options: Any) -> Member:
    return Member(await opened(url), **options)


def test_newcomers_are_told_at_once_and_the_others_of_them(nats: Server) -> None:
    async def play(url: str) -> None:
        watcher = await member(url)
        await watcher.roster.first()
        assert watcher.roster.places == set()  # nobody can tell, which is sure
        gateways = []
        for number in range(3):
            gateways.append(await member(url, announce=place(number)))
            await gateways[-1].roster.first()
            await watcher.sees(*map(place, range(number + 1)))
            late = await member(url)
            await late.roster.first()
            assert late.roster.places == set(map(place, range(number + 1)))
            await late.close()
        await gateways[1].close()
        await watcher.sees(place(0), place(2))
        for one in (gateways[0], gateways[2], watcher):
            await one.close()

    uvloop.run(play(a_name(nats)))


def test_who_is_silent_is_gone_and_comes_back(nats: Server, caplog: pytest.LogCaptureFixture) -> None:
    async def play(url: str) -> None:
        watcher, speaker = await member(url, ping=0.05), await opened(url)
        for _ in range(2):
            while not watcher.roster.places:
                speaker.publish("here", msgspec.msgpack.encode((VERSION, place(1), 0.05)))
                await asyncio.sleep(0.01)
            await watcher.sees()
        await watcher.close()
        await speaker.close()

    uvloop.run(play(a_name(nats)))
    assert caplog.text.count("bus:1 is silent: it is gone") == 2


STRAYS = [b"", b"\xc1", b"GET / HTTP/1.1", msgspec.msgpack.encode([]), msgspec.msgpack.encode([[[[]]]] * 3)]


def test_strays_and_other_versions_are_not_heard(nats: Server, caplog: pytest.LogCaptureFixture) -> None:
    async def play(url: str) -> None:
        watcher, speaker = await member(url), await opened(url)
        gateway = await member(url, announce=place(7))
        await watcher.sees(place(7))
        for stray in (*STRAYS, msgspec.msgpack.encode((VERSION + 1, place(1), 5.0))):
            for subject in ("here", "gone", f"list.{watcher.bus.id}", "who", "nothing", "here.more"):
                speaker.publish(subject, stray, "nothing")
        speaker.publish("here", msgspec.msgpack.encode((VERSION, place(1), -5.0)))
        speaker.publish("here", msgspec.msgpack.encode((VERSION, place(2), 5.0)))
        await watcher.sees(place(2), place(7))
        for one in (gateway, watcher, speaker):
            await one.close()

    uvloop.run(play(a_name(nats)))
    assert f"another version is not heard: {VERSION + 1} instead of {VERSION}" in caplog.text


def test_what_was_known_holds_while_nats_is_away() -> None:
    async def play(server: Server) -> None:
        watcher, gateway = await member(server.url, ping=0.1), await member(server.url, announce=place(1), ping=0.1)
        await watcher.sees(place(1))
        server.kill()
        await until("it is noticed", lambda: is_down(watcher.bus))
        await asyncio.sleep(0.5)  # longer than the gateway may be silent
        assert watcher.roster.places == {place(1)}
        server.start()
        await watcher.bus.opened()
        await gateway.close()
        await watcher.sees()
        await watcher.close()

    async def is_down(bus: Bus) -> bool:
        return not bus.up

    with nats_server("--no_advertise") as server:
        uvloop.run(play(server))


def test_a_wrong_password() -> None:
    async def play(url: str) -> None:
        one = Member(Bus(url))
        with pytest.raises(Unauthorized):
            await one.roster.first()
        await one.close()

    with nats_server("--user", "us", "--pass", "swordfish") as server:
        uvloop.run(play(server.url))
