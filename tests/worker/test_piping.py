"""pipe(): a proxy of two pipes, with real sockets on both sides; flat memory, halves that end one by one."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.certs import Authority
from tests.worker.outgoing.conftest import ClientScene, playing
from tests.worker.scene import until
from workermand import AsyncTcpConnection, Connection
from workermand.protocols.raw import Raw
from workermand.protocols.text import Text
from workermand.worker.listener import Listener

MIB = 1024 * 1024


@pytest.fixture
def scene() -> Iterator[ClientScene]:
    made = ClientScene()
    yield made
    made.close()
    assert not made.failures


def proxy(scene: ClientScene, port: int, scheme: str = "tcp", **settings: Any) -> Listener:
    """To this port."""

    def on_connect(client: Connection) -> None:
        remote = AsyncTcpConnection(f"{scheme}://localhost:{port}", **settings)
        client.pipe(remote)
        remote.pipe(client)
        remote.connect()

    scene.on(on_connect=on_connect)
    return scene.listen(Raw)


def test_last_words_reach_a_client_that_is_still_sending(scene: ClientScene) -> None:
    """end() in the upstream's on_error: its on_close, which follows, does not cut them short."""
    remotes: list[AsyncTcpConnection] = []

    def on_connect(client: Connection) -> None:
        remote = AsyncTcpConnection("tcp://127.0.0.1:1")
        client.pipe(remote)
        remote.pipe(client)
        remote.on_error = lambda *_: client.end("no upstream\n")
        remotes.append(remote)

    async def play() -> None:
        scene.on(on_connect=on_connect)
        reader, writer = await scene.dial(scene.listen(Raw))
        writer.write(b"x" * 16 * MIB)
        await until(lambda: remotes and remotes[0].get_send_buffer_size() >= remotes[0].max_send_buffer_size)
        remotes[0].connect()
        assert await reader.read() == b"no upstream\n"
        writer.write_eof()  # all of it is taken: no reset
        writer.close()
        await writer.wait_closed()

    scene.run(play())


async def answer_behind_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """All of the request first."""
    request = await reader.read()
    writer.write(b"got " + request)
    await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
        await reader.read()
    else:
        writer.close()
        await writer.wait_closed()


def test_a_half_close_is_passed_on(scene: ClientScene) -> None:
    """As `echo request | nc -N` has it; here before the upstream is even connected."""

    async def play() -> None:
        async with playing(answer_behind_the_end) as port:
            reader, writer = await scene.dial(proxy(scene, port))
            writer.write(b"request")
            writer.write_eof()
            assert await reader.read() == b"got request"
            writer.close()

    scene.run(play())
    scene.until(lambda: not scene.worker.outgoing and not scene.worker.connections)


class Tls:
    """A server's side that knows halves: asyncio's own ends both directions at a close_notify."""

    def __init__(self, context: ssl.SSLContext, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._reader, self._writer = reader, writer

    async def read(self) -> bytes:
        """b"" at the close_notify, without an end of TCP."""
        while True:
            try:
                data = self._tls.read(65536)
                self.flush()
                return data
            except ssl.SSLWantReadError:
                self.flush()
                self._incoming.write(await self._reader.read(65536))

    def write(self, data: bytes) -> None:
        self._tls.write(data)
        self.flush()

    def flush(self) -> None:
        self._writer.write(self._outgoing.read())


@pytest.mark.parametrize("paused", [False, True])
def test_a_half_close_over_tls(scene: ClientScene, tmp_path: Path, paused: bool) -> None:
    """``paused``: there is input that waits, which OpenSSL must not come upon."""
    authority = Authority(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue())
    told = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tls = Tls(context, reader, writer)
        request = await tls.read()
        if paused:
            tls.write(b"early ")
            told.set()
        while data := await tls.read():
            request += data
        tls.write(b"got " + request)
        await writer.drain()
        writer.write_eof()
        await reader.read()

    async def play() -> None:
        async with playing(serve) as port:
            reader, writer = await scene.dial(proxy(scene, port, "tls", tls={"ca": str(authority.file)}))
            writer.write(b"re")
            if paused:
                await until(lambda: scene.worker.outgoing)
                (remote,) = scene.worker.outgoing.values()
                await until(lambda: remote.bytes_written and told.is_set())
                remote.pause_recv()
            writer.write(b"quest")
            writer.write_eof()
            if paused:
                stream = remote.wire.transport
                await until(lambda: (remote.bytes_read or stream._incoming.pending) and remote.bytes_written == 7)
                remote.resume_recv()
            assert await reader.read() == (b"early got request" if paused else b"got request")
            writer.close()

    scene.run(play())
    scene.until(lambda: not scene.worker.outgoing and not scene.worker.connections)


def test_the_server_may_be_the_first_to_end(scene: ClientScene) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"banner")
        writer.write_eof()
        scene.log.append(await reader.read())

    async def play() -> None:
        async with playing(serve) as port:
            reader, writer = await scene.dial(proxy(scene, port))
            assert await reader.read() == b"banner"
            writer.write(b"still here")
            writer.close()
            await scene.see([b"still here"])

    scene.run(play())
    scene.until(lambda: not scene.worker.outgoing and not scene.worker.connections)


def test_an_abort_ends_both(scene: ClientScene) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        writer.transport.abort()

    async def play() -> None:
        async with playing(hang_up) as port:
            reader, writer = await scene.dial(proxy(scene, port))
            writer.write(b"x")
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()

    scene.run(play())
    scene.until(lambda: not scene.worker.outgoing and not scene.worker.connections)


def test_an_upstream_that_is_not_there_ends_the_client(scene: ClientScene, free_port: Any) -> None:
    async def play() -> None:
        reader, writer = await scene.dial(proxy(scene, free_port()))
        assert await reader.read() == b""
        writer.close()

    scene.run(play())
    scene.until(lambda: not scene.worker.outgoing and not scene.worker.connections)


def test_one_way_ends_both(scene: ClientScene) -> None:
    one, its_transport = scene.connect(Text())
    other, other_transport = scene.connect(Text())
    one.pipe(other)
    its_transport.receive(b"hello\n")
    its_transport.receive_eof()
    assert bytes(other_transport.sent) == b"hello\n"
    other_transport.settle()
    assert not scene.worker.connections


def test_raw_is_not_encoded(scene: ClientScene) -> None:
    one, its_transport = scene.connect(Text())
    other, other_transport = scene.connect(Text())
    one.pipe(other, raw=True)
    its_transport.receive(b"hello\n")
    assert bytes(other_transport.sent) == b"hello"


@pytest.mark.soak
def test_memory_stays_flat_behind_a_slow_reader(scene: ClientScene, full: bool) -> None:
    """200 MiB, and 10 GiB in full, of which no more than a few are ever held."""
    total = (10_240 if full else 200) * MIB
    portion = b"x" * MIB

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(total // MIB):
            writer.write(portion)
            await writer.drain()
        writer.write_eof()
        await reader.read()

    async def play() -> None:
        async with playing(flood) as port:
            reader, writer = await scene.dial(proxy(scene, port))
            received = most = 0
            while data := await reader.read(MIB):
                received += len(data)
                held = [*scene.worker.connections.values(), *scene.worker.outgoing.values()]
                most = max(most, *(connection.get_send_buffer_size() for connection in held), 0)
                await asyncio.sleep(0)
            assert received == total
            assert most < 2 * MIB
            writer.close()

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    scene.loop.run_until_complete(play())
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 64 * MIB
