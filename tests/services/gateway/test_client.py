"""GatewayClient, from outside of the daemon: every call of the API, on two gateways; and what it does when they go."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvloop

from tests.conftest import PATIENCE
from tests.services.gateway.conftest import Client, Transport, cluster, register_of
from workermand import ConfigError
from workermand.services.gateway import Delivery, GatewayClient, ids
from workermand.services.links.errors import Unauthorized, Unreachable
from workermand.testing import RunningServer


async def until(what: str, condition: Callable[[], Awaitable[object]]) -> None:
    """Until it is true."""
    deadline = time.monotonic() + PATIENCE
    while not await condition():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.01)


def people(
    server: RunningServer, stack: contextlib.ExitStack, gateways: int, count: int, prefix: int = ids.TAG
) -> dict[str, Client]:
    """By client_id: at least ``count``, on as many gateways."""
    found: dict[str, Client] = {}
    while len(found) < count or len({id[:prefix] for id in found}) < gateways:
        client = stack.enter_context(Client(server))
        found[client.hear().removeprefix("id ")] = client
    return found


async def every_call(gateway: GatewayClient, clients: dict[str, Client]) -> None:
    a, b, c = list(clients)[:3]
    everybody = sorted(clients)
    stranger = "0" * 20
    # uids
    assert await gateway.bind_uid(a, 7) is True
    assert await gateway.bind_uid(b, "7") is True
    assert await gateway.bind_uid(c, 8) is True
    assert await gateway.bind_uid(stranger, 9) is False
    assert await gateway.bind_uid("no id", 9) is False
    assert await gateway.bind_uid(c, 9) is True
    assert await gateway.is_uid_online(7) is True
    assert await gateway.is_uid_online(8) is False
    assert await gateway.is_uids_online([7, 8]) == {"7": True, "8": False}
    assert sorted(await gateway.get_client_id_by_uid("7")) == sorted([a, b])
    assert await gateway.get_client_id_by_uid(8) == []
    batch = await gateway.batch_get_client_id_by_uid([7, 8])
    assert {uid: sorted(ids) for uid, ids in batch.items()} == {"7": sorted([a, b]), "8": []}
    assert await gateway.get_uid_by_client_id(a) == "7"
    assert await gateway.get_uid_by_client_id(stranger) is None
    assert sorted(await gateway.get_all_uid_list()) == ["7", "9"]
    assert await gateway.get_all_uid_count() == 2
    # groups
    for id in (a, b):
        assert await gateway.join_group(id, "g") is True
    assert await gateway.join_group(c, 1) is True
    assert await gateway.join_group(a, 1) is True
    assert await gateway.join_group(stranger, 1) is False
    assert await gateway.get_client_id_count_by_group("g") == 2
    assert await gateway.get_client_count_by_group("nobody") == 0
    assert await gateway.get_client_id_count_by_group() == len(clients)
    assert await gateway.batch_get_client_id_count_by_group(["g", 1, "x"]) == {"g": 2, "1": 2, "x": 0}
    assert sorted(await gateway.get_client_id_list_by_group(["g", 1])) == sorted([a, b, c])
    assert sorted(await gateway.get_uid_list_by_group([1])) == ["7", "9"]
    assert await gateway.get_uid_count_by_group("g") == 1
    assert sorted(await gateway.get_all_group_id_list()) == ["1", "g"]
    uids = await gateway.get_all_group_uid_list()
    assert {group: sorted(them) for group, them in uids.items()} == {"g": ["7"], "1": ["7", "9"]}
    assert await gateway.get_all_group_uid_count() == {"g": 1, "1": 2}
    members = await gateway.get_all_group_client_id_list()
    assert {group: sorted(them) for group, them in members.items()} == {"g": sorted([a, b]), "1": sorted([a, c])}
    assert await gateway.get_all_group_client_id_count() == {"g": 2, "1": 2}
    # who is there
    assert await gateway.is_online(a) is True
    assert await gateway.is_online(stranger) is False
    assert await gateway.get_all_client_id_count() == await gateway.get_all_client_count() == len(clients)
    assert sorted(await gateway.get_all_client_id_list()) == everybody
    # sessions
    assert await gateway.set_session(a, {"x": {"p": 1}}) is True
    assert await gateway.update_session(a, {"x": {"q": [None, 1.5]}}) is True
    assert await gateway.update_session(stranger, {}) is False
    assert await gateway.get_session(a) == {"x": {"p": 1, "q": [None, 1.5]}}
    assert await gateway.get_session(b) == {"connects": 1}
    assert await gateway.get_session(stranger) is None
    assert sorted(await gateway.get_all_client_sessions()) == everybody
    one = {a: {"x": {"p": 1, "q": [None, 1.5]}}, b: {"connects": 1}}
    assert await gateway.get_client_sessions_by_group("g") == await gateway.get_all_client_sessions("g") == one
    # messages
    assert await gateway.send_to_client(a, "to a") == Delivery(1, 0, 0)
    assert await gateway.send_to_client(stranger, "x") == Delivery(0, 0, 0)
    assert await gateway.send_to_uid([7, 9], "to uids") == Delivery(3, 0, 0)
    assert await gateway.send_to_group("g", {"to": "g"}, [b]) == Delivery(1, 0, 0)
    assert await gateway.send_to_all("to some", [a, stranger]) == Delivery(1, 0, 0)
    assert await gateway.send_to_all("to all", None, [b]) == Delivery(len(clients) - 1, 0, 0)
    assert await gateway.send_to_client(b, b"raw\n", raw=True) == Delivery(1, 0, 0)
    assert [clients[a].hear() for _ in range(5)] == ["to a", "to uids", '{"to":"g"}', "to some", "to all"]
    assert [clients[b].hear() for _ in range(2)] == ["to uids", "raw"]
    # ends
    assert await gateway.unbind_uid(a, 7) is True
    assert await gateway.leave_group(a, "g") is True
    assert await gateway.ungroup(1) == 2
    assert await gateway.get_all_group_client_id_count() == {"g": 1}
    assert await gateway.close_client(b, "bye") is True
    assert await gateway.destroy_client(c) is True
    assert await gateway.destroy_client(stranger) is False
    assert clients[b].hear() == "bye"
    assert clients[b].is_closed()
    await until("they are gone", lambda: equals(gateway.get_all_client_id_count(), len(clients) - 2))


async def equals(asked: Awaitable[Any], expected: object) -> bool:
    return bool(await asked == expected)


def test_every_call(transport: Transport) -> None:
    async def run(to: dict[str, Any], clients: dict[str, Client]) -> None:
        async with GatewayClient(**to) as gateway:
            await every_call(gateway, clients)

    with transport.cluster(gateways=2, secret="swordfish") as server, contextlib.ExitStack() as stack:
        uvloop.run(run(transport.to(server, "swordfish"), people(server, stack, 2, 4)))


def test_what_is_called_first_is_done_first(transport: Transport) -> None:
    """Nobody has to wait for anything but the last."""

    async def play(to: dict[str, Any], id: str) -> None:
        async with GatewayClient(**to) as gateway:
            for number in range(500):
                gateway.send_to_client(id, str(number))
                gateway.update_session(id, {"number": number})
                gateway.join_group(id, number)
                gateway.leave_group(id, number - 1)
            assert await gateway.get_session(id) == {"connects": 1, "number": 499}
            assert await gateway.get_all_group_id_list() == ["499"]

    with transport.cluster() as server, Client(server) as client:
        uvloop.run(play(transport.to(server), client.hear().removeprefix("id ")))
        assert [client.hear() for _ in range(500)] == [str(number) for number in range(500)]


def test_wrong_arguments_are_errors_at_once(transport: Transport) -> None:
    async def play(to: dict[str, Any]) -> None:
        async with GatewayClient(**to) as gateway:
            with pytest.raises(TypeError, match="a group is str or int, not NoneType"):
                gateway.join_group("0" * 20, None)  # type: ignore[arg-type]
            with pytest.raises(ValueError, match="an empty uid"):
                gateway.send_to_uid("", "x")
            with pytest.raises(TypeError):
                gateway.send_to_all(object())
        with pytest.raises(RuntimeError, match=r"await connect\(\) first"):
            gateway.is_online("x")

    with transport.cluster() as server:
        uvloop.run(play(transport.to(server)))


def test_a_slow_client_is_no_ones_trouble(transport: Transport) -> None:
    """What does not fit into its buffer is dropped, and who has sent it learns how often."""

    async def play(to: dict[str, Any], slow: str, quick: Client) -> None:
        async with GatewayClient(**to) as gateway:
            total = Delivery(0, 0, 0)
            while not total.dropped:
                sent = await gateway.send_to_all("x" * 60_000)
                total = Delivery(*(sum(pair) for pair in zip(total, sent, strict=True)))
                assert len(quick.hear()) == 60_000
            assert await gateway.is_online(slow) is True

    with (
        transport.cluster(gateway={"send_to_client_buffer": 100_000}) as server,
        Client(server) as slow,
        Client(server) as quick,
    ):
        id = slow.hear().removeprefix("id ")
        quick.hear()
        uvloop.run(play(transport.to(server), id, quick))


def test_a_gateway_that_is_killed_comes_back(transport: Transport) -> None:
    async def play(server: RunningServer) -> None:
        async with GatewayClient(**transport.to(server), timeout=30) as gateway:
            with Client(server) as client:
                id = client.hear().removeprefix("id ")
                assert await gateway.bind_uid(id, 7)
                (pid,) = [one["pid"] for one in server.status()["processes"] if one["worker"] == "gateway"]
                os.kill(pid, signal.SIGKILL)
            with Client(server) as client:
                other = client.hear().removeprefix("id ")
                assert other[:8] != id[:8]
                await until("it is there", lambda: gateway.is_online(other))
                assert await gateway.is_online(id) is False
                assert await gateway.get_all_uid_list() == []
                await gateway.bind_uid(other, 7)
                await until("its uid too", lambda: gateway.send_to_uid(7, "again"))
                assert client.hear() == "again"

    with transport.cluster() as server:
        uvloop.run(play(server))


@pytest.mark.parametrize(("given", "words"), [("wrong", "wrong secret"), ("", "asks for a secret")])
def test_secrets(given: str, words: str, caplog: pytest.LogCaptureFixture) -> None:
    async def play(register: str) -> None:
        with pytest.raises(Unauthorized, match=words):
            async with GatewayClient(register, given):
                pass

    with cluster(secret="swordfish") as server:
        uvloop.run(play(register_of(server)))
        assert "swordfish" not in server.output + caplog.text


def test_nobody_there() -> None:
    async def play() -> None:
        with pytest.raises(Unreachable, match=r"no register at 127\.0\.0\.1:1 within 0\.3 s"):
            await GatewayClient("register://127.0.0.1:1", timeout=0.3).connect()
        with pytest.raises(ConfigError, match="expected register://"):
            GatewayClient("http://127.0.0.1:1")

    uvloop.run(play())
