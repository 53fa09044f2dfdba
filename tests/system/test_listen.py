"""worker.listen() at run time: the master opens, keeps and closes the socket."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from workermand.testing import RunningServer, running_server

INNER = """
import asyncio
import os

class Inner:
    def on_message(self, connection, data):
        connection.send(f"{data} {os.getpid()} {VERSION}")

VERSION = 1
state = {}

def on_worker_start(worker):
    worker.listen(worker.options["inner"], handler=Inner())

def on_message(connection, data):
    worker = connection.worker
    if data == "unlisten":
        worker.unlisten(worker.options["inner"])
        connection.send("done")
    elif data.startswith("listen "):
        future = worker.listen(data.removeprefix("listen "), handler=Inner())
        future.add_done_callback(lambda f: connection.send(str(f.exception() or "open")))
    else:
        connection.send("outer")
"""


def config(inner: str, **settings: Any) -> str:
    keys = {"listen": "text://127.0.0.1:0", "handler": "handler", "count": 4, **settings}
    lines = [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
    return "[worker.main]\n" + "\n".join(lines) + f'\noptions = {{inner = "{inner}"}}\ntimeouts = {{stop = "3s"}}\n'


def ask(address: Any, line: str) -> str:
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as client:
        client.settimeout(30)
        client.connect(address)
        client.sendall(line.encode() + b"\n")
        with client.makefile() as answers:
            return answers.readline().rstrip("\n")


def port_is_open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
    except ConnectionRefusedError:
        return False
    return True


def test_four_children_share_it_and_a_reload_keeps_it(
    free_port: Callable[[], int], eventually: Callable[..., Any]
) -> None:
    port = free_port()
    with running_server(config(f"text://127.0.0.1:{port}"), files={"handler.py": INNER}) as server:
        eventually("all four answer", lambda: len({ask(("127.0.0.1", port), "x").split()[1] for _ in range(50)}) == 4)
        for version in range(2, 5):
            (server.directory / "handler.py").write_text(INNER.replace("VERSION = 1", f"VERSION = {version}"))
            server.reload()
            answers = {ask(("127.0.0.1", port), "x").split()[2] for _ in range(20)}
            assert answers == {str(version)}


def test_a_crash_of_the_only_child_refuses_nobody(free_port: Callable[[], int], eventually: Callable[..., Any]) -> None:
    port = free_port()
    with running_server(config(f"text://127.0.0.1:{port}", count=1), files={"handler.py": INNER}):
        for _ in range(3):
            pid = int(eventually("it answers", lambda: ask(("127.0.0.1", port), "x").split()[1]))
            os.kill(pid, 9)
            assert port_is_open(port)
        assert int(ask(("127.0.0.1", port), "x").split()[1]) != pid


def test_it_is_closed_when_nobody_asks_for_it_any_more(
    free_port: Callable[[], int], eventually: Callable[..., Any]
) -> None:
    port = free_port()
    with running_server(config(f"text://127.0.0.1:{port}", count=1), files={"handler.py": INNER}) as server:
        eventually("it is open", lambda: port_is_open(port))
        assert ask(server.address, "unlisten") == "done"
        eventually("it is closed", lambda: not port_is_open(port))
        assert ask(server.address, f"listen text://127.0.0.1:{port}") == "open"
        (server.directory / "handler.py").write_text("def on_message(connection, data): connection.send('new')\n")
        server.reload()
        eventually("the next generation does not ask", lambda: not port_is_open(port))


def test_what_moves_into_the_file_stays_open(free_port: Callable[[], int], eventually: Callable[..., Any]) -> None:
    port = free_port()
    with running_server(config(f"text://127.0.0.1:{port}", count=1), files={"handler.py": INNER}) as server:
        text = server.file.read_text().replace('listen = "', f'listen = ["text://127.0.0.1:{port}", "', 1)
        server.file.write_text(text.replace('"\nhandler', '"]\nhandler'))
        (server.directory / "handler.py").write_text("def on_message(connection, data): connection.send('new')\n")
        server.reload()
        assert ask(("127.0.0.1", port), "x") == "new"
        eventually("the old child is gone", lambda: "exit 0" in {row["reason"] for row in server.status()["exits"]})
        os.kill(server.status()["processes"][0]["pid"], signal.SIGKILL)
        assert ask(("127.0.0.1", port), "x") == "new"


def test_what_cannot_be_opened_is_told_to_the_handler(free_port: Callable[[], int]) -> None:
    port = free_port()
    with running_server(config(f"text://127.0.0.1:{port}", count=1), files={"handler.py": INNER}) as server:
        assert "is open already" in ask(
            server.address, f"listen text://127.0.0.1:{server.port}"
        ) or "listens on" in ask(server.address, f"listen text://127.0.0.1:{server.port}")
        assert "unknown scheme" in ask(server.address, "listen txt://127.0.0.1:1")
        assert "not an address of this machine" in ask(server.address, "listen text://192.0.2.1:4000")


@pytest.mark.skipif(os.geteuid() != 0, reason="only a root master drops users")
def test_a_user_gets_no_more_through_the_master_than_it_has(free_port: Callable[[], int], short_dir: Path) -> None:
    short_dir.chmod(0o755)

    def refused(server: RunningServer, uri: str) -> str:
        return ask(server.address, f"listen {uri}")

    inner = config(f"text://127.0.0.1:{free_port()}", count=1, user="nobody")
    with running_server(inner, files={"handler.py": INNER}) as server:
        assert "below 1024" in refused(server, "text://127.0.0.1:81")
        assert "is outside" in refused(server, "unix:///run/nobody.sock")
        assert "is outside" in refused(server, "unix://main/../up.sock")
        assert refused(server, "unix://main/own.sock") == "open"
