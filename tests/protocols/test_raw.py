"""raw: what comes in goes out."""

from __future__ import annotations

import pytest

from workermand.protocols.raw import Raw


def test_every_chunk_is_a_message() -> None:
    raw = Raw()
    assert raw.feed(b"a\nb") == [b"a\nb"]
    assert raw.feed(b"\x00\xff") == [b"\x00\xff"]
    assert raw.feed(b"") == []
    assert raw.feed_eof() == ()
    assert raw.buffered == 0


def test_str_and_bytes_go_out_as_they_are() -> None:
    raw = Raw()
    assert raw.encode("grüße\n") == "grüße\n".encode()
    assert raw.encode(b"\x00") == b"\x00"
    with pytest.raises(TypeError, match="not int"):
        raw.encode(1)


def test_there_is_no_limit_to_a_chunk() -> None:
    assert Raw(1).feed(b"abc") == [b"abc"]


def test_another_protocol_gets_the_chunks_that_were_not_delivered() -> None:
    assert Raw().detach() == b""
    assert Raw().detach([b"rest"], b"rest") == b"rest"
