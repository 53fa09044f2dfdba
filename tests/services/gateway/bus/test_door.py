"""busdoor: a gateway on the bus, when nats goes, strays come, or it ends. More of it: test_gateway.py."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal

import msgspec
import pytest
import uvloop

from tests.conftest import wait_until
from tests.services.gateway.bus.test_connection import opened
from tests.services.gateway.conftest import Client, Transport, cluster
from tests.services.gateway.test_client import until
from tests.services.gateway.test_gateway import id_of, pids
from tests.services.servers import Server, nats_server
from workermand.services.gateway import GatewayClient, messages, plans
from workermand.services.gateway.bus import door as busdoor
from workermand.services.gateway.bus import pipes
from workermand.services.gateway.bus.connection import Bus
from workermand.services.gateway.bus.mesh import BusMesh
from workermand.services.gateway.bus.pipes import HEAD
from workermand.services.links import wire
from workermand.testing import RunningServer, ServerFailed

pytestmark = pytest.mark.real


def test_clients_stay_while_nats_is_killed_and_comes_back() -> None:
    """What they say meanwhile waits, and is handled in its order, with the session as it was."""
    with nats_server("--no_advertise") as nats:
        with cluster(bus=Transport(nats).bus, gateways=2, business=2, gateway={"hold": 60.0}) as server:
            with Client(server) as client, Client(server) as other:
                id_of(client), id_of(other)
                count = 0
                for turn in range(1, 4):
                    assert client.ask("count").startswith(f"{count + 1} ")
                    assert client.ask("hello") == "HELLO"  # by now its session is saved
                    nats.kill()
                    wait_until("all know", lambda turn=turn: told(server, "gone") == 4 * turn)  # type: ignore[misc]
                    for _ in range(5):
                        client.say("count")
                    nats.start()
                    wait_until("all are back", lambda turn=turn: told(server, "back") == 4 * turn)  # type: ignore[misc]
                    heard = [int(client.hear().split()[0]) for _ in range(5)]
                    assert heard == list(range(count + 2, count + 7))
                    count += 6
                assert other.ask("hello") == "HELLO"


def told(server: RunningServer, what: str) -> int:
    """How many processes have said that nats is gone, or back, and how often."""
    return len(re.findall(rf"the bus at \S+ is {what}", server.output))


def test_a_cluster_may_start_before_nats() -> None:
    with nats_server("--no_advertise") as nats:
        nats.kill()
        with cluster(bus=nats.url) as server:
            server.wait_for("no nats within 5 s: it goes on without")
            nats.start()
            with Client(server) as client:
                id_of(client)
                assert client.ask("hello") == "HELLO"


STRAYS = [
    b"",
    b"x",
    b"\xc1\xc1\xc1",
    b"GET / HTTP/1.1\r\n\r\n",
    *(
        HEAD.pack(kind, number) + body
        for kind in range(8)
        for number in (0, 2**64 - 1)
        for body in (b"", b"\xc1", b"x")
    ),
    *(
        HEAD.pack(pipes.LAST, 0) + wire.body(body)
        for body in ([], [16], ["x", 0], [19, 1, "count"], [18, 0, 7], [0, 0])
    ),
    msgspec.msgpack.encode(([], b"")),
    msgspec.msgpack.encode((["x"], b"")),
    msgspec.msgpack.encode(((7,), 7)),
]


def test_strays_end_nothing(nats: Server) -> None:
    """On the subjects of everybody, and on those of pipes that are in use."""

    async def play(url: str) -> None:
        mesh = BusMesh(url)
        assert await mesh.ready(10)
        assert await mesh.run(plans.count_clients()) == 1
        (gate,) = mesh.gates.values()
        stray = await opened(url)
        gateway = gate.place.uri.removeprefix("bus:")
        name = gate.link.name
        subjects = ["all", "u.7", "g.7", "who", "here", "gone", f"gate.{gateway}.x", f"gate.{gateway}.{name}"]
        subjects += [f"p.{mesh.bus.id}.{name}", f"p.{mesh.bus.id}.x", f"list.{mesh.bus.id}"]
        for subject in subjects:
            for data in STRAYS:
                for reply in ("", "p.x", f"p.{'0' * 16}.{'1' * 16}"):
                    stray.publish(subject, data, reply)
        stray.publish("all", msgspec.msgpack.encode(([name], b"\xc1")))
        stray.publish("all", msgspec.msgpack.encode(([name], wire.body([messages.CALL, 0, "nothing", []]))))
        await until("all is well", lambda: counts(mesh))
        await stray.close()
        await mesh.close()

    async def counts(mesh: BusMesh) -> bool:
        try:
            return bool(await mesh.run(plans.count_clients()) == 1)
        except ConnectionError:  # a stray may end a pipe that it pretends to be of
            return False

    bus = Transport(nats).bus
    with cluster(bus=bus) as server, Client(server) as client:
        id_of(client)
        (before,) = pids(server, "gateway")
        uvloop.run(play(bus))
        assert client.ask("hello") == "HELLO"
        assert pids(server, "gateway") == [before]


def test_who_says_something_on_a_pipe_that_is_none_is_told(nats: Server) -> None:
    async def play(url: str) -> None:
        mesh = BusMesh(url)
        assert await mesh.ready(10)
        (gate,) = mesh.gates.values()
        caller: Bus = mesh.bus
        heard: asyncio.Queue[bytes] = asyncio.Queue()
        name = pipes.new_name()
        caller.route("p", lambda rest, reply, data, nobody: heard.put_nowait(data) if rest.endswith(name) else None)
        subject = f"gate.{gate.place.uri.removeprefix('bus:')}.{name}"
        caller.publish(subject, HEAD.pack(pipes.LAST, 0) + b"x", f"p.{caller.id}.{name}")
        assert HEAD.unpack(await heard.get()) == (pipes.BYE, 0)
        caller.publish(subject, HEAD.pack(pipes.OPEN, 0), f"p.{caller.id}.{name}")
        assert HEAD.unpack(await heard.get()) == (pipes.ALIVE, 0)
        await mesh.close()

    bus = Transport(nats).bus
    with cluster(bus=bus):
        uvloop.run(play(bus))


def test_a_gateway_that_ends_has_its_last_events_handled(nats: Server) -> None:
    bus = Transport(nats).bus
    source = """
from workermand.services.gateway import Gateway

def on_message(client_id, message):
    Gateway.send_to_current_client("heard")

def on_close(client_id):
    print("closed:", client_id)
"""
    with cluster(bus=bus, gateways=1, events="ours", files={"ours.py": source}) as gateways:
        with Client(gateways) as client:
            assert client.ask("hello") == "heard"
            (pid,) = pids(gateways, "gateway")
            os.kill(pid, signal.SIGTERM)
            gateways.wait_for("closed: [0-9a-f]{20}")


def test_subjects_that_nobody_needs_are_forgotten(nats: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    class Peers:
        needed = True

        def is_needed(self, key: object) -> bool:
            return self.needed

    async def play(url: str) -> None:
        door = object.__new__(busdoor.BusDoor)
        door.bus = bus = await opened(url)
        door.peers = peers = Peers()  # type: ignore[assignment]
        door._subjects, door._idle = {}, set()
        door.subscribe("uid", "7")
        door._sweep()
        assert ("u.7", "") in bus._subjects
        peers.needed = False
        door._sweep()
        assert ("u.7", "") in bus._subjects
        door._sweep()
        assert ("u.7", "") not in bus._subjects
        assert not door._subjects
        await bus.close()

    uvloop.run(play(nats.url))


def test_two_clusters_share_a_server(nats: Server) -> None:
    async def play(one: str, two: str) -> None:
        async with GatewayClient(bus=one) as first, GatewayClient(bus=two) as second:
            assert await first.get_all_client_id_count() == 1
            assert await second.get_all_client_id_count() == 0

    one, two = Transport(nats).bus, Transport(nats).bus
    with cluster(bus=one) as server, cluster(bus=two), Client(server) as client:
        id_of(client)
        uvloop.run(play(one, two))


@pytest.mark.parametrize("claims", [True, False])
def test_a_queue_group_chooses(nats: Server, claims: bool) -> None:
    """All are handled, in order, by several, while they are killed and reloaded; also when nobody claims them."""
    source = (
        ""
        if claims
        else "from workermand.services.gateway.bus.mesh import BusMesh\nBusMesh._on_offer = lambda *_: None\n"
    )
    source += "from tests.services.gateway.events import *\n"
    options = {"router": "queue"}
    bus = Transport(nats).bus
    with cluster(bus=bus, business=2, gateway=options, events="ours", files={"ours.py": source}) as server:
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(Client(server)) for _ in range(12 if claims else 3)]
            for client in clients:
                id_of(client)
            if claims:
                while len({client.ask("pid") for client in clients}) < 2:
                    clients.append(stack.enter_context(Client(server)))
                    id_of(clients[-1])
            for client in clients:
                client.sock.sendall(b"count 0.01\n" * 10)
            server.reload()
            for client in clients:
                assert [int(client.hear().split()[0]) for _ in range(10)] == list(range(1, 11))
            os.kill(int(clients[0].ask("pid")), signal.SIGKILL)
            server.wait_for("business worker .* has gone: it is gone")
            for client in clients:
                assert client.ask("hello") == "HELLO"


def test_a_queue_group_needs_a_bus() -> None:
    with pytest.raises(ServerFailed, match=r"there is no options\.bus"), cluster(gateway={"router": "queue"}):
        pass
