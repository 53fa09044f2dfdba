"""The echoes: one handler on lines, raw bytes and frames, datagrams, a unix socket."""

from __future__ import annotations

import socket

import pytest

from workermand.testing import running_server


@pytest.mark.parametrize(
    ("listen", "sent", "answer"),
    [
        ("text://127.0.0.1:0", "grüße\r\n\nsecond\n".encode(), "grüße\n\nsecond\n".encode()),
        ("text://[::1]:0", b"\xff\xf4\xff\xfd\x06\n", b"\xff\xf4\xff\xfd\x06\n"),
        ("tcp://127.0.0.1:0", b"no line end", b"no line end"),
        ("frame://127.0.0.1:0", b"\0\0\0\x09hello\0\0\0\x04", b"\0\0\0\x09hello\0\0\0\x04"),
    ],
)
def test_streams(listen: str, sent: bytes, answer: bytes) -> None:
    with running_server("apps.echo", listen=listen) as server, server.connect() as client:
        client.sendall(sent)
        assert client.makefile("rb").read(len(answer)) == answer


def test_datagrams() -> None:
    with running_server("apps.udp_echo", listen="udp://127.0.0.1:0") as server, server.connect() as client:
        client.send(b"one")
        client.send(b"two")
        assert [client.recv(100), client.recv(100)] == [b"one", b"two"]


def test_a_unix_socket() -> None:
    with running_server("apps.unix_echo", listen="unix://echo.sock") as server, server.connect() as client:
        assert client.family is socket.AF_UNIX
        client.sendall(b"\x00\xff\n")
        assert client.recv(100) == b"\x00\xff\n"
