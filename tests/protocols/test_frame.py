"""frame: every cut, the lengths that cannot be, and the limit as soon as the header is there."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workermand.errors import CloseReason, ProtocolError
from workermand.protocols.frame import Frame
from workermand.testing import check_protocol, feed_all


def frame(body: bytes) -> bytes:
    return struct.pack(">I", len(body) + 4) + body


def test_the_length_counts_its_own_four_bytes() -> None:
    assert Frame().encode(b"hello") == b"\x00\x00\x00\x09hello"
    assert Frame().encode("grüße") == frame("grüße".encode())
    assert Frame().encode(b"") == b"\x00\x00\x00\x04"
    with pytest.raises(TypeError, match="not dict"):
        Frame().encode({})


def test_however_it_is_cut() -> None:
    bodies = [b"hello", b"", b"\x00\x00\x00\x09", b"\n" * 300]
    cases = [(frame(body), [body]) for body in bodies]
    check_protocol(Frame, cases, violations=[bytes([0, 0, 0, length]) + b"abcd" for length in range(4)])


@pytest.mark.parametrize("length", range(4))
def test_a_length_of_0_to_3_ends_the_connection(length: int) -> None:
    with pytest.raises(ProtocolError, match=f"frame: length {length} is less than the header's own 4 bytes") as failure:
        Frame().feed(frame(b"good") + struct.pack(">I", length))
    assert failure.value.messages == [b"good"]
    assert failure.value.close_reason is CloseReason.PROTOCOL_ERROR


def test_the_limit_counts_the_header_and_needs_no_body() -> None:
    assert Frame(10).feed(frame(b"123456")) == [b"123456"]
    with pytest.raises(ProtocolError, match="over the limit of 10 bytes") as failure:
        Frame(10).feed(frame(b"good") + struct.pack(">I", 11))
    assert failure.value.messages == [b"good"]
    assert failure.value.close_reason is CloseReason.PACKAGE_TOO_BIG
    check_protocol(lambda: Frame(10), [(frame(b"123456"), [b"123456"])], violations=[frame(b"1234567"), b"\xff" * 4])


@given(st.lists(st.binary(max_size=20), max_size=8), st.data())
def test_any_bodies_in_any_pieces(bodies: list[bytes], data: st.DataObject) -> None:
    wire = b"".join(map(frame, bodies))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(wire)), max_size=10)))
    pieces = [wire[start:end] for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True)]
    assert feed_all(Frame(), *pieces) == bodies


def test_detach_gives_back_every_byte_that_was_not_consumed() -> None:
    protocol = Frame()
    protocol.feed(frame(b"one")[:5])
    chunk = frame(b"one")[5:] + frame(b"two") + frame(b"") + b"\x00\x00"
    messages = protocol.feed(chunk)
    assert messages == [b"one", b"two", b""]
    assert protocol.detach(messages[1:], chunk) == frame(b"two") + frame(b"") + b"\x00\x00"
    assert protocol.buffered == 0
    assert protocol.feed(frame(b"anew")) == [b"anew"]
