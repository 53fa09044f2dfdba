"""Bodies larger than memory should be, at a real worker: streamed, spooled, and nothing left behind."""

from __future__ import annotations

import hashlib
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.system.test_bombs import most_memory
from workermand.testing import RunningServer, running_server

HANDLER = """
import hashlib, os, tempfile

stream_body = True


async def on_message(connection, request):
    if request.path == "/form":
        await request.read_form()
        upload = request.file("file")
        files = [name for name in os.listdir(tempfile.gettempdir()) if name.startswith("workermand.upload.")]
        connection.send({"size": upload.size, "files": len(files), "sum": hash_of(upload.open())})
    elif request.path == "/early":
        connection.send("no, thanks")
    else:
        digest = hashlib.sha256()
        async for piece in request.stream():
            digest.update(piece)
        connection.send(digest.hexdigest())


def hash_of(file):
    with file:
        return hashlib.file_digest(file, "sha256").hexdigest()
"""
SIZE = 100 << 20


@pytest.fixture
def a_file(tmp_path: Path) -> Path:
    path = tmp_path / "large"
    path.write_bytes(bytes(range(256)) * (SIZE // 256))
    return path


def serve(tmp_path: Path, **settings: Any) -> Any:
    spool = tmp_path / "spool"
    spool.mkdir(exist_ok=True)
    return running_server(
        "uploading",
        listen="http://127.0.0.1:0",
        files={"uploading.py": HANDLER},
        env={"TMPDIR": str(spool)},
        **settings,
    )


def curl(server: RunningServer, path: str, *arguments: str) -> str:
    command = [
        "curl",
        "--silent",
        "--show-error",
        "--max-time",
        "60",
        *arguments,
        f"http://127.0.0.1:{server.port}{path}",
    ]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def memory_of(server: RunningServer) -> int:
    (process,) = server.status()["processes"]
    return most_memory(process["pid"])


@pytest.mark.parametrize("how", ["length", "chunked"])
def test_a_large_body_is_streamed_in_little_memory(tmp_path: Path, a_file: Path, how: str) -> None:
    with serve(tmp_path, limits={"http": {"body": SIZE * 2}}) as server:
        curl(server, "/", "--data-binary", "x" * 100)
        before = memory_of(server)
        extra = ["--header", "Transfer-Encoding: chunked"] if how == "chunked" else []
        answer = curl(server, "/", "--upload-file", str(a_file), *extra)
        assert answer == hashlib.sha256(a_file.read_bytes()).hexdigest()
        assert memory_of(server) - before < 8 << 20


def test_a_large_upload_lies_in_a_file_and_goes_with_its_request(
    tmp_path: Path, a_file: Path, eventually: Callable[..., Any]
) -> None:
    with serve(tmp_path, limits={"http": {"body": SIZE * 2}}) as server:
        curl(server, "/form", "--form", "file=@/dev/null;filename=x")
        before = memory_of(server)
        answer = curl(server, "/form", "--form", f"file=@{a_file}")
        digest = hashlib.sha256(a_file.read_bytes()).hexdigest()
        assert answer == f'{{"size":{SIZE},"files":1,"sum":"{digest}"}}'
        assert memory_of(server) - before < 8 << 20
        eventually("it is removed", lambda: not list((tmp_path / "spool").glob("workermand.upload.*")))


def test_too_large_a_body_gets_its_413_while_it_is_sent(tmp_path: Path, a_file: Path) -> None:
    with serve(tmp_path) as server:
        status = ["--output", "/dev/null", "--write-out", "%{http_code}"]
        for extra in ([], ["--header", "Transfer-Encoding: chunked"]):
            assert curl(server, "/", "--upload-file", str(a_file), *extra, *status) == "413"


def test_an_early_answer_reaches_a_client_that_is_sending(tmp_path: Path) -> None:
    with serve(tmp_path) as server, server.connect() as client:
        client.sendall(b"POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n" + bytes(500_000))
        client.shutdown(socket.SHUT_WR)
        received = b""
        while piece := client.recv(4096):
            received += piece
        assert received.endswith(b"no, thanks")
        assert b"\r\nConnection: close\r\n" in received
