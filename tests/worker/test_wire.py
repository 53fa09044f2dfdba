"""The hot path and what surrounds it: one write a turn, the send buffer, the ways a connection ends."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest

from tests.worker.scene import Scene, scene
from workermand.errors import CloseReason, EndOfInput, ProtocolError, SendError
from workermand.protocols.base import Protocol
from workermand.protocols.raw import Raw
from workermand.protocols.text import Text
from workermand.worker.connection import Connection, ConnectionStatus
from workermand.worker.wire import DISCARDED, SPILL

__all__ = ["scene"]


def echo(connection: Connection, data: Any) -> None:
    connection.send(data)


# ---------------------------------------------------------------------------------------------------- turns


def test_what_one_chunk_makes_a_handler_send_is_one_write(scene: Scene) -> None:
    scene.on(on_message=echo)
    _, transport = scene.connect()
    transport.receive(b"one\ntwo\nthr")
    assert transport.writes == [b"one\ntwo\n"]
    transport.receive(b"ee\n" + b"x\n" * 14)
    assert transport.writes == [b"one\ntwo\n", b"three\n" + b"x\n" * 14]
    assert scene.worker.stats.total_request == 17


def test_on_connect_is_a_turn_too(scene: Scene) -> None:
    scene.on(on_connect=lambda connection: [connection.send(word) for word in ("hello", "there")])
    _, transport = scene.connect()
    assert transport.writes == [b"hello\nthere\n"]


def test_what_is_sent_from_elsewhere_goes_straight_out(scene: Scene) -> None:
    connection, transport = scene.connect()
    assert connection.send("a") is True and connection.send("b") is True
    assert transport.writes == [b"a\n", b"b\n"]


def test_a_message_to_another_connection_goes_straight_out(scene: Scene) -> None:
    other, others_transport = scene.connect()
    scene.on(on_message=lambda connection, data: [other.send(data), connection.send("told")])
    _, transport = scene.connect()
    transport.receive(b"one\ntwo\n")
    assert others_transport.writes == [b"one\n", b"two\n"] and transport.writes == [b"told\ntold\n"]


def test_much_is_written_before_the_turn_ends(scene: Scene) -> None:
    half = "x" * (SPILL // 2)
    seen = []

    def on_message(connection: Connection, data: str) -> None:
        for _ in range(5):
            connection.send(half)
            seen.append(connection.get_send_buffer_size() < SPILL)

    scene.on(on_message=on_message)
    _, transport = scene.connect()
    transport.receive(b"go\n")
    assert all(seen) and len(transport.writes) == 3
    assert transport.sent == (half + "\n").encode() * 5


def test_nothing_sent_is_nothing_written(scene: Scene) -> None:
    scene.note("on_message")
    _, transport = scene.connect()
    transport.receive(b"a\nb\n")
    assert scene.log == ["a", "b"] and transport.writes == []


# ---------------------------------------------------------------------------------------------------- the send buffer


def test_a_full_buffer_refuses_until_it_is_empty(scene: Scene) -> None:
    scene.limit(send_buffer=100)
    scene.note("on_error", "on_buffer_full", "on_buffer_drain")
    connection, transport = scene.connect(stalled=True)
    assert connection.send("x" * 59) is None and scene.log == []
    assert connection.send("y" * 500) is None, "taken whole while the buffer was not full"
    assert scene.log == ["on_buffer_full"] and connection.get_send_buffer_size() == 561
    assert connection in scene.worker.stalled
    assert connection.send("z") is False
    refused = (SendError.SEND_FAIL, "send buffer full and drop package")
    assert scene.log == ["on_buffer_full", refused] and scene.worker.stats.send_fail == 1
    transport.drain(500)
    assert connection.send("w") is None and scene.log[2:] == []
    transport.drain()
    assert scene.log[2:] == ["on_buffer_drain"] and connection.buffer_is_empty()
    assert connection not in scene.worker.stalled
    assert transport.sent == b"x" * 59 + b"\n" + b"y" * 500 + b"\n" + b"w\n"
    assert connection.send("again") is True


def test_what_is_collected_counts_as_buffered(scene: Scene) -> None:
    scene.limit(send_buffer=100)
    scene.note("on_error", "on_buffer_full")
    results = []

    def on_message(connection: Connection, data: str) -> None:
        for _ in range(4):
            results.append(connection.send("x" * 49))
            results.append(connection.get_send_buffer_size())

    scene.on(on_message=on_message)
    _, transport = scene.connect(stalled=True)
    transport.receive(b"go\n")
    assert results == [True, 50, None, 100, False, 100, False, 100]
    assert scene.log[0] == "on_buffer_full" and scene.worker.stats.send_fail == 2
    assert transport.writes == [(b"x" * 49 + b"\n") * 2]


def test_a_turn_that_begins_stalled_is_bounded_too(scene: Scene) -> None:
    scene.limit(send_buffer=100)
    scene.on(on_message=echo)
    connection, transport = scene.connect(stalled=True)
    for _ in range(3):
        transport.receive(b"x" * 49 + b"\n")
    assert connection.get_send_buffer_size() == 100 and scene.worker.stats.send_fail == 1


def test_the_limit_may_be_raised_and_lowered_in_the_middle(scene: Scene) -> None:
    connection, _ = scene.connect(stalled=True)
    assert connection.max_send_buffer_size == 1024 * 1024
    connection.max_send_buffer_size = 10
    assert connection.send("x" * 10) is None and connection.send("y") is False
    connection.max_send_buffer_size = 20
    assert connection.send("y") is None
    connection.max_send_buffer_size = 0
    assert connection.send("z" * 100_000) is None and connection.send("w") is None


def test_a_slow_client_that_is_closed_stays_under_the_janitors_eyes(scene: Scene) -> None:
    connection, transport = scene.connect(stalled=True)
    connection.close("bye")
    assert connection.status is ConnectionStatus.CLOSING and connection in scene.worker.stalled
    connection.abort(CloseReason.WRITE_STALL)
    transport.settle()
    assert scene.worker.stats.closed == {CloseReason.WRITE_STALL: 1} and not scene.worker.stalled


# --------------------------------------------------------------------------------------------------- handlers that fail


@pytest.mark.parametrize("error", [ValueError("boom"), SystemExit(3), KeyboardInterrupt()])
def test_an_exception_ends_its_connection_alone(scene: Scene, error: BaseException) -> None:
    def on_message(connection: Connection, data: str) -> None:
        connection.send(data)
        if data == "bad":
            raise error

    scene.on(on_message=on_message)
    scene.note("on_close")
    other, _ = scene.connect()
    connection, transport = scene.connect()
    transport.receive(b"good\nbad\nnever\n")
    assert transport.sent == b"good\nbad\n", "what was sent before still goes out"
    assert scene.failures == [("on_message", f"{type(error).__name__}: {error}")] and scene.log == ["on_close"]
    assert connection.close_reason is CloseReason.HANDLER_ERROR
    assert list(scene.worker.connections.values()) == [other]


@pytest.mark.parametrize("name", ["on_connect", "on_buffer_full", "on_error", "on_close"])
def test_so_does_one_of_the_rarer_callbacks(scene: Scene, name: str) -> None:
    def fail(connection: Connection, *args: Any) -> None:
        raise ValueError(name)

    scene.on(**{name: fail})
    scene.limit(send_buffer=10)
    connection, transport = scene.connect(stalled=True)
    connection.send("x" * 20)
    connection.send("refused")
    transport.drain()
    connection.close()
    transport.settle()
    assert scene.failures[0] == (name, f"ValueError: {name}") and not scene.worker.connections
    expected = CloseReason.CLOSED if name == "on_close" else CloseReason.HANDLER_ERROR
    assert connection.close_reason is expected


def test_a_message_that_cannot_be_encoded_is_the_handlers_exception(scene: Scene) -> None:
    scene.on(on_message=lambda connection, data: connection.send(17))
    connection, transport = scene.connect()
    transport.receive(b"x\n")
    assert connection.close_reason is CloseReason.HANDLER_ERROR
    assert scene.failures == [("on_message", "TypeError: a message must be str or bytes, not int")]


# ---------------------------------------------------------------------------------------------------- last words


class Polite(Text):
    """Lines; "quit" is the last one, and "rude" one too many; "later" is a request that the handler owes an answer."""

    __slots__ = ("_owed", "last")

    def __init__(self, max_package: int = 1000) -> None:
        super().__init__(max_package)
        self._owed = 0
        self.last = False

    def feed(self, data: bytes) -> list[str]:
        lines = super().feed(data)
        self._owed += lines.count("later")
        if "quit" in lines:
            before = lines[: lines.index("quit")]
            raise EndOfInput("quit", before, close_reason=CloseReason.WEBSOCKET_CLOSED, farewell=b"goodbye\n")
        if "rude" in lines:
            raise ProtocolError("rude", lines[: lines.index("rude")], farewell=b"go away\n")
        return lines

    def encode(self, message: Any) -> bytes:
        self._owed -= bool(self._owed)
        return super().encode(message)

    @property
    def owes(self) -> int:
        return self._owed

    def wind_down(self) -> None:
        self.last = True

    def farewell(self, reason: CloseReason) -> bytes:
        return f"{reason.name}\n".encode()


def echo_but_later(connection: Connection, data: str) -> None:
    if data != "later":
        connection.send(data)


@pytest.mark.parametrize(
    ("last", "farewell", "reason"),
    [("quit", b"goodbye\n", CloseReason.WEBSOCKET_CLOSED), ("rude", b"go away\n", CloseReason.PROTOCOL_ERROR)],
)
def test_a_farewell_comes_after_the_answers_and_leaves_the_end_to_the_peer(
    scene: Scene, last: str, farewell: bytes, reason: CloseReason
) -> None:
    scene.on(on_message=echo_but_later)
    connection, transport = scene.connect(Polite())
    transport.receive(f"a\nb\n{last}\nc\n".encode())
    assert transport.sent == b"a\nb\n" + farewell and transport.eof_sent
    assert connection.status is ConnectionStatus.ENDING and scene.worker.stats.total_request == 2
    transport.receive_eof()
    assert connection.close_reason is reason


def test_an_orderly_end_is_not_logged_and_a_violation_is(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    scene.connect(Polite())[1].receive(b"quit\n")
    assert caplog.text == ""
    scene.connect(Polite())[1].receive(b"rude\n")
    assert "rude" in caplog.text


def test_what_is_owed_is_waited_for(scene: Scene) -> None:
    """The answer comes outside of any turn; the end follows it at once."""
    scene.on(on_message=echo_but_later)
    connection, transport = scene.connect(Polite())
    transport.receive(b"later\nquit\n")
    assert transport.sent == b"" and connection.status is ConnectionStatus.ESTABLISHED
    connection.send("now")
    assert transport.sent == b"now\ngoodbye\n" and connection.status is ConnectionStatus.ENDING


def test_a_drain_waits_for_what_is_owed_and_has_the_peer_told(scene: Scene) -> None:
    scene.on(on_message=echo_but_later)
    connection, transport = scene.connect(Polite())
    transport.receive(b"later\n")
    assert not connection.between_messages
    connection.finish(CloseReason.DRAINED)
    assert connection.protocol.last and connection.status is ConnectionStatus.ESTABLISHED
    connection.send("now")
    assert transport.sent == b"now\nDRAINED\n" and connection.close_reason is CloseReason.DRAINED


def test_our_own_end_has_its_farewell_behind_the_last_message(scene: Scene) -> None:
    scene.on(on_message=lambda connection, data: connection.close("bye"))
    connection, transport = scene.connect(Polite())
    transport.receive(b"x\n")
    assert transport.sent == b"bye\nCLOSED\n" and connection.status is ConnectionStatus.ENDING
    connection.close()
    assert connection.status is ConnectionStatus.CLOSING, "who closes again does not wait for the peer"


# ---------------------------------------------------------------------------------------------------- violations


def test_the_good_messages_before_a_violation_are_answered(scene: Scene) -> None:
    scene.on(on_message=echo)
    connection, transport = scene.connect(Text(10))
    transport.receive(b"one\ntwo\n" + b"x" * 20)
    assert transport.sent == b"one\ntwo\n" and transport.eof_sent
    assert connection.status is ConnectionStatus.ENDING, "lingers: a reset could eat the answers"
    transport.receive(b"more\n" * 100)
    transport.receive_eof()
    assert connection.close_reason is CloseReason.PACKAGE_TOO_BIG
    assert scene.worker.stats.closed == {CloseReason.PACKAGE_TOO_BIG: 1} and scene.worker.stats.total_request == 2


def test_without_an_answer_at_stake_a_violation_closes_at_once(scene: Scene) -> None:
    connection, transport = scene.connect(Text(10))
    transport.receive(b"x" * 20)
    assert connection.close_reason is CloseReason.PACKAGE_TOO_BIG and not scene.worker.connections


def test_a_protocol_that_raises_anything_else_is_a_violation(scene: Scene) -> None:
    class Broken(Protocol):
        name = "broken"

        def feed(self, data: bytes) -> list[Any]:
            raise KeyError("nothing")

    connection, transport = scene.connect(Broken())
    transport.receive(b"x")
    assert connection.close_reason is CloseReason.PROTOCOL_ERROR and not scene.worker.connections


def test_an_exit_in_a_protocol_is_a_counted_exception(scene: Scene) -> None:
    class Exits(Raw):
        def feed(self, data: bytes) -> list[bytes]:
            raise SystemExit(1)

    connection, transport = scene.connect(Exits(100))
    transport.receive(b"x")
    assert scene.failures == [("protocol raw", "SystemExit: 1")]
    assert connection.close_reason is CloseReason.PROTOCOL_ERROR


def test_an_end_in_the_wrong_place_can_be_a_violation(scene: Scene) -> None:
    class Strict(Text):
        def feed_eof(self) -> list[Any]:
            raise ProtocolError("half a line", ["the half"])

    scene.note("on_message")
    connection, transport = scene.connect(Strict())
    transport.receive_eof()
    assert connection.close_reason is CloseReason.PROTOCOL_ERROR and scene.log == ["the half"]


# ---------------------------------------------------------------------------------------------------- the end


def test_the_end_from_the_peer(scene: Scene) -> None:
    scene.on(on_message=echo)
    scene.note("on_close")
    connection, transport = scene.connect()
    transport.receive(b"last\n")
    transport.receive_eof()
    assert transport.sent == b"last\n" and scene.log == ["on_close"]
    assert connection.status is ConnectionStatus.CLOSED and connection.close_reason is CloseReason.PEER_CLOSED


def test_a_half_closing_client_gets_what_is_unsent(scene: Scene) -> None:
    scene.on(on_message=echo)
    connection, transport = scene.connect(stalled=True)
    transport.receive(b"last\n")
    transport.receive_eof()
    assert connection.status is ConnectionStatus.CLOSING and scene.worker.connections
    transport.drain()
    assert transport.sent == b"last\n" and connection.close_reason is CloseReason.PEER_CLOSED
    assert not scene.worker.connections


def test_messages_that_only_the_end_completes(scene: Scene) -> None:
    class Rest(Raw):
        def feed_eof(self) -> list[Any]:
            return [b"rest"]

    scene.on(on_message=echo)
    _, transport = scene.connect(Rest())
    transport.receive_eof()
    assert transport.sent == b"rest" and not scene.worker.connections


def test_close_sends_its_data_and_stops_reading(scene: Scene) -> None:
    def on_message(connection: Connection, data: str) -> None:
        connection.send(data)
        connection.close("bye")

    scene.on(on_message=on_message)
    scene.note("on_close", "on_error")
    connection, transport = scene.connect()
    transport.receive(b"one\ntwo\n")
    assert transport.writes == [b"one\nbye\n"] and not transport.is_reading() and scene.log == ["on_close"]
    assert connection.close_reason is CloseReason.CLOSED
    connection.close("again")
    assert connection.send("late") is False
    assert scene.log[1:] == [(SendError.SEND_FAIL, "client closed")] and scene.worker.stats.send_fail == 1


def test_end_lingers_until_the_peer_is_done(scene: Scene) -> None:
    scene.note("on_message", "on_close")
    connection, transport = scene.connect()
    connection.end("bye")
    assert transport.sent == b"bye\n" and transport.eof_sent and connection.status is ConnectionStatus.ENDING
    transport.receive(b"still\nsending\n")
    assert scene.log == [] and connection.bytes_read == 14
    assert connection.send("no") is False
    transport.receive_eof()
    assert scene.log == ["on_close"] and connection.close_reason is CloseReason.CLOSED


def test_end_waits_for_what_is_unsent_and_then_for_its_time(scene: Scene) -> None:
    connection, transport = scene.connect(stalled=True)
    connection.linger_timeout = 0.001
    connection.pause_recv()
    connection.end("bye")
    scene.turn()
    assert connection.wire.linger is None and not transport.eof_sent and transport.is_reading()
    transport.drain()
    assert transport.eof_sent and transport.sent == b"bye\n"
    scene.until(lambda: transport.aborted)
    transport.settle()
    assert connection.close_reason is CloseReason.CLOSED and not scene.worker.connections


def test_a_peer_that_sends_on_and_on_is_not_waited_for(scene: Scene) -> None:
    connection, transport = scene.connect()
    connection.end("bye")
    transport.receive(b"x" * DISCARDED)
    assert connection.status is ConnectionStatus.ENDING
    transport.receive(b"x")
    assert transport.aborted
    transport.settle()
    assert connection.close_reason is CloseReason.CLOSED and connection.wire.linger.cancelled()


def test_the_peers_end_cancels_the_wait(scene: Scene) -> None:
    connection, transport = scene.connect()
    connection.end()
    linger = connection.wire.linger
    transport.receive_eof()
    assert linger is not None and linger.cancelled()


def test_close_after_end_does_not_wait(scene: Scene) -> None:
    connection, transport = scene.connect()
    connection.end("bye")
    connection.close()
    transport.settle()
    assert connection.status is ConnectionStatus.CLOSED and transport.sent == b"bye\n"


def test_destroy_loses_what_is_unsent(scene: Scene) -> None:
    def on_message(connection: Connection, data: str) -> None:
        connection.send(data)
        connection.destroy()

    scene.on(on_message=on_message)
    scene.note("on_close")
    connection, transport = scene.connect()
    transport.receive(b"one\ntwo\n")
    assert transport.aborted and transport.writes == [] and scene.log == ["on_close"]
    assert connection.close_reason is CloseReason.DESTROYED


@pytest.mark.parametrize(
    ("error", "reason", "failed"),
    [
        (ConnectionResetError(), CloseReason.PEER_RESET, 0),
        (TimeoutError(), CloseReason.PEER_RESET, 0),
        (BrokenPipeError(), CloseReason.WRITE_FAILED, 1),
        (None, CloseReason.PEER_RESET, 0),
        (ValueError(), CloseReason.HANDLER_ERROR, 0),
    ],
)
def test_a_connection_that_breaks(scene: Scene, error: Exception | None, reason: CloseReason, failed: int) -> None:
    scene.note("on_close", "on_error")
    connection, transport = scene.connect()
    transport.lose(error)
    assert connection.close_reason is reason and scene.worker.stats.closed == {reason: 1}
    assert scene.log == [(SendError.SEND_FAIL, "client closed")] * failed + ["on_close"]
    assert scene.worker.stats.send_fail == failed


def test_the_first_reason_is_the_one_that_counts(scene: Scene) -> None:
    connection, transport = scene.connect(stalled=True)
    connection.close("bye")
    transport.lose()
    assert connection.close_reason is CloseReason.CLOSED


def test_it_is_gone_from_the_worker_when_on_close_runs(scene: Scene) -> None:
    scene.on(on_close=lambda connection: [other.send("bye") for other in connection.worker.connections.values()])
    _, transport = scene.connect()
    _, others_transport = scene.connect()
    transport.receive_eof()
    assert others_transport.sent == b"bye\n" and scene.worker.stats.send_fail == 0


def test_nothing_is_left_of_it(scene: Scene) -> None:
    """Without the help of the collector: short connections would pile up until it runs."""
    scene.on(on_message=echo)
    gc.disable()
    try:
        for leave in ("eof", "lose", "close", "end", "destroy", "violation", "drain"):
            connection, transport = scene.connect(Text(100))
            transport.receive(b"hello\n")
            left = weakref.ref(connection)
            if leave in ("close", "end", "destroy"):
                getattr(connection, leave)()
            elif leave == "drain":
                connection.finish(CloseReason.DRAINED)
            elif leave == "violation":
                transport.receive(b"x" * 200)
            elif leave == "lose":
                transport.lose()
            transport.receive_eof()
            transport.settle()
            del connection, transport
            assert left() is None, leave
    finally:
        gc.enable()


# ---------------------------------------------------------------------------------------------------- drain


def test_finish_waits_for_a_first_message_and_for_whole_ones(scene: Scene) -> None:
    scene.on(on_message=echo)
    connection, transport = scene.connect()
    connection.finish(CloseReason.DRAINED)
    assert connection.status is ConnectionStatus.ESTABLISHED, "its request may be on the way"
    transport.receive(b"hel")
    assert not connection.had_message and not connection.between_messages
    transport.receive(b"lo\nand ")
    assert transport.sent == b"hello\n" and connection.status is ConnectionStatus.ESTABLISHED
    assert connection.had_message
    transport.receive(b"more\n")
    assert transport.sent == b"hello\nand more\n" and transport.eof_sent
    assert connection.status is ConnectionStatus.ENDING
    transport.receive_eof()
    assert connection.close_reason is CloseReason.DRAINED


def test_finish_closes_one_that_is_between_messages_at_once(scene: Scene) -> None:
    scene.on(on_message=echo)
    connection, transport = scene.connect()
    transport.receive(b"hello\n")
    assert connection.between_messages
    connection.finish(CloseReason.DRAINED)
    assert connection.status is ConnectionStatus.ENDING and transport.eof_sent


def test_finish_from_inside_a_turn_lets_it_end(scene: Scene) -> None:
    def on_message(connection: Connection, data: str) -> None:
        connection.finish(CloseReason.DRAINED)
        connection.send(data)

    scene.on(on_message=on_message)
    _, transport = scene.connect()
    transport.receive(b"one\ntwo\n")
    assert transport.writes == [b"one\ntwo\n"] and transport.eof_sent


def test_unsent_is_not_between_messages(scene: Scene) -> None:
    scene.on(on_message=echo)
    connection, transport = scene.connect(stalled=True)
    transport.receive(b"hello\n")
    assert not connection.between_messages
    connection.finish(CloseReason.DRAINED)
    transport.drain()
    assert transport.sent == b"hello\n" and transport.eof_sent
