"""mesh: what is published once, where it goes, and gateways that come and go. More of it: test_client.py."""

from __future__ import annotations

import contextlib
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import uvloop

from tests.services.gateway.bus.test_connection import opened
from tests.services.gateway.conftest import Client, Transport, cluster
from tests.services.gateway.test_client import people, until
from tests.services.servers import Server, nats_server
from workermand.services.gateway import GatewayClient, plans
from workermand.services.gateway.bus.connection import Bus
from workermand.services.gateway.bus.mesh import LONGEST, BusMesh, subject_of
from workermand.services.gateway.bus.roster import Roster
from workermand.services.gateway.messages import Place
from workermand.services.gateway.plans import Delivery
from workermand.services.links.errors import Unreachable
from workermand.testing import RunningServer

pytestmark = pytest.mark.real


def test_subjects() -> None:
    assert subject_of("uid", "7") == "u.7"
    assert subject_of("group", "a b.*.>") == "g.a=20b.=2A.=3E"
    assert subject_of("group", "x" * LONGEST) == ""


class Ear:
    """Counts what is published to subjects that begin so."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.counts: Counter[str] = Counter()
        for beginning in ("all", "u", "g", "mark"):
            bus.route(beginning, lambda rest, *_, beginning=beginning: self.counts.update([beginning]))  # type: ignore[misc]

    async def start(self) -> None:
        for subject in ("all", "u.>", "g.>"):
            self.bus.listen(subject)
        self.bus.listen("mark")
        await self.has()

    async def has(self, **counts: int) -> None:
        """So many, when all that was published before has come: a mark comes last."""
        marks = self.counts["mark"]
        self.bus.publish("mark", b"")
        await until("the mark", lambda: self._is_marked(marks + 1))
        assert {name: self.counts[name] for name in counts} == counts

    async def _is_marked(self, marks: int) -> bool:
        return self.counts["mark"] >= marks


async def twice(mesh: BusMesh, plan: Any, expected: Delivery) -> None:
    for _ in range(2):
        assert await mesh.run(plan) == expected


def test_what_goes_to_several_gateways_is_published_once(nats: Server) -> None:
    """And to nobody else."""

    async def play(bus: str, clients: dict[str, Client]) -> None:
        mesh = BusMesh(bus)
        assert await mesh.ready(10)
        ear = Ear(await opened(bus))
        await ear.start()
        everybody = len(clients)
        assert await mesh.run(plans.send_to_all("x", None, (), raw=False)) == Delivery(everybody, 0, 0)
        assert await mesh.run(plans.count_clients()) == everybody
        await ear.has(all=2)
        # A group of all: the first time each gateway is asked, then nobody has to be.
        for id in clients:
            assert await mesh.run(plans.join_group(id, "g.1 *"))
        for _ in range(3):
            assert await mesh.run(plans.send_to_group("g.1 *", "x", (), raw=False)) == Delivery(everybody, 0, 0)
        await ear.has(all=2, g=2)
        # Of one gateway only: no subject is needed.
        one = next(iter(clients))
        await mesh.run(plans.bind_uid(one, 7))
        await twice(mesh, plans.send_to_uid(7, "x", raw=False), Delivery(1, 0, 0))
        await ear.has(all=2, g=2, u=0)
        # Of several keys nobody gets it twice.
        for id in clients:
            await mesh.run(plans.join_group(id, "h"))
        await twice(mesh, plans.send_to_group(["g.1 *", "h"], "x", (), raw=False), Delivery(everybody, 0, 0))
        # A name that is too long for a subject, and a message that is too long for nats.
        long = "x" * 5000
        for id in clients:
            await mesh.run(plans.join_group(id, long))
        await twice(mesh, plans.send_to_group(long, "x", (), raw=False), Delivery(everybody, 0, 0))
        assert await mesh.run(plans.send_to_group("h", "x" * 1_100_000, (), raw=False)) == Delivery(everybody, 0, 0)
        # Nobody is in it any more: answers come, from those who still listen.
        before = await mesh.run(plans.send_to_group("g.1 *", "x", (), raw=False))
        assert before == Delivery(everybody, 0, 0)
        left, last = mesh.run(plans.ungroup("g.1 *")), mesh.run(plans.send_to_group("g.1 *", "x", (), raw=False))
        assert await left == everybody
        assert await last == Delivery(0, 0, 0)
        await until("the news are here", lambda: nobody_has(mesh, "g.1 *"))
        await mesh.close()
        await ear.bus.close()

    async def nobody_has(mesh: BusMesh, group: str) -> bool:
        return not any(gate.has_told("group", group) for gate in mesh.gates.values())

    bus = Transport(nats).bus
    options = {"send_to_client_buffer": 10_000_000}
    with cluster(bus=bus, gateways=2, gateway=options) as server, contextlib.ExitStack() as stack:
        uvloop.run(play(bus, people(server, stack, 2, 4)))


def test_bind_and_send_are_done_in_order_wherever_they_go(nats: Server) -> None:
    async def play(bus: str, clients: dict[str, Client]) -> None:
        async with GatewayClient(bus=bus) as gateway:
            for number in range(50):
                for id in clients:
                    gateway.join_group(id, number)
                gateway.send_to_group(number, f"to {number}")
                gateway.send_to_group(number, f"again to {number}")
                gateway.send_to_all(f"all {number}")
                await gateway.ungroup(number)

    bus = Transport(nats).bus
    with cluster(bus=bus, gateways=2) as server, contextlib.ExitStack() as stack:
        clients = people(server, stack, 2, 3)
        uvloop.run(play(bus, clients))
        for client in clients.values():
            heard = [client.hear() for _ in range(150)]
            assert heard == [f"{words}{n}" for n in range(50) for words in ("to ", "again to ", "all ")]


def test_messages_that_are_larger_than_nats_takes(tmp_path: Path) -> None:
    """Sends, answers, events."""

    async def play(bus: str, id: str) -> None:
        async with GatewayClient(bus=bus) as gateway:
            assert await gateway.send_to_client(id, "x" * 100_000) == Delivery(1, 0, 0)
            assert await gateway.set_session(id, {"long": "y" * 100_000})
            assert await gateway.get_session(id) == {"long": "y" * 100_000}

    settings = tmp_path / "nats.conf"
    settings.write_text("max_payload: 4096\n")
    with nats_server("--config", str(settings)) as nats:
        bus = Transport(nats).bus
        with cluster(bus=bus) as server, Client(server) as client:
            uvloop.run(play(bus, client.hear().removeprefix("id ")))
            assert client.hear() == "x" * 100_000
            assert client.ask("z" * 50_000) == "Z" * 50_000


def test_a_gateway_that_cannot_be_reached(nats: Server) -> None:
    """Announced by somebody who is not there: it is found out at once."""

    async def play(bus: str) -> None:
        away = await opened(bus)
        roster = Roster(away, announce=Place("bus:0123456789abcdef", "0" * 8))
        await roster.first()
        mesh = BusMesh(bus)
        assert await mesh.ready(10)
        assert not mesh.gates
        assert await mesh.run(plans.send_to_all("x", None, (), raw=False)) == Delivery(0, 0, 0)
        await mesh.close()
        await roster.close()
        await away.close()

    uvloop.run(play(Transport(nats).bus))


def test_a_gateway_that_is_killed_is_missed_within_a_second_or_two(nats: Server) -> None:
    async def play(bus: str, server: RunningServer) -> None:
        mesh = BusMesh(bus, ping=60.0)
        assert await mesh.ready(10)
        (pid,) = [one["pid"] for one in server.status()["processes"] if one["worker"] == "gateway"]
        (gate,) = mesh.gates.values()
        os.kill(pid, signal.SIGKILL)
        await until("another one is there", lambda: replaced(mesh, gate))
        await mesh.close()

    async def replaced(mesh: BusMesh, gate: object) -> bool:
        return gate not in mesh.gates.values() and len(mesh.gates) == 1

    bus = Transport(nats).bus
    with cluster(bus=bus) as server:
        uvloop.run(play(bus, server))


def test_while_nats_is_away_questions_are_errors_and_sends_are_lost() -> None:
    async def play(nats: Server, bus: str) -> None:
        async with GatewayClient(bus=bus) as gateway:
            assert await gateway.get_all_client_id_count() == 1
            nats.kill()
            await until("it is noticed", lambda: is_lost(gateway))
            with pytest.raises(Unreachable, match="not connected"):
                await gateway.get_all_client_id_count()
            nats.start()
            await until("it is back", lambda: gateway.send_to_all("again"))

    async def is_lost(gateway: GatewayClient) -> bool:
        return await gateway.send_to_all("x") == Delivery(0, 0, 1)

    with nats_server("--no_advertise") as nats:
        bus = Transport(nats).bus
        with cluster(bus=bus) as server, Client(server) as client:
            client.hear()
            uvloop.run(play(nats, bus))
            while client.hear() != "again":
                pass
