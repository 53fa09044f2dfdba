"""The door for PHP clients, in a daemon of the test's own: who comes in, what is read, what is refused."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from workermand.services.links.serialize import serialize, unserialize
from workermand.testing import RunningServer, running_server
from workermand.testing.server import ServerFailed

HANDLER = """
import msgspec
from workermand import WorkermandError
from workermand.services.links.php import PhpDoor, Settings
from workermand.services.links.serialize import serialize


class Echo:
    def __init__(self, connection):
        self.connection = connection

    def hear(self, message):
        if message == "no":
            raise WorkermandError("no is no message")
        self.connection.send(serialize(message))

    def full(self):
        print("it is full", flush=True)

    def drained(self):
        print("it is drained", flush=True)

    def gone(self):
        print("one guest has gone", flush=True)


async def on_worker_start(worker):
    settings = msgspec.convert(worker.options["php"], Settings)
    await PhpDoor(worker, "echo", settings, Echo, closes=worker.options.get("closes", False)).open()
"""


@contextmanager
def door(listen: str | list[str], closes: bool = False, **settings: Any) -> Iterator[RunningServer]:
    options = {"php": {"listen": listen, **settings}, "closes": closes}
    files = {"handler.py": HANDLER}
    with running_server(
        "handler", files=files, listen="text://127.0.0.1:0", reloadable=False, options=options
    ) as server:
        yield server


class Client:
    def __init__(self, address: str | tuple[str, int]) -> None:
        self.socket = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
        self.socket.settimeout(30)
        self.socket.connect(address)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, *bodies: bytes) -> None:
        """In one write."""
        self.socket.sendall(b"".join(struct.pack(">I", len(body) + 4) + body for body in bodies))

    def receive(self) -> bytes:
        """The body of a frame; b"" at the end."""
        head = self._read(4)
        return self._read(struct.unpack(">I", head)[0] - 4) if head else b""

    def _read(self, count: int) -> bytes:
        data = b""
        while len(data) < count and (chunk := self.socket.recv(count - len(data))):
            data += chunk
        return data

    def ask(self, value: Any) -> Any:
        self.send(serialize(value))
        return unserialize(self.receive())


def test_whoever_is_allowed_is_heard_at_each_address(free_port: Any, short_dir: Path) -> None:
    frame, tcp, unix = free_port(), free_port(), f"{short_dir}/php.sock"
    listen = [f"frame://127.0.0.1:{frame}", f"tcp://127.0.0.1:{tcp}", f"unix://{unix}"]
    message = {"type": "publish", "channels": ["a"], "data": [1, 2.5, None, b"\xff"]}
    with door(listen) as server:
        for address in (("127.0.0.1", frame), ("127.0.0.1", tcp), unix):
            with Client(address) as client:
                client.send(b"")
                client.send(b"ping")
                assert client.ask(message) == message
            server.wait_for("one guest has gone")
        server.wait_for("are not authenticated: whoever comes from 127.0.0.0/8, ::1 may")


def test_what_is_refused_is_logged_and_the_next_message_heard(free_port: Any) -> None:
    port = free_port()
    with door(f"frame://127.0.0.1:{port}") as server, Client(("127.0.0.1", port)) as client:
        for _ in range(15):
            client.send(b'O:8:"stdClass":0:{}')
        client.send(serialize("no"))
        assert client.ask("yes") == "yes"
        server.wait_for(r"refused \(16 so far\): no is no message")
        log = [line for line in server.output.splitlines() if "PHP client 127.0.0.1:" in line]
        assert len(log) == 10
        assert "refused (1 so far): byte 0: an object: only scalars and arrays are taken" in log[0]


def test_a_client_that_waits_for_an_answer_is_closed(free_port: Any) -> None:
    port = free_port()
    with door(f"frame://127.0.0.1:{port}", closes=True) as server:
        with Client(("127.0.0.1", port)) as client:
            client.send(serialize("no"), serialize("yes"))
            assert client.receive() == b""
        server.wait_for(r"refused \(1 so far\): no is no message")
        with Client(("127.0.0.1", port)) as client:
            assert client.ask("yes") == "yes"


def test_a_guest_knows_when_its_client_does_not_read(free_port: Any) -> None:
    port = free_port()
    with door(f"frame://127.0.0.1:{port}") as server, Client(("127.0.0.1", port)) as client:
        for _ in range(20):
            client.send(serialize("x" * 1_000_000))
        server.wait_for("it is full")
        client.socket.settimeout(0.1)
        while "it is drained" not in server.output:
            with suppress(TimeoutError):
                assert client.socket.recv(1_000_000)


def test_nobody_else_comes_in(free_port: Any) -> None:
    port = free_port()
    with door(f"frame://127.0.0.1:{port}", allow=["192.0.2.0/24", "2001:db8::/32"]) as server:
        for _ in range(3):
            with Client(("127.0.0.1", port)) as client:
                try:
                    client.send(serialize("yes"))
                    heard = client.receive()
                except ConnectionError:
                    heard = b""
                assert heard == b""
        server.wait_for(r"127\.0\.0\.1:\d+ is none of options\.php\.allow: refused \(2 so far\)")


@pytest.mark.parametrize(
    ("listen", "allow", "words"),
    [
        ([], [], "options.php.listen: names no address"),
        ("text://127.0.0.1:9", [], 'options.php.listen: "text://127.0.0.1:9": PHP clients speak frames'),
        ("frame://nowhere:9", [], "options.php.listen:.*is not an IP address"),
        ("frame://192.0.2.1:9999", [], "options.php.listen:.*not an address of this machine"),
        ("frame://127.0.0.1:9999", ["10.0.0.1/8"], "options.php.allow: 10.0.0.1/8 has host bits set: write"),
        ("frame://127.0.0.1:9999", ["here"], "options.php.allow: 'here' does not appear to be"),
    ],
)
def test_what_cannot_be_is_told_at_the_start(listen: Any, allow: list[str], words: str) -> None:
    with pytest.raises(ServerFailed, match=f"worker main: {words}"):
        with door(listen, allow=allow):
            pass


@pytest.mark.parametrize("service", ["channel", "globaldata"])
def test_workermand_check_says_it(service: str, tmp_path: Path) -> None:
    def check(text: str) -> tuple[bool, str]:
        file.write_text(text)
        command = [sys.executable, "-m", "workermand", "check", "-c", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode == 0, done.stderr

    file = tmp_path / "workers.toml"
    worker = f"""
        [worker.{service}]
        handler = "workermand.services.{service}.server"
        listen = "unix://{service}.sock"
        protocol = "frame"
        reloadable = false
    """
    door = 'options.php = {listen = "frame://0.0.0.0:2206", allow = ["10.0.0.0/8"]}'
    remark = (
        f"{file}: worker.{service}: PHP clients at frame://0.0.0.0:2206 are not authenticated: "
        "whoever comes from 10.0.0.0/8 may do what such a client can\n"
    )
    assert check(f"{worker}\n{door}") == (True, remark)
    is_good, words = check(f"{worker}\n{door.replace('10.0.0.0/8', '10.0.0.1/8')}")
    assert not is_good and "options.php.allow: 10.0.0.1/8 has host bits set" in words
    assert check(worker) == (True, "")
    is_good, words = check(worker.replace("reloadable = false", ""))
    assert is_good and "reloadable = true: a reload ends what it holds in memory" in words
