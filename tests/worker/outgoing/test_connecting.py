"""An attempt: its deadline is over all of its steps, and it leaves nothing behind."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
from collections.abc import Callable

import pytest

from tests.worker.outgoing.conftest import ClientScene, echo, playing, silence
from tests.worker.scene import until
from workermand import AsyncTcpConnection, ConnectError, ConnectionLost


def descriptors() -> int:
    """Sockets, seen from inside of the loop, which has two of its own while it runs."""
    found = 0
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # that of the directory
            found += os.readlink(f"/proc/self/fd/{fd}").startswith("socket:")
    return found


def test_who_waits_for_it_and_is_cancelled_does_not_cancel_it(scene: ClientScene) -> None:
    async def play() -> None:
        async with playing(silence) as port:
            client = scene.client(f"tls://127.0.0.1:{port}", tls={"verify": False}, timeout=0.3)
            opening = client.connect()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(opening, 0.01)
            assert client.attempt is not None
            first, second = await asyncio.gather(opening, client.connect(), return_exceptions=True)
            assert isinstance(first, ConnectError) and first is second
            await scene.see([scene.log[0], ("on_close", "CONNECT_FAILED")])

    scene.run(play())


def test_an_open_one_is_no_longer_waited_for(scene: ClientScene) -> None:
    async def play() -> None:
        async with playing(echo) as port:
            client = scene.client(f"text://127.0.0.1:{port}")
            await client.connect()
            await client.connect()
            await client.drain()
            client.destroy()

    scene.run(play())


def test_drain_waits_for_the_connection(scene: ClientScene, free_port: Callable[[], int]) -> None:
    async def play() -> None:
        async with playing(echo) as port:
            client = scene.client(f"tcp://127.0.0.1:{port}")
            client.connect()
            client.send(b"x")
            await client.drain()
            assert scene.log[0] == "on_connect"
            client.destroy()
        lost = scene.client(f"tcp://127.0.0.1:{free_port()}")
        lost.connect()
        with pytest.raises(ConnectionLost, match="refused"):
            await lost.drain()

    scene.run(play())


@pytest.mark.parametrize("proxy", [None, "http", "socks5"])
@pytest.mark.parametrize("scheme", ["tcp", "tls", "ws", "wss"])
@pytest.mark.parametrize("how", ["silent", "gone", "closed by us"])
def test_no_attempt_leaves_a_descriptor(scene: ClientScene, scheme: str, proxy: str | None, how: str) -> None:
    """A server, or a proxy, that accepts and says nothing, or hangs up; and a handler that loses its patience."""

    async def hang_up(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        pass

    async def play() -> None:
        async with playing(hang_up if how == "gone" else silence) as port:
            via = None if proxy is None else f"{proxy}://127.0.0.1:{port}"
            before = descriptors()
            for _ in range(3):
                client = scene.client(f"{scheme}://127.0.0.1:{port}", proxy=via, timeout=0.05)
                opening = client.connect()
                if how == "closed by us":
                    await asyncio.sleep(0.01)
                    client.destroy()
                if scheme != "tcp" or proxy is not None:
                    with pytest.raises(ConnectError):
                        await opening
                client.destroy()
            while scene.worker.outgoing or descriptors() > before:  # noqa: ASYNC110
                await asyncio.sleep(0.001)

    scene.run(play())


def test_five_hundred_come_back_and_leave_nothing(scene: ClientScene) -> None:
    """A server that comes and goes; no descriptor, task or timer is left of any of it."""
    told: collections.Counter[str] = collections.Counter()

    def make(port: int) -> AsyncTcpConnection:
        client = AsyncTcpConnection(f"text://127.0.0.1:{port}", auto_reconnect={"initial": 0.1, "max": 0.2})
        client.on_connect = lambda _client: told.update(["connected"])
        client.on_error = lambda _client, _code, _words: told.update(["failed"])
        client.connect()
        return client

    async def come_and_go() -> list[AsyncTcpConnection]:
        before = descriptors()
        async with playing(echo, backlog=1000) as port:
            made = [make(port) for _ in range(500)]
            await until(lambda: told["connected"] == 500)
        await until(lambda: told["failed"] >= 1000)
        for client in made:
            client.destroy()
        await until(lambda: not scene.worker.outgoing and descriptors() <= before)
        return made

    made = scene.run(come_and_go())
    scene.turn()
    assert not asyncio.all_tasks(scene.loop)
    assert not [client for client in made if client._timer is not None]
