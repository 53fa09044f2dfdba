"""One WebSocket of an ASGI application, from both ends."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from tests.services.probe import curl, serving
from workermand.testing import RunningServer


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with serving() as running:
        yield running


def dial(server: RunningServer, path: str, **settings: Any) -> ClientConnection:
    return connect(f"ws://127.0.0.1:{server.port}{path}", open_timeout=60, close_timeout=60, **settings)


def close_of(client: ClientConnection) -> tuple[int, str]:
    """What the server's Close says."""
    with pytest.raises(ConnectionClosed) as closed:
        client.recv(timeout=60)
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code, closed.value.rcvd.reason


def exceptions(server: RunningServer) -> int:
    return sum(process["exceptions"] for process in server.status()["processes"])


def test_text_and_bytes_go_both_ways_and_the_code_of_the_end_arrives(server: RunningServer) -> None:
    before = exceptions(server)
    with dial(server, "/echo", subprotocols=[Subprotocol("first"), Subprotocol("last")]) as client:
        assert client.response is not None
        assert (client.subprotocol, client.response.headers["x-greeting"]) == ("last", "hello")
        assert client.recv() == "welcome"
        for message in ("grüße", b"\x00\xff", "", b"", "x" * 100_000):
            client.send(message)
            assert client.recv() == message
        client.close(4007, "that is all")
    server.wait_for("disconnected: 4007 that is all")
    server.wait_for("still: websocket.disconnect")
    server.wait_for("send has raised ConnectionLost")
    assert exceptions(server) == before


def test_a_client_that_breaks_off_is_a_1006(server: RunningServer) -> None:
    with dial(server, "/echo") as client:
        assert client.recv() == "welcome"
        client.socket.shutdown(socket.SHUT_RDWR)
    server.wait_for("disconnected: 1006 closed by peer")


def test_the_application_closes(server: RunningServer) -> None:
    with dial(server, "/closes") as client:
        client.send("go")
        assert close_of(client) == (4321, "enough")
    server.wait_for("closed: 4321")


def test_an_application_that_returns_has_closed(server: RunningServer) -> None:
    with dial(server, "/scope") as client:
        scope = json.loads(client.recv())
        assert (scope["type"], scope["scheme"], scope["path"], scope["subprotocols"]) == (
            "websocket",
            "ws",
            "/scope",
            [],
        )
        assert close_of(client)[0] == 1000


@pytest.mark.parametrize(("path", "status", "body"), [("/refuses", 403, "Refused.\n"), ("/denies", 401, "no ticket")])
def test_a_refusal_is_an_answer(server: RunningServer, path: str, status: int, body: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        dial(server, path)
    response = refused.value.response
    assert (response.status_code, response.body.decode()) == (status, body)
    if path == "/denies":
        assert response.headers["x-why"] == "no ticket"


def test_faults_are_told_logged_and_counted(server: RunningServer) -> None:
    before = exceptions(server)
    for path in ("/fails", "/says_nothing"):
        with pytest.raises(InvalidStatus) as refused:
            dial(server, path)
        assert refused.value.response.status_code == 500
    server.wait_for("KeyError: 'fails at once'")
    server.wait_for("neither accepted nor refused")
    with dial(server, "/fails_late") as client:
        assert close_of(client)[0] == 1011
    server.wait_for("KeyError: 'fails late'")
    with dial(server, "/fails_when_gone"):
        pass
    server.wait_for("KeyError: 'fails when gone'")
    assert exceptions(server) == before + 4


def test_what_is_not_its_turn_is_refused(server: RunningServer) -> None:
    with pytest.raises(InvalidStatus) as refused:
        dial(server, "/out_of_turn")
    assert refused.value.response.status_code == 500
    server.wait_for("accept has returned")
    server.wait_for("then 1006")


def test_a_client_that_goes_before_it_is_accepted(server: RunningServer) -> None:
    with server.connect() as client:
        client.sendall(
            b"GET /hesitates HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        server.wait_for("hesitating")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    server.wait_for("hesitated: websocket.disconnect 1006")


def test_an_application_that_takes_nothing_holds_its_client_back(
    server: RunningServer, eventually: Callable[..., Any]
) -> None:
    with dial(server, "/lazy") as client:
        client.send(b"x")
        client.socket.settimeout(1)
        sent = 1
        try:
            while True:
                assert sent < 100 << 20, "the client is not held back"
                client.send(bytes(100_000))
                sent += 100_000
        except (TimeoutError, ConnectionClosed):
            pass
        connections = json.loads(server.ctl("connections", "--json").stdout)
        assert "websocket" in json.dumps(connections)
    curl(server, "/take")


def test_clients_are_told_to_come_back_when_the_process_ends() -> None:
    with serving() as server:
        with dial(server, "/echo") as client:
            assert client.recv() == "welcome"
            server.reload()
            assert close_of(client)[0] == 1012
        server.wait_for("disconnected: 10(12|06)")
        server.wait_for("the application has ended")
