"""inner: gateways that come and go, and what is asked of which. More of it: test_client.py."""

from __future__ import annotations

import asyncio

import pytest
import uvloop

from tests.services.gateway.conftest import Client, cluster, register_of
from tests.services.gateway.test_client import until
from tests.services.gateway.test_register import register
from workermand.services.gateway import Delivery, plans, registry
from workermand.services.gateway.inner import Mesh, address_of
from workermand.services.gateway.messages import Place
from workermand.services.gateway.registry import Registry
from workermand.services.links.address import Address, Server
from workermand.services.links.errors import Unreachable


async def gates(mesh: Mesh, count: int) -> bool:
    """There are so many."""
    return len(mesh.gates) == count


def test_addresses() -> None:
    assert address_of(Place("tcp://10.0.0.1:2000", "")) == Address("10.0.0.1", 2000, "")
    assert address_of(Place("tcp://[fd00::1]:2000", "")) == Address("[fd00::1]", 2000, "")


def test_a_gateway_that_cannot_be_reached_is_lost_to_sends_and_an_error_to_questions() -> None:
    async def play(servers: list[Server]) -> None:
        away = Registry(servers, announce=Place("tcp://127.0.0.1:1", "00000000"))
        await away.first()
        mesh = Mesh(servers, timeout=5)
        assert await mesh.ready(5)
        assert await mesh.run(plans.send_to_all("x", None, (), raw=False)) == Delivery(0, 0, 1)
        with pytest.raises(Unreachable):
            await mesh.run(plans.count_clients())
        await away.close()
        await until("it is forgotten", lambda: gates(mesh, 0))
        assert await mesh.run(plans.count_clients()) == 0
        await mesh.close()

    with register() as (_server, address):
        uvloop.run(play([Server(address, "")]))


def test_no_register() -> None:
    async def play() -> None:
        mesh = Mesh([Server(Address("127.0.0.1", 1, ""), "")])
        assert await mesh.ready(0.2) is False
        await mesh.close()

    uvloop.run(play())


def test_a_uid_is_asked_for_only_where_it_may_be() -> None:
    async def play(register_url: str) -> None:
        mesh = Mesh(registry.servers(register_url, ""))
        await mesh.ready(10)
        assert len(mesh.gates) == 2
        plan = plans.send_to_uid(7, "x", raw=False)
        assert await mesh.run(plan) == Delivery(0, 0, 0)
        assert [gate.wanted("uid", ["7"]) for gate in mesh.gates.values()] == [([], [])] * 2
        assert [gate.wanted("uid", ["8"]) for gate in mesh.gates.values()] == [(["8"], ["8"])] * 2
        await mesh.close()

    with cluster(gateways=2) as server:
        uvloop.run(play(register_of(server)))


def test_who_is_given_a_uid_is_not_passed_over() -> None:
    """By what is sent right behind it, though it was known before that nobody there had the uid."""

    async def play(register_url: str, id: str) -> None:
        mesh = Mesh(registry.servers(register_url, ""))
        await mesh.ready(10)
        for name in ("uid", "group"):
            send, give = (
                (plans.send_to_uid(name, name, raw=False), plans.bind_uid(id, name))
                if name == "uid"
                else (plans.send_to_group(name, name, (), raw=False), plans.join_group(id, name))
            )
            assert await mesh.run(send) == Delivery(0, 0, 0)
            assert await mesh.run(send) == Delivery(0, 0, 0), "nobody has it, as is known now"
            given, sent = mesh.run(give), mesh.run(send)
            assert (await given, await sent) == (True, Delivery(1, 0, 0))
        await mesh.close()

    with cluster() as server, Client(server) as client:
        uvloop.run(play(register_of(server), client.hear().removeprefix("id ")))
        assert [client.hear() for _ in range(2)] == ["uid", "group"]


def test_one_address_is_one_gateway() -> None:
    """A Register that has not heard of a gateway's end lists it beside the one that is at its address now."""

    async def play(servers: list[Server], client: Client) -> None:
        mesh = Mesh(servers[:1])
        await mesh.ready(10)
        (place,) = mesh.gates
        former = Registry(servers[1:], announce=place._replace(prefix="00000000"))
        await former.first()
        both = Mesh(servers)
        await both.ready(10)
        await until("both are listed", lambda: gates(both, 2))
        assert await both.run(plans.send_to_all("once", None, (), raw=False)) == Delivery(1, 0, 1)
        assert await mesh.run(plans.send_to_all("and again", None, (), raw=False)) == Delivery(1, 0, 0)
        assert [await asyncio.to_thread(client.hear) for _ in range(2)] == ["once", "and again"]
        # It announces itself to that Register as well, and is alone at its address.
        again = Registry(servers[1:], announce=place)
        await until("the former one is forgotten", lambda: gates(both, 1))
        assert await both.run(plans.count_clients()) == 1
        for one in (former, again, mesh, both):
            await one.close()

    with cluster() as server, register() as (_other, address), Client(server) as client:
        client.hear()
        uvloop.run(play([*registry.servers(register_of(server), ""), Server(address, "")], client))
