"""WebSocket clients that people use, the websockets package and aiohttp, and a real daemon."""

from __future__ import annotations

import asyncio
import io
import os
import socket
import struct
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

import aiohttp
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import CloseCode
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Data, Subprotocol

from tests.conftest import PATIENCE, wait_until
from workermand.testing import RunningServer, running_server

T = TypeVar("T")

HANDLER = """
from workermand import BINARY_TYPE_ARRAYBUFFER, Close, Ping


def on_websocket_connect(connection, request):
    if request.path == "/secret":
        connection.handshake.refuse(401, "Log in first.", [("WWW-Authenticate", "Bearer")])
    connection.handshake.headers.append(("X-Path", request.path))


def on_websocket_connected(connection, request):
    connection.context = connection.handshake
    if request.path == "/ping":
        connection.send(Ping(b"there?"))
    elif request.path == "/binary":
        connection.websocket_type = BINARY_TYPE_ARRAYBUFFER


def on_websocket_pong(connection, data):
    connection.send(f"pong {data.decode()}")


def on_websocket_close(connection, code, reason):
    print("the client said", code, reason, flush=True)


def on_message(connection, data):
    if not isinstance(data, (str, bytes)):
        connection.send({"path": data.path, "query": data.get(), "sum": sum(data.raw_body), "form": data.post()})
    elif data == "error":
        raise ValueError("a test")
    elif data == "close":
        connection.close(Close(4001, "as you say"))
    elif data == "bye":
        connection.close("bye")
    else:
        connection.send(data)
"""
LARGE = 10 << 20
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    websocket = {"subprotocols": ["chat.v2", "chat.v1"], "deflate": True}
    settings: dict[str, Any] = {"websocket": websocket, "limits": {"package": LARGE}}
    with running_server("sockets", listen="http://127.0.0.1:0", files={"sockets.py": HANDLER}, **settings) as server:
        yield server


def url(server: RunningServer, path: str = "/") -> str:
    return f"ws://127.0.0.1:{server.port}{path}"


def dial(server: RunningServer, path: str = "/", **options: Any) -> ClientConnection:
    options = {"compression": None, "max_size": None, "open_timeout": PATIENCE, **options}
    return connect(url(server, path), **options)


def echo(client: ClientConnection, message: Data) -> Data:
    client.send(message)
    return client.recv(PATIENCE)


def close_after(client: ClientConnection, *messages: Data) -> tuple[int, str]:
    """What the server says when it closes, maybe before all is sent."""

    def talk() -> None:
        for message in messages:
            client.send(message)
        client.recv(PATIENCE)

    with pytest.raises(ConnectionClosed) as closed:
        talk()
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code, closed.value.rcvd.reason


# ---------------------------------------------------------------------------------------------------- websockets


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_text_and_binary(server: RunningServer, compression: str | None) -> None:
    noise = os.urandom(100_000)
    with dial(server, compression=compression) as client:
        assert client.response is not None
        assert ("Sec-WebSocket-Extensions" in client.response.headers) == (compression is not None)
        for message in ("grüße 🦆", "", b"", b"\0\xff", "x" * 125, "x" * 126, "y" * 70_000, noise, noise.hex()):
            assert echo(client, message) == message


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_ten_mebibytes_and_no_more(server: RunningServer, compression: str | None) -> None:
    message = os.urandom(LARGE // 2).hex()
    with dial(server, compression=compression) as client:
        assert echo(client, message) == message
        assert close_after(client, message + "!")[0] == CloseCode.MESSAGE_TOO_BIG


def test_fragments_with_a_ping_between(server: RunningServer) -> None:
    with dial(server) as client:
        pongs = []

        def fragments() -> Iterator[bytes]:
            for number in range(100):
                if number % 10 == 5:
                    pongs.append(client.ping())
                yield b"%03d " % number

        client.send(fragments())
        assert client.recv(PATIENCE) == b"".join(b"%03d " % number for number in range(100))
        assert all(pong.wait(PATIENCE) for pong in pongs)


def test_pings_both_ways(server: RunningServer) -> None:
    with dial(server, "/ping") as client:
        assert client.recv(PATIENCE) == "pong there?"
        assert client.ping(b"hello").wait(PATIENCE)


def test_what_is_sent_may_be_binary_only(server: RunningServer) -> None:
    with dial(server, "/binary") as client:
        assert echo(client, "grüße") == "grüße".encode()


def test_a_subprotocol_is_agreed_upon(server: RunningServer) -> None:
    offered = [Subprotocol(name) for name in ("mqtt", "chat.v1", "chat.v2")]
    with dial(server, subprotocols=offered) as client:
        assert client.subprotocol == "chat.v2", "the dearest of the server's"
    with dial(server, subprotocols=offered[:1]) as client:
        assert client.subprotocol is None


def test_the_handler_refuses_and_adds(server: RunningServer) -> None:
    with pytest.raises(InvalidStatus) as refused:
        dial(server, "/secret")
    response = refused.value.response
    assert (response.status_code, response.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert response.body == b"Log in first.\n"
    with dial(server, "/open") as client:
        assert client.response is not None and client.response.headers["X-Path"] == "/open"


def test_close_codes_of_the_server(server: RunningServer) -> None:
    with dial(server) as client:
        assert close_after(client, "close") == (4001, "as you say")
    with dial(server) as client:
        assert echo(client, "bye") == "bye"
        assert close_after(client) == (CloseCode.NORMAL_CLOSURE, "closed by handler")
    with dial(server) as client:
        assert close_after(client, "error")[0] == CloseCode.INTERNAL_ERROR


def test_close_codes_of_the_client(server: RunningServer) -> None:
    with dial(server) as client:
        client.close(4321, "from a test")
        assert client.protocol.close_rcvd is not None and client.protocol.close_rcvd.code == 4321
    server.wait_for("the client said 4321 from a test")


def test_what_is_no_websocket_frame(server: RunningServer) -> None:
    for wrong, code in (
        (b"\x81\x01x", CloseCode.PROTOCOL_ERROR),  # not masked
        (b"\x81\x82\0\0\0\0\xc3\x28", CloseCode.INVALID_DATA),  # no UTF-8
        (b"\xc1\x81\0\0\0\0x", CloseCode.PROTOCOL_ERROR),  # compressed, which was not agreed upon
    ):
        with dial(server) as client:
            client.socket.sendall(wrong)
            assert close_after(client)[0] == code


def test_a_client_that_goes_without_a_word_is_forgotten(server: RunningServer) -> None:
    before = closed(server, "reset by peer")
    with server.connect() as client, client.makefile("rb") as heard:
        client.sendall(UPGRADE)
        assert heard.readline() == b"HTTP/1.1 101 Switching Protocols\r\n"
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close() is a reset
    wait_until("it is gone", lambda: closed(server, "reset by peer") > before)


def closed(server: RunningServer, reason: str) -> int:
    (process,) = server.status()["processes"]
    return int(process["closed"].get(reason, 0))


def test_a_heartbeat_ends_who_does_not_answer() -> None:
    settings: dict[str, Any] = {"heartbeat": {"interval": "0.2s", "timeout": "0.5s"}}
    files = {"sockets.py": HANDLER}
    with running_server("sockets", listen="websocket://127.0.0.1:0", files=files, **settings) as server:
        with dial(server) as lively, server.connect() as mute, mute.makefile("rb") as heard:
            mute.sendall(UPGRADE)
            assert heard.read().split(b"\r\n\r\n", 1)[1].startswith(b"\x89\0"), "a ping, and then the end"
            wait_until("it is counted", lambda: closed(server, "ping timeout") == 1)
            assert lively.recv(PATIENCE) == "pong ", "this one has answered"
            lively.send("still here")
            wait_until("an echo", lambda: lively.recv(PATIENCE) == "still here")


# ---------------------------------------------------------------------------------------------------- aiohttp


def run(work: Coroutine[Any, Any, T]) -> T:
    async def bounded() -> T:
        async with asyncio.timeout(PATIENCE):
            return await work

    return asyncio.run(bounded())


def test_http_with_aiohttp(server: RunningServer) -> None:
    at = f"http://127.0.0.1:{server.port}"

    async def talk() -> None:
        async with aiohttp.ClientSession() as session:
            async with session.get(f"{at}/a", params={"q": "ü"}) as answer:
                assert (answer.status, answer.content_type) == (200, "application/json")
                assert (await answer.json())["query"] == {"q": "ü"}
            body = os.urandom(3 << 20)
            octets = {"Content-Type": "application/octet-stream"}
            for expect in (False, True):
                async with session.put(f"{at}/put", data=io.BytesIO(body), expect100=expect, headers=octets) as answer:
                    assert (await answer.json())["sum"] == sum(body)

            async def pieces() -> Any:
                for _ in range(100):
                    yield b"\1" * 1000
                    await asyncio.sleep(0)

            async with session.post(f"{at}/chunks", data=pieces(), headers=octets) as answer:
                assert (await answer.json())["sum"] == 100_000
            form = aiohttp.FormData({"a": "1"})
            form.add_field("b", "zwei")
            async with session.post(at, data=form) as answer:
                assert (await answer.json())["form"] == {"a": "1", "b": "zwei"}
            answers = await asyncio.gather(*(fetch(session, f"{at}/{number}") for number in range(200)))
            assert answers == [f"/{number}" for number in range(200)]

    async def fetch(session: aiohttp.ClientSession, address: str) -> str:
        async with session.get(address) as answer:
            return str((await answer.json())["path"])

    run(talk())


@pytest.mark.parametrize("compress", [0, 12])
def test_websockets_with_aiohttp(server: RunningServer, compress: int) -> None:
    async def talk() -> None:
        noise = os.urandom(300_000)
        async with aiohttp.ClientSession() as session:
            options: dict[str, Any] = {"protocols": ["chat.v1"], "compress": compress, "autoping": True}
            async with session.ws_connect(url(server, "/ping"), **options) as client:
                assert (client.protocol, bool(client.compress)) == ("chat.v1", bool(compress))
                assert await client.receive_str() == "pong there?"
                await client.send_str("grüße" * 100)
                assert await client.receive_str() == "grüße" * 100
                await client.send_bytes(noise)
                assert await client.receive_bytes() == noise
                await client.send_json({"a": [1, 2]})
                assert await client.receive_json() == {"a": [1, 2]}
                await client.close(code=4002, message=b"enough")
                assert client.close_code == 4002

    run(talk())
