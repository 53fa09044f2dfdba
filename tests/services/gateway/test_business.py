"""The business worker: what its module may have, and how it starts, is reloaded and ends."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.services.gateway.conftest import Client, Transport, cluster
from workermand.testing import ServerFailed

HOOKS = """
from workermand.services.gateway import Gateway

async def on_worker_start(worker):
    print("starts with", await Gateway.get_all_client_id_count())

async def on_message(client_id, message):
    Gateway.send_to_current_client("first " + message)

def on_worker_reload(worker):
    print("is reloaded")

async def on_worker_stop(worker):
    print("stops with", await Gateway.get_all_client_id_count())
"""


def test_hooks_may_ask_the_cluster_and_new_code_comes_without_one_connection_less(transport: Transport) -> None:
    with transport.cluster(events="ours", files={"ours.py": HOOKS}) as server, Client(server) as client:
        server.wait_for("starts with 0")
        assert client.ask("hello") == "first hello"
        (server.directory / "ours.py").write_text(HOOKS.replace("first", "second"))
        server.reload()
        server.wait_for("starts with 1")
        server.wait_for("is reloaded")
        server.wait_for("stops with 1")
        assert client.ask("hello") == "second hello"


def test_new_code_that_is_broken_changes_nothing(transport: Transport) -> None:
    with transport.cluster(events="ours", files={"ours.py": HOOKS}) as server, Client(server) as client:
        (server.directory / "ours.py").write_text("import nothing_of_the_kind\n")
        with pytest.raises(ServerFailed):
            server.reload()
        assert client.ask("hello") == "first hello"


def test_sync_callbacks_and_what_belongs_to_an_event(transport: Transport) -> None:
    source = """
import asyncio
from workermand.services.gateway import Gateway

def on_connect(client_id):
    assert Gateway.client_id == client_id
    Gateway.session["list"] = []

def on_message(client_id, message):
    Gateway.session["list"].append(message)
    Gateway.update_session(client_id, {"last": message})
    assert Gateway.session["last"] == message
    asyncio.get_running_loop().create_task(later(client_id))

async def later(client_id):
    await asyncio.sleep(0)
    assert Gateway.client_id == client_id
    try:
        Gateway.session
    except RuntimeError as error:
        assert "the event has ended" in str(error)
        Gateway.send_to_client(client_id, repr(await Gateway.get_session(client_id)))
"""
    with transport.cluster(events="ours", files={"ours.py": source}) as server, Client(server) as client:
        assert client.ask("a") == "{'list': ['a'], 'last': 'a'}"
        assert client.ask("b") == "{'list': ['a', 'b'], 'last': 'b'}"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def on_massage(client_id, message): ...", "ours has on_massage: there are on_worker_start"),
        ("def on_message(client_id): ...", "ours.on_message: too many positional arguments"),
        ("x = 1", "options.events: ours has none of on_worker_start"),
        ("def on_worker_start(worker): raise ValueError('of ours')\ndef on_close(client_id): ...", "of ours"),
    ],
)
def test_modules_that_cannot_be(source: str, words: str) -> None:
    with (
        pytest.raises(ServerFailed, match=re.escape(words)),
        cluster(events="ours", files={"ours.py": source}),
    ):
        pass


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"events": "nothing.there"}, "options.events: no module named nothing"),
        ({"timeout": 0}, "options.timeout"),
        ({"register": "register://"}, "options.register"),
        ({"event": "x"}, 'did you mean "events"'),
        ({"secret": "wrong", "register": None}, "wrong secret"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], words: str) -> None:
    secret = "swordfish" if "secret" in options else ""
    options = {key: value for key, value in options.items() if value is not None}
    with pytest.raises(ServerFailed, match=re.escape(words)), cluster(worker=options, secret=secret):
        pass


def test_outside_of_one(transport: Transport) -> None:
    source = """
from workermand.services.gateway import Gateway
from workermand import Timer

def on_worker_start(worker):
    try:
        Gateway.session
    except RuntimeError as error:
        print("said:", error)

def on_message(client_id, message): ...
"""
    with transport.cluster(events="ours", files={"ours.py": source}) as server:
        server.wait_for("said: Gateway: there is a current client only within")
