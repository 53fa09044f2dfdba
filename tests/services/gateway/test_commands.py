"""commands: on a table whose clients remember what they were sent."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from workermand import Prepared
from workermand.services.gateway import sessions
from workermand.services.gateway.commands import COMMANDS, Commands
from workermand.services.gateway.sessions import Codec
from workermand.services.gateway.table import Client, Table
from workermand.services.links.errors import ServiceError


class Connection:
    """What a command needs of one."""

    def __init__(self, protocol: str) -> None:
        self.protocol = SimpleNamespace(name=protocol)
        self.sent: list[Any] = []
        self.is_full = False
        self.refuses: Any = None
        """A message that its protocol cannot encode."""

    def cork(self) -> None:
        """What is sent is not written here."""

    def send(self, message: Any, raw: bool = False) -> bool | None:
        if self.refuses is not None and message == self.refuses:
            raise TypeError("not this one")
        if self.is_full:
            return False
        self.sent.append((message, "raw") if raw else message)
        return True

    def close(self, message: Any = None) -> None:
        if message is not None and message == self.refuses:
            raise TypeError("not this one")
        self.sent.append(("closed", message))

    def destroy(self) -> None:
        self.sent.append("destroyed")


class Gateway:
    """Commands, with a table of clients a, b and c."""

    def __init__(self, codec: Codec = sessions.PACKED, protocol: str = "text") -> None:
        self.table = Table()
        self.commands = Commands(self.table, codec)
        self.connections = {id: Connection(protocol) for id in "abc"}
        for id, connection in self.connections.items():
            self.table.add(Client(id, connection))

    def run(self, name: str, *arguments: Any) -> Any:
        """As it comes from the wire and goes there."""
        given = msgspec.msgpack.decode(msgspec.msgpack.encode(arguments))
        return msgspec.msgpack.decode(msgspec.msgpack.encode(self.commands.run(name, given)))

    def sent(self) -> str:
        """To whom."""
        return "".join(id for id, connection in self.connections.items() if connection.sent)


def test_who_gets_a_message() -> None:
    def after(name: str, *arguments: Any) -> str:
        gateway = Gateway()
        gateway.run("bind_uid", ["a", "b"], "7")
        gateway.run("join_group", ["b", "c"], "g")
        gateway.run("join_group", ["c"], "h")
        answer = gateway.run(name, *arguments)
        assert answer == [len(gateway.sent()), 0]
        assert all(connection.sent in ([], ["x"]) for connection in gateway.connections.values())
        return gateway.sent()

    assert after("send_to_clients", ["a", "z", "a"], "x", False) == "a"
    assert after("send_to_all", [], "x", False) == "abc"
    assert after("send_to_all", ["b", "z"], "x", False) == "ac"
    assert after("send_to_uids", ["7", "8"], "x", False) == "ab"
    assert after("send_to_groups", ["g"], [], "x", False) == "bc"
    assert after("send_to_groups", ["g", "h"], ["b"], "x", False) == "c"
    assert after("send_to_groups", ["z"], [], "x", False) == ""


def test_what_is_dropped_is_counted() -> None:
    gateway = Gateway()
    gateway.connections["b"].is_full = True
    assert gateway.run("send_to_all", [], b"x", False) == [2, 1]
    assert (gateway.commands.delivered, gateway.commands.dropped) == (2, 1)


def test_what_a_protocol_refuses_is_dropped_for_this_client_alone(caplog: pytest.LogCaptureFixture) -> None:
    gateway = Gateway()
    gateway.connections["a"].refuses = gateway.connections["c"].refuses = "x"
    assert gateway.run("send_to_all", [], "x", False) == [1, 2]
    assert gateway.sent() == "b"
    assert (gateway.commands.delivered, gateway.commands.dropped) == (1, 2)
    assert [record.getMessage() for record in caplog.records] == [
        "a client's protocol refuses a message: TypeError('not this one')"
    ]


def test_who_refuses_the_last_words_is_closed_without(caplog: pytest.LogCaptureFixture) -> None:
    gateway = Gateway()
    gateway.connections["a"].refuses = "x"
    assert gateway.run("close_clients", ["a", "b"], "x") == 2
    assert gateway.connections["a"].sent == [("closed", None)]
    assert gateway.connections["b"].sent == [("closed", "x")]
    assert "refuses a message" in caplog.text


def test_many_websockets_share_one_frame() -> None:
    gateway = Gateway(protocol="websocket")
    gateway.run("send_to_all", [], "x", False)
    (first,), (second,), (third,) = (connection.sent for connection in gateway.connections.values())
    assert isinstance(first, Prepared)
    assert first is second is third
    gateway.run("send_to_clients", ["a"], "y", False)
    assert gateway.connections["a"].sent[1] == "y"


def test_raw() -> None:
    gateway = Gateway()
    gateway.run("send_to_all", [], "é", True)
    assert gateway.connections["a"].sent == [("é".encode(), "raw")]


def test_ends() -> None:
    gateway = Gateway()
    assert gateway.run("close_clients", ["a", "z"], "bye") == 1
    assert gateway.run("close_clients", ["b"], None) == 1
    assert gateway.run("destroy_clients", ["c"]) == 1
    assert [connection.sent for connection in gateway.connections.values()] == [
        [("closed", "bye")],
        [("closed", None)],
        ["destroyed"],
    ]


@pytest.mark.parametrize("codec", sessions.CODECS.values(), ids=sessions.CODECS)
def test_sessions(codec: Codec) -> None:
    gateway = Gateway(codec)
    assert gateway.run("get_sessions", ["a", "z"]) == {"a": {}}
    assert gateway.run("set_session", ["a", "z"], {"x": 1, "in": {"p": 1}}) == 1
    assert gateway.run("update_session", ["a"], {"in": {"q": 2}}) == 1
    assert gateway.run("patch_session", ["a"], {"y": 2}, ["x"]) == 1
    assert gateway.run("get_sessions", ["a"]) == {"a": {"in": {"p": 1, "q": 2}, "y": 2}}
    assert gateway.run("set_session", ["a"], {}) == 1
    assert gateway.run("get_sessions", ["a"]) == {"a": {}}
    with pytest.raises(ServiceError, match=r"set_session: a session of \d+ bytes"):
        gateway.run("set_session", ["a"], {"x": "x" * sessions.LIMIT})


def test_questions() -> None:
    gateway = Gateway()
    run = gateway.run
    run("bind_uid", ["a", "b"], "7")
    run("join_group", ["b", "c"], "g")
    run("set_session", ["b"], {"x": 1})
    assert run("are_online", ["a", "z"]) == ["a"]
    assert run("uids_of_clients", ["a", "c", "z"]) == {"a": "7", "c": None}
    assert run("clients_of_uids", ["7", "8"]) == {"7": ["a", "b"]}
    assert run("count") == 3
    assert run("count_groups", ["g", "h"]) == run("count_groups", None) == {"g": 2}
    assert run("list_groups") == ["g"]
    assert run("list_uids") == ["7"]
    assert run("list_clients") == ["a", "b", "c"]
    assert run("uids_of_groups", None) == run("uids_of_groups", ["g", "h"]) == {"g": ["7"]}
    assert run("clients_of_groups", None) == run("clients_of_groups", ["g", "h"]) == {"g": ["b", "c"]}
    assert run("select", ["groups", "session", "uid"], ["g"]) == {"b": [["g"], {"x": 1}, "7"], "c": [["g"], {}, None]}
    assert list(run("select", [], None)) == ["a", "b", "c"]
    assert run("leave_group", ["b", "z"], "g") == 1
    assert run("unbind_uid", ["b"]) == 1
    assert run("ungroup", "g") == 1
    assert run("list_groups") == []


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("run", [], "no command 'run'"),
        ("_each", [[], None], "no command"),
        ("send_to_all", [], "at least length 3, got 0"),
        ("send_to_all", [[], "x", False, 1], "at most length 3, got 4"),
        ("send_to_all", ["a", "x", False], "send_to_all: Expected `array`"),
        ("send_to_all", [[], 7, False], "a message is str or bytes, not int"),
        ("close_clients", [["a"], 7], "a message is str or bytes"),
        ("bind_uid", [["a"], ""], "an empty uid"),
        ("join_group", [["a"], 7], "Expected `str`, got `int`"),
        ("set_session", [["a"], []], "Expected `object`"),
        ("select", [["connection"], None], "no field 'connection'"),
    ],
)
def test_bad_requests(name: str, arguments: list[Any], words: str) -> None:
    with pytest.raises(ServiceError, match=words):
        Gateway().run(name, *arguments)


def test_every_command_can_be_called_from_the_wire() -> None:
    assert {"send_to_clients", "select", "count", "patch_session"} <= COMMANDS.keys()
    assert not {"run", "send"} & COMMANDS.keys()
