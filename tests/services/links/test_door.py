"""Who may come in, with a real server and raw sockets."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PATIENCE, wait_until
from tests.services.links.conftest import HANDLER, serving
from workermand.services.links import wire
from workermand.services.links.address import Address
from workermand.services.links.blocking import BlockingLink
from workermand.testing import ServerFailed, running_server


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"listen": None}, r'listens nowhere: add listen = "unix://echo\.sock"'),
        ({"listen": "frame://0.0.0.0:0"}, r"can be reached from other machines, and there is no options\.secret"),
        ({"listen": ["unix://a.sock", "tcp://[::]:0"], "protocol": "frame"}, "can be reached from other machines"),
    ],
)
def test_what_is_refused_at_the_start(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ServerFailed, match=words):
        with running_server(HANDLER, **keys):
            pass


@pytest.mark.parametrize(
    ("listen", "secret"), [("frame://0.0.0.0:0", "secret"), ("unix://a.sock", ""), ("frame://127.0.0.1:0", "")]
)
def test_what_is_allowed(listen: str, secret: str) -> None:
    protocol = "frame" if listen.startswith("unix") else None
    with running_server(HANDLER, listen=listen, protocol=protocol, options={"secret": secret}) as server:
        where = server.address
        address = Address("", 0, where) if isinstance(where, str) else Address("127.0.0.1", int(where[1]), "")
        with BlockingLink(address, "echo", secret=secret) as link:
            assert link.request(16, "hello") == ["hello"]


@pytest.mark.parametrize(
    "frame", [wire.pack([16, 1, "hello"]), b"\0\0\0\x08junk", wire.pack([wire.PROOF, 0, b"", b""])]
)
def test_who_does_not_say_hello_gets_no_further(frame: bytes) -> None:
    with serving("secret") as (server, _address), server.connect() as client:
        client.sendall(frame + wire.pack([16, 2, "again"]))
        with client.makefile("rb") as stream:
            heard = stream.read()
        assert wire.unpack(heard[4:])[:2] == [wire.FAIL, 0]
        wait_until("the refusal in the log", lambda: "echo: 127.0.0.1" in server.output and "refused" in server.output)
        assert "secret" not in server.output.replace("wrong secret", "")


def test_a_ping_is_answered() -> None:
    with serving() as (server, _address), server.connect() as client:
        frames = [[wire.HELLO, 0, 1, "echo"], [wire.PROOF, 0, b"", b""], [wire.PING, 0], [16, 7, "hello"]]
        client.sendall(b"".join(map(wire.pack, frames)))
        assert [read(client)[0] for _ in range(4)] == [wire.CHALLENGE, wire.WELCOME, wire.PONG, wire.OK]


def read(client: socket.socket) -> list[Any]:
    length = int.from_bytes(client.recv(4, socket.MSG_WAITALL), "big")
    return wire.unpack(client.recv(length - 4, socket.MSG_WAITALL))


@pytest.mark.parametrize("service", ["channel", "globaldata"])
@pytest.mark.parametrize(
    ("listen", "words"),
    [("", "listens nowhere: add listen = "), ("frame://0.0.0.0:2206", "there is no options.secret")],
)
def test_check_finds_it_before_the_start(service: str, listen: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "workers.toml"
    line = f'listen = "{listen}"' if listen else ""
    file.write_text(f'[worker.x]\nhandler = "workermand.services.{service}.server"\n{line}\n')
    command = [sys.executable, "-m", "workermand", "check", "-c", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 1 and words in done.stderr
