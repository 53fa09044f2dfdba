"""Real gateways with real business workers: events, sessions, uids and groups, and processes that come and go."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
from ast import literal_eval
from typing import Any

import pytest

from tests.conftest import wait_until
from tests.services.gateway.conftest import Client, Transport, cluster
from workermand.services.gateway.plans import Delivery
from workermand.testing import RunningServer, ServerFailed


def call(client: Client, name: str, *arguments: Any) -> Any:
    """A method of Gateway, within an event of this client. A Delivery comes as one."""
    answer = client.ask(f"call {name} {', '.join(map(repr, arguments))}".rstrip())
    if found := re.fullmatch(r"Delivery\(delivered=(\d+), dropped=(\d+), lost=(\d+), kept=(\d+)\)", answer):
        return Delivery(*map(int, found.groups()))
    return literal_eval(answer)


def id_of(client: Client) -> str:
    return client.hear().removeprefix("id ")


def pids(server: RunningServer, worker: str) -> list[int]:
    return [process["pid"] for process in server.status()["processes"] if process["worker"] == worker]


def test_events_and_sessions(transport: Transport) -> None:
    with transport.cluster() as server, Client(server) as client, Client(server) as watcher:
        id, other = id_of(client), id_of(watcher)
        assert len(id) == 20
        assert id != other
        assert client.ask("hello") == "HELLO"
        for number in range(1, 4):
            assert client.ask("count").split()[0] == str(number)
        assert client.ask("session") == "{'connects': 1, 'count': 3}"
        assert call(watcher, "update_session", id, {"name": "Zoë"}) is True
        assert call(watcher, "get_session", id) == {"connects": 1, "count": 3, "name": "Zoë"}
        assert call(watcher, "join_group", other, "watchers") is True
        client.close()
        assert watcher.hear() == f"gone {id} Zoë"
        assert call(watcher, "get_session", id) is None


def test_every_event_sees_what_the_one_before_has_left(transport: Transport) -> None:
    """Sent in one piece, while the first ones take their time."""
    with transport.cluster() as server, Client(server) as client:
        id_of(client)
        client.sock.sendall(b"count 0.05\n" + b"count 0\n" * 50 + b"count\n" * 50)
        assert [int(client.hear().split()[0]) for _ in range(101)] == list(range(1, 102))
        assert literal_eval(client.ask("session"))["count"] == 101


def test_an_exception_ends_its_event_and_nothing_else(transport: Transport) -> None:
    with transport.cluster() as server, Client(server) as client:
        id_of(client)
        client.say("raise of ours")
        assert client.ask("hello") == "HELLO"
        assert client.ask("session") == "{'connects': 1}"
        server.wait_for("exception in on_message.*\n(.*\n)*ValueError: of ours")


def test_clients_of_several_gateways_find_each_other(transport: Transport) -> None:
    with transport.cluster(gateways=2, business=2) as server, contextlib.ExitStack() as stack:
        clients: list[Client] = []
        tags: set[str] = set()
        ids: list[str] = []
        while len(tags) < 2 or len(ids) < 6:
            client = stack.enter_context(Client(server))
            clients.append(client)
            ids.append(id_of(client))
            tags.add(ids[-1][:8])
        first = clients[0]
        assert sorted(call(first, "get_all_client_id_list")) == sorted(ids)
        for number, id in enumerate(ids):
            assert call(first, "bind_uid", id, number % 3) is True
            assert call(first, "join_group", id, f"g{number % 2}") is True
        count = len(ids)
        assert call(first, "get_all_client_id_count") == count
        assert call(first, "get_all_uid_count") == 3
        assert sorted(call(first, "get_client_id_by_uid", 1)) == sorted(ids[1::3])
        assert sorted(call(first, "get_client_id_list_by_group", "g1")) == sorted(ids[1::2])
        assert call(first, "send_to_uid", 1, "to one") == Delivery(len(ids[1::3]), 0, 0)
        assert all(client.hear() == "to one" for client in clients[1::3])
        assert call(first, "send_to_group", ["g0", "g1"], "to all", [ids[0]]) == Delivery(count - 1, 0, 0)
        assert all(client.hear() == "to all" for client in clients[1:])
        assert call(first, "send_to_all", "some", [ids[1], ids[2]]) == Delivery(2, 0, 0)
        assert call(first, "ungroup", "g0") == len(ids[0::2])
        assert call(first, "get_all_group_id_list") == ["g1"]
        assert call(first, "close_client", ids[1], "bye") is True
        assert clients[1].hear() == "some"
        assert clients[1].hear() == "bye"
        assert clients[1].is_closed()


def test_a_uid_that_moves_is_found_where_it_is(transport: Transport) -> None:
    """Once its gateways are known, only those are asked, and news of others come in time."""
    with transport.cluster(gateways=2) as server, contextlib.ExitStack() as stack:
        by_tag: dict[str, tuple[Client, str]] = {}
        while len(by_tag) < 2:
            client = stack.enter_context(Client(server))
            id = id_of(client)
            by_tag[id[:8]] = client, id
        caller = stack.enter_context(Client(server))
        id_of(caller)
        assert call(caller, "send_to_uid", "x", "nobody") == Delivery(0, 0, 0)
        for _ in range(5):
            for client, id in by_tag.values():
                call(caller, "bind_uid", id, "x")
                wait_until("it is found", lambda: call(caller, "send_to_uid", "x", "m") == Delivery(1, 0, 0))
                assert client.hear() == "m"
                call(caller, "unbind_uid", id)


def test_the_order_is_kept_while_business_workers_are_reloaded(transport: Transport) -> None:
    """Not one message is lost, doubled or overtaken, and the session is that of the one before."""
    with transport.cluster(business=2) as server, Client(server) as client:
        id_of(client)
        sent = 0
        seen: list[str] = []
        workers: set[str] = set()
        for _ in range(3):
            for _ in range(20):
                client.say("count 0.005")
                sent += 1
            server.reload()
            while len(seen) < sent:
                number, pid = client.hear().split()
                seen.append(number)
                workers.add(pid)
        assert seen == [str(number) for number in range(1, sent + 1)]
        assert len(workers) > 1


def test_a_business_worker_that_dies_loses_what_it_had(transport: Transport) -> None:
    with transport.cluster(business=2) as server, Client(server) as client:
        id_of(client)
        assert client.ask("count").startswith("1 ")
        pid = int(client.ask("pid"))
        client.sock.sendall(b"count 60\ncount 60\n")
        server.wait_for("counting")
        os.kill(pid, signal.SIGKILL)
        server.wait_for("business worker .* has gone, and 2 events with it")
        number, other = client.ask("count").split()
        assert number == "2"
        assert int(other) != pid


def test_what_a_business_worker_had_when_it_died_goes_to_the_next(transport: Transport) -> None:
    with transport.cluster(business=2, gateway={"redeliver": True}) as server, Client(server) as client:
        id_of(client)
        pid = int(client.ask("pid"))
        client.sock.sendall(b"count 0.3\n" * 3)
        server.wait_for("counting")
        os.kill(pid, signal.SIGKILL)
        heard = [client.hear().split() for _ in range(3)]
        assert [number for number, _pid in heard] == ["1", "2", "3"]
        assert str(pid) not in {other for _number, other in heard}


def test_clients_wait_for_a_business_worker(transport: Transport) -> None:
    with transport.cluster(gateway={"hold": 60.0}) as server, Client(server) as client:
        id_of(client)
        (pid,) = pids(server, "business")
        os.kill(pid, signal.SIGKILL)
        server.wait_for("business worker .* has gone")
        with Client(server) as newcomer:
            assert client.ask("hello") == "HELLO"
            assert len(id_of(newcomer)) == 20
            assert newcomer.ask("session") == "{'connects': 1}"


def test_websockets_text_and_binary(transport: Transport) -> None:
    with transport.cluster(listen="websocket://127.0.0.1:0") as server:
        with contextlib.closing(server.connect("gateway")) as sock:
            handshake(sock, "/chat?room_id=7", "Cookie: a=b")
            assert read_frame(sock)[1].startswith(b"id ")
            assert read_frame(sock) == (1, b"path /chat room 7 cookie b from 127.0.0.1")


def handshake(sock: socket.socket, target: str, *headers: str) -> None:
    head = "\r\n".join(
        [
            f"GET {target} HTTP/1.1",
            "Host: x",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            *headers,
            "",
            "",
        ]
    )
    sock.sendall(head.encode())
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += sock.recv(1)
    assert answer.startswith(b"HTTP/1.1 101")


def read_frame(sock: socket.socket) -> tuple[int, bytes]:
    """(opcode, payload) of a short one."""
    with sock.makefile("rb", buffering=0) as file:
        first, size = file.read(1)[0], file.read(1)[0]
        return first & 0xF, b"".join(file.read(1) for _ in range(size))


def test_the_heartbeat_ends_the_silent(transport: Transport) -> None:
    options = {"ping_interval": 0.2, "ping_not_response_limit": 2, "ping_data": "ping"}
    with transport.cluster(gateway=options) as server, Client(server) as client:
        id_of(client)
        heard = []
        with contextlib.suppress(AssertionError):
            while True:
                heard.append(client.hear())
        assert heard
        assert set(heard) == {"ping"}


def test_who_answers_lives(transport: Transport) -> None:
    options = {"ping_interval": 0.1, "ping_not_response_limit": 1, "ping_data": "ping"}
    with transport.cluster(gateway=options) as server, Client(server) as client:
        id_of(client)
        for _ in range(10):
            while client.hear() != "ping":
                pass
            client.say("pong")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"start_port": "x"}, "options.start_port: expected int"),
        ({"lan_ip": "gateway.example"}, 'options.lan_ip: "gateway.example" is no IP address'),
        ({"ping_not_response_limit": 1}, "options.ping_not_response_limit: needs a ping_interval"),
        ({"router": "nearest"}, 'options.router: "nearest": there are least_connections'),
        ({"router": "json:nothing"}, "options.router: json has no function nothing"),
        ({"register": "http://x"}, "expected register://"),
        ({"lan_ip": "0.0.0.0"}, "can be reached from other machines"),
        ({"ping_intervall": 1}, 'did you mean "ping_interval"'),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ServerFailed, match=re.escape(words)), cluster(gateway=options):
        pass


def figures(server: RunningServer) -> Any:
    """What the gateway counts."""
    return next(one["figures"] for one in server.status()["processes"] if one["worker"] == "gateway")


def test_a_router_of_ones_own(transport: Transport) -> None:
    source = "def choose(mates, stream, kind, body):\n    return max(mates, key=lambda mate: mate.key)\n"
    with transport.cluster(business=2, gateway={"router": "ours:choose"}, files={"ours.py": source}) as server:
        wait_until("both are there", lambda: figures(server).get("business workers") == 2)
        with Client(server) as one, Client(server) as two:
            id_of(one), id_of(two)
            assert len({one.ask("pid") for _ in range(3)} | {two.ask("pid") for _ in range(3)}) == 1


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("raise ValueError(kind)", "ValueError: "),
        ("return None", "has to return one of the mates, not None"),
    ],
)
def test_a_router_that_fails(source: str, words: str) -> None:
    files = {"ours.py": f"def choose(mates, stream, kind, body):\n    {source}\n"}
    with cluster(gateway={"router": "ours:choose"}, files=files) as server, Client(server) as client:
        id_of(client)
        assert client.ask("hello") == "HELLO"
        server.wait_for(f"exception in router ours:choose, connection (?s:.*){words}")
