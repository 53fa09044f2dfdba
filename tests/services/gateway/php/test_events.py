"""phpevents: packages of a gateway in PHP, and the events that they are."""

from __future__ import annotations

from typing import Any

import pytest

from workermand import Request
from workermand.services.gateway import messages
from workermand.services.gateway.events import Origin
from workermand.services.gateway.php import events as phpevents
from workermand.services.gateway.wire import Command, Package
from workermand.services.links.serialize import SerializeError, serialize

ID = "7f0000010b5400000007"


def event(command: int, body: bytes = b"", flags: int = 1) -> Package:
    return Package(command, body, b"a:0:{}", 7, flags, 0x7F000001, 2900, 0x0A000001, 5000, 8282)


@pytest.mark.parametrize(
    ("package", "body"),
    [
        (event(1), None),
        (event(3, "é".encode()), "é"),
        (event(3, b"\xff"), b"\xff"),
        (event(3, b'a:1:{s:1:"x";i:1;}', 0), {"x": 1}),
        (event(4), None),
    ],
)
def test_events(package: Package, body: Any) -> None:
    assert phpevents.read(package, ID, 5) == [
        messages.EVENT, 0, package.command, ID, body, b"a:0:{}", 5, ["10.0.0.1", 5000, 8282],
    ]  # fmt: skip


def request(value: Any) -> Request:
    package = event(Command.ON_WEBSOCKET_CONNECT, serialize(value), 0)
    method, target, fields = phpevents.read(package, ID, 0)[4]
    return Request(method, target, fields, Origin("10.0.0.1", 5000, 8282))


def test_a_handshake() -> None:
    server = {
        "QUERY_STRING": "room_id=7&a=%C3%A9",
        "REQUEST_METHOD": "GET",
        "REQUEST_URI": "/chat?room_id=7&a=%C3%A9",
        "CONTENT_TYPE": "",
        "REMOTE_ADDR": "10.0.0.1",
        "REMOTE_PORT": 5000,
        "HTTP_HOST": "example.org",
        "HTTP_USER_AGENT": b"\xff",
        "HTTP_COOKIE": "a=b; c=d",
    }
    asked = request({"get": {"room_id": "7"}, "server": server, "cookie": {"a": "b", "c": "d"}})
    assert (asked.method, asked.path) == ("GET", "/chat")
    assert (asked.get("room_id"), asked.get("a")) == ("7", "é")
    assert asked.header("host") == "example.org"
    assert asked.header("user-agent")
    assert asked.cookie() == {"a": "b", "c": "d"}
    assert asked.remote_ip == "10.0.0.1"


def test_a_handshake_of_which_php_has_told_the_essence() -> None:
    asked = request({"get": {"room_id": "7 8", "more": ["1", "2"]}, "server": {}, "cookie": {"a": "b"}})
    assert asked.get("room_id") == "7 8"
    assert asked.cookie("a") == "b"
    assert request({"get": [], "server": [], "cookie": []}).path == "/"


@pytest.mark.parametrize("value", [None, "x", 7, [1]])
def test_no_handshake(value: Any) -> None:
    with pytest.raises(SerializeError, match="none"):
        request(value)


def test_an_object() -> None:
    with pytest.raises(SerializeError, match="an object"):
        phpevents.read(event(3, b'O:8:"stdClass":0:{}', 0), ID, 0)
