"""AsyncUdpConnection: a real daemon, a peer that is not there, and names."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.worker.outgoing.conftest import ClientScene
from tests.worker.outgoing.nameserver import AAAA, A, NameServer
from workermand import AsyncUdpConnection, CloseReason, ConfigError, ConnectionStatus
from workermand.testing import running_server


@pytest.fixture
def peer() -> Iterator[socket.socket]:
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(10)
        yield sock


def client_of(scene: ClientScene, uri: str, **settings: Any) -> AsyncUdpConnection:
    client = AsyncUdpConnection(uri, **settings)
    client.on_connect = lambda _client: scene.log.append("on_connect")
    client.on_message = lambda _client, data: scene.log.append(data)
    client.on_close = lambda client: scene.log.append(("on_close", client.close_reason.name))
    client.on_error = lambda _client, code, words: scene.log.append((code.name, words))
    return client


def to(peer: socket.socket) -> str:
    return f"udp://127.0.0.1:{peer.getsockname()[1]}"


def test_a_real_daemon(scene: ClientScene) -> None:
    with running_server("apps.echo", listen="udp://127.0.0.1:0") as server:
        host, port = server.addresses["main"][0]
        client = client_of(scene, f"udp://{host}:{port}")
        assert client.send(b"before") is None
        scene.heard("on_connect", b"before")
        assert client.send(b"after") is True
        scene.heard("on_connect", b"before", b"after")
        assert scene.worker.stats.outgoing == 1
        assert (client.bytes_read, client.bytes_written) == (11, 11)
        row = client.row()
        assert (row.transport, row.direction, row.remote) == ("udp", "out", f"{host}:{port}")
        client.close(b"last")
        client.close()
        scene.heard("on_connect", b"before", b"after", ("on_close", "CLOSED"))
    assert scene.worker.stats.outgoing == 0 and scene.worker.stats.closed[CloseReason.CLOSED] == 1


def test_nobody_is_there(scene: ClientScene, free_port: Callable[[], int]) -> None:
    client = client_of(scene, f"udp://127.0.0.1:{free_port()}")
    client.send(b"x")
    scene.heard("on_connect", ("SEND_FAIL", "Connection refused"))
    assert scene.worker.stats.send_fail == 1 and client.status is ConnectionStatus.ESTABLISHED
    client.close()


def test_it_hears_its_peer_alone_and_again(scene: ClientScene, peer: socket.socket) -> None:
    client = client_of(scene, to(peer), bind="127.0.0.1")
    client.send(b"who")
    scene.until(lambda: client.bytes_written)
    _data, its_address = peer.recvfrom(100)
    with socket.socket(type=socket.SOCK_DGRAM) as stranger:
        stranger.sendto(b"stranger", its_address)
    peer.sendto(b"peer", its_address)
    scene.heard("on_connect", b"peer")
    client.close()
    client.connect()
    scene.heard("on_connect", b"peer", ("on_close", "CLOSED"), "on_connect")
    client.connect()
    client.close()


def test_protocols(scene: ClientScene, peer: socket.socket) -> None:
    client = client_of(scene, to(peer), protocol="text")
    client.send("hello")
    scene.until(lambda: client.bytes_written)
    data, its_address = peer.recvfrom(100)
    assert data == b"hello\n"
    peer.sendto(b"one\ntwo\nhalf", its_address)
    scene.heard("on_connect", "one", "two")
    client.close()


def test_async_callbacks_and_exceptions(scene: ClientScene, peer: socket.socket) -> None:
    client = client_of(scene, to(peer))

    async def on_message(_client: AsyncUdpConnection, data: bytes) -> None:
        await asyncio.sleep(0)
        scene.log.append(data)
        raise ValueError(data.decode())

    def on_connect(_client: AsyncUdpConnection) -> None:
        raise ValueError("connected")

    client.on_message, client.on_connect = on_message, on_connect
    client.send(b"x")
    scene.until(lambda: client.bytes_written)
    peer.sendto(b"y", peer.recvfrom(100)[1])
    scene.heard(b"y")
    scene.until(lambda: len(scene.failures) == 2)
    assert [where for where, _ in scene.failures] == ["on_connect", "on_message"]
    scene.failures.clear()
    client.close()


def test_names(scene: ClientScene, peer: socket.socket) -> None:
    server = NameServer()
    server.zone = {("a.test", A): ["127.0.0.1"], ("a.test", AAAA): [], ("no.test", A): None, ("no.test", AAAA): None}
    scene.clients.names = scene.run(scene.names_of(server))
    port = peer.getsockname()[1]
    client = client_of(scene, f"udp://a.test:{port}")
    client.send(b"x")
    assert client.get_remote_address() == f"a.test:{port}" and client.get_local_address() == "-"
    scene.heard("on_connect")
    client.close()
    scene.log.clear()
    for host, complaint in (("no", "not found"), ("dead", "no answer within 0.1 s")):
        client_of(scene, f"udp://{host}.test:1", timeout=0.1).connect()
        scene.until(lambda: len(scene.log) == 2)
        (code, words), close = scene.log
        assert (code, close) == ("CONNECT_FAIL", ("on_close", "CONNECT_FAILED")) and complaint in words
        scene.log.clear()


def test_closed_while_it_looks_the_name_up(scene: ClientScene) -> None:
    scene.clients.names = scene.run(scene.names_of(NameServer()))
    client = client_of(scene, "udp://dead.test:1", timeout=0.05)
    client.connect()
    client.close()
    scene.heard(("on_close", "CLOSED"))
    scene.until(lambda: not client._tasks)
    scene.heard(("on_close", "CLOSED"))


def test_what_waits_is_bounded(scene: ClientScene) -> None:
    scene.limit(send_buffer=10)
    scene.clients.names = scene.run(scene.names_of(NameServer()))
    client = client_of(scene, "udp://dead.test:1")
    assert [client.send(b"12345") for _ in range(3)] == [None, None, False]
    client.close()


def test_what_cannot_be_meant(scene: ClientScene) -> None:
    with pytest.raises(ConfigError):
        AsyncUdpConnection("tcp://127.0.0.1:1")
    client = AsyncUdpConnection("udp://127.0.0.1:1")
    with pytest.raises(AttributeError, match="on_buffer_full"):
        client.on_buffer_full = print
    with pytest.raises(AttributeError, match="nothing"):
        client.nothing  # noqa: B018
    assert client.send(b"") is None
    client.anything = 1
