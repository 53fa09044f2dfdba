"""Links on a loop, to a real server that goes and comes back."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvloop

from tests.conftest import PATIENCE
from tests.services.links.conftest import serving
from workermand.services.links import client as client_module
from workermand.services.links import wire
from workermand.services.links.address import Address
from workermand.services.links.client import Link
from workermand.services.links.errors import Dropped, ServiceError, TimedOut, Unauthorized, Unreachable

MEGABYTE = 1024 * 1024


class Heard:
    """What a link says to its engine."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[list[Any]] = asyncio.Queue()
        self.states: asyncio.Queue[str] = asyncio.Queue()


@contextlib.asynccontextmanager
async def linked(address: Address, **options: Any) -> AsyncIterator[tuple[Link, Heard]]:
    heard = Heard()
    link = Link(
        address,
        "echo",
        on_message=heard.messages.put_nowait,
        on_up=lambda: heard.states.put_nowait("up"),
        on_down=lambda why: heard.states.put_nowait("down"),
        **options,
    )
    await link.open()
    assert heard.states.get_nowait() == "up"
    try:
        yield link, heard
    finally:
        await link.close()


def test_requests_and_news() -> None:
    async def play(address: Address) -> None:
        async with linked(address, secret="swordfish") as (link, heard):
            assert await asyncio.gather(*(link.request(16, number) for number in range(100))) == [
                [number] for number in range(100)
            ]
            with pytest.raises(ServiceError, match="not today"):
                await link.request(18)
            with pytest.raises(TimedOut, match=r"no answer within 0\.02 s"):
                await link.request(17, timeout=0.02)
            assert link.send(wire.pack([19, 0, b"news"]))
            assert await heard.messages.get() == [19, 0, b"news"]
        assert not link.up
        with pytest.raises(Unreachable, match="closed"):
            await link.request(16)

    with serving("swordfish") as (_server, address):
        uvloop.run(play(address))


def test_it_comes_back() -> None:
    async def play(pid: int, address: Address) -> None:
        async with linked(address) as (link, heard):
            pending = link.request(17)
            os.kill(pid, signal.SIGKILL)
            with pytest.raises(Unreachable, match="may or may not have been done"):
                await pending
            assert await heard.states.get() == "down"
            waits = link.request(16, "while it is away")
            assert not link.send(wire.pack([19, 0]))
            assert await waits == ["while it is away"]
            assert await heard.states.get() == "up"

    with serving() as (server, address):
        (process,) = server.status()["processes"]
        uvloop.run(play(process["pid"], address))


def test_what_waits_has_a_limit_and_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "BUFFER", 1000)
    monkeypatch.setattr(client_module, "BACKOFF", {"initial": 60.0, "max": 60.0, "jitter": 0.0})

    async def play(address: Address) -> None:
        async with linked(address) as (link, heard):
            link.send(wire.pack([20, 0]))
            assert await heard.states.get() == "down"
            late = link.request(16, "x" * 900, timeout=0.05)
            with pytest.raises(Dropped, match="too much is unsent"):
                await link.request(16, "x" * 900)
            assert link.unsent > 900
            with pytest.raises(TimedOut):
                await late
            never = link.request(16, "")
        with pytest.raises(Unreachable):
            await never

    with serving() as (_server, address):
        uvloop.run(play(address))


@pytest.mark.parametrize(("secret", "words"), [("wrong", "wrong secret"), ("", "asks for a secret")])
def test_secrets(secret: str, words: str) -> None:
    async def play(address: Address) -> None:
        with pytest.raises(Unauthorized, match=rf"echo at {address}: .*{words}"):
            async with linked(address, secret=secret):
                pass

    with serving("right") as (_server, address):
        uvloop.run(play(address))


def test_nobody_there() -> None:
    async def play() -> None:
        with pytest.raises(Unreachable, match="refused"):
            async with linked(Address("127.0.0.1", 1, "")):
                pass

    uvloop.run(play())


def test_nobody_speaks() -> None:
    async def play(address: Address) -> None:
        with pytest.raises(Unreachable, match="no answer within"):
            async with linked(address, timeout=0.1):
                pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        uvloop.run(play(Address("127.0.0.1", listener.getsockname()[1], "")))


def test_a_server_that_falls_silent_is_left() -> None:
    """It welcomes, and then answers no ping: the link goes, and connects again."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(wire.pack([wire.CHALLENGE, 0, wire.VERSION, b""]) + wire.pack([wire.WELCOME, 0, b""]))
        with contextlib.suppress(OSError):
            await reader.read(-1)
        writer.close()

    async def play() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with linked(Address("127.0.0.1", server.sockets[0].getsockname()[1], ""), ping=0.05) as (link, heard):
            async with asyncio.timeout(PATIENCE):
                assert [await heard.states.get() for _ in range(2)] == ["down", "up"]
            assert link.up
        server.close()

    uvloop.run(play())


def test_what_is_given_up_does_not_arrive_late() -> None:
    """The server reads nothing, as if it were cut off, until the link has gone."""

    async def play(listener: socket.socket) -> None:
        accepting = asyncio.create_task(asyncio.to_thread(listener.accept))
        heard = Heard()
        link = Link(
            Address("127.0.0.1", listener.getsockname()[1], ""),
            "echo",
            on_message=heard.messages.put_nowait,
            on_down=heard.states.put_nowait,
            ping=0.2,
            send_buffer=64 * MEGABYTE,
        )
        opening = asyncio.create_task(link.open())
        sock, _ = await accepting
        with sock:
            sock.sendall(wire.pack([wire.CHALLENGE, 0, wire.VERSION, b""]) + wire.pack([wire.WELCOME, 0, b""]))
            await opening
            assert link.send(wire.pack([16, 0, bytes(32 * MEGABYTE)]))
            async with asyncio.timeout(PATIENCE):
                await heard.states.get()
            await link.close()
            with pytest.raises(ConnectionResetError):
                _read(sock)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        uvloop.run(play(listener))


def _read(sock: socket.socket) -> None:
    """To the end."""
    while sock.recv(MEGABYTE):
        pass
