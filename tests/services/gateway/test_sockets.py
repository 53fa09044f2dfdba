"""sockets: where the inner listeners of a gateway are. What goes over them: test_gateway.py, php/test_visitors.py."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.certs import Authority
from tests.services.gateway.conftest import EVENTS, Client, cluster, ports, toml
from tests.services.gateway.test_gateway import id_of
from workermand.services.gateway import BlockingGatewayClient
from workermand.testing import ServerFailed, running_server


def test_ipv6_and_tls_on_the_inner_links(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    cert, key = map(str, authority.issue("localhost", "::1"))
    options = {"register": "", "secret": "swordfish", "tls": {"ca": str(authority.file)}}
    with ports(2) as first:
        text = f"""
[worker.register]
listen = "frame://[::1]:{first}"
handler = "workermand.services.gateway.register"
reloadable = false
tls = {toml({"cert": cert, "key": key})}
options = {toml({"secret": "swordfish"})}

[worker.gateway]
listen = "text://127.0.0.1:0"
handler = "workermand.services.gateway.gateway"
reloadable = false
tls = {toml({"cert": cert, "key": key})}
options = {toml({"lan_ip": "::1", "start_port": first + 1, **options})}

[worker.business]
handler = "workermand.services.gateway.business"
options = {toml({"events": EVENTS, **options})}
"""
        with running_server(text) as server, Client(server, authority.client()) as client:
            id_of(client)
            assert client.ask("hello") == "HELLO"
            with BlockingGatewayClient(f"register://[::1]:{first}", "swordfish", tls=authority.client()) as gateway:
                assert gateway.get_all_client_id_count() == 1


def test_a_port_that_is_taken() -> None:
    with cluster() as server:
        (row,) = [one for one in server.ask("status")["processes"] if one["worker"] == "gateway"]
        taken = server.wait_for(r"worker gateway: listening on frame://127\.0\.0\.1:(\d+)")[1]
        assert row["state"] == "idle"
        words = f"options.start_port: frame://127.0.0.1:{taken}: "
        with pytest.raises(ServerFailed, match=re.escape(words)), cluster(gateway={"start_port": int(taken)}):
            pass


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"listen_inner": "0.0.0.0"}, "can be reached from other machines, and there is no options.secret"),
        ({"register": "http://127.0.0.1:1"}, "options.register: "),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ServerFailed, match=re.escape(words)), cluster(gateway=options):
        pass
