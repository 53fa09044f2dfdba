"""Names, with a real name server on loopback that is silent when it should be."""

from __future__ import annotations

import asyncio
import socket

import pytest

from tests.worker.outgoing.conftest import ClientScene, echo, playing
from tests.worker.outgoing.nameserver import AAAA, A, NameServer
from workermand.errors import ConnectError
from workermand.worker.outgoing.names import literal


def test_literals_and_hosts_ask_nobody(scene: ClientScene) -> None:
    server = NameServer()

    async def play() -> None:
        names = await scene.names_of(server)
        assert await names.look_up("localhost", 80, socket.AF_INET) == [(socket.AF_INET, ("127.0.0.1", 80))]
        await names.close()

    scene.run(play())
    assert literal("127.0.0.1", 80) == (socket.AF_INET, ("127.0.0.1", 80))
    assert literal("::1", 80) == (socket.AF_INET6, ("::1", 80))
    assert literal("localhost", 80) is None
    assert not server.asked


def test_answers(scene: ClientScene) -> None:
    server = NameServer()
    server.zone = {("a.test", A): ["192.0.2.1", "192.0.2.2"], ("a.test", AAAA): ["2001:db8::1"], ("no.test", A): None}

    async def play() -> None:
        names = await scene.names_of(server)
        found = await names.look_up("a.test", 80, socket.AF_INET)
        assert {address for _, address in found} == {("192.0.2.1", 80), ("192.0.2.2", 80)}
        ((family, address),) = await names.look_up("a.test", 80, socket.AF_INET6)
        assert family == socket.AF_INET6 and address[:2] == ("2001:db8::1", 80)
        with pytest.raises(ConnectError, match=r"no\.test: .*not found"):
            await names.look_up("no.test", 80, socket.AF_INET)
        await names.close()
        await names.close()

    scene.run(play())


def test_a_hundred_dead_names_slow_nobody(scene: ClientScene) -> None:
    """The live one is answered while all the others still wait; their deadline then ends them."""
    server = NameServer()
    server.zone = {("live.test", A): ["127.0.0.1"], ("live.test", AAAA): []}

    async def play() -> None:
        scene.clients.names = await scene.names_of(server)
        async with playing(echo) as port:
            dead = [scene.client(f"tcp://dead{index}.test:{port}", timeout=60) for index in range(100)]
            for client in dead:
                client.connect()
            while len({name for name, _ in server.asked}) < 100:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            live = scene.client(f"text://live.test:{port}")
            live.send("x")
            live.connect()
            await scene.see(["on_connect", "x"])
            assert scene.worker.stats.outgoing == 101
            for client in dead:
                client.on_close = None
                client.destroy()
            live.on_close = None
            live.destroy()

    scene.run(play())
    scene.until(lambda: not scene.worker.outgoing)


def test_a_silent_server_is_told_of(scene: ClientScene) -> None:
    server = NameServer()

    async def play() -> None:
        scene.clients.names = await scene.names_of(server)
        with pytest.raises(ConnectError, match=r"no answer within 0\.1 s"):
            await scene.client("tcp://dead.test:80", timeout=0.1).connect()

    scene.run(play())
