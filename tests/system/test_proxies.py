"""The PROXY protocol as a real haproxy speaks it, before text, http, websocket and TLS."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import websockets.sync.client

from tests.certs import Authority
from tests.conftest import PATIENCE, wait_until
from workermand.testing import RunningServer, running_server

HAPROXY = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
BY_HAPROXY = [pytest.mark.real, pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed")]
VERSIONS = [pytest.param(how, marks=BY_HAPROXY) for how in ("send-proxy", "send-proxy-v2")]

WHO = """
def on_connect(connection):
    connection.context = connection.get_remote_address()
def on_message(connection, message):
    if hasattr(message, "remote_ip"):
        connection.send({"ip": message.remote_ip, "address": connection.context})
    else:
        connection.send(f"{message} {connection.context}")
"""
SETTINGS = """
defaults
    mode tcp
    timeout connect 30s
    timeout client 60s
    timeout server 60s
"""


@dataclass
class Haproxy:
    """In front of each server one IPv4 and one IPv6 address."""

    process: subprocess.Popen[bytes]
    ports: list[tuple[int, int]]

    def dial(self, which: int = 0, *, ipv6: bool = False) -> socket.socket:
        return socket.create_connection(("::1" if ipv6 else "127.0.0.1", self.ports[which][ipv6]), PATIENCE)


@contextlib.contextmanager
def haproxy(directory: Path, how: str, servers: list[str]) -> Iterator[Haproxy]:
    """It listens on sockets of ours, so that it is reached from the beginning, and ports are nobody else's."""
    assert HAPROXY is not None
    with contextlib.ExitStack() as stack:
        text, fds, ports = SETTINGS, [], []
        for number, server in enumerate(servers):
            four = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            six = stack.enter_context(socket.create_server(("::1", 0), family=socket.AF_INET6))
            fds += [four.fileno(), six.fileno()]
            ports.append((four.getsockname()[1], six.getsockname()[1]))
            text += f"listen l{number}\n    bind fd@{four.fileno()}\n    bind fd@{six.fileno()}\n"
            text += f"    server s{number} {server} {how}\n"
        file = directory / "haproxy.cfg"
        file.write_text(text)
        process = subprocess.Popen([HAPROXY, "-db", "-f", str(file)], pass_fds=fds)
        try:
            yield Haproxy(process, ports)
        finally:
            process.kill()
            process.wait()


def ask(client: socket.socket, line: bytes = b"hello") -> tuple[str, str]:
    """The answer, and who it should have been for."""
    host, port = client.getsockname()[:2]
    client.sendall(line + b"\n")
    with client.makefile("rb") as answers:
        answer = answers.readline().decode().rstrip()
    return answer, f"{line.decode()} " + (f"[{host}]:{port}" if ":" in host else f"{host}:{port}")


def closed(server: RunningServer) -> dict[str, int]:
    found: dict[str, int] = server.status()["processes"][0]["closed"]
    return found


def serving(listen: str | list[str], **more: Any) -> contextlib.AbstractContextManager[RunningServer]:
    settings = {"proxy_protocol": True, "trusted_proxies": ["127.0.0.1"], **more}
    return running_server("who", listen=listen, files={"who.py": WHO}, **settings)


@pytest.mark.parametrize("how", VERSIONS)
def test_text_over_tcp_and_a_unix_socket(how: str, short_dir: Path) -> None:
    path = short_dir / "s"
    with (
        serving(["tcp://127.0.0.1:0", f"unix://{path}"], protocol="text") as server,
        haproxy(short_dir, how, [f"127.0.0.1:{server.port}", f"unix@{path}"]) as proxy,
    ):
        for which, ipv6 in itertools.product((0, 1), (False, True)):
            with proxy.dial(which, ipv6=ipv6) as client:
                answer, expected = ask(client)
                assert answer == expected
                (row,) = server.ask("connections")["connections"]
                assert answer == f"hello {row['remote']}"
                answer, expected = ask(client, b"again")
                assert answer == expected
            wait_until("it is gone", lambda: not server.ask("connections")["connections"])


@pytest.mark.parametrize("how", VERSIONS)
def test_http(how: str, short_dir: Path) -> None:
    with serving("http://127.0.0.1:0") as server, haproxy(short_dir, how, [f"127.0.0.1:{server.port}"]) as proxy:
        for ipv6, ip in ((False, "127.0.0.1"), (True, "::1")):
            client = http.client.HTTPConnection("x", timeout=PATIENCE)
            client.sock = proxy.dial(ipv6=ipv6)
            address = "[::1]" if ipv6 else ip
            for _ in range(2):
                client.request("GET", "/")
                said = json.loads(client.getresponse().read())
                assert said == {"ip": ip, "address": f"{address}:{client.sock.getsockname()[1]}"}
            client.close()


@pytest.mark.parametrize("how", VERSIONS)
def test_websocket(how: str, short_dir: Path) -> None:
    with serving("websocket://127.0.0.1:0") as server, haproxy(short_dir, how, [f"127.0.0.1:{server.port}"]) as proxy:
        sock = proxy.dial(ipv6=True)
        expected = f"hello [::1]:{sock.getsockname()[1]}"
        with websockets.sync.client.connect("ws://x/", sock=sock, open_timeout=PATIENCE) as client:
            client.send("hello")
            assert client.recv(PATIENCE) == expected


@pytest.mark.parametrize("how", VERSIONS)
def test_tls(how: str, short_dir: Path) -> None:
    """haproxy hands on what the client has encrypted, and speaks before it."""
    authority = Authority(short_dir)
    certificate, key = authority.issue()
    with (
        serving("text://127.0.0.1:0", tls={"cert": str(certificate), "key": str(key)}) as server,
        haproxy(short_dir, how, [f"127.0.0.1:{server.port}"]) as proxy,
        authority.client().wrap_socket(proxy.dial(), server_hostname="localhost") as client,
    ):
        answer, expected = ask(client)
        assert answer == expected


def test_without_a_header_or_from_elsewhere_there_is_no_way_in(short_dir: Path) -> None:
    with serving("text://127.0.0.1:0") as server:
        with server.connect() as client:
            client.sendall(b"hello\n")
            wait_until("it is counted", lambda: closed(server).get("PROXY header missing or malformed") == 1)
        with server.connect() as client:
            client.sendall(b"PROXY TCP4 192.0.2.1 192.0.2.2 5555 80\r\nhello\n")
            assert client.recv(100) == b"hello 192.0.2.1:5555\n"
    with serving("text://127.0.0.1:0", trusted_proxies=["192.0.2.1"]) as server, server.connect():
        wait_until("it is counted", lambda: closed(server).get("PROXY header not allowed from here") == 1)


@pytest.mark.parametrize("how", VERSIONS)
def test_a_haproxy_that_is_not_trusted(how: str, short_dir: Path) -> None:
    with (
        serving("text://127.0.0.1:0", trusted_proxies=["192.0.2.1"]) as server,
        haproxy(short_dir, how, [f"127.0.0.1:{server.port}"]) as proxy,
        proxy.dial() as client,
    ):
        client.sendall(b"hello\n")
        wait_until("it is counted", lambda: closed(server).get("PROXY header not allowed from here", 0) >= 1)
