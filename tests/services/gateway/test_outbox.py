"""The outbox of a real cluster: what nobody took comes when the uid is bound."""

from __future__ import annotations

import uvloop

from tests.services.gateway.conftest import Client, cluster, register_of
from tests.services.gateway.test_gateway import call, id_of
from workermand.services.gateway import BlockingGatewayClient, Delivery, GatewayClient


def test_from_everywhere_in_order_once() -> None:
    async def push(register: str) -> None:
        async with GatewayClient(register) as gateway:
            assert await gateway.send_to_uid(7, "1") == Delivery(0, 0, 0, kept=1)
            sent = [gateway.send_to_uid(7, str(number)) for number in range(2, 100)]
            assert [await one for one in sent] == [Delivery(0, 0, 0, kept=1)] * 98

    with cluster(gateways=2, register={"outbox": {}}) as server, Client(server) as client, Client(server) as other:
        id, _ = id_of(client), id_of(other)
        uvloop.run(push(register_of(server)))
        assert call(other, "send_to_uid", 7, "100") == Delivery(0, 0, 0, kept=1)
        with BlockingGatewayClient(register_of(server)) as gateway:
            assert gateway.send_to_uid(7, "101") == Delivery(0, 0, 0, kept=1)
        assert call(other, "bind_uid", id, 7) is True
        assert [client.hear() for _ in range(101)] == [str(number) for number in range(1, 102)]
        with BlockingGatewayClient(register_of(server)) as gateway:
            assert gateway.send_to_uid([7, 8], "102") == Delivery(1, 0, 0, kept=1)
        assert client.hear() == "102"
        assert client.ask("hello") == "HELLO"
