"""TLS with real daemons and real clients: Python's ssl and openssl."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import pytest

from tests.certs import Authority
from workermand.testing import RunningServer, running_server


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def connect(server: RunningServer, context: ssl.SSLContext, host: str = "localhost") -> ssl.SSLSocket:
    return context.wrap_socket(server.connect(), server_hostname=host)


def ask(client: socket.socket, line: bytes) -> bytes:
    client.sendall(line + b"\n")
    with client.makefile("rb") as answers:
        return answers.readline().rstrip(b"\n")


def test_a_text_listener_speaks_tls(authority: Authority) -> None:
    cert, key = authority.issue()
    with running_server("apps.echo", tls={"cert": str(cert), "key": str(key)}) as server:
        with connect(server, authority.client()) as client:
            assert client.version() == "TLSv1.3"
            assert ask(client, b"hello") == b"hello"
