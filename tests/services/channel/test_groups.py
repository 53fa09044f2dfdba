"""Groups and broadcasts over many processes, as the browsers see them; and the table of one process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

from tests.conftest import PATIENCE
from tests.services.channel.conftest import HANDLER
from workermand import ConnectionStatus
from workermand.services.channel.groups import Groups
from workermand.testing import RunningServer, running_server

APPLICATION = """
from workermand.services.channel import Channel

async def on_worker_start(worker):
    worker.channel = await Channel.connect()  # the server of this daemon
    await Channel.connect()  # which does not take the broadcasts again
    await worker.channel.on("who", lambda data: worker.id)

def on_websocket_connected(connection, request):
    connection.send("process %d" % connection.worker.id)

async def on_message(connection, line):
    channel = connection.worker.channel
    verb, _, rest = line.partition(" ")
    group, _, words = rest.partition(" ")
    if verb == "join":
        await channel.join_group(group, connection)
        connection.send("joined")
    elif verb == "leave":
        connection.send("left" if channel.leave_group(group, connection) else "was no member")
    elif verb == "say":
        connection.send("to %d processes" % await channel.send_to_group(group, words))
    elif verb == "all":
        connection.send("to %d processes" % await channel.broadcast("chat", rest))
    elif verb == "size":
        connection.send(str(channel.group_size(group)))
    elif verb == "who":
        connection.send("process %d" % await channel.request("who"))

def on_close(connection):
    print("closed, still in:", sorted(connection.worker.channel.groups_of(connection)))
"""

DAEMON = f"""
[worker.channel]
handler = "{HANDLER}"
listen = "unix://channel.sock"
protocol = "frame"
reloadable = false

[worker.chat]
handler = "application"
listen = "websocket://127.0.0.1:0"
count = 3
reuse_port = true
"""


class Browser:
    """One that knows which process serves it."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self.process = self.hear()

    def hear(self) -> str:
        return str(self._connection.recv(timeout=PATIENCE))

    def ask(self, line: str) -> str:
        self._connection.send(line)
        return self.hear()

    def close(self) -> None:
        self._connection.close()


@contextlib.contextmanager
def everywhere(server: RunningServer) -> Iterator[dict[str, list[Browser]]]:
    """Browsers by process: at least two in each of the three."""
    host, port = server.addresses["chat"][0]
    browsers: dict[str, list[Browser]] = {}
    with contextlib.ExitStack() as stack:
        while len(browsers) < 3 or min(map(len, browsers.values())) < 2:
            browser = Browser(stack.enter_context(connect(f"ws://{host}:{port}/")))
            browsers.setdefault(browser.process, []).append(browser)
        yield browsers


@pytest.fixture(scope="module")
def daemon() -> Iterator[RunningServer]:
    with running_server(DAEMON, files={"application.py": APPLICATION}) as server:
        yield server


def test_a_broadcast_comes_to_every_client_of_every_process_once(daemon: RunningServer) -> None:
    with everywhere(daemon) as browsers:
        everyone = [browser for some in browsers.values() for browser in some]
        speaker, *others = everyone
        heard = [speaker.ask("all hello"), speaker.hear()]
        assert sorted(heard) == ["hello", "to 3 processes"]
        assert [browser.hear() for browser in others] == ["hello"] * len(others)
        speaker.ask("all again"), speaker.hear()
        assert [browser.hear() for browser in others] == ["again"] * len(others)


def test_a_group_over_processes(daemon: RunningServer) -> None:
    with everywhere(daemon) as browsers:
        first, second, third = (some[0] for some in browsers.values())
        outsider = next(iter(browsers.values()))[1]
        assert outsider.ask("say tea nobody is there") == "to 0 processes"
        assert first.ask("join tea") == second.ask("join tea") == "joined"
        assert outsider.ask("say tea milk?") == "to 2 processes"
        assert first.hear() == second.hear() == "milk?"
        assert third.ask("join tea") == "joined"
        assert first.ask("leave tea") == "left"
        assert first.ask("leave tea") == "was no member"
        assert outsider.ask("say tea sugar?") == "to 2 processes"
        assert second.hear() == third.hear() == "sugar?"
        assert (first.ask("size tea"), second.ask("size tea")) == ("0", "1")


def test_who_closes_leaves(daemon: RunningServer) -> None:
    with everywhere(daemon) as browsers:
        staying, going = next(iter(browsers.values()))[:2]
        assert staying.ask("join cake") == going.ask("join cake") == "joined"
        assert staying.ask("size cake") == "2"
        going.close()
        daemon.wait_for(r"closed, still in: \[\]")
        assert staying.ask("size cake") == "1"
        assert sorted([staying.ask("say cake more"), staying.hear()]) == ["more", "to 1 processes"]


def test_a_request_is_answered_by_one_process_after_the_other(daemon: RunningServer) -> None:
    with everywhere(daemon) as browsers:
        asker = next(iter(browsers.values()))[0]
        answers = [asker.ask("who") for _ in range(6)]
        assert sorted(answers) == sorted(list(browsers) * 2)


# ---------------------------------------------------------------------------------------------------- the table


class Client(SimpleNamespace):
    """As much of a connection as a table of groups sees."""

    def __init__(self, taken: bool | None = True) -> None:
        super().__init__(status=ConnectionStatus.ESTABLISHED, on_close=None, taken=taken, got=[])

    __hash__ = object.__hash__

    def send(self, message: Any) -> bool | None:
        self.got.append(message)
        return bool(self.taken)


def test_members_come_and_go() -> None:
    emptied: list[str] = []
    groups: Any = Groups(emptied.append)
    one, two = Client(), Client(taken=False)
    assert groups.join("a", one) and not groups.join("a", two) and not groups.join("a", one)
    assert groups.join("b", one)
    assert groups.of(one) == {"a", "b"}
    assert groups.send("a", "x") == 1 and (one.got, two.got) == (["x"], ["x"])
    assert groups.leave("a", one) and not groups.leave("a", one) and not groups.leave("c", two)
    groups.gone(one)
    assert emptied == ["b"] and groups.members("a") == [two]
    groups.gone(one)
    assert groups.of(one) == frozenset() and groups._groups == {two: {"a"}}


def test_the_handlers_own_on_close_stays() -> None:
    groups: Any = Groups(lambda group: None)
    client, called = Client(), []
    client.on_close = called.append
    groups.join("a", client)
    groups.join("b", client)
    client.on_close(client)
    assert called == [client] and groups.of(client) == frozenset()


def test_an_asynchronous_on_close_stays_so() -> None:
    groups: Any = Groups(lambda group: None)
    client, called = Client(), []

    async def on_close(connection: Any) -> None:
        called.append(connection)

    client.on_close = on_close
    groups.join("a", client)
    with pytest.raises(StopIteration):
        client.on_close(client).send(None)
    assert called == [client] and groups.of(client) == frozenset()


def test_one_whose_on_close_was_assigned_later_is_found_out() -> None:
    emptied: list[str] = []
    groups: Any = Groups(emptied.append)
    client = Client()
    groups.join("a", client)
    client.on_close = None
    client.status = ConnectionStatus.CLOSED
    assert groups.send("a", "x") == 0 and client.got == []
    assert emptied == ["a"] and not groups.join("a", client)
