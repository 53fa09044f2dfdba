"""Outgoing connections in a whole process: found without a worker, shown, and ended in order when it ends."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvloop

from tests.conftest import PATIENCE
from tests.worker.outgoing.conftest import ClientScene, echo, playing, silence
from workermand import AsyncTcpConnection
from workermand.testing import running_server
from workermand.worker.outgoing import clients

HANDLER = """
from workermand import AsyncTcpConnection

upstream = None

def on_worker_start(worker):
    global upstream
    upstream = AsyncTcpConnection(worker.options["upstream"], auto_reconnect=True)
    upstream.on_connect = lambda upstream: print("connected", flush=True)
    upstream.on_message = lambda upstream, data: print("heard", data, flush=True)
    upstream.on_close = lambda upstream: print("closed:", upstream.close_reason, flush=True)
    upstream.connect()

def on_message(connection, data):
    upstream.send(data)

def on_worker_stop(worker):
    upstream.send("goodbye")
"""


@pytest.fixture
def upstream() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.settimeout(PATIENCE)
        yield sock


def uri_of(upstream: socket.socket) -> str:
    return f"text://127.0.0.1:{upstream.getsockname()[1]}"


def test_a_drain_waits_for_no_outgoing_connection(upstream: socket.socket) -> None:
    """It is there for on_worker_stop, and closed in order behind it. A graceful stop never ended in the original."""
    options = {"upstream": uri_of(upstream)}
    with running_server("handler", files={"handler.py": HANDLER}, options=options) as server:
        ours, _ = upstream.accept()
        with ours, server.connect() as client:
            ours.settimeout(PATIENCE)
            client.sendall(b"hello\n")
            assert ours.recv(100) == b"hello\n"
            server.wait_for("connected")
            rows = server.ask("connections")["connections"]
            assert sorted((row["direction"], row["worker"]) for row in rows) == [("in", "main"), ("out", "main")]
            (process,) = server.status()["processes"]
            assert (process["connections"], process["outgoing"]) == (1, 1)
            client.close()
            server.stop()
            assert ours.recv(100) == b"goodbye\n"
            assert ours.recv(100) == b""
    assert "closed: drained" in server.output and "Traceback" not in server.output


def test_a_reload_replaces_it(upstream: socket.socket) -> None:
    options = {"upstream": uri_of(upstream)}
    with running_server("handler", files={"handler.py": HANDLER}, options=options) as server:
        first, _ = upstream.accept()
        with first:
            first.settimeout(PATIENCE)
            server.wait_for("connected")
            server.reload()
            second, _ = upstream.accept()
            with second:
                assert first.recv(100) == b"goodbye\n"
                assert first.recv(100) == b""


def test_who_does_not_go_is_cut_off(scene: ClientScene) -> None:
    """A peer that reads nothing keeps nobody."""

    async def deaf(reader: object, writer: object) -> None:
        await scene.loop.create_future()

    async def play() -> None:
        async with playing(deaf) as port:
            client = scene.client(f"tcp://127.0.0.1:{port}")
            client.max_send_buffer_size = 0
            await client.connect()
            client.send(b"x" * 50_000_000)
            await scene.clients.close(0.05)
            await scene.see(["on_connect", ("on_close", "DRAIN_DEADLINE")])

    scene.run(play())


def test_a_websocket_is_told(scene: ClientScene) -> None:
    async def play() -> None:
        async with playing(silence) as port:
            scene.client(f"ws://127.0.0.1:{port}").connect()
            scene.client(f"tcp://127.0.0.1:{port}")
            await scene.clients.close(0.05)

    scene.run(play())
    assert scene.log[-1][0] == "on_close"


def test_outside_of_a_worker() -> None:
    clients.install(None)
    with pytest.raises(RuntimeError, match="this is no worker process"):
        clients.installed("Worker.current()")
    with pytest.raises(RuntimeError, match="needs a running event loop"):
        clients.of_this_loop("AsyncTcpConnection")


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_program_that_is_no_worker_has_connections_too(run: Callable[..., Any]) -> None:
    clients.install(None)

    async def play() -> None:
        heard: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        async with playing(echo) as port:
            client = AsyncTcpConnection(f"text://127.0.0.1:{port}")
            client.on_message = lambda _client, line: heard.set_result(line)
            await client.connect()
            client.send("hello")
            assert await heard == "hello"
            assert clients.of_this_loop("") is clients.of_this_loop("")
            client.destroy()

    run(play())
    run(play())
    assert len(clients._loose) == 1


NAGLE = """
import socket
from workermand import AsyncTcpConnection

async def on_message(connection, data):
    upstream = AsyncTcpConnection(data)
    await upstream.connect()
    connection.send(str(upstream.get_socket().getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)))
"""


@pytest.mark.parametrize("nodelay", [True, False])
def test_tcp_nodelay_holds_for_them_too(nodelay: bool, upstream: socket.socket) -> None:
    with running_server("app", files={"app.py": NAGLE}, tcp_nodelay=nodelay) as server, server.connect() as client:
        client.sendall(b"tcp://127.0.0.1:%d\n" % upstream.getsockname()[1])
        assert client.recv(10) == b"%d\n" % nodelay
