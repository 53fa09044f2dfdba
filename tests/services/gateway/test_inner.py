"""inner: gateways that come and go, and what is asked of which. More of it: test_client.py."""

from __future__ import annotations

import pytest
import uvloop

from tests.services.gateway.conftest import cluster, register_of
from tests.services.gateway.test_client import until
from tests.services.gateway.test_register import register
from workermand.services.gateway import plans, registry
from workermand.services.gateway.inner import Mesh, address_of
from workermand.services.gateway.messages import Place
from workermand.services.gateway.registry import Registry
from workermand.services.links.address import Address, Server
from workermand.services.links.errors import Unreachable


def test_addresses() -> None:
    assert address_of(Place("tcp://10.0.0.1:2000", "")) == Address("10.0.0.1", 2000, "")
    assert address_of(Place("tcp://[fd00::1]:2000", "")) == Address("[fd00::1]", 2000, "")


def test_a_gateway_that_cannot_be_reached_is_lost_to_sends_and_an_error_to_questions() -> None:
    async def play(servers: list[Server]) -> None:
        away = Registry(servers, announce=Place("tcp://127.0.0.1:1", "00000000"))
        await away.first()
        mesh = Mesh(servers, timeout=5)
        assert await mesh.ready(5)
        assert await mesh.run(plans.send_to_all("x", None, (), raw=False)) == (0, 0, 1)
        with pytest.raises(Unreachable):
            await mesh.run(plans.count_clients())
        await away.close()
        await until("it is forgotten", lambda: gates(mesh, 0))
        assert await mesh.run(plans.count_clients()) == 0
        await mesh.close()

    async def gates(mesh: Mesh, count: int) -> bool:
        return len(mesh.gates) == count

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
        assert await mesh.run(plan) == (0, 0, 0)
        assert [gate.wanted("uid", ["7"]) for gate in mesh.gates.values()] == [([], [])] * 2
        assert [gate.wanted("uid", ["8"]) for gate in mesh.gates.values()] == [(["8"], ["8"])] * 2
        await mesh.close()

    with cluster(gateways=2) as server:
        uvloop.run(play(register_of(server)))
