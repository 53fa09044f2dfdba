"""Protocol's defaults, and the two bases: every cut, every limit, and what it costs to be sent a byte at a time."""

from __future__ import annotations

import json
import struct
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workermand.errors import CloseReason, ProtocolError
from workermand.protocols import registry
from workermand.protocols.base import UNLIMITED, Delimited, LengthPrefixed, Protocol, as_bytes
from workermand.protocols.text import Text
from workermand.testing import Case, check_protocol, feed_all


class Crlf(Delimited):
    name = "crlf"
    delimiter = b"\r\n"


class Overlapping(Delimited):
    """Three newlines hold its delimiter twice: only the first counts."""

    name = "overlapping"
    delimiter = b"\n\n"


class JsonLines(Delimited):
    name = "jsonlines"

    def decode(self, package: bytes) -> Any:
        return json.loads(package)

    def encode(self, message: Any) -> bytes:
        return json.dumps(message).encode() + b"\n"


class Bodies(LengthPrefixed):
    """Two bytes, the length of the body alone."""

    name = "bodies"
    header = struct.Struct(">H")
    counts_header = False


class Long(LengthPrefixed):
    name = "long"


class JsonBodies(Bodies):
    name = "jsonbodies"
    decode = JsonLines.decode

    def encode(self, message: Any) -> bytes:
        return super().encode(json.dumps(message))


def body(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


# ------------------------------------------------------------------------------------------------ the contract


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("grüße", "grüße".encode()),
        ("broken \udcff", b"broken \xff"),
        (b"bytes", b"bytes"),
        (bytearray(b"array"), b"array"),
        (memoryview(b"view"), b"view"),
        ("", b""),
    ],
)
def test_as_bytes_takes_str_and_bytes(message: Any, expected: bytes) -> None:
    assert as_bytes(message) == expected
    assert type(as_bytes(message)) is bytes


@pytest.mark.parametrize("message", [None, 5, 1.5, ["a"], {"a": 1}])
def test_as_bytes_names_what_it_cannot_send(message: Any) -> None:
    with pytest.raises(TypeError, match=f"must be str or bytes, not {type(message).__name__}"):
        as_bytes(message)


def test_a_protocol_that_adds_nothing_has_nothing_to_reply_or_to_hold() -> None:
    protocol = Protocol()
    assert (protocol.replies, protocol.stepwise, protocol.wants_connection) == (False, False, False)
    assert protocol.take_replies() == b""
    assert protocol.feed_eof() == ()
    assert protocol.buffered == 0
    assert protocol.detach() == b""
    with pytest.raises(NotImplementedError):
        protocol.feed(b"x")


def test_a_protocol_that_adds_nothing_owes_nothing_and_says_no_farewell() -> None:
    protocol = Protocol()
    protocol.wind_down()
    assert (protocol.owes, protocol.waits_for) == (0, "")
    assert {protocol.farewell(reason) for reason in CloseReason} == {b""} and not protocol.has_said_farewell
    assert protocol.answer_to(ValueError()) is None
    with pytest.raises(TypeError, match="no buffer to consume from"):
        protocol.consume(1)


def test_the_limit_may_be_assigned_and_0_means_none() -> None:
    protocol = Crlf(0)
    assert protocol.max_package == UNLIMITED
    protocol.max_package = 4
    with pytest.raises(ProtocolError, match="over the limit of 4 bytes"):
        protocol.feed(b"abc\r\n")


def test_protocol_objects_are_slotted() -> None:
    assert not hasattr(Delimited(), "__dict__")
    assert not hasattr(LengthPrefixed(), "__dict__")


# ------------------------------------------------------------------------------------------------ Delimited


def test_delimited_however_it_is_cut() -> None:
    check_protocol(Crlf, [(b"a\r\n", [b"a"]), (b"\r\n\r\nb\rb\nb\r\n", [b"", b"", b"b\rb\nb"]), (b"\r\r\n", [b"\r"])])


def test_a_package_is_its_own_message_unless_decode_says_otherwise() -> None:
    assert Crlf().decode(b"x") == b"x"


def test_a_delimiter_that_overlaps_itself_is_found_from_the_left() -> None:
    check_protocol(Overlapping, [(b"a\n\n\nb\n\n", [b"a", b"\nb"]), (b"\n\n", [b""])])


def test_decoded_messages_and_what_cannot_be_decoded() -> None:
    cases: list[Case] = [(b'{"a": 1}\n', [{"a": 1}]), (b"2\n[3]\n", [2, [3]])]
    check_protocol(JsonLines, cases, violations=[b"nonsense\n", b"nonsense\n4\n"])


def test_a_package_that_cannot_be_decoded_keeps_its_cause() -> None:
    with pytest.raises(ProtocolError, match="jsonlines: JSONDecodeError") as failure:
        JsonLines().feed(b"1\n2\n}\n3\n")
    assert failure.value.messages == [1, 2]
    assert failure.value.close_reason is CloseReason.PROTOCOL_ERROR
    assert isinstance(failure.value.__cause__, json.JSONDecodeError)


def test_a_decode_may_raise_the_protocol_error_itself() -> None:
    class Picky(Delimited):
        name = "picky"

        def decode(self, package: bytes) -> bytes:
            if package == b"no":
                raise ProtocolError("not that word", close_reason=CloseReason.PACKAGE_TOO_BIG)
            return package

    with pytest.raises(ProtocolError, match=r"^not that word$") as failure:
        Picky().feed(b"yes\nno\nyes\n")
    assert failure.value.messages == [b"yes"]
    assert failure.value.close_reason is CloseReason.PACKAGE_TOO_BIG


def test_delimited_limit_counts_the_delimiter() -> None:
    check_protocol(
        lambda: Crlf(5), [(b"abc\r\nabc\r\n", [b"abc", b"abc"])], violations=[b"abcd\r\n", b"abcde", b"abcd\r\na"]
    )


@pytest.mark.parametrize(
    "pieces", [[b"ok\r\n" + b"x" * 40], [b"ok\r\n", b"x" * 40], [b"ok\r\nx" + b"x" * 36, b"x\r\n"]]
)
def test_delimited_over_the_limit(pieces: list[bytes]) -> None:
    with pytest.raises(ProtocolError) as failure:
        feed_all(Crlf(38), *pieces)
    assert failure.value.messages == [b"ok"]
    assert failure.value.reason == "crlf: package over the limit of 38 bytes"
    assert failure.value.close_reason is CloseReason.PACKAGE_TOO_BIG


def test_what_cannot_be_decoded_comes_before_what_is_too_long() -> None:
    with pytest.raises(ProtocolError, match="JSONDecodeError") as failure:
        JsonLines(9).feed(b"1\n}\n" + b"2" * 20)
    assert failure.value.messages == [1]


def test_a_chunk_larger_than_the_limit_may_hold_good_messages_only() -> None:
    assert Crlf(5).feed(b"abc\r\n" * 100) == [b"abc"] * 100


def test_a_package_that_never_ends_is_kept_once_and_refused_at_the_limit() -> None:
    protocol, pieces = Crlf(4 << 20), [b"x" * 16] * (1 << 18)
    tracemalloc.start()
    with pytest.raises(ProtocolError) as failure:
        feed_all(protocol, *pieces)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert failure.value.close_reason is CloseReason.PACKAGE_TOO_BIG
    assert protocol.buffered == 0
    assert peak < 3 * (4 << 20)


def test_a_long_package_in_small_pieces_is_not_searched_again_and_again() -> None:
    # Quadratic, these would look at half a terabyte: the test's time limit is what fails then.
    size = 1 << 20
    assert feed_all(Crlf(), *[b"x"] * size, b"\r", b"\n") == [b"x" * size]
    wire = Long().encode(b"x" * size)
    assert feed_all(Long(), *[wire[at : at + 1] for at in range(len(wire))]) == [b"x" * size]


@given(st.sampled_from([Crlf, Overlapping]), st.lists(st.sampled_from([b"\r", b"\n", b"a"]), max_size=30), st.data())
def test_delimited_in_any_pieces(cls: type[Delimited], parts: list[bytes], data: st.DataObject) -> None:
    wire = b"".join(parts)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(wire)), max_size=10)))
    pieces = [wire[start:end] for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True)]
    protocol = cls()
    *expected, rest = wire.split(cls.delimiter)
    assert feed_all(protocol, *pieces) == expected
    assert protocol.detach() == rest


# ------------------------------------------------------------------------------------------------ LengthPrefixed


def test_length_prefixed_however_it_is_cut() -> None:
    check_protocol(Bodies, [(body(b"hello"), [b"hello"]), (body(b"") + body(b"\x00\x01"), [b"", b"\x00\x01"])])


def test_length_prefixed_may_decode() -> None:
    cases: list[Case] = [(body(b'{"a": 1}'), [{"a": 1}]), (body(b"2") + body(b"[3]"), [2, [3]])]
    check_protocol(JsonBodies, cases, violations=[body(b""), body(b"nonsense") + body(b"4")])


def test_length_prefixed_limit_counts_the_header() -> None:
    check_protocol(lambda: Bodies(5), [(body(b"abc"), [b"abc"])], violations=[body(b"abcd"), b"\x00\x04"])


def test_the_limit_may_change_between_two_pieces_of_a_package() -> None:
    protocol = Bodies()
    assert protocol.feed(body(b"abcd")[:3]) == []
    protocol.max_package = 5
    with pytest.raises(ProtocolError, match="over the limit of 5 bytes"):
        protocol.feed(b"bcd")


@pytest.mark.parametrize("cls", [cls for cls in registry.BUILT_IN.values() if cls.tail is not None])
@given(message=st.text())
def test_a_tail_says_what_encode_does(cls: type[Protocol], message: str) -> None:
    assert cls.tail is not None and cls().encode(message) == message.encode() + cls.tail


def test_an_encode_of_its_own_has_no_tail_unless_it_says_so() -> None:
    class Loud(Text):
        def encode(self, message: Any) -> bytes:
            return super().encode(message.upper())

    class Same(Text):
        tail = b"\n"

        def encode(self, message: Any) -> bytes:
            return super().encode(message)

    assert (Text.tail, Loud.tail, Same.tail) == (b"\n", None, b"\n")
