"""callers: whoever opens a pipe, strays, and ends. With gateways: test_door.py."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import uvloop

from tests.services.gateway.bus.test_connection import opened
from tests.services.gateway.conftest import Transport
from tests.services.gateway.test_client import until
from tests.services.servers import Server
from workermand.services.gateway.bus.callers import Callers
from workermand.services.gateway.bus.connection import Bus
from workermand.services.gateway.bus.pipes import ALIVE, BYE, HEAD, OPEN, Pipe

pytestmark = pytest.mark.real


class Echo:
    """A handler."""

    def __init__(self) -> None:
        self.closed = 0

    def on_message(self, connection: Any, body: bytes) -> None:
        connection.send(body)

    def on_buffer_drain(self, connection: Any) -> None: ...

    def on_close(self, connection: Any) -> None:
        self.closed += 1


def pipe(bus: Bus, to: Bus, name: str, heard: asyncio.Queue[bytes], broken: list[str]) -> Pipe:
    made = Pipe(
        bus,
        f"p.{bus.id}.{name}",
        f"gate.{to.id}.{name}",
        window=1000,
        ping=5.0,
        on_message=heard.put_nowait,
        on_broken=broken.append,
    )
    bus.route("p", lambda rest, reply, data, nobody: made.hear(data, nobody))
    bus.listen(f"p.{bus.id}.*")
    return made


async def is_closed(handler: Echo, count: int) -> bool:
    return handler.closed == count


def test_a_caller_comes_talks_and_goes(nats: Server) -> None:
    async def play(url: str) -> None:
        here, there = await opened(url), await opened(url)
        handler = Echo()
        callers = Callers(here, handler, 1000, 5.0)
        heard: asyncio.Queue[bytes] = asyncio.Queue()
        broken: list[str] = []
        one = pipe(there, here, "0123456789abcdef", heard, broken)
        await until("it is open", lambda: says_open(one, callers))
        one.send(b"hello")
        assert await heard.get() == b"hello"
        one.end()
        await until("it is gone", lambda: is_closed(handler, 1))
        assert not callers.by_name and not broken
        other = pipe(there, here, "fedcba9876543210", heard, broken)
        await until("it is open", lambda: says_open(other, callers))
        callers.end()
        await until("it was told", lambda: is_closed(handler, 2))
        await here.close()
        await there.close()

    async def says_open(one: Pipe, callers: Callers) -> bool:
        one.open()
        return bool(callers.by_name)

    uvloop.run(play(Transport(nats).bus))


def test_strays(nats: Server) -> None:
    async def play(url: str) -> None:
        here, there = await opened(url), await opened(url)
        callers = Callers(here, Echo(), 1000, 5.0)
        name = "0123456789abcdef"
        answers: asyncio.Queue[bytes] = asyncio.Queue()
        there.route("p", lambda rest, reply, data, nobody: answers.put_nowait(data))
        there.listen(f"p.{there.id}.*")
        reply = f"p.{there.id}.{name}"
        for data, to in (
            (b"", reply),
            (b"\xff", reply),
            (HEAD.pack(OPEN, 0), ""),
            (HEAD.pack(OPEN, 0), "somewhere.else"),
            (HEAD.pack(OPEN, 0), f"p.{there.id}.another"),
            (HEAD.pack(BYE, 0), reply),
        ):
            there.publish(f"gate.{here.id}.{name}", data, to)
        there.publish(f"gate.{here.id}.{name}", HEAD.pack(ALIVE, 0), reply)
        assert await answers.get() == HEAD.pack(BYE, 0), "of a pipe that never was"
        assert answers.empty() and not callers.by_name
        await here.close()
        await there.close()

    uvloop.run(play(Transport(nats).bus))
