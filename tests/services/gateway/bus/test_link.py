"""link: requests over a pipe, and what becomes of them. With gateways: test_mesh.py, test_door.py."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
import uvloop

from tests.services.gateway.bus.test_connection import opened
from tests.services.gateway.conftest import Transport
from tests.services.servers import Server
from workermand.services.gateway.bus.callers import Callers
from workermand.services.gateway.bus.connection import Bus
from workermand.services.gateway.bus.link import SCHEME, BusLink
from workermand.services.gateway.messages import Place
from workermand.services.links import wire
from workermand.services.links.errors import Dropped, ServiceError, TimedOut, Unreachable

pytestmark = pytest.mark.real

ASK = wire.FIRST


class Answering:
    """A handler: answers with what it was asked, refuses what is empty, and says nothing to silence."""

    def on_message(self, connection: Any, body: bytes) -> None:
        _op, number, what = wire.unpack(body)
        if what == "silence":
            return
        connection.send(wire.body([wire.OK, number, what] if what else [wire.FAIL, number, "nothing"]))
        connection.send(wire.body([ASK + 1, 0, "news"]))

    def on_buffer_drain(self, connection: Any) -> None: ...

    def on_close(self, connection: Any) -> None: ...


class Ends:
    """What a link says."""

    def __init__(self) -> None:
        self.news: asyncio.Queue[list[Any]] = asyncio.Queue()
        self.up, self.down, self.nobody = asyncio.Event(), asyncio.Event(), asyncio.Event()


def link(bus: Bus, id: str, ends: Ends, **options: Any) -> BusLink:
    lines: dict[str, BusLink] = {}
    bus.route("o", lambda rest, reply, data, nobody: lines[rest.partition(".")[2]].hear(data, nobody))
    bus.listen(f"o.{bus.id}.*")
    return BusLink(
        bus,
        Place(f"{SCHEME}{id}", "outbox"),
        itertools.count(1),
        lines,
        beginning="o",
        on_nobody=ends.nobody.set,
        on_message=ends.news.put_nowait,
        on_up=ends.up.set,
        on_down=ends.down.set,
        **{"ping": 5.0, "timeout": 10.0, "send_buffer": 4_000_000, **options},
    )


def test_requests(nats: Server) -> None:
    async def play(url: str) -> None:
        here, there, ends = await opened(url), await opened(url), Ends()
        Callers(here, Answering(), 4_000_000, 5.0)
        one = link(there, here.id, ends)
        await ends.up.wait()
        # It may be here before the other side listens, and is asked again then.
        while not ends.news.qsize():
            try:
                assert await one.request(ASK, "hello") == "hello"
            except Unreachable:
                await ends.down.wait()
            await asyncio.wait_for(one.tried(), 10)
        assert (await ends.news.get())[2] == "news"
        large = "x" * 3_000_000
        assert await one.request(ASK, large) == large
        with pytest.raises(ServiceError, match="nothing"):
            await one.request(ASK, "")
        with pytest.raises(TimedOut):
            await one.request(ASK, "silence", timeout=0.05)
        full = [one.request(ASK, large) for _ in range(3)]
        with pytest.raises(Dropped):
            await full[-1]
        await one.close()
        with pytest.raises(Unreachable, match="not connected"):
            await one.request(ASK, "hello")
        await here.close()
        await there.close()

    uvloop.run(play(Transport(nats).bus))


def test_nobody_is_there(nats: Server) -> None:
    async def play(url: str) -> None:
        there, ends = await opened(url), Ends()
        one = link(there, "0" * 16, ends)
        await ends.nobody.wait()
        await one.tried()
        await ends.down.wait()
        await one.close()
        await there.close()

    uvloop.run(play(Transport(nats).bus))
