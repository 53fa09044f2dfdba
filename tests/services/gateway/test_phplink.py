"""A business worker of ours that joins gateways which speak GatewayWorker's wire: the doors for PHP of real gateways of
ours, which know nothing of it but what business workers in PHP say. Byte by byte: test_phpline.py, test_phpcommands.py.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from tests.services.gateway.conftest import EVENTS, Client, ports, toml
from workermand.testing import RunningServer, running_server

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
        assert b.hear() == "Delivery(delivered=1, dropped=0, lost=0)"
        a.close()
        assert b.hear() == f"gone {a_id} A"
        assert b.ask(f"call is_online {a_id!r}") == "False"
        assert b.ask(f"call close_client {b_id!r}, 'bye'") == "bye"
        assert b.is_closed()
