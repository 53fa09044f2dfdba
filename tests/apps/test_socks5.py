"""apps.socks5: driven by curl, and by a small client for what curl cannot do."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.apps.conftest import Web
from workermand.testing import RunningServer, running_server

USER = {"user": "alice", "password": "open:sesame"}


def socks(**options: Any) -> contextlib.AbstractContextManager[RunningServer]:
    return running_server("apps.socks5", listen="tcp://127.0.0.1:0", options=options)


def curl(server: RunningServer, url: str, *options: str) -> subprocess.CompletedProcess[str]:
    proxy = f"127.0.0.1:{server.port}"
    command = ["curl", "--silent", "--show-error", "--max-time", "60", "--socks5-hostname", proxy, *options, url]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.real
def test_curl_without_a_user(web: Web) -> None:
    with socks() as server:
        for host in ("127.0.0.1", "localhost"):
            assert curl(server, f"http://{host}:{web.port}/small.txt").stdout == "hello from nginx\n"
        url = f"https://localhost:{web.tls_port}/small.txt"
        assert curl(server, url, "--cacert", web.ca).stdout == "hello from nginx\n"
        size = ["--output", "/dev/null", "--write-out", "%{size_download}"]
        assert curl(server, f"http://localhost:{web.port}/large.bin", *size).stdout == str(20 << 20)


@pytest.mark.real
def test_curl_with_a_user(web: Web) -> None:
    url = f"http://localhost:{web.port}/small.txt"
    with socks(**USER) as server:
        assert curl(server, url, "--proxy-user", "alice:open:sesame").stdout == "hello from nginx\n"
        for wrong in (["--proxy-user", "alice:open"], ["--proxy-user", "bob:open:sesame"], []):
            assert curl(server, url, *wrong).returncode == 97


def request(command: int, host: str, port: int) -> bytes:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return struct.pack(">BBBBB", 5, command, 0, 3, len(host)) + host.encode() + port.to_bytes(2, "big")
    kind = 1 if address.version == 4 else 4
    return bytes([5, command, 0, kind]) + address.packed + port.to_bytes(2, "big")


@contextlib.contextmanager
def greeted(server: RunningServer) -> Iterator[Any]:
    with server.connect() as client, client.makefile("rwb", buffering=0) as stream:
        stream.write(b"\x05\x01\x00")
        assert stream.read(2) == b"\x05\x00"
        yield stream


def test_what_is_refused(free_port: Callable[[], int]) -> None:
    with socks() as server:
        for asked, code in (
            (request(1, "127.0.0.1", free_port()), 5),
            (request(1, "::1", free_port()), 5),
            (request(1, "no such name", 80), 4),
            (request(1, "127.0.0.1", 0), 4),
            (request(2, "127.0.0.1", 80), 7),
            (b"\x05\x01\x00\x09", 8),
        ):
            with greeted(server) as stream:
                stream.write(asked)
                assert stream.read(10)[:2] == bytes([5, code]), asked
                assert stream.read(1) == b""
        with server.connect() as client:
            client.sendall(b"GET / HTTP/1.1\r\n" + b"x" * 100)
            assert client.makefile("rb").read() == b"\x05\xff"


def test_all_in_one_piece_and_byte_by_byte() -> None:
    with socks() as server, running_server("apps.echo") as echo:
        whole = b"\x05\x01\x00" + request(1, "localhost", echo.port) + b"hello\n"
        for pieces in ([whole], [whole[at : at + 1] for at in range(len(whole))]):
            with server.connect() as client:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for piece in pieces:
                    client.sendall(piece)
                stream = client.makefile("rb")
                assert stream.read(4) == b"\x05\x00\x05\x00"
                reserved, kind = stream.read(2)
                assert reserved == 0 and len(stream.read({1: 6, 4: 18}[kind])) > 0
                assert stream.readline() == b"hello\n"


def test_udp(free_port: Callable[[], int]) -> None:
    port_of_echo = free_port()
    listen = [f"udp://127.0.0.1:{port_of_echo}", f"udp://[::1]:{port_of_echo}"]  # localhost may be either
    with socks() as server, running_server("apps.udp_echo", listen=listen), greeted(server) as stream:
        stream.write(request(3, "0.0.0.0", 0))
        code, host, port = struct.unpack(">4s4sH", stream.read(10))
        assert code == b"\x05\x00\x00\x01"
        with socket.socket(type=socket.SOCK_DGRAM) as client, socket.socket(type=socket.SOCK_DGRAM) as stranger:
            client.settimeout(30)
            relay = (socket.inet_ntoa(host), port)
            for name in ("127.0.0.1", "::1", "localhost"):
                head = b"\0\0\0" + request(0, name, port_of_echo)[3:]
                client.sendto(b"\0\0\x01" + head[3:] + b"a fragment", relay)
                client.sendto(b"\0\0\0\x09", relay)
                client.sendto(head[:6], relay)
                client.sendto(head + b"hello", relay)
                assert client.recv(1000) == head + b"hello"
            stranger.bind(("127.0.0.1", 0))
            stranger.settimeout(30)
            stranger.sendto(head + b"from somebody else", relay)
            client.sendto(head + b"again", relay)
            assert client.recv(1000) == head + b"again"
        (process,) = server.status()["processes"]
        assert process["exceptions"] == 0
