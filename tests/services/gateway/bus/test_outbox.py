"""outbox: a Register on the bus that keeps letters. More of it: outbox/test_server.py, outbox/test_catchup.py."""

from __future__ import annotations

import os
import re
import signal

import pytest

from tests.conftest import wait_until
from tests.services.gateway.conftest import Client, Transport, cluster
from tests.services.gateway.test_gateway import call, id_of, pids
from tests.services.servers import Server, nats_server
from workermand.services.gateway import Delivery
from workermand.testing import ServerFailed, running_server

pytestmark = pytest.mark.real

KEPT = Delivery(0, 0, 0, kept=1)


def test_it_is_killed_and_comes_back(nats: Server) -> None:
    with cluster(bus=Transport(nats).bus, register={"outbox": {}}) as server, Client(server) as client:
        id = id_of(client)
        wait_until("it is known", lambda: call(client, "send_to_uid", 7, "1") == KEPT)
        (pid,) = pids(server, "register")
        os.kill(pid, signal.SIGKILL)
        wait_until("it is back", lambda: call(client, "send_to_uid", 7, "2") == KEPT)
        client.say(f"call bind_uid {id!r}, 7")
        heard = [client.hear()]
        while heard[-1] != "2":
            heard.append(client.hear())
        heard = [line for line in heard if line != "True"]  # the answer, somewhere among them
        assert heard == sorted(heard), "first the letters of the one that was killed"
        assert heard[0] == "1"


def test_nats_is_killed_and_comes_back() -> None:
    with nats_server("--no_advertise") as nats:
        with cluster(bus=Transport(nats).bus, register={"outbox": {}}) as server, Client(server) as client:
            id = id_of(client)
            wait_until("it is known", lambda: call(client, "send_to_uid", 7, "1") == KEPT)
            nats.kill()
            wait_until("all know", lambda: len(re.findall(r"the bus at \S+ is gone", server.output)) == 3)
            nats.start()
            wait_until("it is known again", lambda: call(client, "send_to_uid", 8, "x") == KEPT)
            client.say(f"call bind_uid {id!r}, 7")
            assert sorted(client.hear() for _ in range(2)) == ["1", "True"]


@pytest.mark.parametrize(
    ("options", "listen", "words"),
    [
        ("", "", "on a bus a Register is there for its outbox alone"),
        ("outbox = {}", 'listen = "frame://127.0.0.1:0"', "listen: with options.bus nobody comes there"),
        ("outbox = {}, secret = 'x'", "", "options.secret: there is options.bus, too"),
        ("outbox = {age = 0}", "", "options.outbox"),
    ],
)
def test_options_that_cannot_be(nats: Server, options: str, listen: str, words: str) -> None:
    text = f"""
[worker.register]
{listen}
handler = "workermand.services.gateway.register"
reloadable = false
options = {{bus = "{nats.url}"{options and ", "}{options}}}
"""
    with pytest.raises(ServerFailed, match=re.escape(words)), running_server(text):
        pass
