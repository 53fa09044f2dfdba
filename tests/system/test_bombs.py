"""A deflate bomb at a real worker: it is told 1009, the worker stays small and serves the next one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import connect

from tests.protocols.streams import bomb
from workermand.testing import running_server

HANDLER = "def on_message(connection, message):\n    connection.send(message)\n"


def most_memory(pid: int) -> int:
    """Bytes that the process has ever had."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def test_a_bomb_takes_less_than_32_mib(eventually: Callable[..., Any]) -> None:
    files = {"echo_all.py": HANDLER}
    with running_server(
        "echo_all", listen="websocket://127.0.0.1:0", files=files, websocket={"deflate": True}
    ) as server:
        address = f"ws://127.0.0.1:{server.port}"
        (worker,) = eventually("the worker is there", lambda: server.status()["processes"])
        with connect(address) as client:
            client.send("hello " * 100)
            assert client.recv() == "hello " * 100
            before = most_memory(worker["pid"])
            client.socket.sendall(bomb())
            with pytest.raises(ConnectionClosedError) as caught:
                client.recv()
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1009
        took = most_memory(worker["pid"]) - before
        assert took < 32 << 20
        with connect(address) as client:
            client.send("still here")
            assert client.recv() == "still here"

        def is_counted() -> bool:
            (process,) = server.status()["processes"]
            return bool(process["closed"].get("package over the limit") == 1)

        eventually("its end is counted", is_counted)
