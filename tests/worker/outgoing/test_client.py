"""AsyncTcpConnection against real servers: it begins, talks, ends, and begins again."""

from __future__ import annotations

import asyncio
import gc
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.worker.outgoing.conftest import ClientScene, echo, playing, silence
from tests.worker.scene import until
from workermand import AsyncTcpConnection, CloseReason, ConfigError, ConnectError, ConnectionStatus, Delimited
from workermand.testing import running_server
from workermand.worker.outgoing import clients


class Semicolons(Delimited):
    name = "semicolons"
    delimiter = b";"


def test_it_echoes_with_a_daemon_and_comes_back(scene: ClientScene) -> None:
    with running_server("apps.echo") as server:
        host, port = server.addresses["main"][0]
        client = scene.client(f"text://{host}:{port}")
        client.send("before")
        client.connect()
        scene.until(lambda: "before" in scene.log)
        assert scene.worker.stats.outgoing == 1
        client.send("hello")
        scene.heard("on_connect", "before", "hello")
        client.close()
        scene.heard("on_connect", "before", "hello", ("on_close", "CLOSED"))
        assert scene.worker.stats.outgoing == 0
        scene.log.clear()
        client.reconnect()
        client.send("again")
        scene.heard("on_connect", "again")
        assert client.bytes_read == len("again\n")
        server.stop()
        scene.heard("on_connect", "again", ("on_close", "PEER_CLOSED"))


def test_it_is_counted_and_shown_apart_from_clients(scene: ClientScene) -> None:
    async def play() -> None:
        async with playing(echo) as port:
            client = scene.client(f"tcp://127.0.0.1:{port}")
            assert client.row().local == "-" and client.row().remote == f"127.0.0.1:{port}"
            await client.connect()
            row = client.row()
            assert (row.direction, row.transport, row.protocol, row.status) == ("out", "tcp", "raw", "ESTABLISHED")
            assert row.remote == f"127.0.0.1:{port}" and row.local.startswith("127.0.0.1:")
            assert scene.worker.stats.outgoing == 1 and scene.worker.stats.connection_count == 0
            assert scene.worker.stats.accepted == 0
            client.destroy()

    scene.run(play())
    scene.until(lambda: not scene.worker.outgoing)
    assert scene.worker.stats.closed[CloseReason.DESTROYED] == 1


def test_the_runtime_keeps_it_and_forgets_it(scene: ClientScene) -> None:
    async def play() -> None:
        async with playing(echo) as port:
            client = scene.client(f"text://127.0.0.1:{port}")
            client.connect()
            client.send("x")
            del client
            gc.collect()
            await until(lambda: "x" in scene.log)
            (client,) = scene.worker.outgoing.values()
            client.close()

    scene.run(play())
    scene.until(lambda: not scene.worker.outgoing)
    scene.turn()
    gc.collect()
    assert not [thing for thing in gc.get_objects() if isinstance(thing, AsyncTcpConnection)]


def test_a_refusal_is_told_in_words(scene: ClientScene, free_port: Callable[[], int]) -> None:
    port = free_port()
    client = scene.client(f"tcp://127.0.0.1:{port}")
    client.connect()
    scene.until(lambda: len(scene.log) == 2)
    (code, words), close = scene.log
    assert code == "CONNECT_FAIL" and close == ("on_close", "CONNECT_FAILED")
    shape = rf"connect tcp://127\.0\.0\.1:{port} failed after \d+\.\d{{3}} s: 127\.0\.0\.1:{port}: Connection refused"
    assert re.fullmatch(shape, words)
    assert scene.worker.stats.closed[CloseReason.CONNECT_FAILED] == 1
    assert client.send("x") is False


def test_who_awaits_connect_gets_the_same_words(scene: ClientScene, free_port: Callable[[], int]) -> None:
    client = scene.client(f"tcp://127.0.0.1:{free_port()}")

    async def play() -> None:
        with pytest.raises(ConnectError, match="Connection refused"):
            await client.connect()

    scene.run(play())
    assert scene.log[1] == ("on_close", "CONNECT_FAILED")


def test_a_deadline_always_holds(scene: ClientScene) -> None:
    """Nobody takes connections off this backlog, which has room for one."""
    with socket.socket() as full, socket.socket() as first:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        first.connect(full.getsockname())
        client = scene.client(f"tcp://127.0.0.1:{full.getsockname()[1]}", timeout=0.2)
        client.connect()
        scene.until(lambda: len(scene.log) == 2)
        assert "no answer within 0.2 s" in scene.log[0][1]


def test_a_dropped_awaitable_complains_about_nothing(scene: ClientScene, free_port: Callable[[], int]) -> None:
    told: list[Any] = []
    scene.loop.set_exception_handler(lambda _loop, context: told.append(context))
    scene.client(f"tcp://127.0.0.1:{free_port()}").connect()
    scene.until(lambda: len(scene.log) == 2)
    scene.turn()
    gc.collect()
    scene.turn()
    assert not told


@pytest.mark.parametrize("end", ["close", "end", "destroy"])
def test_it_can_be_closed_while_it_connects(scene: ClientScene, end: str) -> None:
    async def play() -> None:
        async with playing(silence) as port:
            client = scene.client(f"wss://127.0.0.1:{port}")
            opening = client.connect()
            getattr(client, end)()
            assert client.status is ConnectionStatus.CLOSING
            with pytest.raises(ConnectError):
                await opening

    scene.run(play())
    reason = "DESTROYED" if end == "destroy" else "CLOSED"
    scene.heard(("on_close", reason))


def test_a_handshake_under_way_can_be_closed(scene: ClientScene) -> None:
    async def play() -> None:
        seen = asyncio.Event()

        async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            seen.set()
            assert await reader.read() is not None

        async with playing(listen) as port:
            client = scene.client(f"tls://127.0.0.1:{port}")
            client.connect()
            await seen.wait()
            client.close()

    scene.run(play())
    scene.heard(("on_close", "CLOSED"))


def test_reconnect_waits_and_can_be_cancelled(scene: ClientScene, free_port: Callable[[], int]) -> None:
    client = scene.client(f"tcp://127.0.0.1:{free_port()}")
    client.connect()
    scene.until(lambda: len(scene.log) == 2)
    client.reconnect(1000)
    assert client.status is ConnectionStatus.INITIAL
    assert client.close_reason is CloseReason.CONNECT_FAILED
    assert client.send("waits") is None
    client.cancel_reconnect()
    client.reconnect(0)
    scene.until(lambda: len(scene.log) == 4)
    with pytest.raises(ValueError, match="0 seconds or more"):
        client.reconnect(-1)


def test_reconnect_in_on_close_and_of_one_that_lives(scene: ClientScene) -> None:
    async def play() -> None:
        async with playing(echo) as port:
            client = scene.client(f"text://127.0.0.1:{port}")
            client.max_send_buffer_size = 77
            client.max_package_size = 99
            first = client.protocol
            await client.connect()
            client.reconnect()
            await scene.see(["on_connect", ("on_close", "CLOSED"), "on_connect"])
            assert client.protocol is not first
            assert (client.max_send_buffer_size, client.max_package_size) == (77, 99)
            client.on_close = lambda client: client.reconnect()
            client.destroy()
            await scene.see(["on_connect", ("on_close", "CLOSED"), "on_connect", "on_connect"])
            client.on_close = None
            client.destroy()

    scene.run(play())


def test_auto_reconnect(scene: ClientScene) -> None:
    """After a failure, after an end by the server; not after one of our own, nor when on_close says no."""

    async def play() -> None:
        async with playing(hang_up) as port:
            client = scene.client(f"tcp://127.0.0.1:{port}", auto_reconnect={"initial": 0.001, "max": 0.001})
            client.connect()
            await until(lambda: len(scene.log) >= 4)
        assert scene.log[:4] == ["on_connect", ("on_close", "PEER_CLOSED")] * 2
        await until(lambda: any("CONNECT_FAIL" in entry for entry in scene.log))

        def stay(client: AsyncTcpConnection) -> None:
            client.cancel_reconnect()
            scene.log.append("stays")

        client.on_close = stay
        await until(lambda: "stays" in scene.log)
        assert client._timer is None and not scene.worker.outgoing

    async def hang_up(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        pass

    scene.run(play())


@pytest.mark.parametrize("end", ["close", "end", "destroy"])
def test_who_waits_to_reconnect_can_be_closed(scene: ClientScene, free_port: Callable[[], int], end: str) -> None:
    client = scene.client(f"tcp://127.0.0.1:{free_port()}", auto_reconnect={"initial": 1000, "max": 1000})
    client.connect()
    scene.until(lambda: len(scene.log) == 2 and client._timer is not None)
    getattr(client, end)()
    assert client._timer is None


def test_to_connect_twice_changes_nothing(scene: ClientScene) -> None:
    """Least of all that it comes back by itself."""

    async def play() -> None:
        async with playing(echo) as port:
            client = scene.client(f"tcp://127.0.0.1:{port}", auto_reconnect={"initial": 0.001})
            client.connect()
            await client.connect()
            await client.drain()
            client.connect()
            client.wire.abort(CloseReason.PEER_RESET)
            with pytest.raises(ConnectError, match="it is closing"):
                await client.connect()
            await scene.see(["on_connect", ("on_close", "PEER_RESET"), "on_connect"])
            client.destroy()

    scene.run(play())


def test_close_ends_auto_reconnect(scene: ClientScene) -> None:
    async def play() -> None:
        async with playing(echo) as port:
            client = scene.client(f"tcp://127.0.0.1:{port}", auto_reconnect={"initial": 0.001})
            await client.connect()
            client.close()
            await scene.see(["on_connect", ("on_close", "CLOSED")])
            assert client._timer is None and client.status is ConnectionStatus.CLOSED

    scene.run(play())


def test_the_send_buffer_before_it_is_open(scene: ClientScene) -> None:
    async def play() -> None:
        async with playing(echo) as port:
            client = scene.client(f"tcp://127.0.0.1:{port}")
            client.max_send_buffer_size = 10
            client.on_buffer_full = lambda _client: scene.log.append("full")
            client.on_buffer_drain = lambda _client: scene.log.append("drain")
            assert client.send(b"123456") is None
            assert client.send(b"789012") is None
            assert client.get_send_buffer_size() == 12 and not client.buffer_is_empty()
            assert client.send(b"x") is False
            await client.connect()
            refused = ("SEND_FAIL", "send buffer full and drop package")
            await scene.see(["full", refused, "on_connect", "drain", b"123456789012"])
            assert client.get_send_buffer_size() == 0 and client.bytes_written == 12

    scene.run(play())


def test_pause_before_it_is_connected(scene: ClientScene) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello\n")
        await reader.read()

    async def play() -> None:
        async with playing(greet) as port:
            client = scene.client(f"text://127.0.0.1:{port}")
            client.pause_recv()
            await client.connect()
            assert not client.wire.transport.is_reading()
            client.resume_recv()
            await scene.see(["on_connect", "hello"])

    scene.run(play())


def test_async_callbacks(scene: ClientScene) -> None:
    async def play() -> None:
        async with playing(echo) as port:
            client = scene.client(f"text://127.0.0.1:{port}")

            async def on_connect(client: AsyncTcpConnection) -> None:
                await asyncio.sleep(0)
                client.send("one")
                client.send("two")

            async def on_message(client: AsyncTcpConnection, data: str) -> None:
                await asyncio.sleep(0)
                scene.log.append(data)
                if data == "two":
                    client.close()

            async def on_close(client: AsyncTcpConnection) -> None:
                await asyncio.sleep(0)
                scene.log.append("closed")

            client.on_connect, client.on_message, client.on_close = on_connect, on_message, on_close
            client.connect()
            await scene.see(["one", "two", "closed"])

    scene.run(play())


def test_an_exception_in_a_callback_ends_it(scene: ClientScene) -> None:
    async def play() -> None:
        async with playing(echo) as port:
            client = scene.client(f"text://127.0.0.1:{port}")
            client.on_connect = lambda _client: 1 / 0
            client.connect()
            await scene.see([("on_close", "HANDLER_ERROR")])

    scene.run(play())
    assert scene.failures.pop()[0] == "on_connect"


def test_protocols(scene: ClientScene) -> None:
    async def play() -> None:
        async with playing(echo) as port:
            scene.clients.schemes = {"semi": "tests.worker.outgoing.test_client:Semicolons"}
            made = [
                scene.client(f"frame://127.0.0.1:{port}"),
                scene.client(f"tcp://127.0.0.1:{port}", protocol="text"),
                scene.client(f"tcp://127.0.0.1:{port}", protocol=Semicolons),
                scene.client(f"semi://127.0.0.1:{port}"),
            ]
            for client in made:
                client.send(b"x")
                client.connect()
            await scene.see_any_order(["on_connect"] * 4 + [b"x", "x", b"x", b"x"])

    scene.run(play())


def test_unix(scene: ClientScene, short_dir: Path) -> None:
    async def play() -> None:
        async with playing(echo, path=f"{short_dir}/s"):
            client = scene.client(f"unix://{short_dir}/s")
            await client.connect()
            client.send(b"x")
            await scene.see(["on_connect", b"x"])
            assert client.row().transport == "unix"
            client.destroy()
        client = scene.client(f"unix://{short_dir}/none")
        with pytest.raises(ConnectError, match="none: No such file"):
            await client.connect()

    scene.run(play())


def test_bind(scene: ClientScene) -> None:
    async def play() -> None:
        async with playing(echo) as port:
            client = scene.client(f"tcp://127.0.0.1:{port}", bind="127.0.0.7")
            await client.connect()
            assert client.get_local_ip() == "127.0.0.7"
            lost = scene.client(f"tcp://127.0.0.1:{port}", bind="192.0.2.1")
            with pytest.raises(ConnectError, match="Cannot assign"):
                await lost.connect()

    scene.run(play())


@pytest.mark.parametrize(
    ("uri", "settings", "complaint"),
    [
        ("http://example.com", {}, "httpx"),
        ("wss://example.com", {"tls": False}, "contradicts"),
        ("unix:///x", {"proxy": "http://127.0.0.1:1"}, "proxy"),
        ("tcp://127.0.0.1:1", {"protocol": "http"}, "server speaks"),
        ("unix:///x", {"protocol": "websocket"}, "server speaks"),
        ("text://127.0.0.1:1", {"protocol": "frame"}, "two protocols"),
        ("tcp://127.0.0.1:1", {"auto_reconnect": {"inital": 1}}, "inital"),
    ],
)
def test_what_cannot_be_meant(scene: ClientScene, uri: str, settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        scene.client(uri, **settings)


def test_only_a_loop_has_connections(scene: ClientScene) -> None:
    clients.install(None)
    with pytest.raises(RuntimeError, match="needs a running event loop"):
        AsyncTcpConnection("tcp://127.0.0.1:1")
    with pytest.raises(AttributeError, match="on_mesage"):
        scene.reinstall().client("tcp://127.0.0.1:1").on_mesage = print


def test_nothing_connects_in_a_process_that_ends(scene: ClientScene) -> None:
    client = scene.client("tcp://127.0.0.1:1")
    scene.clients.is_over = True
    client.connect()
    scene.until(lambda: len(scene.log) == 2)
    assert "stopping" in scene.log[0][1]
