"""nginx in front, with the very block of the manual: TLS there, plain HTTP and WebSockets here, over tcp and unix."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

from tests.certs import Authority
from tests.conftest import PATIENCE, wait_until
from workermand.testing import RunningServer, running_server

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
pytestmark = [pytest.mark.real, pytest.mark.skipif(NGINX is None, reason="nginx is not installed")]

CLIENT = ("127.0.0.2", 0)
"""Where clients come from: nginx is 127.0.0.1."""
MANUAL = Path(__file__).parents[2] / "docs" / "manual.md"
AROUND = """
daemon off;
worker_processes 1;
{user}
pid {directory}/nginx.pid;
error_log {directory}/error.log info;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_max_body_size 20m;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    {block}
}}
"""
HANDLER = """
import hashlib

from workermand import Response, ServerSentEvents


def on_websocket_connected(connection, request):
    connection.send(request.remote_ip)


def on_message(connection, data):
    if isinstance(data, (str, bytes)):
        connection.send(data)
    elif data.path == "/events":
        connection.send(Response(200, {"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"}))
        connection.send(ServerSentEvents({"data": "first"}))
        connection.on_close = lambda connection: print("the listener has gone:", connection.close_reason, flush=True)
    else:
        connection.send({
            "ip": data.remote_ip,
            "peer": connection.get_remote_ip(),
            "secure": data.is_secure,
            "host": data.host(),
            "path": data.path,
            "connection": connection.id,
            "sum": hashlib.sha256(data.raw_body).hexdigest(),
        })
"""


class Nginx:
    def __init__(self, server: RunningServer, port: int, authority: Authority) -> None:
        self.server = server
        self.port = port
        self.context = authority.client()

    @contextlib.contextmanager
    def dial(self) -> Iterator[http.client.HTTPSConnection]:
        client = http.client.HTTPSConnection(
            "localhost", self.port, timeout=PATIENCE, context=self.context, source_address=CLIENT
        )
        with contextlib.closing(client):
            yield client

    def ask(self, method: str = "GET", path: str = "/", body: bytes = b"", **headers: str) -> Any:
        with self.dial() as client:
            client.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            with client.getresponse() as answer:
                assert answer.status == 200
                return json.loads(answer.read())

    def websocket(self, **options: Any) -> ClientConnection:
        return connect(f"wss://localhost:{self.port}/socket", ssl=self.context, source_address=CLIENT, **options)


@pytest.fixture(params=["tcp", "unix"])
def nginx(request: pytest.FixtureRequest, short_dir: Path, free_port: Callable[[], int]) -> Iterator[Nginx]:
    assert NGINX is not None
    listen = {"tcp": "http://127.0.0.1:0", "unix": f"unix://{short_dir}/web.sock"}[request.param]
    settings: dict[str, Any] = {"protocol": "http"} if request.param == "unix" else {}
    settings |= {"trusted_proxies": ["127.0.0.1"], "timeouts": {"keepalive": "75s"}}
    authority, port = Authority(short_dir), free_port()
    certificate, key = authority.issue("localhost")
    with running_server("behind", listen=listen, files={"behind.py": HANDLER}, **settings) as server:
        address = server.address
        upstream = f"unix:{address}" if isinstance(address, str) else f"127.0.0.1:{address[1]}"
        (block,) = re.findall(r"^```nginx\n(.*?)^```$", MANUAL.read_text(), re.MULTILINE | re.DOTALL)
        for of_the_manual, of_the_test in (
            ("127.0.0.1:8080", upstream),
            ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
            ("/etc/ssl/example.pem", str(certificate)),
            ("/etc/ssl/private/example.key", str(key)),
        ):
            assert block.count(of_the_manual) == 1
            block = block.replace(of_the_manual, of_the_test)
        user = "user root;" if os.geteuid() == 0 else ""  # it may use the unix socket
        file = short_dir / "nginx.conf"
        file.write_text(AROUND.format(directory=short_dir, block=block, user=user))
        process = subprocess.Popen([NGINX, "-p", str(short_dir), "-c", str(file), "-e", str(short_dir / "error.log")])
        try:
            made = Nginx(server, port, authority)
            wait_until("nginx answers", lambda: made.ask()["path"] == "/")
            yield made
        finally:
            process.terminate()
            process.wait(PATIENCE)


def test_who_asks_is_known(nginx: Nginx) -> None:
    answer = nginx.ask(path="/a")
    assert (answer["ip"], answer["secure"], answer["host"]) == ("127.0.0.2", True, "localhost")
    assert answer["peer"] == ("" if isinstance(nginx.server.address, str) else "127.0.0.1")
    claims = {"X_Forwarded_For": "192.0.2.66, 127.0.0.1", "X_Real_IP": "192.0.2.66"}
    assert nginx.ask(**claims)["ip"] == "127.0.0.2", "what a client claims is not believed"


def test_connections_are_kept(nginx: Nginx) -> None:
    with nginx.dial() as client:
        seen = set()
        for number in range(50):
            client.request("GET", f"/{number}")
            answer = json.loads(client.getresponse().read())
            assert answer["path"] == f"/{number}"
            seen.add(answer["connection"])
    assert len(seen) == 1


def test_a_large_upload(nginx: Nginx) -> None:
    body = os.urandom(8 << 20)
    assert nginx.ask("POST", "/upload", body)["sum"] == hashlib.sha256(body).hexdigest()


def test_a_websocket(nginx: Nginx) -> None:
    with nginx.websocket() as client:
        assert client.recv(PATIENCE) == "127.0.0.2"
        for message in ("grüße", os.urandom(200_000)):
            client.send(message)
            assert client.recv(PATIENCE) == message
        nginx.server.reload()
        with pytest.raises(Exception, match="1012"):
            client.recv(PATIENCE)


def test_events_and_their_end(nginx: Nginx) -> None:
    with nginx.dial() as client:
        client.request("GET", "/events")
        answer = client.getresponse()
        assert answer.getheader("Content-Type") == "text/event-stream"
        assert answer.readline() == b"data: first\n"
    nginx.server.wait_for("the listener has gone: closed by peer")
