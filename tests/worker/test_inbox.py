"""Async callbacks: in order, bounded, written when they await, never cut off by a half-closing client."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest

from tests.worker.scene import Scene, scene
from workermand import spec
from workermand.errors import CloseReason
from workermand.protocols.text import Text
from workermand.worker.connection import Connection, ConnectionStatus

__all__ = ["scene"]


class Hand:
    """An async on_message that stands still at "wait" until ``go``."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.gate = scene.loop.create_future()

    def go(self) -> None:
        gate, self.gate = self.gate, self.scene.loop.create_future()
        gate.set_result(None)
        self.scene.turn()

    async def on_message(self, connection: Connection, data: str) -> None:
        self.scene.log.append(data)
        connection.send(data)
        if data == "wait":
            await self.gate
            connection.send("waited")
        if data == "bad":
            raise SystemExit(1)


@pytest.fixture
def hand(scene: Scene) -> Hand:
    made = Hand(scene)
    scene.on(on_message=made.on_message)
    scene.note("on_close")
    return made


def test_in_order_one_at_a_time_and_written_once(scene: Scene, hand: Hand) -> None:
    connection, transport = scene.connect()
    assert connection.wire.inbox is None, "made when there is something to put in"
    transport.receive(b"a\nb\nc\n")
    assert scene.log == [] and connection.is_waiting_for_handler and not connection.between_messages
    scene.turn()
    assert scene.log == ["a", "b", "c"] and transport.writes == [b"a\nb\nc\n"]
    assert connection.between_messages and scene.worker.stats.total_request == 3
    transport.receive(b"d\n")
    scene.turn()
    assert transport.writes[1:] == [b"d\n"]


def test_what_is_sent_before_an_await_does_not_wait_for_its_end(scene: Scene, hand: Hand) -> None:
    _connection, transport = scene.connect()
    transport.receive(b"a\nwait\nb\nc\n")
    scene.turn()
    assert scene.log == ["a", "wait"] and transport.writes == [b"a\nwait\n"]
    hand.go()
    assert transport.writes == [b"a\nwait\n", b"waited\nb\nc\n"]


def test_reading_pauses_when_it_is_full(scene: Scene, hand: Hand) -> None:
    scene.limit(inbox=spec.Inbox(messages=4))
    connection, transport = scene.connect()
    transport.receive(b"wait\na\nb\n")
    scene.turn()
    assert transport.is_reading()
    transport.receive(b"c\nd\n")
    assert not transport.is_reading()
    connection.pause_recv()
    hand.go()
    assert scene.log == ["wait"] and not transport.is_reading(), "the handler's own pause counts too"
    connection.resume_recv()
    scene.turn()
    assert scene.log == ["wait", "a", "b", "c", "d"] and transport.is_reading()


def test_bytes_fill_it_too(scene: Scene, hand: Hand) -> None:
    scene.limit(inbox=spec.Inbox(bytes=10))
    _, transport = scene.connect()
    transport.receive(b"wait\n12345\n")
    assert transport.is_reading()
    transport.receive(b"1\n")
    assert not transport.is_reading()
    scene.turn()
    hand.go()
    assert scene.log == ["wait", "12345", "1"] and transport.is_reading()


def test_messages_without_a_length_are_counted_only(scene: Scene) -> None:
    class Numbers(Text):
        def feed(self, data: bytes) -> list[Any]:
            return [int(line) for line in super().feed(data)]

    async def on_message(connection: Connection, data: int) -> None:
        scene.log.append(data)

    scene.on(on_message=on_message)
    _, transport = scene.connect(Numbers())
    transport.receive(b"1\n2\n")
    scene.turn()
    assert scene.log == [1, 2]


def test_an_exception_ends_the_connection_and_drops_what_waits(scene: Scene, hand: Hand) -> None:
    connection, transport = scene.connect()
    transport.receive(b"a\nbad\nb\n")
    scene.turn()
    transport.settle()
    assert scene.log == ["a", "bad", "on_close"] and transport.sent == b"a\nbad\n"
    assert scene.failures == [("on_message", "SystemExit: 1")]
    assert connection.close_reason is CloseReason.HANDLER_ERROR


def test_a_half_closing_client_gets_all_its_answers(scene: Scene, hand: Hand) -> None:
    connection, transport = scene.connect()
    transport.receive(b"wait\na\nb")
    transport.receive_eof()
    scene.turn()
    assert connection.status is ConnectionStatus.ESTABLISHED
    hand.go()
    transport.settle()
    assert transport.sent == b"wait\nwaited\na\n" and connection.close_reason is CloseReason.PEER_CLOSED
    assert scene.log == ["wait", "a", "on_close"]


def test_the_good_messages_before_a_violation_are_answered(scene: Scene, hand: Hand) -> None:
    connection, transport = scene.connect(Text(10))
    transport.receive(b"wait\na\n" + b"x" * 20)
    scene.turn()
    assert connection.status is ConnectionStatus.ESTABLISHED and not transport.is_reading()
    hand.go()
    assert transport.sent == b"wait\nwaited\na\n" and transport.eof_sent
    transport.receive_eof()
    assert connection.close_reason is CloseReason.PACKAGE_TOO_BIG


def test_a_lost_connection_leaves_its_handler_alone(scene: Scene, hand: Hand) -> None:
    connection, transport = scene.connect()
    transport.receive(b"wait\na\n")
    scene.turn()
    transport.lose()
    assert scene.log == ["wait", "on_close"] and not scene.worker.connections
    hand.go()
    assert scene.log == ["wait", "on_close"] and scene.failures == []
    assert connection.close_reason is CloseReason.PEER_RESET


def test_finish_waits_for_the_handler(scene: Scene, hand: Hand) -> None:
    connection, transport = scene.connect()
    transport.receive(b"wait\na\n")
    scene.turn()
    connection.finish(CloseReason.DRAINED)
    assert connection.status is ConnectionStatus.ESTABLISHED
    hand.go()
    assert transport.sent == b"wait\nwaited\na\n" and transport.eof_sent


def test_close_inside_a_handler(scene: Scene) -> None:
    async def on_message(connection: Connection, data: str) -> None:
        connection.send(data)
        connection.close("bye")

    scene.on(on_message=on_message)
    _, transport = scene.connect()
    transport.receive(b"a\nb\n")
    scene.turn()
    assert transport.writes == [b"a\nbye\n"]


# ---------------------------------------------------------------------------------------------------- other callbacks


@pytest.mark.parametrize("sync", [True, False])
def test_an_async_on_connect_comes_before_all_messages(scene: Scene, sync: bool) -> None:
    gate = scene.loop.create_future()

    async def on_connect(connection: Connection) -> None:
        scene.log.append("connecting")
        await gate
        scene.log.append("connected")
        connection.send("welcome")

    def on_message(connection: Connection, data: str) -> None:
        scene.log.append(data)
        connection.send(data)

    async def on_message_async(connection: Connection, data: str) -> None:
        on_message(connection, data)

    scene.on(on_connect=on_connect, on_message=on_message if sync else on_message_async)
    connection, transport = scene.connect()
    transport.receive(b"a\nb\n")
    scene.turn()
    assert scene.log == ["connecting"]
    gate.set_result(None)
    scene.turn()
    assert scene.log == ["connecting", "connected", "a", "b"] and transport.writes == [b"welcome\na\nb\n"]
    assert (connection.wire.inbox is None) is sync, "one with sync messages does without it from here on"
    transport.receive(b"c\n")
    scene.turn()
    assert scene.log[4:] == ["c"]


def test_an_async_on_close_comes_after_the_last_message(scene: Scene, hand: Hand) -> None:
    async def on_close(connection: Connection) -> None:
        await asyncio.sleep(0)
        scene.log.append(f"closed: {connection.close_reason}")

    scene.on(on_close=on_close)
    _, transport = scene.connect()
    transport.receive(b"wait\na\n")
    scene.turn()
    transport.lose()
    assert not scene.worker.connections and scene.log == ["wait"]
    hand.go()
    assert scene.log == ["wait", "closed: reset by peer"]


def test_on_close_alone_may_be_async(scene: Scene) -> None:
    async def on_close(connection: Connection) -> None:
        raise ValueError("closing")

    scene.on(on_close=on_close)
    _, transport = scene.connect()
    transport.receive_eof()
    scene.turn()
    assert scene.failures == [("on_close", "ValueError: closing")]


def test_on_message_may_change_its_nature(scene: Scene, hand: Hand) -> None:
    connection, transport = scene.connect()
    transport.receive(b"wait\na\n")
    scene.turn()
    connection.on_message = lambda connection, data: scene.log.append(data.upper())
    transport.receive(b"b\n")
    assert scene.log == ["wait"]
    hand.go()
    assert scene.log == ["wait", "a", "B"] and connection.wire.inbox is None
    transport.receive(b"c\n")
    assert scene.log[3:] == ["C"]
    connection.on_message = hand.on_message
    transport.receive(b"d\n")
    scene.turn()
    assert scene.log[4:] == ["d"]


# ---------------------------------------------------------------------------------------------------- cancellation


def test_a_cancelled_handler_counts_as_failed(scene: Scene, hand: Hand) -> None:
    connection, transport = scene.connect()
    transport.receive(b"wait\na\n")
    scene.turn()
    (task,) = asyncio.all_tasks(scene.loop)
    task.cancel()
    scene.turn()
    transport.settle()
    assert task.cancelled() and scene.failures == [("on_message", "CancelledError: ")]
    assert connection.close_reason is CloseReason.HANDLER_ERROR and scene.log == ["wait", "on_close"]


def test_one_that_was_cancelled_while_it_had_nothing_to_do_is_made_anew(scene: Scene, hand: Hand) -> None:
    _, transport = scene.connect()
    transport.receive(b"a\n")
    scene.turn()
    (task,) = asyncio.all_tasks(scene.loop)
    task.cancel()
    scene.turn()
    transport.receive(b"b\n")
    scene.turn()
    assert scene.log == ["a", "b"] and scene.failures == []


def test_a_cancellation_of_the_handlers_own_making_is_an_exception(scene: Scene) -> None:
    async def on_message(connection: Connection, data: str) -> None:
        raise asyncio.CancelledError

    scene.on(on_message=on_message)
    connection, transport = scene.connect()
    transport.receive(b"a\n")
    scene.turn()
    assert connection.close_reason is CloseReason.HANDLER_ERROR and len(scene.failures) == 1


def test_nothing_is_left_of_it(scene: Scene, hand: Hand) -> None:
    gc.disable()
    try:
        for on_close in (None, hand.on_message):
            connection, transport = scene.connect()
            if on_close is not None:

                async def closing(connection: Connection) -> None: ...

                connection.on_close = closing
            transport.receive(b"a\n")
            scene.turn()
            left = weakref.ref(connection)
            transport.receive_eof()
            scene.turn()
            del connection, transport
            assert left() is None
    finally:
        gc.enable()
