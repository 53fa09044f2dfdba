"""curl and a real daemon: what a command line asks of HTTP; and what curl cannot ask, over a plain socket."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from workermand.testing import RunningServer, running_server

HANDLER = """
import hashlib

from workermand import Chunk, Response, Timer


async def on_message(connection, request):
    if request.path == "/late":
        await Timer.sleep(0.05)
        connection.send(f"late {request.get('n')}")
    elif request.path == "/now":
        connection.send(f"now {request.get('n')}")
    elif request.path == "/text":
        connection.send("all work and no play " * 500)
    elif request.path == "/pieces":
        connection.send(Response(200, {"Transfer-Encoding": "chunked"}))
        for piece in ("one ", "two ", "three"):
            connection.send(Chunk(piece))
        connection.send(Chunk())
    elif request.path == "/cookie":
        visits = int(request.cookie("visits", 0)) + 1
        connection.send(Response(body=str(visits)).cookie("visits", str(visits), max_age=60, http_only=True))
    else:
        files = {
            field: [[file.name, file.type, file.size, hashlib.sha256(file.read()).hexdigest()] for file in uploads]
            for field, uploads in request.file().items()
        }
        body = request.raw_body
        connection.send({
            "method": request.method,
            "version": request.version,
            "path": request.path,
            "query": request.get(),
            "form": request.post(),
            "files": files,
            "length": len(body),
            "sum": hashlib.sha256(body).hexdigest(),
            "address": connection.get_remote_address(),
        })
"""
LARGE = 5 << 20
OCTETS = ("--header", "Content-Type: application/octet-stream")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    path = tmp_path_factory.mktemp("socket") / "http.sock"
    listen = ["tcp://127.0.0.1:0", f"unix://{path}"]
    with running_server("facts", listen=listen, protocol="http", files={"facts.py": HANDLER}, gzip=True) as server:
        yield server


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large") / "large.bin"
    path.write_bytes(os.urandom(LARGE))
    return path


def curl(*arguments: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
    command = ["curl", "--silent", "--show-error", "--max-time", "60", *map(str, arguments)]
    done = subprocess.run(command, input=stdin, capture_output=True, check=True)
    return subprocess.CompletedProcess(command, 0, done.stdout.decode(), done.stderr.decode())


def url(server: RunningServer, path: str = "/") -> str:
    return f"http://127.0.0.1:{server.port}{path}"


def facts(*arguments: str | Path, stdin: bytes = b"") -> Any:
    return json.loads(curl(*arguments, stdin=stdin).stdout)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_one_connection_for_many_requests(server: RunningServer) -> None:
    connects = curl(*[url(server, "/now?n=1")] * 3, "--write-out", " %{num_connects} %{http_version}\n").stdout
    assert connects == "now 1 1 1.1\nnow 1 0 1.1\nnow 1 0 1.1\n"


def test_http_1_0_ends_after_an_answer(server: RunningServer) -> None:
    now = url(server, "/now?n=1")
    done = curl("--http1.0", "--header", "Connection: keep-alive", now, now, "--write-out", " %{num_connects}\n")
    assert done.stdout == "now 1 1\nnow 1 1\n"
    assert facts("--http1.0", url(server))["version"] == "1.0"
    assert curl("--http1.0", url(server, "/pieces")).stdout == "one two three"


def test_head_has_the_length_and_no_body(server: RunningServer) -> None:
    done = curl("--head", url(server, "/now?n=1"), url(server, "/now?n=22"), "--write-out", "%{num_connects}\n")
    answers = done.stdout.split("\n", 1)[0], *[line for line in done.stdout.splitlines() if "ength" in line]
    assert [line.strip() for line in answers] == ["HTTP/1.1 200 OK", "Content-Length: 5", "Content-Length: 6"]
    assert done.stdout.endswith("\n0\n"), "the second one came over the same connection"


def test_a_large_body_waits_for_100_continue(server: RunningServer, large: Path) -> None:
    done = curl("--verbose", *OCTETS, "--header", "Expect: 100-continue", "--data-binary", f"@{large}", url(server))
    said = [line for line in done.stderr.splitlines() if line.startswith(("< HTTP", "> Expect"))]
    assert said == ["> Expect: 100-continue", "< HTTP/1.1 100 Continue", "< HTTP/1.1 200 OK"]
    answer = json.loads(done.stdout)
    assert (answer["method"], answer["length"], answer["sum"]) == ("POST", LARGE, digest(large.read_bytes()))


def test_a_body_that_is_too_large_is_refused_before_it_is_sent(large: Path) -> None:
    settings: dict[str, Any] = {"listen": "http://127.0.0.1:0", "limits": {"http": {"body": "1MiB"}}}
    with running_server("facts", files={"facts.py": HANDLER}, **settings) as server:
        form = "%{http_code} %{size_upload}"
        options = ("--output", "/dev/null", "--write-out", form, url(server))
        expect = ("--header", "Expect: 100-continue")
        assert curl("--data-binary", f"@{large}", *expect, "--expect100-timeout", "30", *options).stdout == "413 0"
        # Who sends it all the same still reads the answer: the connection is not reset under his hands.
        assert curl("--data-binary", f"@{large}", "--header", "Expect:", *options).stdout.startswith("413 ")


def test_a_body_whose_length_nobody_knows(server: RunningServer, large: Path) -> None:
    answer = facts("--upload-file", "-", url(server, "/put"), stdin=large.read_bytes())
    assert (answer["method"], answer["length"], answer["sum"]) == ("PUT", LARGE, digest(large.read_bytes()))


def test_forms(server: RunningServer, large: Path, tmp_path: Path) -> None:
    answer = facts("--data-urlencode", "a=ü & =", "--data-urlencode", "b=1", "--data", "b=2", url(server, "/?q=1&q=2"))
    assert answer["form"] == {"a": "ü & =", "b": ["1", "2"]}
    assert answer["query"] == {"q": ["1", "2"]}
    (tmp_path / "small.txt").write_text("small")
    answer = facts(
        "--form", "title=Größe", "--form", f"file=@{large};type=image/png", "--form", f"file=@{tmp_path}/small.txt",
        url(server),
    )  # fmt: skip
    assert answer["form"] == {"title": "Größe"}
    assert answer["files"] == {
        "file": [
            ["large.bin", "image/png", LARGE, digest(large.read_bytes())],
            ["small.txt", "text/plain", 5, digest(b"small")],
        ]
    }


def test_pieces_and_compression(server: RunningServer) -> None:
    done = curl("--include", url(server, "/pieces"))
    assert "\nTransfer-Encoding: chunked" in done.stdout and done.stdout.endswith("one two three")
    plain = curl(url(server, "/text")).stdout
    done = curl("--compressed", url(server, "/text"), "--write-out", "\n%{size_download}")
    text, size = done.stdout.rsplit("\n", 1)
    assert text == plain and int(size) < len(plain) / 10


def test_cookies_come_back(server: RunningServer, tmp_path: Path) -> None:
    jar = ("--cookie", tmp_path / "jar", "--cookie-jar", tmp_path / "jar")
    assert [curl(*jar, url(server, "/cookie")).stdout for _ in range(3)] == ["1", "2", "3"]
    assert "#HttpOnly_127.0.0.1" in (tmp_path / "jar").read_text()


def test_over_a_unix_socket(server: RunningServer) -> None:
    path = server.addresses["main"][1]
    answer = facts("--unix-socket", str(path), "http://localhost/unix?a=1")
    assert (answer["path"], answer["query"], answer["address"]) == ("/unix", {"a": "1"}, "unix")


def test_requests_in_one_go_are_answered_in_order(server: RunningServer) -> None:
    """Pipelining, which curl has given up: the first ones take longer than those behind them."""
    asked = b"".join(
        b"GET /%s?n=%d HTTP/1.1\r\nHost: a\r\n\r\n" % (b"now" if number % 3 else b"late", number) for number in range(9)
    )
    with server.connect() as client, client.makefile("rb") as answers:
        client.sendall(asked + b"POST /now?n=9 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
                               b"GET /late?n=10 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")  # fmt: skip
        bodies = [line for line in answers.read().splitlines() if line.startswith(b"now") or b"late " in line]
    numbers = [int(body.split(b"HTTP")[0].split()[1]) for body in bodies]
    assert numbers == list(range(11))
