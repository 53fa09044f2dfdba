"""websocket, what goes out, deflated or not, and another implementation as the judge of both ways."""

from __future__ import annotations

import itertools
import json
import os
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Opcode
from websockets.protocol import CLIENT, SERVER
from websockets.protocol import Protocol as TheirProtocol

from tests.protocols.streams import (
    FORGETFUL,
    SIZES,
    TERMS,
    cut_at,
    messages_of,
    outcome,
    sent,
    violation,
)
from workermand.errors import EndOfInput
from workermand.protocols.deflate import Codec, Terms
from workermand.protocols.websocket import (
    BINARY_TYPE_ARRAYBUFFER,
    BINARY_TYPE_BLOB,
    Close,
    Ping,
    Pong,
    Prepared,
    WebSocket,
)
from workermand.protocols.wsframe import apply_mask, frame

# ------------------------------------------------------------------------------------------------ messages out


def test_str_is_text_and_bytes_are_binary() -> None:
    for message, first in [("ü", 0x81), (b"\xff", 0x82), (bytearray(b"\xff"), 0x82), (memoryview(b"\xff"), 0x82)]:
        wire = WebSocket().encode(message)
        assert wire == frame(first, message.encode() if isinstance(message, str) else bytes(message))
    for size in SIZES:
        assert WebSocket().encode("x" * size) == frame(0x81, b"x" * size)


@pytest.mark.parametrize("message", [{"type": "say", "to": [1, 2]}, ["ü", None], 5, 1.5, True, None])
def test_anything_else_is_json_text(message: Any) -> None:
    (text,) = WebSocket(client=True).feed(WebSocket().encode(message))
    assert json.loads(text) == message


def test_what_cannot_be_sent() -> None:
    with pytest.raises(TypeError):
        WebSocket().encode(object())
    with pytest.raises(UnicodeEncodeError):
        WebSocket().encode("\udcff")


def test_websocket_type_decides_for_all() -> None:
    socket = WebSocket()
    assert socket.websocket_type is None
    socket.websocket_type = BINARY_TYPE_ARRAYBUFFER
    for message in ("ü", "ü".encode()):
        assert socket.encode(message) == frame(0x82, "ü".encode())
    assert socket.encode("x" * 200) == frame(0x82, b"x" * 200)
    socket.websocket_type = BINARY_TYPE_BLOB
    for message in ("ü", "ü".encode()):
        assert socket.encode(message) == frame(0x81, "ü".encode())
    with pytest.raises(UnicodeDecodeError):
        socket.encode(b"\xff")
    socket.websocket_type = None
    assert socket.encode(b"\xff") == frame(0x82, b"\xff")
    with pytest.raises(ValueError, match="BINARY_TYPE_BLOB"):
        socket.websocket_type = 5


def test_a_client_masks_with_a_new_key_each_time() -> None:
    socket = WebSocket(client=True)
    wires = [socket.encode("same") for _ in range(10)]
    assert len(set(wires)) == 10
    assert all(wire[2:6] != bytes(4) for wire in wires)
    assert WebSocket().feed(b"".join(wires)) == ["same"] * 10


def test_a_prepared_message_is_made_once_for_all_alike() -> None:
    prepared = Prepared("hello " * 20)
    plain, other, packed = WebSocket(), WebSocket(), WebSocket(deflate=TERMS)
    wire = plain.encode(prepared)
    assert wire == plain.encode("hello " * 20)
    assert other.encode(prepared) is wire
    assert packed.encode(prepared) is WebSocket(deflate=TERMS).encode(prepared) is not wire
    other.websocket_type = BINARY_TYPE_ARRAYBUFFER
    assert other.encode(prepared)[0] == 0x82
    assert len(prepared.frames) == 3
    assert WebSocket().feed(WebSocket(client=True).encode(prepared)) == ["hello " * 20]
    assert WebSocket().encode(Prepared({"a": 1})) == frame(0x81, b'{"a":1}')
    assert WebSocket(deflate=TERMS).encode(Prepared("short")) == frame(0x81, b"short")


def test_a_prepared_message_between_others_that_are_deflated() -> None:
    server, client = WebSocket(deflate=TERMS), WebSocket(client=True, deflate=TERMS)
    prepared = Prepared("for all of you: " * 10)
    for number in range(3):
        own = f"for you alone: {number} " * 10
        assert client.feed(server.encode(own) + server.encode(prepared)) == [own, "for all of you: " * 10]


# ------------------------------------------------------------------------------------------------ deflate


@pytest.mark.parametrize("terms", [TERMS, FORGETFUL])
def test_deflated_messages_however_they_are_cut(terms: Terms) -> None:
    client = WebSocket(client=True, deflate=terms)
    messages = ["hello " * 50, b"\xff" * 100, "short", "hello " * 50, "", os.urandom(200)]
    wire = b"".join(map(client.encode, messages))
    assert len(wire) < 600
    assert messages_of(wire, deflate=terms) == messages


def test_a_deflated_message_in_fragments() -> None:
    """Workerman's lost what it had inflated of all but the last."""
    text = "κόσμε " * 100
    codec = Codec(TERMS)
    wire = b""
    for _ in range(2):
        packed = codec.compress(text.encode())
        wire += (
            sent(0x41, packed[:5]) + sent(0x89, b"p") + sent(0x00, packed[5:6]) + sent(0x00) + sent(0x80, packed[6:])
        )
    assert messages_of(wire, deflate=TERMS) == [text, text]
    assert messages_of(sent(0x01, b"pla") + sent(0x80, b"in"), deflate=TERMS) == ["plain"]


def test_rfc_7692_rules() -> None:
    hello = bytes.fromhex("f248cdc9c90700")
    assert messages_of(sent(0xC1, hello), deflate=TERMS) == ["Hello"]
    assert violation(sent(0xC1, hello)) == 1002  # not agreed on
    assert violation(sent(0xC9), deflate=TERMS) == 1002
    assert violation(sent(0xC8), deflate=TERMS) == 1002
    assert violation(sent(0x41, hello) + sent(0xC0), deflate=TERMS) == 1002
    assert violation(sent(0xC1, b"\xff\xff"), deflate=TERMS) == 1007
    assert violation(sent(0xC1, Codec(TERMS).compress(b"\xff")), deflate=TERMS) == 1007


def test_the_limit_holds_after_inflating_over_all_fragments() -> None:
    packed = Codec(TERMS).compress(b"x" * 1000)
    assert messages_of(sent(0xC1, packed), deflate=TERMS, max_package=1000) == ["x" * 1000]
    assert violation(sent(0xC1, packed), deflate=TERMS, max_package=999) == 1009
    pieces = sent(0x41, packed[:4]) + sent(0x80, packed[4:])
    assert messages_of(pieces, deflate=TERMS, max_package=1000) == ["x" * 1000]
    assert violation(pieces, deflate=TERMS, max_package=999) == 1009
    assert messages_of(sent(0xC1, packed), deflate=TERMS, max_package=0) == ["x" * 1000]


# ------------------------------------------------------------------------------------------------ the judge


def judge(side: Any, wire: bytes, terms: Terms | None, limit: int) -> tuple[list[Any], str, bytes]:
    """What the other implementation makes of a stream, in the words of ``outcome``."""
    theirs = TheirProtocol(side, max_size=limit)
    if terms is not None:
        theirs.extensions = [
            PerMessageDeflate(not terms.peer_takeover, not terms.takeover, terms.peer_bits, terms.bits)
        ]
    theirs.receive_data(wire)
    messages: list[Any] = []
    parts: list[bytes] = []
    text = False
    for event in theirs.events_received():
        if event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            if event.opcode is not Opcode.CONT:
                parts, text = [], event.opcode is Opcode.TEXT
            parts.append(bytes(event.data))
            if event.fin:
                joined = b"".join(parts)
                try:
                    messages.append(joined.decode() if text else joined)
                except UnicodeDecodeError:
                    return messages, "violation", b""
    kind = "violation" if theirs.parser_exc is not None else "end" if theirs.close_rcvd is not None else ""
    return messages, kind, b"".join(theirs.data_to_send())


payloads = st.one_of(
    st.binary(max_size=40), st.text(max_size=20).map(str.encode), st.binary(min_size=120, max_size=300)
)
closes = st.tuples(st.integers(990, 5010), st.text(max_size=10)).map(lambda c: struct.pack(">H", c[0]) + c[1].encode())
frames_sent = st.one_of(
    st.tuples(st.sampled_from([0x81, 0x81, 0x82, 0x01, 0x02, 0x00, 0x80, 0x89, 0x8A]), payloads),
    st.tuples(st.sampled_from([0x88]), closes),
    st.tuples(st.integers(0, 255), st.binary(max_size=10)),
)


frames_deflated = st.one_of(
    frames_sent,
    st.tuples(
        st.sampled_from([0xC1, 0xC2, 0x41, 0x42, 0x00, 0x80]),
        payloads.map(lambda data: Codec(FORGETFUL).compress(data)),
    ),
    st.tuples(st.sampled_from([0xC1, 0xC2]), st.binary(max_size=10)),
)


@pytest.mark.parametrize("client", [False, True], ids=["server", "client"])
@pytest.mark.parametrize("terms", [None, TERMS, FORGETFUL], ids=["plain", "deflate", "deflate-forgetful"])
@settings(max_examples=200)
@given(data=st.data())
def test_another_implementation_reads_the_same(client: bool, terms: Terms | None, data: st.DataObject) -> None:
    """Any frames, most of them good ones."""
    stream = data.draw(st.lists(frames_sent if terms is None else frames_deflated, max_size=8))
    wire = b"".join(frame(first, payload[:125] if first & 8 else payload, not client) for first, payload in stream)
    ours = WebSocket(500, client=client, deflate=terms)
    messages, kind, _, farewell, replies = outcome(ours, cut_at(wire, data))
    theirs, their_kind, their_bytes = judge(CLIENT if client else SERVER, wire, terms, 500)
    code = unmasked(farewell)[2:4]
    if kind == "violation" and code == b"\x03\xef":  # they check UTF-8 later than we do
        assert messages == theirs[: len(messages)]
        return
    assert messages == theirs
    if (kind, their_kind) == ("end", "violation"):  # a Close within a fragmented message, which RFC 6455 5.4 allows
        assert any(not first & 0x80 for first, _ in stream)
        return
    assert kind == their_kind
    said, their_said = unmasked(replies), unmasked(their_bytes)
    if kind == "":
        assert said == their_said
    elif kind == "end":
        assert said + unmasked(farewell) == their_said
    else:
        assert their_said.startswith(said + b"\x88")
        their_code = their_said[len(said) + 2 :][:2]
        assert their_code in (code, b"\x03\xef", b"\x03\xf1")  # of two faults they name the other one


def unmasked(wire: bytes) -> bytes:
    """Short frames as a server sends them: a client's masks are random."""
    frames = b""
    while wire:
        size = wire[1] & 0x7F
        body = 6 if wire[1] & 0x80 else 2
        frames += wire[:1] + bytes([size]) + apply_mask(wire[body : body + size], wire[2:body].rjust(4, b"\0"))
        wire = wire[body + size :]
    return frames


script = st.lists(
    st.tuples(
        st.one_of(st.text(max_size=100), st.binary(max_size=200)),
        st.lists(st.integers(1, 60), max_size=4),
        st.lists(st.tuples(st.booleans(), st.binary(max_size=125)), max_size=5),
    ),
    max_size=5,
)
"""Messages, the sizes of all fragments but the last, and what comes between them: pings (True) and pongs."""


@pytest.mark.parametrize("client", [False, True], ids=["server", "client"])
@pytest.mark.parametrize("terms", [None, TERMS, FORGETFUL], ids=["plain", "deflate", "deflate-forgetful"])
@given(script=script, end=st.one_of(st.none(), st.integers(3000, 4999)), data=st.data())
def test_all_that_another_implementation_says_is_heard(
    client: bool, terms: Terms | None, script: list[Any], end: int | None, data: st.DataObject
) -> None:
    """Messages in fragments with control frames between, and the end; and our answers are heard there."""
    theirs = TheirProtocol(SERVER if client else CLIENT)
    if terms is not None:
        theirs.extensions = [
            PerMessageDeflate(not terms.takeover, not terms.peer_takeover, terms.bits, terms.peer_bits)
        ]
    controls = [control for message, sizes, between in script for control in said_by(theirs, message, sizes, between)]
    theirs.send_close(end, "bye" if end else "")
    wire = b"".join(theirs.data_to_send())

    expected = [message for message, *_ in script]
    messages, kind, _, farewell, replies = outcome(WebSocket(client=client, deflate=terms), cut_at(wire, data))
    assert (messages, kind) == (expected, "end")

    theirs.receive_data(replies + farewell)
    pongs = [event.data for event in theirs.events_received() if event.opcode is Opcode.PONG]
    assert pongs == [control.data for control in controls if isinstance(control, Ping)]
    assert theirs.close_rcvd is not None
    assert theirs.close_rcvd.code == (end or 1005)
    assert theirs.close_rcvd_then_sent is False

    heard: list[Any] = []
    listening = Listening(client=client, deflate=terms)
    listening.on_control = lambda delivered, event: (heard.extend([*delivered, event]), delivered.clear())
    pieces = cut_at(wire, data)
    with pytest.raises(EndOfInput):
        heard.extend(message for piece in pieces for message in listening.feed(piece))
    events = [one for one in heard if isinstance(one, (Ping, Pong, Close))]
    assert events == [*controls, Close(end or 1005, "bye" if end else "")]
    assert [one for one in heard if one not in events] == expected


class Listening(WebSocket):
    """One that can be given an on_control."""


def said_by(
    theirs: TheirProtocol, message: str | bytes, sizes: list[int], between: list[tuple[bool, bytes]]
) -> list[Ping | Pong]:
    """Has them say it. The control frames."""
    payload = message.encode() if isinstance(message, str) else message
    points = [0, *itertools.accumulate(sizes)]
    pieces = [payload[start:stop] for start, stop in itertools.pairwise(points)] + [payload[points[-1] :]]
    said: list[Ping | Pong] = []
    controls = iter(between)
    for number, piece in enumerate(pieces):
        for is_ping, content in itertools.islice(controls, 2):
            (theirs.send_ping if is_ping else theirs.send_pong)(content)
            said.append(Ping(content) if is_ping else Pong(content))
        last = number == len(pieces) - 1
        if number:
            theirs.send_continuation(piece, last)
        elif isinstance(message, str):
            theirs.send_text(piece, last)
        else:
            theirs.send_binary(piece, last)
    return said


@given(
    st.lists(st.one_of(st.text(max_size=200), st.binary(max_size=200)), max_size=6),
    st.sampled_from([None, TERMS, FORGETFUL]),
    st.booleans(),
)
def test_another_implementation_reads_what_we_send(messages: list[Any], terms: Terms | None, client: bool) -> None:
    ours = WebSocket(client=client, deflate=terms)
    wire = b"".join(map(ours.encode, messages)) + ours.encode(Close(4000, "end"))
    assert judge(SERVER if client else CLIENT, wire, terms, 1000)[:2] == (messages, "end")


@given(
    st.lists(st.one_of(st.text(max_size=200), st.binary(max_size=200)), max_size=6),
    st.booleans(),
    st.integers(1, 50),
    st.data(),
)
def test_we_read_what_another_implementation_sends(
    messages: list[Any], forgetful: bool, size: int, data: st.DataObject
) -> None:
    """In fragments of ``size``, deflated."""
    theirs = TheirProtocol(CLIENT)
    theirs.extensions = [PerMessageDeflate(forgetful, forgetful, 15, 12)]
    for message in messages:
        payload = message.encode() if isinstance(message, str) else message
        pieces = [payload[at : at + size] for at in range(0, len(payload), size)] or [b""]
        for number, piece in enumerate(pieces):
            last = number == len(pieces) - 1
            if number:
                theirs.send_continuation(piece, last)
            elif isinstance(message, str):
                theirs.send_text(piece, last)
            else:
                theirs.send_binary(piece, last)
    wire = b"".join(theirs.data_to_send())
    terms = FORGETFUL if forgetful else TERMS
    assert outcome(WebSocket(deflate=terms), cut_at(wire, data))[:2] == (messages, "")


@settings(max_examples=300)
@given(st.binary(max_size=100), st.booleans(), st.booleans(), st.data())
def test_any_bytes_come_to_the_same_however_cut(wire: bytes, client: bool, deflated: bool, data: st.DataObject) -> None:
    terms = TERMS if deflated else None
    whole = outcome(WebSocket(deflate=terms, client=client), [wire])
    pieces = outcome(WebSocket(deflate=terms, client=client), cut_at(wire, data))
    if client:  # each Close has another mask
        whole, pieces = (*whole[:3], b"", b""), (*pieces[:3], b"", b"")
    assert whole == pieces


def test_a_message_that_is_dropped_leaves_no_hole_in_the_window() -> None:
    server, client = WebSocket(deflate=Terms(12, True, 12, True, 6, 5)), WebSocket(client=True, deflate=TERMS)
    text = "what the next one refers to " * 20
    assert client.feed(server.encode("first " + text)) == ["first " + text]
    server.encode("dropped " + text)
    assert server.lost()
    assert client.feed(server.encode("third " + text)) == ["third " + text]
