"""Streamed bodies in a real connection: reading stops and goes on, ends reach the handler, answers reach the client."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.worker.scene import Scene
from workermand.errors import CloseReason, ConnectionLost, LoadError
from workermand.http.request import Request
from workermand.protocols.bodies import SPARE
from workermand.protocols.http import Http
from workermand.spec import HttpLimits, Inbox
from workermand.testing import MemoryTransport
from workermand.worker import web
from workermand.worker.connection import Connection
from workermand.worker.deadlines import Deadlines
from workermand.worker.handlers import Handlers

GET = b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    made.close()


def sized(length: int, *lines: bytes) -> bytes:
    more = b"".join(line + b"\r\n" for line in lines)
    return b"POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n%b\r\n" % (length, more)


def connect(scene: Scene, **settings: Any) -> tuple[Connection, MemoryTransport]:
    return scene.connect(web.Web(streams=True, **settings))


async def count(connection: Connection, request: Request) -> None:
    total = 0
    async for piece in request.stream():
        total += len(piece)
    connection.send(f"{total} bytes")


async def never_read(connection: Connection, request: Request) -> None:
    await asyncio.Event().wait()


def answers_in(transport: MemoryTransport) -> list[tuple[int, str]]:
    text = transport.sent.decode()
    return [(int(status), body) for status, body in re.findall(r"HTTP/1.1 (\d+) .*?\r\n\r\n([^H]*)", text, re.DOTALL)]


# ---------------------------------------------------------------------------------------------------- the handler asks


def test_a_handler_asks_for_streams_by_an_attribute() -> None:
    class Asks:
        stream_body = True

    class Says:
        stream_body = "yes"

    assert Handlers(Asks()).stream_body is True
    assert Handlers().stream_body is False
    with pytest.raises(LoadError, match="stream_body must be True or False, not 'yes'"):
        Handlers(Says())


def test_its_listener_streams(scene: Scene) -> None:
    scene.worker.handlers.stream_body = True
    made = web.serve(Http, scene.worker, scene.worker.handlers)(100)
    assert isinstance(made, web.Web)
    assert made.streams


# ---------------------------------------------------------------------------------------------------- reading


def test_what_comes_is_read_and_counted_and_the_next_request_follows(scene: Scene) -> None:
    scene.on(on_message=count)
    _, transport = connect(scene)
    transport.receive(GET + sized(1_000_000) + bytes(1000))
    for _ in range(9):
        transport.receive(bytes(111_000))
        scene.turn()
    transport.receive(GET)
    scene.turn()
    assert answers_in(transport) == [(200, "0 bytes"), (200, "1000000 bytes"), (200, "0 bytes")]


def test_a_client_that_is_faster_than_its_handler_is_not_read(scene: Scene) -> None:
    gate = asyncio.Event()

    async def slow(connection: Connection, request: Request) -> None:
        await gate.wait()
        await count(connection, request)

    scene.on(on_message=slow)
    connection, transport = connect(scene)
    transport.receive(sized(600_000) + bytes(200_000))
    scene.turn()
    assert not connection.is_held
    transport.receive(bytes(200_000))
    assert connection.is_held
    assert not transport.is_reading()
    assert (connection.unfinished, connection.wire.protocol.wants_more) == ("body", False)
    gate.set()
    scene.turn()
    assert transport.is_reading()
    transport.receive(bytes(200_000))
    scene.turn()
    assert answers_in(transport) == [(200, "600000 bytes")]
    assert not connection.wire.protocol.buffered


def test_an_inbox_of_one_does_not_keep_the_reader_from_its_body(scene: Scene) -> None:
    scene.limit(inbox=Inbox(messages=1))
    scene.on(on_message=count)
    connection, transport = connect(scene)
    transport.receive(sized(100_000))
    scene.turn()
    assert transport.is_reading()
    transport.receive(bytes(100_000))
    scene.turn()
    assert answers_in(transport) == [(200, "100000 bytes")]
    assert not connection.is_held


def test_a_body_that_nobody_reads_is_not_slow_but_one_that_does_not_come_is(scene: Scene) -> None:
    scene.limit(http=HttpLimits(body_rate=500))
    scene.on(on_message=never_read)
    held, transport = connect(scene)
    transport.receive(sized(600_000) + bytes(300_000))
    uninvited, transport = connect(scene)
    transport.receive(sized(600_000, b"Expect: 100-continue"))
    slow, slow_transport = connect(scene)
    slow_transport.receive(sized(600_000))
    scene.turn()
    deadlines = Deadlines(scene.worker)
    for second in range(100):
        deadlines.sweep(float(second))
    assert (held.close_reason, uninvited.close_reason) == (None, None)
    assert slow.close_reason is CloseReason.BODY_TIMEOUT
    assert answers_in(slow_transport)[0][0] == 408


# ---------------------------------------------------------------------------------------------------- ends


async def lost(connection: Connection, request: Request) -> None:
    try:
        await request.read()
    except ConnectionLost as error:
        connection.worker.context = str(error)
        raise


def test_a_client_that_goes_away_is_told_to_the_handler_and_is_no_fault_of_it(scene: Scene) -> None:
    scene.on(on_message=lost)
    ends = {
        "reset by peer": (lambda transport: transport.lose(), CloseReason.PEER_RESET),
        "ended its sending": (lambda transport: transport.receive_eof(), CloseReason.PEER_CLOSED),
    }
    for words, (end, reason) in ends.items():
        connection, transport = connect(scene)
        transport.receive(sized(100_000) + b"half")
        scene.turn()
        end(transport)
        scene.turn()
        transport.settle()
        assert words in scene.worker.context
        assert connection.close_reason is reason
        assert transport.sent == b""
    assert scene.failures == []


def test_a_body_over_the_limit_gets_a_413_and_a_lingering_end(scene: Scene) -> None:
    scene.on(on_message=count)
    connection, transport = connect(scene, max_package=100_000)
    transport.receive(b"POST /up HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    scene.turn()
    transport.receive(b"30000\r\n" + bytes(0x30000))
    scene.turn()
    assert answers_in(transport)[0][0] == 413
    assert b"Connection: close" in transport.sent
    assert (connection.close_reason, transport.eof_sent) == (CloseReason.PACKAGE_TOO_BIG, True)
    assert not transport.is_closing()
    assert scene.failures == []


def test_a_handler_may_catch_that_and_answer_later(scene: Scene) -> None:
    async def lenient(connection: Connection, request: Request) -> None:
        try:
            await request.read()
        except Exception as error:
            connection.send(f"sorry: {error}")
        await asyncio.sleep(0)

    scene.on(on_message=lenient)
    connection, transport = connect(scene, max_package=100_000)
    transport.receive(
        b"POST /up HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + b"30000\r\n" + bytes(0x30000)
    )
    scene.turn()
    assert answers_in(transport)[0][0] == 200
    assert (connection.close_reason, transport.eof_sent) == (CloseReason.PACKAGE_TOO_BIG, True)


def test_a_refusal_after_the_connection_has_ended_is_told_to_nobody(scene: Scene) -> None:
    gate = asyncio.Event()

    async def slow(connection: Connection, request: Request) -> None:
        await gate.wait()
        await request.read()

    scene.on(on_message=slow)
    scene.note("on_error")
    connection, transport = connect(scene, max_package=100_000)
    transport.receive(b"POST /up HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n")
    scene.turn()
    connection.destroy()
    transport.settle()
    gate.set()
    scene.turn()
    assert (scene.failures, scene.log) == ([], [])


# ---------------------------------------------------------------------------------------------------- early answers


def test_an_early_answer_leaves_a_connection_that_goes_on_or_ends(scene: Scene) -> None:
    scene.on(on_message=lambda connection, request: connection.send("early"))
    connection, transport = connect(scene)
    transport.receive(sized(SPARE) + bytes(10))
    transport.receive(bytes(SPARE - 10) + GET)
    assert answers_in(transport) == [(200, "early"), (200, "early")]
    assert connection.close_reason is None
    transport.receive(sized(SPARE + 11) + bytes(10))
    assert answers_in(transport)[2:] == [(200, "early")]
    assert (connection.close_reason, transport.eof_sent, transport.is_closing()) == (CloseReason.CLOSED, True, False)
    transport.receive(bytes(SPARE))


def test_what_was_held_for_the_handler_is_read_again_when_it_has_answered(scene: Scene) -> None:
    gate = asyncio.Event()

    async def later(connection: Connection, request: Request) -> None:
        await gate.wait()
        connection.send("no thanks")

    scene.on(on_message=later)
    _, transport = connect(scene)
    transport.receive(sized(600_000) + bytes(400_000))
    scene.turn()
    assert not transport.is_reading()
    gate.set()
    scene.turn()
    assert transport.is_reading()
    transport.receive(bytes(200_000) + GET)
    scene.turn()
    assert answers_in(transport) == [(200, "no thanks"), (200, "no thanks")]


def test_a_100_is_sent_when_the_handler_reads(scene: Scene) -> None:
    scene.on(on_message=count)
    _, transport = connect(scene)
    transport.receive(sized(100_000, b"Expect: 100-continue"))
    scene.turn()
    assert transport.sent == b"HTTP/1.1 100 Continue\r\n\r\n"
    transport.receive(bytes(100_000))
    scene.turn()
    assert answers_in(transport)[-1] == (200, "100000 bytes")
