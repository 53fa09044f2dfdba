"""Files from a real daemon, fetched by curl: whole, in parts, by many, slowly, given up."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.certs import Authority
from workermand.testing import RunningServer, running_server

HANDLER = """
from workermand import Response

def on_message(connection, request):
    if request.path == "/text":
        connection.send("text")
    else:
        connection.send(Response().with_file(connection.worker.options["root"] + request.path))
"""
MIB = 1 << 20
BIG = 200 * MIB
ABORTED = 1000


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("files")
    piece = os.urandom(MIB)
    with open(root / "big", "wb") as big:
        big.writelines(number.to_bytes(4, "big") + piece[4:] for number in range(BIG // MIB))
    (root / "middle").write_bytes(piece * 5)
    (root / "small.txt").write_bytes(b"a small file\n")
    return root


class Served:
    def __init__(self, server: RunningServer, root: Path, scheme: str = "http") -> None:
        self.server = server
        self.root = root
        self.scheme = scheme
        (process,) = server.status()["processes"]
        self.pid: int = process["pid"]

    def url(self, name: str) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server.port}/{name}"

    def curl(self, *options: str) -> bytes:
        command = ["curl", "--silent", "--show-error", "--max-time", "60", *options]
        return subprocess.run(command, check=True, capture_output=True).stdout

    def most_memory(self) -> int:
        """Bytes that the process has ever had."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        (line,) = [line for line in lines if line.startswith("VmHWM:")]
        return int(line.split()[1]) * 1024

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def dial(self) -> socket.socket:
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.settimeout(60)
        client.connect(("127.0.0.1", self.server.port))
        return client


@pytest.fixture(scope="module")
def served(root: Path) -> Iterator[Served]:
    files = {"files.py": HANDLER}
    with running_server("files", listen="http://127.0.0.1:0", files=files, options={"root": str(root)}) as server:
        yield Served(server, root)


def test_over_tls(root: Path, tmp_path: Path) -> None:
    certificate, key = Authority(tmp_path).issue("localhost")
    tls = {"cert": str(certificate), "key": str(key)}
    files = {"files.py": HANDLER}
    with running_server(
        "files", listen="https://127.0.0.1:0", files=files, options={"root": str(root)}, tls=tls
    ) as server:
        served = Served(server, root, "https")
        middle, small = (root / "middle").read_bytes(), (root / "small.txt").read_bytes()
        urls = [served.url(name) for name in ("middle", "small.txt", "text", "middle")]
        before = served.most_memory()
        assert served.curl("--insecure", *urls) == middle + small + b"text" + middle
        assert served.curl("--insecure", served.url("big")) == (root / "big").read_bytes()
        assert served.most_memory() - before < 16 * MIB


def request(*names: str) -> bytes:
    return b"".join(f"GET /{name} HTTP/1.1\r\nHost: a\r\n\r\n".encode() for name in names)


def test_a_big_file_arrives_and_takes_no_memory(served: Served, tmp_path: Path) -> None:
    served.curl("--output", str(tmp_path / "first"), served.url("middle"))
    before = served.most_memory()
    served.curl("--output", str(tmp_path / "got"), served.url("big"))
    with open(tmp_path / "got", "rb") as got, open(served.root / "big", "rb") as big:
        assert hashlib.file_digest(got, "sha256").digest() == hashlib.file_digest(big, "sha256").digest()
    assert served.most_memory() - before < 4 * MIB


def test_what_is_on_the_disk_only_arrives_too(served: Served, tmp_path: Path) -> None:
    with open(served.root / "big", "rb") as big:
        os.fsync(big.fileno())
        os.posix_fadvise(big.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    before = served.most_memory()
    got = served.curl("--range", f"{50 * MIB}-{80 * MIB}", served.url("big"))
    with open(served.root / "big", "rb") as big:
        big.seek(50 * MIB)
        assert got == big.read(30 * MIB + 1)
    assert served.most_memory() - before < 16 * MIB


def test_ranges(served: Served) -> None:
    data = (served.root / "middle").read_bytes()
    assert served.curl("--range", "1000-", served.url("middle")) == data[1000:]
    assert served.curl("--range", "-7", served.url("middle")) == data[-7:]
    several = served.curl("--range", "0-1,1048570-3000000,4-5", served.url("middle"))
    assert several.count(b"\r\nContent-Range: bytes ") == 3
    assert data[1048570:3000001] in several
    assert served.curl("--continue-at", "4000000", "--output", "-", served.url("middle")) == data[4000000:]


def test_what_the_client_has_is_not_sent_again(served: Served, tmp_path: Path) -> None:
    options = ["--write-out", "%{http_code} %{size_download}", "--output", str(tmp_path / "got")]
    etag = ["--etag-save", str(tmp_path / "etag"), "--etag-compare", str(tmp_path / "etag")]
    whole = f"200 {5 * MIB}".encode()
    assert served.curl(*options, *etag, served.url("middle")) == whole
    assert served.curl(*options, *etag, served.url("middle")) == b"304 0"
    assert served.curl(*options, "--time-cond", str(served.root / "middle"), served.url("middle")) == b"304 0"
    assert served.curl(*options, "--time-cond", "2001-01-01", served.url("middle")) == whole


def test_one_connection_many_files(served: Served, tmp_path: Path) -> None:
    names = ["middle", "small.txt", "text", "middle", "none", "small.txt"]
    urls = [word for name in names for word in ("--output", "-", served.url(name))]
    kept = served.curl("--write-out", "|%{num_connects}|", *urls)
    middle, small = (served.root / "middle").read_bytes(), (served.root / "small.txt").read_bytes()
    bodies = [middle, small, b"text", middle, b"404 Not Found\n", small]
    counts = [b"|1|", *[b"|0|"] * 5]
    assert kept == b"".join(map(bytes.__add__, bodies, counts))


def test_pipelined_files_and_texts(served: Served) -> None:
    with served.dial() as client:
        client.sendall(request("middle", "text", "middle", "small.txt", "text"))
        client.shutdown(socket.SHUT_WR)
        with client.makefile("rb") as answers:
            data = answers.read()
    middle, small = (served.root / "middle").read_bytes(), (served.root / "small.txt").read_bytes()
    for body in (middle, b"text", middle, small, b"text"):
        _head, _, data = data.partition(b"\r\n\r\n")
        assert data.startswith(body)
        data = data[len(body) :]
    assert data == b""


def test_who_does_not_read_holds_up_nobody(served: Served) -> None:
    with served.dial() as slow:
        slow.sendall(request("big"))
        assert slow.recv(1000).startswith(b"HTTP/1.1 200")
        middle = (served.root / "middle").read_bytes()
        with ThreadPoolExecutor(8) as clients:
            assert set(clients.map(lambda _: served.curl(served.url("middle")), range(16))) == {middle}
        assert served.curl(served.url("text")) == b"text"
        assert len(slow.recv(1000)) == 1000


def test_downloads_that_are_given_up_leave_nothing_open(served: Served, eventually: Callable[..., Any]) -> None:
    served.curl(served.url("middle"))

    def connections() -> int:
        (process,) = served.server.status()["processes"]
        return int(process["connections"])

    eventually("nobody is there", lambda: connections() == 0)
    before = served.descriptors()
    for number in range(ABORTED):
        with served.dial() as client:
            client.sendall(request("big", "middle"))
            if number % 2:
                client.recv(1000)
    eventually("all are gone", lambda: connections() == 0)
    eventually("nothing is left open", lambda: served.descriptors() <= before)
