"""Input that is not the plain case: protocols that read step by step or answer themselves, swaps in odd moments."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from tests.worker.scene import Scene, scene
from workermand.errors import CloseReason, ProtocolError
from workermand.protocols.base import Protocol
from workermand.protocols.custom import adapt
from workermand.protocols.raw import Raw
from workermand.protocols.text import Text
from workermand.worker.connection import Connection

__all__ = ["scene"]


class Typed:
    """A letter and a digit; what the digits mean depends on what the handler left in the connection's context."""

    @staticmethod
    def input(buffer: bytes, connection: Connection) -> int:
        return -1 if buffer[:1] == b"!" else 2

    @staticmethod
    def decode(package: bytes, connection: Connection) -> str:
        return f"{connection.context}:{package.decode()}"

    @staticmethod
    def encode(message: str, connection: Connection) -> str:
        return f"<{message}>"


class Ping(Text):
    """Answers "ping" by itself, and lets nobody see it."""

    __slots__ = ("_pongs",)
    replies = True

    def __init__(self, max_package: int = 1000) -> None:
        super().__init__(max_package)
        self._pongs = 0

    def feed(self, data: bytes) -> list[str]:
        lines = super().feed(data)
        self._pongs += lines.count("ping")
        messages = [line for line in lines if line != "ping"]
        if "bad" in messages:
            raise ProtocolError("bad", messages[: messages.index("bad")])
        return messages

    def take_replies(self) -> bytes:
        pongs, self._pongs = self._pongs, 0
        return b"pong\n" * pongs


def typed(scene: Scene) -> tuple[Connection, Any]:
    return scene.connect(adapt(Typed, "typed")(1000))


def test_a_stepwise_protocol_sees_what_the_handler_did_with_the_message_before(scene: Scene) -> None:
    def on_message(connection: Connection, data: str) -> None:
        scene.log.append(data)
        connection.context = data
        connection.send("ok")

    scene.on(on_message=on_message)
    _, transport = typed(scene)
    transport.receive(b"a1b2c3d")
    transport.receive(b"4")
    assert scene.log == ["None:a1", "None:a1:b2", "None:a1:b2:c3", "None:a1:b2:c3:d4"]
    assert transport.writes == [b"<ok>" * 3, b"<ok>"] and scene.worker.stats.total_request == 4


def test_it_stops_in_the_middle_of_a_chunk(scene: Scene) -> None:
    def on_message(connection: Connection, data: str) -> None:
        scene.log.append(data)
        connection.pause_recv()

    scene.on(on_message=on_message)
    connection, transport = typed(scene)
    transport.receive(b"a1b2c3")
    assert scene.log == ["None:a1"]
    connection.context = "seen"
    connection.resume_recv()
    assert scene.log == ["None:a1", "seen:b2"]
    connection.close()
    assert scene.log == ["None:a1", "seen:b2"]


def test_its_violation_comes_after_its_good_messages(scene: Scene) -> None:
    scene.note("on_message")
    connection, transport = typed(scene)
    transport.receive(b"a1!!b2")
    assert scene.log == ["None:a1"] and connection.close_reason is CloseReason.PROTOCOL_ERROR


def test_the_protocol_that_replaces_it_gets_the_rest(scene: Scene) -> None:
    def on_message(connection: Connection, data: Any) -> None:
        scene.log.append(data)
        if data == "None:b2":
            connection.protocol = "raw"

    scene.on(on_message=on_message)
    _, transport = typed(scene)
    transport.receive(b"a1b2c3d")
    assert scene.log == ["None:a1", "None:b2", b"c3d"]


def test_with_an_async_handler_it_reads_on_when_the_handler_is_done(scene: Scene) -> None:
    gate = scene.loop.create_future()

    async def on_message(connection: Connection, data: str) -> None:
        scene.log.append(data)
        if len(scene.log) == 1:
            await gate
        connection.context = data
        connection.send("ok")

    scene.on(on_message=on_message)
    _, transport = typed(scene)
    transport.receive(b"a1b2c3")
    scene.turn()
    assert scene.log == ["None:a1"] and not transport.is_reading()
    gate.set_result(None)
    scene.turn()
    assert scene.log == ["None:a1", "None:a1:b2", "None:a1:b2:c3"] and transport.is_reading()
    assert transport.writes == [b"<ok>" * 3]


def test_what_a_protocol_answers_itself_goes_out_in_the_same_write(scene: Scene) -> None:
    scene.on(on_message=lambda connection, data: connection.send(data))
    connection, transport = scene.connect(Ping())
    transport.receive(b"ping\nhello\nping\n")
    assert transport.writes == [b"pong\npong\nhello\n"]
    transport.receive(b"ping\n")
    assert transport.writes[1:] == [b"pong\n"] and connection.bytes_written == 21
    transport.receive(b"ping\nlast\nbad\n")
    assert transport.sent.endswith(b"pong\nlast\n") and connection.close_reason is CloseReason.PROTOCOL_ERROR


def test_the_very_bytes_reach_the_next_protocol(scene: Scene) -> None:
    """Lines behind the swap were parsed already, and text drops a CR: it must not be missing."""

    def on_message(connection: Connection, data: Any) -> None:
        scene.log.append(data)
        if data == "raw":
            connection.protocol = Raw()

    scene.on(on_message=on_message)
    _, transport = scene.connect()
    transport.receive(b"raw\r\none\r\ntwo\n\xff\r\nhalf\r")
    assert scene.log == ["raw", b"one\r\ntwo\n\xff\r\nhalf\r"]


def test_swapped_twice_in_a_turn(scene: Scene) -> None:
    def on_message(connection: Connection, data: Any) -> None:
        scene.log.append(data)
        connection.protocol = "frame"
        connection.protocol = "raw" if data == "raw" else "text"

    scene.on(on_message=on_message)
    _, transport = scene.connect()
    transport.receive(b"text\nraw\nrest\n")
    assert scene.log == ["text", "raw", b"rest\n"]


def test_swapped_outside_of_a_turn_paused_and_with_messages_held(scene: Scene) -> None:
    scene.note("on_message")
    connection, transport = scene.connect()
    connection.on_message = lambda connection, data: connection.pause_recv()
    transport.receive(b"a\nb\nc\nd")
    connection.on_message = lambda connection, data: scene.log.append(data)
    connection.protocol = Raw()
    assert scene.log == [] and scene.worker.stats.total_request == 2
    connection.resume_recv()
    assert scene.log == [b"b\nc\nd"]


def test_swapped_when_held_messages_are_delivered(scene: Scene) -> None:
    def on_message(connection: Connection, data: Any) -> None:
        scene.log.append(data)
        if data == "stop":
            connection.pause_recv()
        if data == "raw":
            connection.protocol = Raw()

    scene.on(on_message=on_message)
    connection, transport = scene.connect()
    transport.receive(b"stop\nraw\nx\ny\nz")
    connection.resume_recv()
    assert scene.log == ["stop", "raw", b"x\ny\nz"]


def test_swapped_by_an_async_handler(scene: Scene) -> None:
    async def on_message(connection: Connection, data: Any) -> None:
        scene.log.append(data)
        if data == "raw":
            connection.protocol = Raw()

    scene.on(on_message=on_message)
    _, transport = scene.connect()
    transport.receive(b"raw\nx\ny\nz")
    scene.turn()
    assert scene.log == ["raw", b"x\ny\nz"]


def test_swapped_after_the_end_of_the_input(scene: Scene) -> None:
    class Rest(Raw):
        def feed_eof(self) -> list[Any]:
            return [b"rest"]

    def on_message(connection: Connection, data: Any) -> None:
        connection.protocol = Text()
        connection.send("bye")

    scene.on(on_message=on_message)
    _, transport = scene.connect(Rest())
    transport.receive_eof()
    assert transport.sent == b"bye\n"


def test_a_handler_that_swaps_while_the_connection_drains(scene: Scene) -> None:
    def on_message(connection: Connection, data: Any) -> None:
        scene.log.append(data)
        if data == "raw":
            connection.finish(CloseReason.DRAINED)
            connection.protocol = Raw()
            connection.send("ok\n")

    scene.on(on_message=on_message)
    _, transport = scene.connect()
    transport.receive(b"raw\nx")
    assert scene.log == ["raw", b"x"] and transport.sent == b"ok\n" and transport.eof_sent


def test_a_violation_is_logged_with_the_connection_and_its_cause(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    class Picky(Protocol):
        def feed(self, data: bytes) -> list[Any]:
            raise ProtocolError("picky: no") from KeyError("why")

    caplog.set_level(logging.INFO, "workermand")
    _, transport = scene.connect(Picky())
    transport.receive(b"x")
    (record,) = caplog.records
    assert record.getMessage() == "connection 1 from 127.0.0.1:50000: picky: no"
    assert record.exc_info and record.exc_info[0] is KeyError
