"""What is recognized is what the parser would have said, and nothing else is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from workermand.errors import EndOfInput
from workermand.http.policy import Limits
from workermand.protocols import repeats
from workermand.protocols.http import Http

GET = b"GET /a?b=1 HTTP/1.1\r\nHost: example.com\r\nX_Odd: 1\r\nUser-Agent: test  \r\n\r\n"


@pytest.fixture(autouse=True)
def nothing_known() -> Iterator[None]:
    forget()
    yield
    forget()


def forget() -> None:
    repeats._heads.clear()
    repeats._lines.clear()


def told(requests: list[Any]) -> list[Any]:
    return [(one.method, one.target, one.fields, one.version, one.demands, one.raw_body) for one in requests]


def recognized(data: bytes, most: int = 200) -> list[Any]:
    return told(repeats.recognize(data, most, None, ()))


def test_another_target_with_the_same_lines() -> None:
    assert recognized(GET) == []
    first = Http().feed(GET)
    assert recognized(GET) == told(first)
    other = GET.replace(b"/a?b=1", b"/other/page?")
    again = recognized(GET + other)
    assert again == [*told(Http().feed(GET)), ("GET", b"/other/page?", *told(first)[0][2:])]
    assert recognized(GET + other) == again
    assert b"X_Odd" not in again[0][2], "what the rules have dropped stays dropped"


@pytest.mark.parametrize(
    "head",
    [
        b"GET /a b HTTP/1.1\r\n", b"GET /a#b HTTP/1.1\r\n", b"GET /a HTTP/1.0\r\n", b"GET a HTTP/1.1\r\n",
        b"GET http://example.com/ HTTP/1.1\r\n", b"get / HTTP/1.1\r\n", b"HEAD / HTTP/1.1\r\n", b"GET  / HTTP/1.1\r\n",
        b"GET / HTTP/1.1\n", b"GET /\x80 HTTP/1.1\r\n", b"\r\nGET / HTTP/1.1\r\n", b"GET / HTTP/1.1 \r\n",
    ],
)  # fmt: skip
def test_a_line_that_is_not_the_plain_one_is_the_parsers(head: bytes) -> None:
    Http().feed(GET)
    assert recognized(head + GET.partition(b"\r\n")[2]) == []


@pytest.mark.parametrize(
    "lines",
    [
        b"Connection: close\r\n", b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n",
        b"Connection: Upgrade\r\nUpgrade: websocket\r\n", b"X: " + b"y" * repeats.LONGEST + b"\r\n",
    ],
)  # fmt: skip
def test_what_asks_for_more_than_an_answer_is_not_remembered(lines: bytes) -> None:
    data = b"GET / HTTP/1.1\r\nHost: a\r\n" + lines + b"\r\n"
    try:
        Http(upgrades=True).feed(data)
    except EndOfInput:
        pass
    assert recognized(data) == []


def test_nothing_bad_is_remembered() -> None:
    for data in (b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"):
        with pytest.raises(EndOfInput):
            Http().feed(data)
        assert recognized(data) == []


def test_the_limits_of_the_listener_hold() -> None:
    Http().feed(GET)
    assert recognized(GET, most=4) == recognized(GET)
    assert recognized(GET, most=3) == []
    narrow = Http(limits=Limits(fields=1))
    with pytest.raises(EndOfInput, match="field-count"):
        narrow.feed(GET)
    with pytest.raises(EndOfInput, match="field-size"):
        Http(limits=Limits(field=10)).feed(GET)


def test_what_is_remembered_is_bounded() -> None:
    for number in range(3 * repeats.MOST):
        Http().feed(b"GET / HTTP/1.1\r\nHost: a%d\r\n\r\n" % number)
        Http().feed(b"GET /%d HTTP/1.1\r\nHost: a%d\r\n\r\n" % (number, number))
        assert len(repeats._lines) <= repeats.MOST
        assert len(repeats._heads) <= repeats.MOST
