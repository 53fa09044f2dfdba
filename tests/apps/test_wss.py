"""apps.wss: what is said comes back, encrypted, to a client that believes the authority, and to nobody else."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from websockets.sync.client import connect

from tests.certs import Authority
from tests.conftest import PATIENCE
from workermand.testing import running_server


def test_a_client_that_believes_the_authority(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    cert, key = authority.issue()
    with running_server("apps.wss", listen="wss://127.0.0.1:0", tls={"cert": str(cert), "key": str(key)}) as server:
        url = f"wss://localhost:{server.port}/"
        with connect(url, ssl=authority.client()) as client:
            assert isinstance(client.socket, ssl.SSLSocket)
            cipher = client.socket.cipher()
            assert cipher is not None
            assert client.recv(PATIENCE) == f"{client.socket.version()}, {cipher[0]}"
            for message in ("grüße", "", b"\0\xff", "x" * 200_000):
                client.send(message)
                assert client.recv(PATIENCE) == message
        with pytest.raises(ssl.SSLCertVerificationError):
            connect(url, ssl=ssl.create_default_context())


def test_without_tls_it_says_so() -> None:
    with running_server("apps.wss", listen="websocket://127.0.0.1:0") as server:
        with connect(f"ws://127.0.0.1:{server.port}/") as client:
            assert client.recv(PATIENCE) == "not encrypted"
