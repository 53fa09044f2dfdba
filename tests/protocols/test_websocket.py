"""websocket, what comes in: every rule of RFC 6455 by name, however the bytes are cut."""

from __future__ import annotations

import os
import struct
import tracemalloc
from collections.abc import Sequence
from typing import Any

import pytest

from tests.protocols.streams import (
    SIZES,
    every_cut,
    head,
    messages_of,
    outcome,
    sent,
    violation,
)
from workermand.errors import CloseReason, EndOfInput, ProtocolError
from workermand.protocols.websocket import (
    CODES,
    Close,
    CloseCode,
    Ping,
    Pong,
    WebSocket,
)
from workermand.protocols.wsframe import frame
from workermand.testing import check_protocol, feed_all


class Heard(WebSocket):
    """One that can be given an on_control."""


# ------------------------------------------------------------------------------------------------ messages in


def test_however_it_is_cut() -> None:
    cases: list[tuple[bytes, Sequence[Any]]] = [
        (sent(0x81, b"hello"), ["hello"]),
        (sent(0x81) + sent(0x82), ["", b""]),
        (sent(0x81, "grüße, 世界 🙂".encode()) * 3, ["grüße, 世界 🙂"] * 3),
        (sent(0x82, bytes(range(256))), [bytes(range(256))]),
        (sent(0x82, b"a") + sent(0x81, b"b" * 126) + sent(0x81, b"c"), [b"a", "b" * 126, "c"]),
    ]
    violations = [
        sent(0x83),
        sent(0xC1),
        sent(0x80),
        sent(0x81, b"\xff"),
        frame(0x81, b""),
        sent(0x09),
        head(0x81, 5, 2),
    ]
    check_protocol(WebSocket, cases, violations=violations, round_trip=False)
    check_protocol(
        lambda: WebSocket(client=True), [(frame(0x81, b"hi") + frame(0x82, b"\0"), ["hi", b"\0"])],
        violations=[sent(0x81)], round_trip=False,
    )  # fmt: skip


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("client", [False, True])
def test_lengths(size: int, client: bool) -> None:
    ours, theirs = WebSocket(client=client), WebSocket(client=not client)
    for message in ("x" * size, os.urandom(size)):
        assert ours.feed(theirs.encode(message)) == [message]
    assert ours.buffered == 0


def test_rfc_6455_5_7_examples() -> None:
    assert WebSocket().feed(bytes.fromhex("818537fa213d7f9f4d5158")) == ["Hello"]
    assert WebSocket(client=True).feed(bytes.fromhex("810548656c6c6f")) == ["Hello"]
    assert WebSocket(client=True).feed(bytes.fromhex("010348656c80026c6f")) == ["Hello"]


def test_bytes_by_the_piece_are_kept_once() -> None:
    size = 1 << 20
    wire = sent(0x82, bytes(size))
    socket = WebSocket()
    tracemalloc.start()
    try:
        messages = feed_all(socket, *[wire[at : at + 1000] for at in range(0, len(wire), 1000)])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert messages == [bytes(size)]
    assert peak < 5 * size


def test_what_is_buffered() -> None:
    socket = WebSocket()
    wire = sent(0x81, b"hello")
    socket.feed(wire[:7])
    assert socket.buffered == 7
    socket.feed(wire[7:] + sent(0x01))
    assert socket.buffered == 1  # a message has begun, though nothing of it is there
    socket.feed(sent(0x00, b"abc"))
    assert socket.buffered == 3
    assert socket.feed_eof() == ()
    assert socket.buffered == 0


def test_detach_gives_back_what_a_client_sent() -> None:
    socket = WebSocket()
    wire = sent(0x81, b"one") + sent(0x82, b"two") + sent(0x81, b"three")
    rest = sent(0x81, b"four")[:5]
    _, *undelivered = socket.feed(wire + rest)
    unread = socket.detach(undelivered, wire + rest)
    assert unread.endswith(rest)
    assert WebSocket().feed(unread) == [b"two", "three"]
    assert socket.buffered == 0


# ------------------------------------------------------------------------------------------------ fragments


def test_fragments_are_joined() -> None:
    wire = sent(0x01, b"Hel") + sent(0x00, b"") + sent(0x00, b"lo ") + sent(0x80, b"you") + sent(0x81, b"next")
    assert messages_of(wire) == ["Hello you", "next"]
    assert messages_of(sent(0x02, b"\xff") + sent(0x80, b"\xfe")) == [b"\xff\xfe"]
    assert messages_of(sent(0x01) + sent(0x80)) == [""]


def test_control_frames_come_between_fragments_and_leave_the_message_whole() -> None:
    """Workerman's answered the ping with the fragment before it, and the message lost its head."""
    wire = sent(0x01, b"AA") + sent(0x89, b"App") + sent(0x8A, b"x") + sent(0x80, b"BB")
    assert every_cut(wire) == (["AABB"], "", None, b"", frame(0x8A, b"App"))


def test_a_character_may_be_cut_by_a_fragment() -> None:
    text = "κόσμε 🙂".encode()
    wire = b"".join(sent(0x00, text[at : at + 1]) for at in range(1, len(text)))
    assert messages_of(sent(0x01, text[:1]) + wire + sent(0x80)) == ["κόσμε 🙂"]


@pytest.mark.parametrize(
    "wire",
    [
        sent(0x80, b"orphan"),
        sent(0x00, b"orphan"),
        sent(0x01) + sent(0x81),
        sent(0x02) + sent(0x02),
        sent(0x01) + sent(0x80) + sent(0x80),
    ],
    ids=["continuation of none", "one more to come", "message within", "start within", "continuation of a whole one"],
)
def test_rule_5_4_fragments_do_not_interleave(wire: bytes) -> None:
    last = every_cut(wire)
    assert last[1] == "violation"
    assert int.from_bytes(last[3][2:4]) == 1002


# ------------------------------------------------------------------------------------------------ violations


@pytest.mark.parametrize("bit", [0x40, 0x20, 0x10])
@pytest.mark.parametrize("first", [0x81, 0x82, 0x01, 0x88, 0x89, 0x8A])
def test_rule_5_2_reserved_bits_are_0(first: int, bit: int) -> None:
    assert violation(sent(first | bit, b"ab")) == 1002


@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
@pytest.mark.parametrize("fin", [0x00, 0x80])
def test_rule_5_2_reserved_opcodes(opcode: int, fin: int) -> None:
    assert violation(sent(fin | opcode)) == 1002


def test_rule_5_1_a_client_masks_and_a_server_does_not() -> None:
    for payload in (b"", b"x", b"x" * 126, bytes(70_000)):
        assert violation(frame(0x82, payload)) == 1002
    messages, kind, _, farewell, _ = outcome(WebSocket(client=True), [sent(0x81, b"x")])
    assert (messages, kind) == ([], "violation")
    assert farewell[1] & 0x80, "a client masks its Close too"


@pytest.mark.parametrize("first", [0x88, 0x89, 0x8A])
def test_rule_5_5_control_frames_are_short_and_whole(first: int) -> None:
    assert violation(sent(first & 0x0F, b"")) == 1002
    assert violation(sent(first, bytes(126))) == 1002
    assert violation(head(first, 5, 2)) == 1002
    assert violation(bytes((first, 0xFF))) == 1002


@pytest.mark.parametrize(("size", "as_bytes"), [(0, 2), (125, 2), (0, 8), (125, 8), (126, 8), (65535, 8)])
def test_rule_5_2_the_length_takes_as_few_bytes_as_it_can(size: int, as_bytes: int) -> None:
    assert violation(head(0x82, size, as_bytes)) == 1002


def test_rule_5_2_the_highest_bit_of_the_length_is_0() -> None:
    assert violation(head(0x82, 1 << 63, 8)) == 1002
    assert violation(head(0x82, (1 << 63) - 1, 8)) == 1009


@pytest.mark.parametrize(
    "bad", [b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xce", b"\xf8\x88\x80\x80\x80", b"a\x80"]
)
def test_rule_8_1_text_is_utf_8(bad: bytes) -> None:
    assert violation(sent(0x81, bad)) == 1007
    assert violation(sent(0x81, bad + b"x" * 200)) == 1007
    assert violation(sent(0x01, b"fine") + sent(0x80, bad)) == 1007


def test_rule_8_1_a_bad_fragment_is_refused_before_the_last_one_comes() -> None:
    assert violation(sent(0x01, b"\xf4\x90")) == 1007
    assert messages_of(sent(0x01, b"\xf4")) == []


# ------------------------------------------------------------------------------------------------ limits


def test_the_limit_of_a_message() -> None:
    for size in (10, 200, 70_000):
        assert messages_of(sent(0x82, bytes(size)), max_package=size) == [bytes(size)]
        half = bytes(size // 2)
        assert messages_of(sent(0x02, half) + sent(0x80, half), max_package=size) == [bytes(size)]
        for first in (0x81, 0x82):
            assert violation(sent(first, bytes(size + 1)), max_package=size) == 1009
        assert violation(sent(0x02, half) + sent(0x80, half + b"x"), max_package=size) == 1009
    assert messages_of(sent(0x89, bytes(125)), max_package=10) == []


def test_what_is_too_long_is_refused_at_its_header() -> None:
    for size in (1 << 62, 10 * 1024 * 1024 + 1):
        assert violation(head(0x82, size, 8)) == 1009
    assert violation(head(0x82, 1001, 2), max_package=1000) == 1009
    assert violation(sent(0x02, bytes(600)) + head(0x80, 401, 2), max_package=1000) == 1009


def test_the_limit_may_change_and_0_is_none() -> None:
    socket = WebSocket(0)
    assert socket.feed(sent(0x81, b"x" * 100)) == ["x" * 100]
    socket.max_package = 99
    with pytest.raises(ProtocolError, match="over the limit of 99 bytes"):
        socket.feed(sent(0x81, b"x" * 100))


def test_the_limit_of_a_frame() -> None:
    wire = sent(0x02, bytes(1000)) * 1 + sent(0x80, bytes(1000))
    assert messages_of(wire, max_frame=1000) == [bytes(2000)]
    assert violation(sent(0x82, bytes(1001)), max_frame=1000) == 1009
    assert messages_of(sent(0x82, bytes(125)), max_frame=1) == [bytes(125)]


def test_the_limit_of_fragments() -> None:
    wire = sent(0x01, b"a") + sent(0x00) * 2
    assert messages_of(wire + sent(0x80), max_fragments=4) == ["a"]
    assert violation(wire + sent(0x00) * 2, max_fragments=4) == 1009


# ------------------------------------------------------------------------------------------------ ping and pong


def test_a_ping_is_answered_with_its_own_bytes() -> None:
    wire = sent(0x89, b"a") + sent(0x81, b"m") + sent(0x89) + sent(0x89, bytes(125)) + sent(0x8A, b"unasked")
    pongs = frame(0x8A, b"a") + frame(0x8A, b"") + frame(0x8A, bytes(125))
    assert every_cut(wire) == (["m"], "", None, b"", pongs)
    socket = WebSocket()
    socket.feed(sent(0x89, b"a"))
    assert (socket.take_replies(), socket.take_replies()) == (frame(0x8A, b"a"), b"")


def test_a_client_masks_its_pong() -> None:
    socket = WebSocket(client=True)
    socket.feed(frame(0x89, b"a"))
    pong = socket.take_replies()
    assert pong != frame(0x8A, b"a")
    events: list[Any] = []
    server = Heard()
    server.on_control = lambda messages, event: events.append(event)
    server.feed(pong)
    assert events == [Pong(b"a")]


def test_a_runtime_hears_of_control_frames_in_their_order() -> None:
    heard: list[Any] = []

    def listen(messages: list[Any], event: Any) -> None:
        heard.extend([*messages, event])
        messages.clear()

    socket = Heard()
    assert socket.replies
    socket.on_control = listen
    assert not socket.replies
    wire = (
        sent(0x81, b"1") + sent(0x89, b"2") + sent(0x82, b"3") + sent(0x81, b"4") + sent(0x8A, b"5") + sent(0x81, b"6")
    )
    assert socket.feed(wire) == ["6"]
    assert heard == ["1", Ping(b"2"), b"3", "4", Pong(b"5")]
    assert socket.take_replies() == b""
    with pytest.raises(EndOfInput) as caught:
        socket.feed(sent(0x81, b"7") + sent(0x88, struct.pack(">H", 3000) + b"so"))
    assert heard[5:] == ["7", Close(3000, "so")]
    assert caught.value.messages == []


def test_a_handler_sends_pings_and_pongs() -> None:
    assert WebSocket().encode(Ping(b"x")) == frame(0x89, b"x")
    assert WebSocket().encode(Pong(b"x")) == frame(0x8A, b"x")
    with pytest.raises(ValueError, match="125 bytes"):
        WebSocket().encode(Ping(bytes(126)))


# ------------------------------------------------------------------------------------------------ close


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, *range(1007, 1015), 3000, 3999, 4000, 4999])
@pytest.mark.parametrize("reason", [b"", b"bye", "grüße".encode(), b"x" * 123])
def test_a_close_is_echoed(code: int, reason: bytes) -> None:
    """Workerman's answered 1000, whatever the code."""
    payload = struct.pack(">H", code) + reason
    wire = sent(0x81, b"last") + sent(0x88, payload) + sent(0x81, b"not read")
    assert every_cut(wire) == (["last"], "end", CloseReason.WEBSOCKET_CLOSED, frame(0x88, payload), b"")


def test_a_close_without_a_code() -> None:
    assert every_cut(sent(0x88)) == ([], "end", CloseReason.WEBSOCKET_CLOSED, frame(0x88, b""), b"")
    heard: list[Any] = []
    socket = Heard()
    socket.on_control = lambda messages, event: heard.append(event)
    with pytest.raises(EndOfInput, match="1005"):
        socket.feed(sent(0x88))
    assert heard == [Close(CloseCode.NO_CODE)]


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535])
def test_rule_7_4_codes_that_may_not_be_sent(code: int) -> None:
    assert violation(sent(0x88, struct.pack(">H", code))) == 1002


def test_rule_5_5_1_what_a_close_holds() -> None:
    assert violation(sent(0x88, b"\x03")) == 1002
    assert violation(sent(0x88, b"\x03\xe8\xff")) == 1007


def test_a_close_within_a_fragmented_message() -> None:
    assert every_cut(sent(0x01, b"half") + sent(0x88, b"\x03\xe8"))[:3] == ([], "end", CloseReason.WEBSOCKET_CLOSED)


def test_one_close_and_no_more() -> None:
    socket = WebSocket()
    assert socket.encode(Close(4000, "go")) == frame(0x88, b"\x0f\xa0go")
    assert socket.encode(Close()) == b""
    assert socket.farewell(CloseReason.STOPPED) == b""
    assert socket.feed(sent(0x89)) == []
    assert socket.take_replies() == b""
    with pytest.raises(EndOfInput) as caught:
        socket.feed(sent(0x88, b"\x0f\xa0"))
    assert caught.value.farewell == b""


def test_no_close_after_the_echo() -> None:
    socket = WebSocket()
    with pytest.raises(EndOfInput):
        socket.feed(sent(0x88))
    assert socket.farewell(CloseReason.DRAINED) == b""


def test_a_handler_that_closes_in_answer_to_a_close_has_the_word() -> None:
    socket = Heard()
    answers: list[bytes] = []
    socket.on_control = lambda messages, event: answers.append(socket.encode(Close(4001)))
    with pytest.raises(EndOfInput) as caught:
        socket.feed(sent(0x88, b"\x03\xe8"))
    assert (answers, caught.value.farewell) == ([frame(0x88, b"\x0f\xa1")], b"")


def test_a_close_that_cannot_be_sent_is_not_taken_for_sent() -> None:
    socket = WebSocket()
    for close in (Close(1006), Close(1000, "x" * 124)):
        with pytest.raises(ValueError, match="Close"):
            socket.encode(close)
    assert socket.encode(Close()) == frame(0x88, b"\x03\xe8")


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (CloseReason.CLOSED, 1000), (CloseReason.STOPPED, 1001), (CloseReason.IDLE, 1001), (CloseReason.RELOADED, 1012),
        (CloseReason.DRAIN_DEADLINE, 1001), (CloseReason.HANDLER_ERROR, 1011), (CloseReason.PACKAGE_TOO_BIG, 1009),
        (CloseReason.PROTOCOL_ERROR, 1002), (CloseReason.PING_TIMEOUT, 1001),
    ],
)  # fmt: skip
def test_the_farewell_names_why(reason: CloseReason, code: int) -> None:
    assert WebSocket().farewell(reason) == frame(0x88, struct.pack(">H", code) + str(reason).encode())


def test_there_is_no_farewell_for_one_who_has_gone() -> None:
    silent = set(CloseReason) - set(CODES)
    assert CloseReason.PEER_CLOSED in silent
    assert {WebSocket().farewell(reason) for reason in silent} == {b""}
