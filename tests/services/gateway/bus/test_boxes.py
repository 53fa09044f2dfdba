"""boxes: which outboxes there are on the bus, and in what order they are asked. With real ones: test_outbox.py."""

from __future__ import annotations

import pytest
import uvloop

from tests.services.gateway.bus.test_callers import Echo
from tests.services.gateway.bus.test_connection import opened
from tests.services.gateway.conftest import Transport
from tests.services.gateway.test_client import until
from tests.services.servers import Server
from workermand.services.gateway.bus.boxes import PREFIX, Boxes, is_box
from workermand.services.gateway.bus.callers import Callers
from workermand.services.gateway.bus.link import SCHEME
from workermand.services.gateway.messages import Place
from workermand.services.gateway.outbox.posting import Outboxes

pytestmark = pytest.mark.real

GATEWAY = Place("bus:1", "0123abcd")


def test_they_come_and_go(nats: Server) -> None:
    async def play(url: str) -> None:
        hosts = [await opened(url) for _ in range(2)]
        for host in hosts:
            Callers(host, Echo(), 1000, 5.0)
        places = [Place(f"{SCHEME}{host.id}", PREFIX) for host in hosts]
        assert not is_box(GATEWAY) and all(map(is_box, places))
        bus, outboxes = await opened(url), Outboxes()
        boxes = Boxes(bus, outboxes, ping=5.0)
        boxes.update({GATEWAY, *places})
        await until("both are known", lambda: count(outboxes, 2))
        assert [str(way) for way in outboxes.ways] == [f"{place.uri} (outbox)" for place in sorted(places)]
        boxes.update({GATEWAY, places[0]})
        await until("one has gone", lambda: count(outboxes, 1))
        await boxes.close()
        assert not outboxes.ways
        for one in (bus, *hosts):
            await one.close()

    async def count(outboxes: Outboxes, expected: int) -> bool:
        return len(outboxes.ways) == expected and all(way.up for way in outboxes.ways)

    uvloop.run(play(Transport(nats).bus))
