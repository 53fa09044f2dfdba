"""A gateway that stands still, as on a machine that swaps: clients of others get what is theirs at once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Iterator

import pytest
import uvloop

from tests.conftest import wait_until
from tests.services.gateway.conftest import Client, cluster, register_of
from tests.services.gateway.test_client import people, until
from workermand.services.gateway import BlockingGatewayClient, Delivery, GatewayClient
from workermand.services.links.errors import Unreachable
from workermand.testing import RunningServer

PING = 0.2
"""Seconds: who stands still is found missing soon."""
NEVER = 60.0
"""Seconds: not within these tests."""
LARGE = "x" * 60_000


@contextlib.contextmanager
def stalled(server: RunningServer, clients: dict[str, Client]) -> Iterator[tuple[dict[str, Client], dict[str, Client]]]:
    """Those of the gateways that run, and those of one that stands still meanwhile."""
    pids = {int(row["remote"].rpartition(":")[2]): row["pid"] for row in server.ask("connections")["connections"]}
    of = {id: pids[client.sock.getsockname()[1]] for id, client in clients.items()}
    pid = next(iter(of.values()))
    os.kill(pid, signal.SIGSTOP)
    try:
        yield (
            {id: client for id, client in clients.items() if of[id] != pid},
            {id: client for id, client in clients.items() if of[id] == pid},
        )
    finally:
        os.kill(pid, signal.SIGCONT)


def test_nobody_waits_for_it() -> None:
    async def play(server: RunningServer, clients: dict[str, Client]) -> None:
        async with GatewayClient(register_of(server), ping=PING) as gateway:
            for id in clients:
                await gateway.join_group(id, "room")
            with stalled(server, clients) as (here, there):
                sent = gateway.send_to_group("room", "at once")
                for client in here.values():
                    assert await asyncio.to_thread(client.hear) == "at once"
                assert await sent == Delivery(len(here), 0, 1)
                assert await gateway.send_to_client(next(iter(here)), "still") == Delivery(1, 0, 0)
                assert await gateway.send_to_client(next(iter(there)), "nothing") == Delivery(0, 0, 1)
            await until("it is back", lambda: everybody_hears(gateway, len(clients)))

    async def everybody_hears(gateway: GatewayClient, count: int) -> bool:
        return (await gateway.send_to_group("room", "again")).delivered == count

    with cluster(gateways=2) as server, contextlib.ExitStack() as stack:
        uvloop.run(play(server, people(server, stack, 2, 6)))


def test_what_is_sent_to_it_does_not_pile_up() -> None:
    """Once the buffer of its link is full the sender is told at once."""

    async def play(server: RunningServer, clients: dict[str, Client]) -> None:
        async with GatewayClient(register_of(server), ping=NEVER, timeout=NEVER) as gateway:
            with stalled(server, clients) as (here, _):
                told: list[Delivery] = []
                while not told:
                    gateway.send_to_all(LARGE).add_done_callback(lambda sent: told.append(sent.result()))
                    for client in here.values():
                        assert await asyncio.to_thread(client.hear) == LARGE
                assert told[0] == Delivery(len(here), 0, 1)

    with cluster(gateways=2) as server, contextlib.ExitStack() as stack:
        uvloop.run(play(server, people(server, stack, 2, 2)))


def test_business_goes_on() -> None:
    with cluster(gateways=2, worker={"inner_ping": PING}) as server, contextlib.ExitStack() as stack:
        clients = people(server, stack, 2, 4)
        with stalled(server, clients) as (here, _):
            for client in here.values():
                assert client.ask("hello") == "HELLO"
            asking = next(iter(here.values()))
            asking.say("call send_to_all 'for all'")
            for client in here.values():
                assert client.hear() == "for all"
            assert asking.hear() == f"Delivery(delivered={len(here)}, dropped=0, lost=1, kept=0)"


def test_blocking_calls_wait_for_it_once() -> None:
    with cluster(gateways=2) as server, contextlib.ExitStack() as stack:
        clients = people(server, stack, 2, 4)
        gateway = stack.enter_context(BlockingGatewayClient(register_of(server), timeout=2.0))
        assert gateway.send_to_all("all") == Delivery(len(clients), 0, 0)
        with stalled(server, clients) as (here, there):
            sent: list[Delivery] = []
            sending = threading.Thread(target=lambda: sent.append(gateway.send_to_all("at once")))
            sending.start()
            for client in here.values():
                assert [client.hear(), client.hear()] == ["all", "at once"]
            sending.join()
            assert sent == [Delivery(len(here), 0, 1)]
            assert gateway.send_to_all("and again") == Delivery(len(here), 0, 1)
            with pytest.raises(Unreachable, match="has not answered a moment ago"):
                gateway.is_online(next(iter(there)))
        wait_until("it is back", lambda: gateway.send_to_all("back") == Delivery(len(clients), 0, 0))
