"""text: every cut, what is no UTF-8, line ends, the limit, and exact bytes for the protocol that comes after."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from workermand.errors import CloseReason, ProtocolError
from workermand.protocols.text import Text
from workermand.testing import check_protocol, feed_all

CTRL_C = b"\xff\xf4\xff\xfd\x06"
"""What telnet sends for Ctrl+C: IAC IP, IAC DO TIMING-MARK."""


def lines_of(wire: bytes) -> list[str]:
    """The definition, slowly: line by line."""
    *lines, _ = wire.split(b"\n")
    return [line.removesuffix(b"\r").decode("utf-8", "surrogateescape") for line in lines]


def test_however_it_is_cut() -> None:
    cases = [
        (b"hello\n", ["hello"]),
        (b"\n\n", ["", ""]),
        ("grüße, 世界 🙂\n".encode(), ["grüße, 世界 🙂"]),
        (b"\x0b\x0c\x1c\x1d\x1e\xc2\x85\xe2\x80\xa8\n", ["\x0b\x0c\x1c\x1d\x1e\x85\u2028"]),
        (CTRL_C + b"\n", [CTRL_C.decode("utf-8", "surrogateescape")]),
        (b"\xe4\xb8\n\xad\n", ["\udce4\udcb8", "\udcad"]),
        (b"nul \x00 here\n", ["nul \x00 here"]),
    ]
    check_protocol(Text, cases)


def test_one_cr_belongs_to_the_line_end() -> None:
    cases = [(b"a\r\n", ["a"]), (b"\r\n", [""]), (b"a\r\r\n", ["a\r"]), (b"\ra\rb\n", ["\ra\rb"])]
    check_protocol(Text, cases, round_trip=False)


@given(
    st.lists(
        st.sampled_from([b"\n", b"\r", b"a", b"\xe4\xb8\xad", b"\xe4", b"\xb8", b"\xff", b"\xf0\x9f"]), max_size=30
    )
)
@example([b"\xf0\x9f", b"\n", b"\xe4", b"\r", b"\n"])
def test_decoding_a_chunk_at_once_is_decoding_line_by_line(parts: list[bytes]) -> None:
    wire = b"".join(parts)
    assert Text().feed(wire) == lines_of(wire)
    assert feed_all(Text(), *[wire[at : at + 1] for at in range(len(wire))]) == lines_of(wire)


@given(st.binary(max_size=200), st.data())
def test_any_bytes_in_any_pieces(wire: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(0, len(wire)), max_size=10)))
    pieces = [wire[start:end] for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True)]
    text = Text()
    assert feed_all(text, *pieces) == lines_of(wire)
    assert text.detach() == wire.split(b"\n")[-1]


@given(st.binary(max_size=100).filter(lambda line: b"\n" not in line and not line.endswith(b"\r")))
def test_an_echo_is_exact_whatever_the_bytes(line: bytes) -> None:
    text = Text()
    (message,) = text.feed(line + b"\n")
    assert text.encode(message) == line + b"\n"


def test_str_and_bytes_are_sent_as_lines() -> None:
    text = Text()
    assert text.encode("grüße") == "grüße\n".encode()
    assert text.encode(b"\xff") == b"\xff\n"
    assert text.encode("") == b"\n"
    with pytest.raises(TypeError, match="must be str or bytes, not int"):
        text.encode(7)


def test_the_limit_counts_the_newline() -> None:
    cases = [(b"abcd\nabc\r\n\n", ["abcd", "abc", ""])]
    check_protocol(lambda: Text(5), cases, violations=[b"abcde\n", b"abcdef", b"abcd\r\n"], round_trip=False)


def test_over_the_limit_the_good_lines_are_kept() -> None:
    with pytest.raises(ProtocolError, match="text: package over the limit of 100 bytes") as failure:
        Text(100).feed(b"one\r\ntwo \xff\n" + b"x" * 100)
    assert failure.value.messages == ["one", "two \udcff"]
    assert failure.value.close_reason is CloseReason.PACKAGE_TOO_BIG


def test_a_chunk_larger_than_the_limit_may_hold_good_lines_only() -> None:
    assert Text(8).feed(b"short\n" * 50 + b"unfin") == ["short"] * 50


def test_a_gibibyte_without_newline_is_refused_at_the_limit() -> None:
    text, piece = Text(), b"x" * 65536
    for fed in range(0, text.max_package - len(piece), len(piece)):
        assert text.buffered == fed
        assert text.feed(piece) == []
    with pytest.raises(ProtocolError) as failure:
        text.feed(piece)
    assert failure.value.close_reason is CloseReason.PACKAGE_TOO_BIG
    assert text.buffered == 0


def test_a_line_that_is_not_finished_at_the_end_is_dropped() -> None:
    text = Text()
    text.feed(b"whole\nhalf")
    assert text.buffered == 4
    assert text.feed_eof() == ()
    assert text.buffered == 0


def test_detach_gives_back_every_byte_that_was_not_consumed() -> None:
    text = Text()
    text.feed(b"upgr")
    chunk = b"ade\r\nnot \xe4 text\r\n\r\n\x00\x00\r"
    messages = text.feed(chunk)
    assert messages == ["upgrade", "not \udce4 text", ""]
    assert text.detach(messages[1:], chunk) == b"not \xe4 text\r\n\r\n\x00\x00\r"
    assert text.buffered == 0
    assert text.feed(b"anew\n") == ["anew"]
