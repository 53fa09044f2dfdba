"""registry: several Registers taken together, none of which is needed once it has answered."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading

import pytest
import uvloop

from tests.services.gateway.test_register import ONE, TWO, register
from workermand import ConfigError
from workermand.services.gateway import messages, registry
from workermand.services.gateway.messages import Place
from workermand.services.gateway.registry import Registry
from workermand.services.links import wire
from workermand.services.links.address import Address, Server
from workermand.services.links.errors import Unauthorized
from workermand.testing import RunningServer


def test_where_registers_are() -> None:
    a, b = Address("10.0.0.1", 1236, ""), Address("[::1]", 5, "")
    assert registry.servers("register://10.0.0.1,[::1]:5", "s") == [Server(a, "s"), Server(b, "s")]
    assert registry.servers(["register://10.0.0.1", "register://[::1]:5"], "s") == [Server(a, "s"), Server(b, "s")]
    with pytest.raises(ConfigError, match="expected register://"):
        registry.servers("tcp://10.0.0.1", "")
    with pytest.raises(RuntimeError, match="no worker process"):
        registry.servers("", "")
    with pytest.raises(ConfigError, match="no address"):
        Registry([])


class Seen:
    """What a registry says."""

    def __init__(self) -> None:
        self.places: set[Place] = set()
        self._changed = asyncio.Event()

    def __call__(self, places: set[Place]) -> None:
        self.places = places
        self._changed.set()

    async def until(self, *places: Place) -> None:
        while self.places != set(places):
            self._changed.clear()
            await self._changed.wait()


def test_two_registers_are_one_list_that_outlives_them() -> None:
    async def play(pids: list[int], servers: list[Server]) -> None:
        seen = Seen()
        watching = Registry(servers, on_places=seen)
        await watching.first()
        one = Registry(servers, announce=ONE)
        # Known to one of them only.
        two = Registry(servers[:1], announce=TWO)
        await seen.until(ONE, TWO)
        os.kill(pids[0], signal.SIGKILL)
        # It is back, and knows what is announced anew, and nothing else.
        await seen.until(ONE)
        await seen.until(ONE, TWO)
        three = Registry(servers[1:], announce=ONE)
        await three.first()
        await one.close()
        await three.close()
        await seen.until(TWO)
        await two.close()
        await seen.until()
        await watching.close()

    with register() as (first, a), register() as (second, b):
        pids = [server.status()["processes"][0]["pid"] for server in (first, second)]
        uvloop.run(play(pids, [Server(a, ""), Server(b, "")]))


def test_the_word_of_the_last_one_holds() -> None:
    async def play(first: RunningServer, second: RunningServer, servers: list[Server]) -> None:
        seen = Seen()
        watching = Registry(servers, on_places=seen)
        one = Registry(servers, announce=ONE)
        two = Registry(servers[:1], announce=TWO)
        await seen.until(ONE, TWO)
        await asyncio.to_thread(first.stop)
        await seen.until(ONE)
        await asyncio.to_thread(second.stop)
        while any(link.up for link in watching._links.values()):  # noqa: ASYNC110 (nothing says so: that is the point)
            await asyncio.sleep(0)
        assert seen.places == {ONE}
        for one_of_them in (watching, one, two):
            await one_of_them.close()

    with register() as (first, a), register() as (second, b):
        uvloop.run(play(first, second, [Server(a, ""), Server(b, "")]))


def test_news_in_one_piece_with_the_answer() -> None:
    """The last word counts, however late somebody is told of the first."""

    def serve(listener: socket.socket) -> None:
        sock, _ = listener.accept()
        with sock, sock.makefile("rb") as file:
            sock.sendall(wire.pack([wire.CHALLENGE, 0, wire.VERSION, b""]) + wire.pack([wire.WELCOME, 0, b""]))
            while length := file.read(wire.HEAD):
                message = wire.unpack(file.read(int.from_bytes(length) - wire.HEAD))
                if message[0] == messages.WATCH:
                    pieces = [wire.OK, message[1], None], [messages.GATEWAYS, 0, []], [messages.GATEWAYS, 0, [ONE]]
                    sock.sendall(b"".join(map(wire.pack, pieces)))

    async def play(address: Address) -> None:
        seen = Seen()
        watching = Registry([Server(address, "")], on_places=seen)
        await watching.first()
        for _ in range(10):
            await asyncio.sleep(0)
        assert watching.places == {ONE}
        await watching.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = threading.Thread(target=serve, args=(listener,))
        serving.start()
        uvloop.run(play(Address("127.0.0.1", listener.getsockname()[1], "")))
        serving.join()


def test_the_wrong_secret() -> None:
    async def play(address: Address) -> None:
        watching = Registry([Server(address, "wrong")], on_places=Seen())
        with pytest.raises(Unauthorized):
            await watching.first()
        await watching.close()

    with register("right") as (_server, address):
        uvloop.run(play(address))
