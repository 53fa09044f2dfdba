"""A gateway in PHP, with PHP's own pack() and serialize(), and business workers and clients of ours that come to it."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import uvloop

from tests.conftest import wait_until
from tests.services.gateway.conftest import Client, ports
from tests.services.gateway.php.test_link import KEY, business
from tests.services.gateway.test_client import every_call
from tests.services.gateway.test_register import register
from tests.services.php.program import php
from workermand.services.gateway import GatewayClient
from workermand.services.gateway.ids import php_id
from workermand.testing import RunningServer

pytestmark = pytest.mark.real

GATEWAY = Path(__file__).with_name("gateway.php")


class PhpGateway:
    """A running one."""

    def __init__(self, key: str = KEY) -> None:
        command = [php(), "-n", "-d", "display_errors=stderr", str(GATEWAY), key]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self._port, self.inner = self.tells()

    def tells(self) -> Any:
        """Its ports at first, then the name of every business worker that comes."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"PHP has ended: {self._process.communicate()[1]}"
        return json.loads(line)

    def client(self) -> Client:
        return Client(cast(RunningServer, self))

    def connect(self, _worker: str) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self._port), 60)

    def end(self) -> None:
        """It has complained of nothing."""
        self._process.kill()
        assert self._process.communicate()[1] == ""


@contextlib.contextmanager
def known(count: int = 1) -> Iterator[tuple[list[PhpGateway], str]]:
    """Gateways in PHP, and a Register that knows them."""
    with ports(1) as port, contextlib.ExitStack() as stack:
        stack.enter_context(register(options={"php": {"listen": f"text://127.0.0.1:{port}", "secret_key": KEY}}))
        gateways = []
        for _ in range(count):
            gateway = PhpGateway()
            stack.callback(gateway.end)
            announced = stack.enter_context(socket.create_connection(("127.0.0.1", port), 60))
            line = '{"event":"gateway_connect", "address":"127.0.0.1:%d", "secret_key":"%s"}\n'
            announced.sendall((line % (gateway.inner, KEY)).encode())
            gateways.append(gateway)
        yield gateways, f"text://127.0.0.1:{port}"


def test_a_business_worker_of_ours() -> None:
    with known() as ((gateway,), where), business(where):
        assert gateway.tells().startswith("business:0:")
        with contextlib.closing(gateway.client()) as a, contextlib.closing(gateway.client()) as b:
            a_id, b_id = (client.hear().removeprefix("id ") for client in (a, b))
            assert (a_id, b_id) == tuple(php_id(0x7F000001, gateway.inner, number) for number in (1, 2))
            assert a.ask("Grüße") == "GRÜSSE"
            for _number in range(50):
                a.say("count")
            assert [int(a.hear().split()[0]) for _number in range(50)] == list(range(1, 51))
            nested = {"list": [1, None, True, 1.5, "é"], "map": {"k": {"7": "x"}}}
            assert a.ask(f"call update_session {a_id!r}, {nested!r}") == "True"
            assert eval(a.ask("session")) == {
                "connects": 1,
                "count": 50,
                "list": [1, None, True, 1.5, "é"],
                "map": {"k": {7: "x"}},
            }
            assert a.ask(f"call set_session {a_id!r}, {{'name': 'A'}}") == "True"
            assert a.ask("session") == "{'name': 'A'}"
            assert b.ask(f"call join_group {b_id!r}, 'watchers'") == "True"
            a.close()
            assert b.hear() == f"gone {a_id} A"


def test_every_call() -> None:
    async def run(where: str, clients: dict[str, Client]) -> None:
        async with GatewayClient(php={"register": where, "secret_key": KEY}) as outside:
            await every_call(outside, clients)

    with known(2) as (gateways, where), business(where), contextlib.ExitStack() as stack:
        for gateway in gateways:
            gateway.tells()
        clients = [stack.enter_context(gateway.client()) for gateway in gateways for _ in range(2)]
        uvloop.run(run(where, {client.hear().removeprefix("id "): client for client in clients}))


def test_a_reload() -> None:
    with known() as ((gateway,), where), business(where) as worker:
        first = gateway.tells()
        with contextlib.closing(gateway.client()) as client:
            client.hear()
            client.say("count 0.5")
            worker.wait_for("counting")
            worker.reload()
            assert gateway.tells() != first
            assert client.hear().startswith("1 ")
            # It does not wait with the next event for the session that the last one leaves.
            wait_until("it is saved", lambda: "'count': 1" in client.ask("session"))
            assert client.ask("count").startswith("2 ")


def test_another_key() -> None:
    with known() as ((gateway,), where), business(where, key="wrong") as worker:
        worker.wait_for("closed the connection at once: is options.php.secret_key its secretKey")
        assert "wrong" not in worker.output
        with business(where):
            assert gateway.tells()
