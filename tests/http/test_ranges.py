"""ranges: a table of conditions and ranges."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workermand.http import ranges
from workermand.http.ranges import Part

SIZE, MODIFIED = 1000, 784111777
ETAG = '"abc"'
THEN, BEFORE, AFTER = (ranges.http_date(MODIFIED + offset) for offset in (0, -1, 1))
WHOLE = [(0, 1000)]


@pytest.mark.parametrize(
    ("headers", "status", "parts"),
    [
        ({}, 200, WHOLE),
        # ranges
        ({"range": "bytes=0-0"}, 206, [(0, 1)]),
        ({"range": "bytes=0-"}, 206, WHOLE),
        ({"range": "bytes=990-2000"}, 206, [(990, 10)]),
        ({"range": "bytes=-1"}, 206, [(999, 1)]),
        ({"range": "bytes=-5000"}, 206, WHOLE),
        ({"range": "Bytes=1-2 , 4-5,"}, 206, [(1, 2), (4, 2)]),
        ({"range": "bytes=1-2,3000-"}, 206, [(1, 2)]),
        ({"range": "bytes=1000-"}, 416, []),
        ({"range": "bytes=-0"}, 416, []),
        ({"range": "bytes=5-1"}, 200, WHOLE),
        ({"range": "bytes="}, 200, WHOLE),
        ({"range": "bytes=-"}, 200, WHOLE),
        ({"range": "bytes=a-b"}, 200, WHOLE),
        ({"range": "lines=1-2"}, 200, WHOLE),
        ({"range": "bytes=0-,0-,0-"}, 200, WHOLE),
        ({"range": "bytes=" + ",".join(["1-2"] * 17)}, 200, WHOLE),
        ({"range": "bytes=0-" + "9" * 5000}, 200, WHOLE),
        # if-none-match and if-modified-since
        ({"if-none-match": ETAG}, 304, []),
        ({"if-none-match": 'W/"abc"'}, 304, []),
        ({"if-none-match": '"x", "abc"'}, 304, []),
        ({"if-none-match": "*"}, 304, []),
        ({"if-none-match": '"x"'}, 200, WHOLE),
        ({"if-none-match": '"x"', "if-modified-since": AFTER}, 200, WHOLE),
        ({"if-modified-since": THEN}, 304, []),
        ({"if-modified-since": AFTER}, 304, []),
        ({"if-modified-since": BEFORE}, 200, WHOLE),
        ({"if-modified-since": "yesterday"}, 200, WHOLE),
        ({"if-modified-since": "Sun, 06 Nov 99999 08:49:37 GMT"}, 200, WHOLE),
        ({"if-modified-since": f"Sun, 06 Nov {'9' * 30} 08:49:37 GMT"}, 200, WHOLE),
        ({"if-modified-since": "Sunday, 06-Nov-94 08:49:37 GMT"}, 304, []),
        ({"if-modified-since": "Sun Nov  6 08:49:37 1994"}, 304, []),
        ({"if-none-match": ETAG, "range": "bytes=0-0"}, 304, []),
        # if-match and if-unmodified-since
        ({"if-match": ETAG}, 200, WHOLE),
        ({"if-match": "*"}, 200, WHOLE),
        ({"if-match": 'W/"abc"'}, 412, []),
        ({"if-match": '"x"'}, 412, []),
        ({"if-unmodified-since": THEN}, 200, WHOLE),
        ({"if-unmodified-since": BEFORE}, 412, []),
        ({"if-unmodified-since": "nonsense"}, 200, WHOLE),
        ({"if-match": ETAG, "if-unmodified-since": BEFORE}, 200, WHOLE),
        # if-range
        ({"range": "bytes=0-0", "if-range": ETAG}, 206, [(0, 1)]),
        ({"range": "bytes=0-0", "if-range": '"x"'}, 200, WHOLE),
        ({"range": "bytes=0-0", "if-range": 'W/"abc"'}, 200, WHOLE),
        ({"range": "bytes=0-0", "if-range": THEN}, 206, [(0, 1)]),
        ({"range": "bytes=0-0", "if-range": BEFORE}, 200, WHOLE),
        ({"range": "bytes=0-0", "if-range": "nonsense"}, 200, WHOLE),
    ],
)
def test_decide(headers: dict[str, str], status: int, parts: list[tuple[int, int]]) -> None:
    decision = ranges.decide("GET", headers.get, SIZE, ETAG, MODIFIED)
    assert (decision.status, [(part.offset, part.count) for part in decision.parts]) == (status, parts)


def test_other_methods() -> None:
    assert ranges.decide("HEAD", {"if-none-match": ETAG}.get, SIZE, ETAG, MODIFIED).status == 304
    assert ranges.decide("PUT", {"if-none-match": ETAG}.get, SIZE, ETAG, MODIFIED).status == 412
    assert ranges.decide("POST", {"if-modified-since": THEN}.get, SIZE, ETAG, MODIFIED).status == 200
    assert ranges.decide("HEAD", {"range": "bytes=0-0"}.get, SIZE, ETAG, MODIFIED).status == 200


def test_a_weak_etag_is_no_proof_that_the_bytes_are_the_same() -> None:
    weak = 'W/"abc"'
    assert ranges.decide("GET", {"if-match": weak}.get, SIZE, weak, MODIFIED).status == 412
    assert ranges.decide("GET", {"if-none-match": ETAG}.get, SIZE, weak, MODIFIED).status == 304


def test_an_empty_file() -> None:
    assert ranges.parse("bytes=0-", 0) == ()
    assert ranges.parse("bytes=-1", 0) == ()


@given(st.text("bytes=0123456789-, \t", max_size=40), st.integers(0, 50))
def test_no_part_lies_outside(text: str, size: int) -> None:
    for value in (text, "bytes=" + text):
        for part in ranges.parse(value, size) or ():
            assert 0 <= part.offset < part.offset + part.count <= size


def test_the_fields() -> None:
    assert ranges.content_range(Part(2, 3), 10) == "bytes 2-4/10"
    assert ranges.content_range(None, 10) == "bytes */10"
    assert ranges.http_date(MODIFIED) == "Sun, 06 Nov 1994 08:49:37 GMT"
    assert ranges.etag_of(1, 2) != ranges.etag_of(1, 3) != ranges.etag_of(2, 2)
