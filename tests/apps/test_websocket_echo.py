"""apps.websocket_echo, with the websockets package as the client."""

from __future__ import annotations

from websockets.sync.client import connect

from workermand.testing import running_server


def test_text_and_binary() -> None:
    with running_server("apps.websocket_echo", listen="websocket://127.0.0.1:0") as server:
        with connect(f"ws://127.0.0.1:{server.port}/", compression=None) as client:
            for message in ("grüße", "", b"\0\xff", "x" * 200_000):
                client.send(message)
                assert client.recv(timeout=30) == message
