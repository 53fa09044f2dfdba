"""AsyncTcpConnection against real servers: it begins, talks, ends, and begins again."""

from __future__ import annotations

import asyncio

import pytest

from tests.worker.outgoing.conftest import ClientScene
from workermand import AsyncTcpConnection, ConnectError, ConnectionStatus
from workermand.testing import running_server


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
        assert client.row().direction == "out"
        client.close()
        scene.heard("on_connect", "before", "hello", ("on_close", "CLOSED"))
        assert scene.worker.stats.outgoing == 0
        scene.log.clear()
        client.reconnect()
        client.send("again")
        scene.heard("on_connect", "again")
        server.stop()
        scene.heard("on_connect", "again", ("on_close", "PEER_CLOSED"))
