"""The outbox of a real cluster: what nobody took comes when the uid is bound."""

from __future__ import annotations

from typing import Any

import pytest
import uvloop

from tests.conftest import wait_until
from tests.services.gateway.conftest import Client, Transport, cluster, register_of
from tests.services.gateway.outbox.test_posting import register, uri
from tests.services.gateway.test_gateway import call, id_of
from workermand.services.gateway import BlockingGatewayClient, Delivery, GatewayClient, messages
from workermand.services.gateway.registry import servers
from workermand.services.links.client import Link
from workermand.services.links.errors import ServiceError
from workermand.testing import ServerFailed


def test_from_everywhere_in_order_once(transport: Transport) -> None:
    async def push(to: dict[str, Any]) -> None:
        async with GatewayClient(**to) as gateway:
            assert await gateway.send_to_uid(7, "1") == Delivery(0, 0, 0, kept=1)
            sent = [gateway.send_to_uid(7, str(number)) for number in range(2, 99)]
            assert [await one for one in sent] == [Delivery(0, 0, 0, kept=1)] * 97
            gateway.send_to_uid(7, "99")  # which nobody waits for

    outbox: dict[str, Any] = {"register": {"outbox": {}}}
    with (
        transport.cluster(gateways=2, **outbox) as server,
        Client(server) as client,
        Client(server) as other,
        BlockingGatewayClient(**transport.to(server)) as gateway,
    ):
        id, _ = id_of(client), id_of(other)
        uvloop.run(push(transport.to(server)))
        assert call(other, "send_to_uid", 7, "100") == Delivery(0, 0, 0, kept=1)
        assert gateway.send_to_uid(7, "101") == Delivery(0, 0, 0, kept=1)
        assert call(other, "bind_uid", id, 7) is True
        assert [client.hear() for _ in range(101)] == [str(number) for number in range(1, 102)]
        assert gateway.send_to_uid([7, 8], "102") == Delivery(1, 0, 0, kept=1)
        assert client.hear() == "102"
        assert client.ask("hello") == "HELLO"


@pytest.mark.parametrize(
    ("options", "words"),
    [({"ages": 1}, "ages"), ({"age": 0}, "options.outbox"), ({"messages": "many"}, "expected int")],
)
def test_limits_that_cannot_be(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ServerFailed, match=words), register(**options):
        pass


BAD: list[list[Any]] = [
    [messages.PUT, ["7"], 7, False],
    [messages.PUT, "7", "x", False],
    [messages.PUT, ["7"], "x"],
    [messages.TAKE, 7],
    [messages.ACKNOWLEDGE, ["x"]],
    [messages.LOOK, [1]],
]


def test_what_it_does_not_understand_and_what_is_counted() -> None:
    async def play(url: str) -> None:
        link = Link(servers(url, "")[0].address, messages.REGISTER, on_message=lambda message: None)
        await link.open()
        for asked in BAD:
            with pytest.raises(ServiceError, match=r"outbox|a message is str or bytes"):
                await link.request(*asked)
        for text in ("1", "2", "3"):
            assert await link.request(messages.PUT, ["7"], text, False) == 1
        assert await link.request(messages.TAKE, "8") == [[], True]
        with pytest.raises(ServiceError, match="the outbox takes 1000"):
            await link.request(messages.PUT, ["7"], "x" * 1001, False)
        await link.close()

    def counted() -> bool:
        (process,) = server.status()["processes"]
        figures = process["figures"]
        return (figures["letters waiting"], figures["letters kept"], figures["letters displaced"]) == (2, 3, 1)

    with register(messages=2, bytes=1000) as server:
        uvloop.run(play(uri(server)))
        wait_until("it is in the status", counted)


def test_a_register_without_one_says_so() -> None:
    async def play(url: str) -> None:
        link = Link(servers(url, "")[0].address, messages.REGISTER, on_message=lambda message: None)
        await link.open()
        assert await link.request(messages.OUTBOX) is False
        with pytest.raises(ServiceError, match="for its outbox if it keeps one"):
            await link.request(messages.PUT, ["7"], "x", False)
        await link.close()

    with cluster() as server:
        uvloop.run(play(register_of(server)))
