"""Messages of a link."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workermand.services.links import wire
from workermand.services.links.errors import ServiceError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=10,
)


@given(st.integers(0, 99), st.integers(0, 2**32), st.lists(VALUES, max_size=4))
def test_there_and_back(op: int, number: int, rest: list[object]) -> None:
    message = [op, number, *rest]
    frame = wire.pack(message)
    assert int.from_bytes(frame[:4], "big") == len(frame)
    assert frame[4:] == wire.body(message)
    assert wire.unpack(frame[4:]) == message


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"\x91\xa1\x80",
        b"ping",
        msgspec.msgpack.encode({"op": 1}),
        msgspec.msgpack.encode([1]),
        msgspec.msgpack.encode(["1", 2]),
        msgspec.msgpack.encode([True, 2]),
        msgspec.msgpack.encode([1, 2]) + b"x",
        b"\x91" * 5000,
    ],
)
def test_what_is_none(body: bytes) -> None:
    with pytest.raises(ServiceError, match="no message of ours"):
        wire.unpack(body)


@given(st.binary(max_size=64))
def test_anything_else_is_refused_in_the_same_words(body: bytes) -> None:
    try:
        assert len(wire.unpack(body)) >= 2
    except ServiceError:
        pass
