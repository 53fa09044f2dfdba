"""A business worker of ours that joins gateways which speak GatewayWorker's wire: the doors for PHP of real gateways of
ours, which know nothing of it but what business workers in PHP say. Byte by byte: test_line.py, test_commands.py.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import uvloop

from tests.conftest import wait_until
from tests.services.gateway.conftest import EVENTS, Client, ports, toml
from tests.services.gateway.test_client import every_call, people, until
from tests.services.gateway.test_gateway import handshake, read_frame
from tests.services.gateway.test_register import register as register_server
from workermand.services.gateway import GatewayClient, ids
from workermand.services.links.address import Address
from workermand.testing import RunningServer, ServerFailed, running_server

KEY = "swordfish"


@contextlib.contextmanager
def gateways(count: int = 1, listen: str = "text://127.0.0.1:0", **options: Any) -> Iterator[tuple[RunningServer, str]]:
    """And where PHP finds their Register."""
    with ports(2 * count + 1) as first:
        register = {"php": {"listen": f"text://127.0.0.1:{first}", "secret_key": KEY}}
        gateway = {"start_port": first + 1, "php": {"start_port": first + 1 + count, "secret_key": KEY}, **options}
        text = f"""
[worker.register]
listen = "frame://127.0.0.1:0"
handler = "workermand.services.gateway.register"
reloadable = false
options = {toml(register)}

[worker.gateway]
listen = "{listen}"
handler = "workermand.services.gateway.gateway"
count = {count}
reloadable = false
options = {toml(gateway)}
"""
        with running_server(text) as server:
            yield server, f"text://127.0.0.1:{first}"


@contextlib.contextmanager
def business(
    register: str, count: int = 1, events: str = EVENTS, key: str = KEY, **options: Any
) -> Iterator[RunningServer]:
    """No Register of ours is anywhere."""
    php = {"register": register, "secret_key": key}
    text = f"""
[worker.business]
handler = "workermand.services.gateway.business"
count = {count}
options = {toml({"events": events, "php": php, **options.pop("worker", {})})}
"""
    with running_server(text, **options) as server:
        yield server


def test_events_of_a_client() -> None:
    with gateways() as (server, register), business(register), Client(server) as a, Client(server) as b:
        a_id, b_id = (client.hear().removeprefix("id ") for client in (a, b))
        assert a.ask("hello") == "HELLO"
        # Sessions, from one event to the next, however quickly they come.
        for _ in range(1, 50):
            a.say("count")
        assert [int(a.hear().split()[0]) for _ in range(1, 50)] == list(range(1, 50))
        assert a.ask("session") == "{'connects': 1, 'count': 49}"
        assert a.ask("call update_session " + repr((a_id, {"x": {"p": 1}}))[1:-1]) == "True"
        assert a.ask("call update_session " + repr((a_id, {"x": {"q": 2}}))[1:-1]) == "True"
        assert a.ask("session") == "{'connects': 1, 'count': 49, 'x': {'p': 1, 'q': 2}}"
        assert a.ask(f"call get_session {a_id!r}") == "{'connects': 1, 'count': 49, 'x': {'p': 1, 'q': 2}}"
        assert a.ask("call set_session " + repr((a_id, {"name": "A"}))[1:-1]) == "True"
        assert a.ask("session") == "{'name': 'A'}"
        ip, port, gateway_port, gateway = eval(a.ask("origin"))
        assert (ip, port, gateway_port) == (*a.sock.getsockname(), a.sock.getpeername()[1])
        assert gateway.startswith("tcp://127.0.0.1:")
        # Groups and uids.
        assert b.ask(f"call join_group {b_id!r}, 'watchers'") == "True"
        assert b.ask(f"call bind_uid {b_id!r}, 7") == "True"
        assert b.ask("call send_to_uid 7, 'to 7'") == "to 7"
        assert b.hear() == "Delivery(delivered=1, dropped=0, lost=0, kept=0)"
        a.close()
        assert b.hear() == f"gone {a_id} A"
        assert b.ask(f"call is_online {a_id!r}") == "False"
        assert b.ask(f"call close_client {b_id!r}, 'bye'") == "bye"
        assert b.is_closed()


def test_a_websocket() -> None:
    with (
        gateways(listen="websocket://127.0.0.1:0") as (server, register),
        business(register),
        contextlib.closing(server.connect("gateway")) as client,
    ):
        handshake(client, "/chat?room_id=7%C3%A9", "Cookie: a=b")
        assert read_frame(client)[1].startswith(b"id ")
        assert read_frame(client)[1].decode() == "path /chat room 7é cookie b from 127.0.0.1"
        client.sendall(b"\x81\x85\0\0\0\0hello")
        assert read_frame(client) == (1, b"HELLO")


def test_every_call_from_outside() -> None:
    """What our own gateways are asked in test_client.py, of two that are as PHP's."""

    async def run(register: str, clients: dict[str, Client]) -> None:
        async with GatewayClient(php={"register": register, "secret_key": KEY}) as gateway:
            await every_call(gateway, clients)

    with gateways(2) as (server, register), business(register), contextlib.ExitStack() as stack:
        uvloop.run(run(register, people(server, stack, 2, 4, ids.PHP_PREFIX)))


def test_our_register_tells_of_gateways_in_php_and_who_has_no_options_for_them_passes_them_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def play(port: int, register: Address) -> None:
        where = f"register://{register}"
        announced = socket.create_connection(("127.0.0.1", port), 60)
        place = f"127.0.0.1:{php_port}"
        announced.sendall(b'{"event":"gateway_connect","address":"%s","secret_key":""}\n' % place.encode())
        with announced:
            async with GatewayClient(where, php={"secret_key": KEY}) as gateway:
                await until("it is found", lambda: counts(gateway, 1))
            assert "passed over" not in caplog.text
            async with GatewayClient(where) as gateway:
                await until("it is passed over", lambda: said(f"gateway in PHP at {place} is passed over"))
                assert await gateway.get_all_client_id_count() == 0

    async def counts(gateway: GatewayClient, count: int) -> bool:
        return await gateway.get_all_client_id_count() == count

    async def said(words: str) -> bool:
        return words in caplog.text

    with gateways() as (server, php_register), Client(server), ports(1) as port:
        php_port = int(php_register.rpartition(":")[2]) + 2
        with register_server(options={"php": {"listen": f"text://127.0.0.1:{port}"}}) as (_register, address):
            uvloop.run(play(port, address))


def test_a_reload_loses_no_event() -> None:
    """Whoever goes reads what its gateways have sent it, and they route to the next one."""
    total = 3000
    with gateways() as (server, register), business(register, 2) as worker, Client(server) as client:
        client.hear()

        def talk() -> None:
            for number in range(total):
                client.say(f"message {number}")

        talking = threading.Thread(target=talk)
        heard = [client.ask("message first")]
        talking.start()
        reloading = threading.Thread(target=worker.reload)
        reloading.start()
        heard += [client.hear() for _ in range(total)]
        reloading.join()
        talking.join()
        assert sorted(heard) == sorted(["MESSAGE FIRST", *(f"MESSAGE {number}" for number in range(total))])
        assert client.ask("hello") == "HELLO"


def test_what_is_under_way_at_a_reload_is_finished() -> None:
    with gateways() as (server, register), business(register) as worker, Client(server) as client:
        client.hear()
        client.say("count 1")
        worker.wait_for("counting")
        worker.reload()
        assert client.hear().startswith("1 ")
        # A gateway in PHP does not wait with the next event for the session that the last one leaves.
        wait_until("it is saved", lambda: "'count': 1" in client.ask("session"))
        assert client.ask("count").startswith("2 ")


def test_a_gateway_that_is_killed_comes_back() -> None:
    with gateways() as (server, register), business(register) as worker:
        with Client(server) as client:
            first = client.hear().removeprefix("id ")
            (pid,) = [one["pid"] for one in server.status()["processes"] if one["worker"] == "gateway"]
            os.kill(pid, signal.SIGKILL)
            assert client.is_closed()
        with Client(server) as client:
            assert client.hear() != f"id {first}"
            assert client.ask(f"call is_online {first!r}") == "False"
            assert client.ask("hello") == "HELLO"
        assert worker.stop() == 0


def test_another_key() -> None:
    with gateways() as (server, register), business(register, key="wrong") as worker:
        worker.wait_for(
            r"register in PHP at .* has closed the connection at once: is options\.php\.secret_key its secretKey"
        )
        with Client(server) as client:
            client.say("hello")
            with business(register):
                assert client.hear().startswith("id ")
                assert client.hear() == "HELLO"
        assert "wrong" not in worker.output


def test_another_key_than_the_gateways_own() -> None:
    """Which the Register does not ask for."""
    with gateways() as (_server, php_register), ports(1) as port:
        php_port = int(php_register.rpartition(":")[2]) + 2
        with (
            register_server(options={"php": {"listen": f"text://127.0.0.1:{port}"}}),
            socket.create_connection(("127.0.0.1", port), 60) as announced,
        ):
            place = b"127.0.0.1:%d" % php_port
            announced.sendall(b'{"event":"gateway_connect","address":"%s","secret_key":""}\n' % place)
            with business(f"text://127.0.0.1:{port}", key="") as worker:
                worker.wait_for("gateway in PHP at 127.* has closed the connection at once: is options.php.secret_key")


@pytest.mark.parametrize(
    ("php", "words"),
    [
        ({"register": "register://10.0.0.9"}, "options.php: register://10.0.0.9: expected text://"),
        ({"registers": "text://10.0.0.9"}, "options.php: Object contains unknown field registers"),
        ({"secret_key": "x"}, "options.register"),
    ],
)
def test_options_that_cannot_be(php: dict[str, Any], words: str) -> None:
    with pytest.raises(ServerFailed, match=re.escape(words)), business("", worker={"php": php}):
        pass
