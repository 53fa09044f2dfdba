"""hooks: the user's functions in a gateway."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from tests.services.gateway.conftest import Client, cluster
from tests.services.gateway.test_gateway import handshake, id_of
from workermand.testing import ServerFailed

OURS = """
from pathlib import Path

def said(*words):
    with Path("{log}").open("a") as file:
        print(*words, file=file)

async def on_worker_start(worker):
    said("start")

def on_worker_stop(worker):
    said("stop")

def on_websocket_connect(connection, request):
    if request.get("token") != "1234":
        connection.handshake.refuse(403, "no token")

def on_connect(connection):
    said("connect")
    if Path("{log}.full").exists():
        connection.close()

def on_close(connection):
    said("close")

def on_business_worker_connected(key):
    said("connected", key.split(":")[0])
    raise RuntimeError("nobody's trouble")

def on_business_worker_close(key):
    said("gone", key.split(":")[0])
"""


def test_what_they_are_told(tmp_path: Path) -> None:
    log = tmp_path / "log"
    files = {"ours.py": OURS.replace("{log}", str(log))}
    with cluster(gateway={"hooks": "ours"}, files=files) as server:
        with Client(server) as client:
            id_of(client)
        with Client(server) as other:
            id_of(other)
            assert other.ask("hello") == "HELLO"
            Path(f"{log}.full").touch()
            with Client(server) as late:
                assert late.is_closed()
            assert other.ask("hello") == "HELLO"
    said = log.read_text().splitlines()
    assert said[0] == "start"
    told = {"connected business": 1, "connect": 3, "close": 2, "gone business": 1, "stop": 1}
    assert Counter(said[1:]) == told, "who is refused is no client"


def test_handshakes(tmp_path: Path) -> None:
    files = {"ours.py": OURS.replace("{log}", str(tmp_path / "log"))}
    with cluster(listen="websocket://127.0.0.1:0", gateway={"hooks": "ours"}, files=files) as server:
        with server.connect("gateway") as sock:
            handshake(sock, "/?token=1234")
        with server.connect("gateway") as sock, pytest.raises(AssertionError, match="101"):
            handshake(sock, "/?token=wrong")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("async def on_connect(connection): ...", "options.hooks: ours.on_connect is async"),
        ("def on_connect(): ...", "options.hooks: ours.on_connect: too many positional arguments"),
        ("def on_message(connection, data): ...", "options.hooks: ours has on_message: there are on_worker_start, "),
        ("", "options.hooks: ours has none of on_worker_start"),
    ],
)
def test_modules_that_cannot_be(source: str, words: str) -> None:
    files = {"ours.py": source}
    with pytest.raises(ServerFailed, match=re.escape(words)), cluster(gateway={"hooks": "ours"}, files=files):
        pass
