"""The two uploads: their protocols, and each with its command-line client against a daemon."""

from __future__ import annotations

import base64
import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from apps.upload_binary import BinaryUpload
from apps.upload_json import JsonUpload
from workermand.protocols.custom import adapt
from workermand.testing import Case, RunningServer, check_protocol, running_server

PROTOCOLS = {"upload_binary": "BinaryUpload", "upload_json": "JsonUpload"}


def binary(name: bytes, content: bytes) -> bytes:
    return struct.pack(">IB", 5 + len(name) + len(content), len(name)) + name + content


def json_line(name: str, content: bytes) -> bytes:
    return json.dumps({"file_name": name, "file_data": base64.b64encode(content).decode()}).encode() + b"\n"


def upload(app: str, server: RunningServer, file: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, f"apps/{app}_client.py", "127.0.0.1", str(server.port), str(file)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_binary_protocol() -> None:
    cases: list[Case] = [
        (binary(b"a.txt", b"hello"), [("a.txt", b"hello")]),
        (binary(b"", b""), [("", b"")]),
        (binary("größe".encode(), b"\x00\xff\n" * 100), [("größe", b"\x00\xff\n" * 100)]),
    ]
    violations = [b"\0\0\0\x04\0", b"\0\0\0\x06\x02", b"\0\0\x10\0\0", binary(b"\xff", b"")]
    check_protocol(lambda: adapt(BinaryUpload, "upload")(1000), cases, violations=violations, round_trip=False)


def test_the_json_protocol() -> None:
    cases: list[Case] = [(json_line(name, b"\x00\xff\n"), [(name, b"\x00\xff\n")]) for name in ("a.txt", "größe", "")]
    violations = [b"\n", b"[]\n", b'{"file_name": "a"}\n', b'{"file_name": "a", "file_data": "*"}\n', b"x" * 1000]
    check_protocol(lambda: adapt(JsonUpload, "upload")(1000), cases, violations=violations, round_trip=False)


@pytest.mark.parametrize("app", PROTOCOLS)
def test_a_file_arrives_whole(app: str, tmp_path: Path) -> None:
    content = bytes(range(256)) * 40_000
    file = tmp_path / "größe of it.bin"
    file.write_bytes(content)
    uploads = tmp_path / "uploads"
    uploads.mkdir()
    with running_server(
        f"apps.{app}",
        listen="tcp://127.0.0.1:0",
        protocol=f"apps.{app}:{PROTOCOLS[app]}",
        limits={"package": "20MiB"},
        options={"directory": str(uploads)},
    ) as server:
        done = upload(app, server, file)
        assert (done.returncode, done.stdout, done.stderr) == (0, f"stored {file.name}, {len(content)} bytes\n", "")
        assert (uploads / file.name).read_bytes() == content


@pytest.mark.parametrize(
    ("app", "package"),
    [("upload_binary", binary(b"../..", b"x")), ("upload_json", json_line("../..", b"x"))],
)
def test_a_name_that_would_lead_outside_is_refused(app: str, package: bytes) -> None:
    protocol = f"apps.{app}:{PROTOCOLS[app]}"
    listen = "tcp://127.0.0.1:0"
    with running_server(f"apps.{app}", listen=listen, protocol=protocol) as server, server.connect() as client:
        client.sendall(package)
        assert client.makefile("r").read() == "refused: '../..' is not a name for a file\n"


@pytest.mark.parametrize("app", PROTOCOLS)
def test_without_a_directory_it_is_the_workers_state_dir(app: str, tmp_path: Path) -> None:
    file = tmp_path / "small"
    file.write_text("small")
    protocol = f"apps.{app}:{PROTOCOLS[app]}"
    with running_server(f"apps.{app}", listen="tcp://127.0.0.1:0", protocol=protocol) as server:
        assert upload(app, server, file).stdout == "stored small, 5 bytes\n"
        assert Path(server.spec.state_dir, "main", "small").read_text() == "small"


def test_a_client_says_when_it_is_not_stored(tmp_path: Path) -> None:
    file = tmp_path / "large"
    file.write_bytes(b"x" * 2000)
    with running_server(
        "apps.upload_binary",
        listen="tcp://127.0.0.1:0",
        protocol="apps.upload_binary:BinaryUpload",
        limits={"package": 1000},
    ) as server:
        done = upload("upload_binary", server, file)
        assert done.returncode == 1


@pytest.mark.parametrize("app", PROTOCOLS)
def test_a_client_without_arguments_explains_itself(app: str) -> None:
    done = subprocess.run([sys.executable, f"apps/{app}_client.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"python apps/{app}_client.py HOST PORT FILE" in done.stderr
