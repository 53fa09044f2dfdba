"""apps.tcp_proxy: in front of a real nginx."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.apps.conftest import Web
from tests.conftest import wait_until
from workermand.testing import RunningServer, running_server

MIB = 1024 * 1024


def proxy(port: int) -> contextlib.AbstractContextManager[RunningServer]:
    options = {"upstream": f"127.0.0.1:{port}"}
    return running_server("apps.tcp_proxy", listen="tcp://127.0.0.1:0", options=options)


@pytest.mark.real
def test_files_of_nginx(web: Web) -> None:
    expected = hashlib.sha256((web.html / "large.bin").read_bytes()).hexdigest()

    def fetch(number: int) -> str:
        command = ["curl", "--silent", "--fail", "--max-time", "60", f"http://127.0.0.1:{server.port}/large.bin"]
        if number == 0:  # a slow one does not hold up the others
            command[1:1] = ["--limit-rate", "20M"]
        return hashlib.sha256(subprocess.run(command, capture_output=True, check=True).stdout).hexdigest()

    with proxy(web.port) as server, ThreadPoolExecutor(4) as pool:
        assert set(pool.map(fetch, range(8))) == {expected}


@pytest.mark.real
def test_half_of_a_connection_ends_before_the_other(web: Web) -> None:
    """As `nc -N` has it."""
    with proxy(web.port) as server, server.connect() as client:
        client.sendall(b"GET /small.txt HTTP/1.0\r\n\r\n")
        client.shutdown(socket.SHUT_WR)
        assert client.makefile("rb").read().endswith(b"\r\n\r\nhello from nginx\n")


def test_a_slow_side_slows_the_other_down() -> None:
    """An upstream that does not read: the proxy holds limits.send_buffer, and takes no more."""
    with socket.create_server(("127.0.0.1", 0)) as upstream:
        with proxy(upstream.getsockname()[1]) as server, server.connect() as client:
            total = 64 * MIB
            sending = threading.Thread(target=send_all, args=(client, total))
            sending.start()
            peer, _ = upstream.accept()
            with peer:
                server_holds(server)
                received = 0
                while data := peer.recv(MIB):
                    received += len(data)
                peer.sendall(b"got it")
            sending.join()
            assert received == total
            assert client.makefile("rb").read() == b"got it"


def send_all(client: socket.socket, total: int) -> None:
    client.sendall(bytes(total))
    client.shutdown(socket.SHUT_WR)


def server_holds(server: RunningServer) -> None:
    """Once its buffer is full it is full, and no fuller."""

    def rows() -> list[int]:
        return [row["send_queue"] for row in server.ask("connections")["connections"]]

    wait_until("the buffer is full", lambda: max(rows(), default=0) >= MIB)
    assert max(rows()) < 2 * MIB


def test_nobody_is_there(free_port: Callable[[], int]) -> None:
    with proxy(free_port()) as server, server.connect() as client:
        assert client.recv(1) == b""
        server.wait_for(r"connect tcp://127\.0\.0\.1:\d+ failed after .* Connection refused")
