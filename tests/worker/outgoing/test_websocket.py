"""The WebSocket client: a real daemon, another library's server, and servers that answer as none should."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from typing import Any

import pytest
import websockets

from tests.worker.outgoing.conftest import ClientScene, playing, silence
from tests.worker.scene import until
from workermand import AsyncTcpConnection, Close, CloseReason, ConnectError
from workermand.testing import running_server
from workermand.worker.outgoing.websocket import Answer

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


async def request_of(reader: asyncio.StreamReader) -> tuple[str, dict[str, str]]:
    """Request line and headers."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
    return head[0], {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}


def switching(headers: dict[str, str], *lines: str) -> bytes:
    accept = base64.b64encode(hashlib.sha1(headers["sec-websocket-key"].encode() + GUID).digest()).decode()
    first = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"]
    return "\r\n".join([*first, f"Sec-WebSocket-Accept: {accept}", *lines, "", ""]).encode()


async def frame_from(reader: asyncio.StreamReader) -> tuple[int, bytes, bytes]:
    """First byte, mask, payload of a short masked frame."""
    first, second = await reader.readexactly(2)
    assert second & 0x80
    mask = await reader.readexactly(4)
    masked = await reader.readexactly(second & 0x7F)
    return first, mask, bytes(byte ^ mask[index % 4] for index, byte in enumerate(masked))


def test_a_real_daemon(scene: ClientScene) -> None:
    with running_server("apps.websocket_echo", listen="websocket://127.0.0.1:0") as server:
        host, port = server.addresses["main"][0]
        client = scene.client(f"ws://{host}:{port}/path?query", deflate=True)
        client.on_websocket_connect = lambda _client, answer: scene.log.append(answer.status)
        client.on_websocket_close = lambda _client, code, reason: scene.log.append((code, reason))
        client.send("early")
        client.connect()
        scene.until(lambda: "early" in scene.log)
        client.send("x" * 1000)
        scene.heard("on_connect", 101, "early", "x" * 1000)
        client.close()
        scene.until(lambda: ("on_close", "CLOSED") in scene.log)


def test_another_library(scene: ClientScene) -> None:
    async def serve(peer: Any) -> None:
        scene.log.append((peer.request.path, peer.request.headers["Origin"], peer.request.headers["X-Token"]))
        async for message in peer:
            await peer.send(message)

    async def play() -> None:
        async with websockets.serve(serve, "127.0.0.1", 0, subprotocols=["chat"]) as server:  # type: ignore[list-item]
            port = server.sockets[0].getsockname()[1]
            uri = f"ws://127.0.0.1:{port}/feed?x=1"
            client = scene.client(uri, origin="https://example.com", subprotocols=["mqtt", "chat"], deflate=True)
            client.on_connect = lambda client: setattr(client, "headers", {"X-Token": "42"})
            await client.connect()
            assert client.subprotocol == "chat"
            client.send("text" * 100)
            client.send(b"bytes")
            await scene.see([("/feed?x=1", "https://example.com", "42"), "text" * 100, b"bytes"])
            client.send(Close(3000, "enough"))
            await scene.see([*scene.log, ("on_close", client.close_reason and client.close_reason.name)][:3])
            client.close()

    scene.run(play())


def test_frames_that_come_with_the_101_are_handled_at_once(scene: ClientScene) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _line, headers = await request_of(reader)
        writer.write(switching(headers) + b"\x81\x05hello\x81\x05wor")
        first, mask, payload = await frame_from(reader)
        scene.log.append((first, payload, mask != bytes(4)))
        writer.write(b"ld\x88\x06\x0f\xa0over")
        await reader.read()

    async def play() -> None:
        async with playing(serve) as port:
            client = scene.client(f"ws://127.0.0.1:{port}")

            def opened(client: AsyncTcpConnection, answer: Answer) -> None:
                scene.log.append(str(answer))
                client.send("second")

            client.on_websocket_connect = opened
            client.on_websocket_close = lambda _client, code, reason: scene.log.append((code, reason))
            client.send("first")
            client.connect()
            expected = ["on_connect", "101 Switching Protocols", "hello", (0x81, b"first", True), "world"]
            await scene.see([*expected, (4000, "over"), ("on_close", "WEBSOCKET_CLOSED")])

    scene.run(play())


def test_async_callbacks_keep_the_order(scene: ClientScene) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _line, headers = await request_of(reader)
        writer.write(switching(headers) + b"\x81\x05hello")
        await reader.read()

    async def play() -> None:
        async with playing(serve) as port:
            client = scene.client(f"ws://127.0.0.1:{port}")

            async def note(_client: AsyncTcpConnection, answer: Answer) -> None:
                await asyncio.sleep(0)
                scene.log.append(answer.status)

            client.on_websocket_connect = note
            client.connect()
            await scene.see(["on_connect", 101, "hello"])

    scene.run(play())


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", "the server answered 403"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", "does not fit"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "the server answered 200"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "no answer in HTTP"),
        (b"", "WebSocket: the connection was closed"),
        (b"HTTP/1.1 101 Switch", "WebSocket: the connection was closed"),
    ],
)
def test_no_websocket(scene: ClientScene, answer: bytes, complaint: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        writer.write(answer)

    async def play() -> None:
        async with playing(serve) as port:
            client = scene.client(f"ws://127.0.0.1:{port}")
            client.send("never sent")
            with pytest.raises(ConnectError, match=complaint):
                await client.connect()
            await until(lambda: len(scene.log) >= 3)

    scene.run(play())
    connected, (code, words), (close, reason) = scene.log
    assert (connected, code, close) == ("on_connect", "CONNECT_FAIL", "on_close")
    assert complaint in words
    assert reason in ("UPGRADE_REFUSED", "CONNECT_FAILED")


def test_an_endless_head(scene: ClientScene) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n" + b"X: 1\r\n" * 10_000)
        await reader.read()

    async def play() -> None:
        async with playing(serve) as port:
            with pytest.raises(ConnectError):
                await scene.client(f"ws://127.0.0.1:{port}").connect()

    scene.run(play())
    assert "more than" in scene.log[1][1]


def test_the_deadline_covers_the_handshake(scene: ClientScene) -> None:
    async def play() -> None:
        async with playing(silence) as port:
            client = scene.client(f"ws://127.0.0.1:{port}", timeout=0.1)
            with pytest.raises(ConnectError, match=r"WebSocket: no answer within 0\.1 s"):
                await client.connect()

    scene.run(play())
    scene.until(lambda: not scene.worker.outgoing)
    assert scene.worker.stats.closed[CloseReason.CONNECT_FAILED] == 1


def test_what_cannot_be_a_header_is_the_handlers_error(scene: ClientScene) -> None:
    async def play() -> None:
        async with playing(silence) as port:
            client = scene.client(f"ws://127.0.0.1:{port}", headers={"Upgrade": "h2c"})
            with pytest.raises(ConnectError):
                await client.connect()

    scene.run(play())
    assert "belongs to the handshake" in scene.failures.pop()[1]


def test_pings_are_sent_and_have_to_be_answered(scene: ClientScene) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _line, headers = await request_of(reader)
        writer.write(switching(headers))
        first, _mask, payload = await frame_from(reader)
        writer.write(b"\x8a\x00")
        scene.log.append((first, payload))
        first, _mask, payload = await frame_from(reader)
        scene.log.append((first, payload))
        await reader.read()

    async def play() -> None:
        async with playing(serve) as port:
            client = scene.client(f"ws://127.0.0.1:{port}", ping_interval=0.05)
            client.on_websocket_pong = lambda _client, data: scene.log.append(("pong", data))
            client.connect()
            end = [("pong", b""), (0x89, b""), ("on_close", "PING_TIMEOUT")]
            await scene.see(["on_connect", (0x89, b""), *end])

    scene.run(play())


def test_a_reconnect_shakes_hands_anew(scene: ClientScene) -> None:
    keys = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _line, headers = await request_of(reader)
        keys.append(headers["sec-websocket-key"])
        writer.write(switching(headers) + b"\x81\x02hi")
        await reader.read(1)

    async def play() -> None:
        async with playing(serve) as port:
            client = scene.client(f"ws://127.0.0.1:{port}")
            client.on_message = lambda client, _data: client.destroy()
            client.on_close = lambda client: client.reconnect() if len(keys) < 3 else None
            client.connect()
            await until(lambda: len(keys) >= 3 and not scene.worker.outgoing)

    scene.run(play())
    assert len(set(keys)) == 3


def test_an_answer() -> None:
    answer = Answer(b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Protocol: chat\r\nUpgrade: websocket\r\n\r\n")
    assert (answer.status, answer.reason) == (101, "Switching Protocols")
    assert answer.header("sec-websocket-protocol") == "chat" and answer.header("x", "none") == "none"
