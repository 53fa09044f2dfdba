"""apps.http_proxy: driven by curl, in front of a real nginx."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable, Iterator

import pytest

from tests.apps.conftest import Web
from workermand.testing import RunningServer, running_server

LISTEN = "tcp://127.0.0.1:0"


@pytest.fixture
def server(web: Web) -> Iterator[RunningServer]:
    with running_server("apps.http_proxy", listen=LISTEN, options={"connect_ports": [web.tls_port]}) as server:
        yield server


def curl(server: RunningServer, *options: str) -> str:
    command = ["curl", "--silent", "--show-error", "--max-time", "60", "--proxy", f"http://127.0.0.1:{server.port}"]
    return subprocess.run([*command, *options], capture_output=True, text=True, check=True).stdout


@pytest.mark.real
def test_what_is_passed_on(server: RunningServer, web: Web) -> None:
    headers = ["--header", "Proxy-Authorization: secret", "--header", "X-Keep: kept", "--header", "Connection: X-Drop"]
    url = f"http://127.0.0.1:{web.port}"
    shown = f"GET /head?a=1 HTTP/1.1|127.0.0.1:{web.port}|close||kept"
    assert curl(server, *headers, f"{url}/head?a=1") == shown
    assert curl(server, "--http1.0", *headers, f"{url}/head?a=1") == shown
    both = curl(server, f"{url}/small.txt", f"http://localhost:{web.port}/small.txt")
    assert both == "hello from nginx\n" * 2
    size = curl(server, "--output", "/dev/null", "--write-out", "%{size_download}", f"{url}/large.bin")
    assert size == str(20 << 20)


@pytest.mark.real
def test_a_tunnel_for_https(server: RunningServer, web: Web) -> None:
    url = f"https://localhost:{web.tls_port}"
    assert curl(server, "--cacert", web.ca, f"{url}/small.txt", f"{url}/small.txt") == "hello from nginx\n" * 2


@pytest.mark.real
def test_a_tunnel_to_a_port_that_is_not_allowed(server: RunningServer, web: Web) -> None:
    url = f"http://127.0.0.1:{web.port}/small.txt"
    command = ["curl", "--silent", "--proxytunnel", "--proxy", f"http://127.0.0.1:{server.port}"]
    code = subprocess.run(
        [*command, "--write-out", "%{http_connect}", url], capture_output=True, text=True, check=False
    )
    assert code.stdout == "403"


def test_what_is_refused(free_port: Callable[[], int]) -> None:
    with running_server("apps.http_proxy", listen=LISTEN) as server:
        for request, status in (
            (b"GET / HTTP/1.1\r\n\r\n", b"400"),
            (b"GET http:///x HTTP/1.1\r\n\r\n", b"400"),
            (b"GET http://user@host/ HTTP/1.1\r\n\r\n", b"400"),
            (b"GET http://a/ HTTP/1.1\r\n folded\r\n\r\n", b"400"),
            (b"GET http://a/ HTTP/1.1\r\nX: 1\nY: 2\r\n\r\n", b"400"),
            (b"CONNECT a HTTP/1.1\r\n\r\n", b"400"),
            (b"CONNECT a:25 HTTP/1.1\r\n\r\n", b"403"),
            (b"CONNECT a:%s HTTP/1.1\r\n\r\n" % (b"9" * 9000), b"403"),
            (b"GET http://127.0.0.1:%d/ HTTP/1.1\r\n\r\n" % free_port(), b"502"),
            (b"x" * 40_000, b"431"),
        ):
            with server.connect() as client:
                client.sendall(request)
                client.shutdown(socket.SHUT_WR)
                assert client.makefile("rb").readline().startswith(b"HTTP/1.1 " + status), request
