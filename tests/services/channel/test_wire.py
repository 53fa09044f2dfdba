"""The messages of a channel: what is ours, and what garbage becomes."""

from __future__ import annotations

import math
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import example, given

from workermand.services.channel import wire
from workermand.services.links import wire as links
from workermand.services.links.errors import ServiceError

DATA = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=9,
)


@given(DATA)
def test_data_comes_out_as_it_went_in(data: Any) -> None:
    assert wire.unpack_envelope(wire.pack_envelope(data)) == (data, "", 0)
    assert wire.unpack_envelope(wire.pack_envelope(data, "$reply.7", 12)) == (data, "$reply.7", 12)


@pytest.mark.parametrize("data", [object(), {"a": object()}, 2**64, "\udc80", math.isnan])
def test_what_cannot_be_sent(data: Any) -> None:
    with pytest.raises(TypeError, match="cannot be sent"):
        wire.pack_envelope(data)


def test_a_list_in_a_list_in_a_list() -> None:
    data: list[Any] = []
    for _ in range(100_000):
        data = [data]
    with pytest.raises(TypeError, match="cannot be sent"):
        wire.pack_envelope(data)
    with pytest.raises(ServiceError):
        wire.unpack_envelope(b"\x91" * 100_000)
    with pytest.raises(ServiceError):
        wire.decode(b"\x95" + bytes([wire.PUBLISH]) + b"\x91" * 100_000)


@given(st.binary())
@example(b"\x91\xa2\xff\xff")
@example(b"\x91\x81\x80\x01")
def test_garbage_is_no_envelope(packed: bytes) -> None:
    try:
        envelope = wire.unpack_envelope(packed)
    except ServiceError:
        return
    assert isinstance(envelope.reply_event, str) and isinstance(envelope.request, int)


@given(st.binary() | st.binary().map(lambda rest: b"\x95\x10" + rest))
def test_garbage_is_no_message(body: bytes) -> None:
    try:
        message = wire.decode(body)
    except ServiceError:
        return
    assert message[0] == wire.op_of(body)


@pytest.mark.parametrize(
    "message",
    [
        (wire.PUBLISH, 1, ["a", "b"], b"\x91\x01", False),
        (wire.SUBSCRIBE, 2, ["room.*"]),
        (wire.UNSUBSCRIBE, 3, []),
        (wire.ABOUT, 4),
        (wire.ENQUEUE, 5, ["mail"], b"\x91\x01", 0.5),
        (wire.WATCH, 6, "mail", 1, 60.0, 5, 1.0),
        (wire.UNWATCH, 7, "mail"),
        (wire.RESERVE, 8, "mail", 60.0, 0.0),
        (wire.ACKNOWLEDGE, 9, "mail", "77"),
        (wire.REFUSE, 10, "mail", "77", None, True),
        (wire.DEAD, 11, "mail", 100),
        (wire.REPLAY, 12, "mail", ["77"]),
    ],
)
def test_messages(message: tuple[Any, ...]) -> None:
    assert wire.decode(links.body(message)) == message
    with pytest.raises(ServiceError, match=f"op {message[0]}"):
        wire.decode(links.body([*message, 1]))
    with pytest.raises(ServiceError, match=f"op {message[0]}"):
        wire.decode(links.body([message[0], "1", *message[2:]]))


def test_every_op_is_a_number_of_its_own() -> None:
    ops = [value for name, value in vars(wire).items() if name.isupper() and name not in ("LONGEST_NAME", "EVENT")]
    ops = [value for value in ops if isinstance(value, int)]
    assert len(ops) == len(set(ops)) and all(links.FIRST <= op < 128 for op in ops)
    assert all(wire.op_of(links.body([op, 1])) == op for op in ops)


@pytest.mark.parametrize("body", [b"", b"\x95", b"\x10\x10", b"\xdc\x00\x02\x10\x01"])
def test_what_has_no_op(body: bytes) -> None:
    assert wire.op_of(body) == -1
    with pytest.raises(ServiceError):
        wire.decode(body)


def test_a_frame_of_an_event() -> None:
    frame = wire.event_frame("room.1", b"\x91\x01")
    assert frame == links.pack([wire.EVENT, 0, "room.1", b"\x91\x01"])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "this one 0"),
        ("x" * 256, "this one 256"),
        ("ü" * 128, "this one 256"),
        ("a\nb", "control character"),
        ("\x85", "control character"),
        ("\udc80", "UTF-8"),
        (b"a", "not bytes"),
        (None, "not NoneType"),
    ],
)
def test_bad_names(name: object, words: str) -> None:
    assert words in wire.why_not(name)


@pytest.mark.parametrize("name", ["a", "x" * 255, "ü" * 127, "room.*", "$group.a b", "房间"])
def test_good_names(name: str) -> None:
    assert wire.why_not(name) == ""
