"""The scope, key by key, as ASGI 3.0 has it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from tests.services.probe import curl, serving
from workermand import ConnectionLost
from workermand.services.scope import says_client_has_gone
from workermand.testing import RunningServer


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with serving(options={"root_path": "/shop/"}, trusted_proxies=["127.0.0.1"]) as running:
        yield running


def of_http(server: RunningServer, path: str, *arguments: str) -> dict[str, Any]:
    scope: dict[str, Any] = json.loads(curl(server, path, *arguments)[2])
    return scope


def test_the_whole_of_it(server: RunningServer) -> None:
    with server.connect() as client:
        client.sendall(
            b"GET /scope/a%2Fb%C3%BC?x=%31&y HTTP/1.1\r\nHost: a\r\nX-Two: 1  \r\nx-two: 2\r\nConnection: close\r\n\r\n"
        )
        port = client.getsockname()[1]
        received = b""
        while piece := client.recv(65536):
            received += piece
    assert json.loads(received.partition(b"\r\n\r\n")[2]) == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/shop/scope/a/bü",
        "raw_path": "bytes:/shop/scope/a%2Fb%C3%BC",
        "query_string": "bytes:x=%31&y",
        "root_path": "/shop",
        "headers": [
            ["bytes:host", "bytes:a"],
            ["bytes:x-two", "bytes:1"],
            ["bytes:x-two", "bytes:2"],
            ["bytes:connection", "bytes:close"],
        ],
        "client": ["127.0.0.1", port],
        "server": ["127.0.0.1", server.port],
        "state": {"started": ["yes"]},
        "extensions": {"http.response.pathsend": {}},
    }


def test_behind_a_proxy_that_is_trusted(server: RunningServer) -> None:
    scope = of_http(server, "/scope", "--header", "X-Forwarded-For: 192.0.2.7")
    assert scope["client"] == ["192.0.2.7", 0]


def test_a_websocket_has_its_own(server: RunningServer) -> None:
    with connect(
        f"ws://127.0.0.1:{server.port}/scope?a=1", subprotocols=[Subprotocol("one"), Subprotocol("two")]
    ) as client:
        scope = json.loads(client.recv())
    assert (scope["type"], scope["scheme"], scope["subprotocols"]) == ("websocket", "ws", ["one", "two"])
    assert (scope["path"], scope["query_string"]) == ("/shop/scope", "bytes:a=1")
    assert scope["extensions"] == {"websocket.http.response": {}}
    assert "method" not in scope


def test_over_a_unix_socket_a_client_has_no_name(short_dir: Path) -> None:
    path = short_dir / "asgi.sock"
    with serving(listen=f"unix://{path}", protocol="http"):
        command = ["curl", "--silent", "--max-time", "60", "--unix-socket", str(path), "http://a/scope"]
        scope = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert (scope["client"], scope["server"]) == (None, [str(path), None])


def test_what_frameworks_raise_when_a_client_has_gone() -> None:
    class ClientDisconnect(Exception):
        pass

    assert says_client_has_gone(ClientDisconnect())
    assert says_client_has_gone(ConnectionLost())
    assert not says_client_has_gone(KeyError())
