"""From HTTP to WebSocket, seen by the handler: callbacks, order, refusals."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.worker.scene import Scene
from workermand.errors import CloseReason
from workermand.http.request import Request
from workermand.http.response import Response
from workermand.protocols.websocket import BINARY_TYPE_ARRAYBUFFER
from workermand.protocols.wsframe import Close, frame
from workermand.spec import WebSocketSpec
from workermand.testing import MemoryTransport
from workermand.worker.connection import Connection
from workermand.worker.web import UpgradingWeb, Web

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    made.close()


def asking(*headers: str) -> bytes:
    lines = [
        "GET /chat?room=1 HTTP/1.1",
        "Host: example.com",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {KEY}",
        "Sec-WebSocket-Version: 13",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def said(payload: str | bytes, opcode: int = 0) -> bytes:
    data = payload.encode() if isinstance(payload, str) else payload
    return frame(opcode or (0x81 if isinstance(payload, str) else 0x82), data, True)


def connect(scene: Scene, *, only: bool = True, upgrades: bool = True) -> tuple[Connection, MemoryTransport]:
    return scene.connect(UpgradingWeb() if only else Web(upgrades=upgrades))


def test_the_callbacks_in_their_order_and_what_came_with_the_request(scene: Scene) -> None:
    def before(connection: Connection, request: Request) -> None:
        assert connection.handshake is not None
        connection.handshake.headers.append(("X-Room", str(request.get("room"))))
        scene.log.append("connect")

    def after(connection: Connection, request: Request) -> None:
        scene.log.append(("connected", request.path))
        connection.send("welcome")

    scene.on(on_websocket_connect=before, on_websocket_connected=after)
    scene.on(on_message=lambda connection, data: scene.log.append(data))
    connection, transport = connect(scene)
    transport.receive(asking() + said("one") + said(b"two"))
    assert scene.log == ["connect", ("connected", "/chat"), "one", b"two"]
    head, _, rest = transport.sent.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    assert ACCEPT in head
    assert b"\r\nX-Room: 1" in head
    assert rest == frame(0x81, b"welcome")
    assert connection.handshake is None


def test_a_refusal_in_words(scene: Scene) -> None:
    def before(connection: Connection, request: Request) -> None:
        assert connection.handshake is not None
        connection.handshake.refuse(401, "Log in first.", [("WWW-Authenticate", "Basic")])

    scene.on(on_websocket_connect=before)
    connection, transport = connect(scene)
    transport.receive(asking() + said("too early"))
    assert transport.sent.startswith(b"HTTP/1.1 401 Unauthorized\r\n")
    assert b"\r\nWWW-Authenticate: Basic\r\n" in transport.sent
    assert transport.sent.endswith(b"\r\n\r\nLog in first.\n")
    assert connection.close_reason is CloseReason.UPGRADE_REFUSED


def test_a_refusal_by_an_answer_of_ones_own(scene: Scene) -> None:
    scene.on(on_websocket_connect=lambda connection, request: connection.send(Response(418)))
    connection, transport = connect(scene)
    transport.receive(asking())
    assert transport.sent.startswith(b"HTTP/1.1 418 ")
    assert connection.close_reason is CloseReason.UPGRADE_REFUSED


def test_a_handler_that_fails_before_the_101(scene: Scene) -> None:
    def before(connection: Connection, request: Request) -> None:
        raise RuntimeError("no")

    scene.on(on_websocket_connect=before)
    connection, transport = connect(scene)
    transport.receive(asking())
    assert transport.sent.startswith(b"HTTP/1.1 500 ")
    assert scene.failures == [("on_websocket_connect", "RuntimeError: no")]
    assert connection.close_reason is CloseReason.HANDLER_ERROR


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (GET, b"426 Upgrade Required"),
        (asking().replace(b": 13", b": 12"), b"426 Upgrade Required"),
        (asking().replace(KEY.encode(), b"short"), b"400 Bad Request"),
        (asking("Origin: https://evil.example"), b"403 Forbidden"),
    ],
)
def test_what_is_no_upgrade_for_us(scene: Scene, sent: bytes, status: bytes) -> None:
    scene.worker.websocket = WebSocketSpec(origins=("https://example.com",))
    connection, transport = connect(scene)
    transport.receive(sent)
    assert transport.sent.startswith(b"HTTP/1.1 " + status)
    assert b"\r\nConnection: close\r\n" in transport.sent
    assert connection.close_reason is CloseReason.UPGRADE_REFUSED


def test_one_port_for_both(scene: Scene) -> None:
    def answer(connection: Connection, data: Any) -> None:
        connection.send(data if isinstance(data, str) else "a page")

    scene.on(on_message=answer)
    _connection, transport = connect(scene, only=False)
    transport.receive(GET)
    assert transport.sent.endswith(b"\r\n\r\na page")
    transport.receive(asking() + said("hi"))
    assert transport.sent.endswith(frame(0x81, b"hi"))


def test_without_on_message_a_page_is_not_found(scene: Scene) -> None:
    connection, transport = connect(scene, only=False)
    transport.receive(GET)
    assert transport.sent.startswith(b"HTTP/1.1 404 Not Found\r\n")
    assert connection.close_reason is None


def test_async_callbacks_keep_the_order(scene: Scene) -> None:
    async def say(connection: Connection, *arguments: Any) -> None:
        await asyncio.sleep(0)
        scene.log.append(arguments[0] if isinstance(arguments[0], (str, int)) else arguments[0].path)
        if isinstance(arguments[0], Request) and arguments[0].path == "/":
            connection.send("a page")

    scene.on(on_message=say, on_websocket_connect=say, on_websocket_close=say)
    scene.on(on_websocket_connected=lambda connection, request: scene.log.append("connected"))

    async def talk() -> None:
        connection, transport = connect(scene, only=False)
        transport.receive(GET + asking() + said("one"))
        transport.receive(said("two") + said(b"\x03\xe8", 0x88))
        while connection.close_reason is None:  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert b"a page" in transport.sent
        assert transport.sent.endswith(frame(0x88, b"\x03\xe8"))
        assert connection.close_reason is CloseReason.WEBSOCKET_CLOSED

    scene.run(talk())
    assert scene.log == ["/", "/chat", "connected", "one", "two", 1000]


def test_pings_are_answered_unless_the_handler_does(scene: Scene) -> None:
    connection, transport = connect(scene)
    transport.receive(asking() + said(b"a", 0x89))
    assert transport.sent.endswith(frame(0x8A, b"a"))
    scene.log.clear()
    connection.on_websocket_ping = lambda _connection, data: scene.log.append(("ping", data))
    connection.on_websocket_pong = lambda _connection, data: scene.log.append(("pong", data))
    before = transport.sent
    transport.receive(said(b"b", 0x89) + said(b"c", 0x8A))
    assert scene.log == [("ping", b"b"), ("pong", b"c")]
    assert transport.sent == before


def test_a_close_that_a_message_comes_before(scene: Scene) -> None:
    scene.on(on_message=lambda connection, data: connection.send(data))
    scene.on(on_websocket_close=lambda connection, code, reason: scene.log.append((code, reason)))
    connection, transport = connect(scene)
    transport.receive(asking() + said("last") + said(Close(4000, "bye").payload, 0x88) + said("unread"))
    assert transport.sent.endswith(frame(0x81, b"last") + frame(0x88, Close(4000, "bye").payload))
    assert scene.log == [(4000, "bye")]
    assert connection.close_reason is CloseReason.WEBSOCKET_CLOSED


@pytest.mark.parametrize("said_before", [False, True])
def test_after_our_close_it_is_the_clients_turn(scene: Scene, said_before: bool) -> None:
    """Also when it is the handler's: what the client answers must not be met with a reset."""
    own = Close(4001, "as you say")
    scene.on(on_message=lambda connection, _data: connection.close(own) if said_before else connection.close())
    connection, transport = connect(scene)
    transport.receive(asking() + said("go"))
    assert transport.eof_sent and transport.is_reading() and not transport.is_closing()
    assert connection.close_reason is CloseReason.CLOSED
    transport.receive(said(own.payload, 0x88))
    transport.receive_eof()
    assert not scene.worker.connections


def test_a_close_that_both_have_said_ends_it(scene: Scene) -> None:
    scene.on(on_message=lambda connection, _data: connection.send(Close()))
    connection, transport = connect(scene)
    transport.receive(asking() + said("go"))
    assert connection.close_reason is None
    transport.receive(said(b"", 0x88))
    assert transport.is_closing() and connection.close_reason is CloseReason.WEBSOCKET_CLOSED


def test_websocket_type_may_be_set_before(scene: Scene) -> None:
    connection, transport = connect(scene)
    connection.websocket_type = BINARY_TYPE_ARRAYBUFFER
    transport.receive(asking())
    connection.send("text")
    assert transport.sent.endswith(frame(0x82, b"text"))
    connection.websocket_type = None
    connection.send("text")
    assert transport.sent.endswith(frame(0x81, b"text"))
    with pytest.raises(ValueError, match="websocket_type"):
        connection.websocket_type = 3


def test_a_broadcast_goes_to_all_but_some(scene: Scene) -> None:
    clients = [connect(scene) for _ in range(3)]
    for _connection, transport in clients:
        transport.receive(asking())
    _page, page_transport = connect(scene, only=False)
    lengths = [len(transport.sent) for _connection, transport in clients]
    assert scene.worker.broadcast("news", exclude=[clients[0][0]]) == 2
    said_now = [transport.sent[length:] for (_, transport), length in zip(clients, lengths, strict=True)]
    assert said_now == [b"", frame(0x81, b"news"), frame(0x81, b"news")]
    assert page_transport.sent == b""


def test_the_101_brings_the_cookie_of_a_session(scene: Scene, tmp_path: Path) -> None:
    def before(connection: Connection, request: Request) -> None:
        request.session["user"] = "ann"

    scene.worker.state_dir = str(tmp_path)
    scene.on(on_websocket_connect=before, on_websocket_connected=lambda _, request: scene.log.append(request.session))
    _connection, transport = connect(scene)
    transport.receive(asking())
    head = bytes(transport.sent)
    assert head.startswith(b"HTTP/1.1 101 ")
    assert head.count(b"\r\nSet-Cookie: WMSESSID=") == 1
    assert scene.log[0].all() == {"user": "ann"} and (tmp_path / "sessions" / scene.log[0].id).exists()


def test_a_session_that_cannot_be_kept_refuses_the_upgrade(scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "sessions").touch()
    scene.worker.state_dir = str(tmp_path)
    scene.on(on_websocket_connect=lambda _, request: request.session.put("user", "ann"))
    _connection, transport = connect(scene)
    transport.receive(asking())
    assert transport.sent.startswith(b"HTTP/1.1 503 ")
