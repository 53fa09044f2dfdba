"""Real servers, each a test's own: started on free ports, ended by pid."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.certs import Authority
from tests.conftest import PATIENCE, wait_until

SBIN = "/usr/sbin:/sbin"
NGINX = """
daemon off;
worker_processes 1;
{user}
pid {directory}/nginx.pid;
error_log {directory}/error.log info;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen 127.0.0.1:{port};
        listen 127.0.0.1:{tls_port} ssl;
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        root {directory}/html;
        location = /head {{ return 200 "$request|$http_host|$http_connection|$http_proxy_authorization|$http_x_keep"; }}
    }}
}}
"""


def find(program: str) -> str:
    """Its path. Skips the test (in CI: fails it) when it is not installed."""
    found = shutil.which(program) or shutil.which(program, path=SBIN)
    if found is None:
        pytest.skip(f"{program} is not installed")
    return found


def answers(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE):
        return True


@contextlib.contextmanager
def running(command: list[str], port: int, output: Path, **options: Any) -> Iterator[None]:
    """A server, from the moment it answers on ``port``."""
    with output.open("wb") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, **options)
    try:
        wait_until(f"{command[0]} answers", lambda: process.poll() is not None or answers(port))
        assert process.poll() is None, output.read_text()
        yield
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Web:
    """nginx, over http and https."""

    def __init__(self, directory: Path, port: int, tls_port: int, authority: Authority) -> None:
        self.html = directory / "html"
        self.port = port
        self.tls_port = tls_port
        self.ca = str(authority.file)


@pytest.fixture
def web(short_dir: Path, free_port: Callable[[], int]) -> Iterator[Web]:
    nginx = find("nginx")
    short_dir.chmod(0o755)
    authority = Authority(short_dir)
    server = Web(short_dir, free_port(), free_port(), authority)
    certificate, key = authority.issue("localhost")
    server.html.mkdir()
    (server.html / "small.txt").write_text("hello from nginx\n")
    (server.html / "large.bin").write_bytes(os.urandom(1 << 20) * 20)
    settings = NGINX.format(
        user="user root;" if os.geteuid() == 0 else "", directory=short_dir, port=server.port,
        tls_port=server.tls_port, certificate=certificate, key=key,
    )  # fmt: skip
    (short_dir / "nginx.conf").write_text(settings)
    command = [nginx, "-e", str(short_dir / "error.log"), "-c", str(short_dir / "nginx.conf")]
    with running(command, server.port, short_dir / "output.log"):
        yield server


@pytest.fixture
def mariadb(short_dir: Path, free_port: Callable[[], int]) -> Iterator[int]:
    """The port of a MariaDB with a user "app", whose password is "secret" and who may do everything."""
    install, daemon, port = find("mariadb-install-db"), find("mariadbd"), free_port()
    data, init, whose = short_dir / "data", short_dir / "init.sql", {}
    init.write_text(
        "CREATE USER 'app'@'%' IDENTIFIED BY 'secret';\nGRANT ALL ON *.* TO 'app'@'%';\nCREATE DATABASE shop;\n"
    )
    data.mkdir()
    short_dir.chmod(0o755)
    if os.geteuid() == 0:
        user = pwd.getpwnam("mysql")
        os.chown(data, user.pw_uid, user.pw_gid)
        whose = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    prepare = [
        install,
        "--no-defaults",
        f"--datadir={data}",
        "--skip-test-db",
        "--auth-root-authentication-method=normal",
    ]
    prepared = subprocess.run(prepare, check=False, capture_output=True, text=True, cwd=data, **whose)
    assert prepared.returncode == 0, prepared.stdout + prepared.stderr
    command = [
        daemon, "--no-defaults", f"--datadir={data}", f"--socket={data}/m.sock", f"--pid-file={data}/m.pid",
        f"--port={port}", "--bind-address=127.0.0.1", "--skip-name-resolve", f"--init-file={init}",
        "--innodb-buffer-pool-size=16M", "--max-allowed-packet=32M",
    ]  # fmt: skip
    with running(command, port, short_dir / "output.log", cwd=data, **whose):
        yield port
