"""A Register's listener for PHP, line by line. With gateways: test_visitors.py."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from tests.services.gateway.conftest import ports
from tests.services.gateway.test_register import register


@contextlib.contextmanager
def listening(key: str = "") -> Iterator[int]:
    with ports(1) as port:
        php = {"listen": f"text://127.0.0.1:{port}", "secret_key": key}
        with register(options={"php": php}):
            yield port


def test_addresses_are_told_when_they_change() -> None:
    with listening("swordfish") as port, socket.create_connection(("127.0.0.1", port), 60) as worker:
        lines = worker.makefile("rb")
        worker.sendall(b'{"event":"worker_connect","secret_key":"swordfish"}\n')
        assert lines.readline() == b'{"event":"broadcast_addresses","addresses":[]}\n'
        with socket.create_connection(("127.0.0.1", port), 60) as gateway:
            gateway.sendall(b'{"event":"gateway_connect", "address":"10.0.0.9:2900", "secret_key":"swordfish"}\n')
            assert lines.readline() == b'{"event":"broadcast_addresses","addresses":["10.0.0.9:2900"]}\n'
            gateway.sendall(b'{"event":"ping"}\n')
        assert lines.readline() == b'{"event":"broadcast_addresses","addresses":[]}\n'


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"GET / HTTP/1.1",
        b"\xff",
        b'{"event":"worker_connect","secret_key":"wrong"}',
        b'{"event":"gateway_connect","address":"10.0.0.9:2900"}',
        b'{"event":"gateway_connect","secret_key":"swordfish"}',
        b'{"event":"nothing","secret_key":"swordfish"}',
    ],
)
def test_others_are_refused(line: bytes) -> None:
    with listening("swordfish") as port, socket.create_connection(("127.0.0.1", port), 60) as sock:
        sock.sendall(line + b"\n")
        assert sock.recv(100) == b""
