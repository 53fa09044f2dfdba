"""http: every cut, the limits, whose turn it is, and what an end leaves behind; llhttp's corpus is test_llhttp.py's."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workermand.errors import CloseReason, EndOfInput, ProtocolError
from workermand.http.policy import Limits
from workermand.http.request import Request
from workermand.http.response import Response
from workermand.protocols.http import Http
from workermand.testing import check_protocol, feed_all

GET = b"GET /a?b=1 HTTP/1.1\r\nHost: example.com\r\n\r\n"
POST = b"POST /form HTTP/1.1\r\nHost: example.com\r\nContent-Length: 12\r\n\r\nhel\r\n\r\no\r\n\r\n"
CHUNKED = (
    b"PUT /c HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
    b"5\r\nhel\r\n\r\nB;ext=1\r\n\r\n\r\no world\r\n0\r\nX-Sum: 7\r\n\r\n"
)


def told(request: Request) -> tuple[Any, ...]:
    trailers = request.trailer_fields
    return request.method, request.uri, tuple(request.fields), request.raw_body, tuple(trailers or ())


class Told(Http):
    """Requests as tuples, to be compared."""

    __slots__ = ()

    def feed(self, data: bytes) -> list[Any]:
        try:
            return [told(request) for request in super().feed(data)]
        except EndOfInput as end:
            end.messages = [told(request) for request in end.messages]
            raise


def fields(head: bytes) -> tuple[bytes, ...]:
    lines = head.split(b"\r\n\r\n")[0].split(b"\r\n")[1:]
    return tuple(part for line in lines for part in line.split(b": "))


def in_bytes(wire: bytes) -> list[bytes]:
    return [wire[at : at + 1] for at in range(len(wire))]


def outcome(pieces: list[bytes], **settings: Any) -> tuple[list[Any], str, bytes]:
    """Requests, the reason of the end, and the farewell."""
    http = Told(**settings)
    try:
        return feed_all(http, *pieces), "", b""
    except EndOfInput as end:
        return list(end.messages), end.reason, end.farewell


def status_of(farewell: bytes) -> int:
    return int(farewell.split(b" ", 2)[1])


def refused(wire: bytes, **settings: Any) -> tuple[int, str]:
    """Status and rule, which must be the same whatever the cut."""
    whole = outcome([wire], **settings)
    assert outcome(in_bytes(wire), **settings) == whole
    assert whole[1], "not refused"
    head, _, body = whole[2].partition(b"\r\n\r\n")
    assert b"\r\nConnection: close" in head
    assert b"\r\nContent-Length: %d" % len(body) in head
    assert body
    return status_of(whole[2]), whole[1].split(": ")[1]


# ---------------------------------------------------------------------------------------------------- reading


def test_however_it_is_cut() -> None:
    cases = [
        (GET, [("GET", "/a?b=1", fields(GET), b"", ())]),
        (POST, [("POST", "/form", fields(POST), b"hel\r\n\r\no\r\n\r\n", ())]),
        (CHUNKED, [("PUT", "/c", fields(CHUNKED), b"hel\r\n\r\n\r\no world", (b"X-Sum", b"7"))]),
        (b"\r\n" + GET, [("GET", "/a?b=1", fields(GET), b"", ())]),
        (GET * 3, [("GET", "/a?b=1", fields(GET), b"", ())] * 3),
        (
            b"OPTIONS * HTTP/1.1\r\nHost:\r\nX-Empty:\r\n\r\n",
            [("OPTIONS", "*", (b"Host", b"", b"X-Empty", b""), b"", ())],
        ),
        (b"HEAD / HTTP/1.1\r\nhost: [::1]:80\r\n\r\n", [("HEAD", "/", (b"host", b"[::1]:80"), b"", ())]),
    ]
    violations = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        b"GET / HTTP/1.1\r\nHost: a\r\nBad : 1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        CHUNKED.replace(b"B;ext", b"G;ext"),
        CHUNKED.replace(b"X-Sum: 7", b"Content-Length: 7"),
    ]
    check_protocol(Told, cases, violations=violations, round_trip=False)


@given(st.lists(st.sampled_from([GET, POST, CHUNKED, b"\r\n", GET + b"X"]), max_size=12), st.data())
def test_any_row_of_requests_in_any_pieces(parts: list[bytes], data: st.DataObject) -> None:
    wire = b"".join(parts)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(wire)), max_size=12)))
    pieces = [wire[start:end] for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True)]
    assert outcome(pieces) == outcome([wire]) == outcome(in_bytes(wire))


@given(st.binary(max_size=300), st.data())
def test_any_bytes_are_refused_or_wait(junk: bytes, data: st.DataObject) -> None:
    wire = data.draw(st.sampled_from([b"", GET, POST[:-7], CHUNKED[:-20]])) + junk
    assert outcome([wire]) == outcome(in_bytes(wire))


def test_requests_that_are_not_plain_are_read_the_same_way() -> None:
    """The chunk of GETs that _whole takes, and everything that makes it think again."""
    odd = [
        GET.replace(b"\r\n\r\n", b"\r\nConnection: keep-alive\r\n\r\n"),
        GET.replace(b"Host", b"host"),
        GET.replace(b"\r\n\r\n", b"\r\nX_Forged: 1\r\n\r\n"),
        b"GET / HTTP/1.1\r\nX: 1\r\nHost: b\r\n\r\n",
        b"GET /post HTTP/1.1\r\nHost: example.com\r\nContent-Length: 4\r\n\r\n\r\n\r\n",
        CHUNKED.replace(b"PUT", b"GET"),
        POST,
        b"GET / HTTP/1.1\r\nHost: b\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
    ]
    for one in odd:
        wire = GET * 2 + one + GET * 2 + one + GET
        whole = outcome([wire])
        assert len(whole[0]) == 7
        assert outcome(in_bytes(wire)) == whole


# ---------------------------------------------------------------------------------------------------- limits


def head(*lines: bytes, first: bytes = b"GET / HTTP/1.1") -> bytes:
    return b"\r\n".join([first, b"Host: a", *lines, b"", b""])


@pytest.mark.parametrize(
    ("wire", "status", "rule"),
    [
        (head(first=b"GET /" + b"x" * 8192 + b" HTTP/1.1"), 414, "request-line-size"),
        (b"GET /" + b"x" * 9000, 414, "request-line-size"),
        (head(b"X: " + b"x" * 8192), 431, "field-size"),
        (head(*[b"X-%d: %b" % (n, b"x" * 4000) for n in range(9)]), 431, "head-size"),
        (head(*[b"X-%d: %b" % (n, b"x" * 4000) for n in range(9)])[:-2], 431, "head-size"),
        (head(*[b"a: b"] * 100), 431, "field-count"),
        (head(*[b"DNT: 1"] * 100), 431, "field-count"),
        (head(b"Content-Length: 101", first=b"POST / HTTP/1.1"), 413, "body-size"),
        (head(b"Transfer-Encoding: chunked", first=b"POST / HTTP/1.1") + b"1\r\na\r\n" * 17, 413, "body-size"),
        (head(b"Transfer-Encoding: chunked") + b"1;" + b"x" * 100, 413, "body-size"),
        (head(b"Expect: 200-maybe"), 417, "expectation"),
        (head(first=b"GET http://b/ HTTP/1.1"), 421, "misdirected"),
        (head(first=b"BREW / HTTP/1.1"), 501, "method"),
        (head(first=b"TRACE / HTTP/1.1"), 501, "method"),
        (head(first=b"CONNECT a:80 HTTP/1.1"), 501, "method"),
        (head(b"Transfer-Encoding: gzip, chunked"), 501, "transfer-coding"),
        (head(first=b"GET / HTTP/1.2"), 505, "version"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "version"),
        (head(first=b"get / HTTP/1.1"), 400, "syntax"),
    ],
)
def test_each_limit_has_its_status(wire: bytes, status: int, rule: str) -> None:
    assert refused(wire, max_package=100) == (status, rule)
    assert outcome([GET + wire], max_package=100)[1:] == outcome([wire], max_package=100)[1:]


def test_what_is_just_within_the_limits_is_served() -> None:
    limits = Limits(line=100, field=50, fields=3, head=200)
    wire = head(b"a: " + b"x" * 49, b"b: c", first=b"GET /%b HTTP/1.1" % (b"x" * 86))
    for pieces in ([wire], in_bytes(wire)):
        assert outcome(pieces, limits=limits)[1] == ""
    assert refused(wire.replace(b"GET /", b"GET /x"), limits=limits) == (414, "request-line-size")
    assert refused(wire.replace(b"a: ", b"a: x"), limits=limits) == (431, "field-size")
    assert refused(wire.replace(b"b: c", b"b: c\r\nd: e"), limits=limits) == (431, "field-count")


def test_a_body_may_be_as_long_as_max_package() -> None:
    chunked = head(b"Transfer-Encoding: chunked", first=b"POST / HTTP/1.1") + b"1\r\na\r\n" * 2 + b"0\r\n\r\n"
    assert outcome([chunked], max_package=17)[1] == ""
    assert refused(chunked, max_package=16) == (413, "body-size")
    assert outcome([POST], max_package=12)[1] == ""
    with pytest.raises(ProtocolError) as failure:
        Http(11).feed(POST)
    assert failure.value.close_reason is CloseReason.PACKAGE_TOO_BIG


def test_a_refusal_of_a_head_request_has_no_body() -> None:
    farewell = outcome([head(b"Expect: 7", first=b"HEAD / HTTP/1.1")])[2]
    assert farewell.endswith(b"\r\n\r\n")
    assert b"Content-Length: " in farewell


# ---------------------------------------------------------------------------------------------------- the last request


@pytest.mark.parametrize(
    "last",
    [
        GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
        GET.replace(b"HTTP/1.1", b"HTTP/1.0"),
        GET.replace(b"HTTP/1.1\r\n", b"HTTP/1.0\r\nConnection: keep-alive\r\n"),
        POST.replace(b"\r\nContent", b"\r\nConnection: close\r\nContent"),
        CHUNKED.replace(b"\r\nTrailer", b"\r\nConnection: close\r\nTrailer"),
    ],
)
def test_what_follows_the_last_request_is_not_read(last: bytes) -> None:
    for wire in (last, GET + last + GET, GET + last + b"junk\r\n\r\n"):
        whole = outcome([wire])
        assert whole[1:] == ("http: the last request", b"")
        assert len(whole[0]) == 1 + wire.startswith(GET + last)
        assert outcome(in_bytes(wire)) == whole


def test_the_last_answer_says_close() -> None:
    http = Http()
    with pytest.raises(EndOfInput) as end:
        http.feed(GET + GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    assert not isinstance(end.value, ProtocolError)
    assert end.value.close_reason is CloseReason.CLOSED
    assert http.owes == 2
    assert b"Connection" not in http.encode("one")
    assert b"\r\nConnection: close\r\n" in http.encode("two")
    assert http.owes == 0


def test_a_connection_has_so_many_requests() -> None:
    for pieces in ([GET * 5], in_bytes(GET * 5)):
        http = Http(requests=3)
        with pytest.raises(EndOfInput) as end:
            feed_all(http, *pieces)
        assert len(end.value.messages) == http.owes == 3
        assert [b"Connection: close" in http.encode("x") for _ in range(3)] == [False, False, True]


def test_wind_down_makes_the_next_answer_the_last() -> None:
    http = Http()
    http.feed(GET * 2)
    http.wind_down()
    assert [b"Connection: close" in http.encode("x") for _ in range(2)] == [False, True]
    with pytest.raises(EndOfInput) as end:
        http.feed(GET)
    assert end.value.messages == []


def test_wind_down_between_requests_and_inside_of_one() -> None:
    for before, after in ((b"", POST), (POST[:20], POST[20:]), (POST[:-3], POST[-3:])):
        http = Http()
        http.feed(before)
        http.wind_down()
        with pytest.raises(EndOfInput) as end:
            http.feed(after + GET)
        assert len(end.value.messages) == 1
        assert b"Connection: close" in http.encode("x")


def test_an_unfinished_request_is_waited_for_by_its_part() -> None:
    http = Http()
    states = []
    for piece in (b"\r\n", POST[:10], POST[10:-12], POST[-12:-1], POST[-1:]):
        http.feed(piece)
        states.append((http.waits_for, http.buffered > 0))
    assert states == [("", False), ("head", True), ("body", True), ("body", True), ("", False)]


def test_the_farewell_of_a_late_request() -> None:
    http = Http()
    http.feed(POST[:-1])
    answer = http.farewell(CloseReason.BODY_TIMEOUT)
    assert status_of(answer) == 408
    assert b"the body of the request took too long" in answer
    assert http.farewell(CloseReason.IDLE) == b""
    http.feed(POST[-1:])
    assert http.farewell(CloseReason.HEADER_TIMEOUT) == b"", "an answer to another request is due first"


def test_half_a_request_is_dropped_at_the_end() -> None:
    http = Http()
    http.feed(POST[:-1])
    assert http.feed_eof() == ()
    assert http.buffered == 0


# ---------------------------------------------------------------------------------------------------- 100-continue

EXPECTING = POST.replace(b"\r\nContent", b"\r\nExpect: 100-Continue\r\nContent")
EXPECTING_HEAD, BODY = EXPECTING[:-12], EXPECTING[-12:]
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n"


def test_the_body_is_asked_for() -> None:
    http = Http()
    assert http.feed(EXPECTING_HEAD) == []
    assert http.take_replies() == INTERIM
    assert http.take_replies() == b""
    (request,) = http.feed(BODY)
    assert request.raw_body == BODY
    assert http.take_replies() == b""


def test_the_body_is_not_asked_for_when_it_comes_by_itself() -> None:
    http = Http()
    http.feed(EXPECTING[:-5])
    assert http.take_replies() == b""
    http = Http()
    with pytest.raises(EndOfInput):
        http.feed(EXPECTING.replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert http.take_replies() == b""


def test_with_a_connection_the_body_is_asked_for_at_once() -> None:
    sent: list[tuple[bytes, bool]] = []
    http = Http()
    assert http.replies
    http.connection = SimpleNamespace(send=lambda data, raw: sent.append((data, raw)))
    assert not http.replies
    assert http.feed(EXPECTING_HEAD) == []
    assert sent == [(INTERIM, True)]
    assert len(http.feed(BODY + GET + EXPECTING_HEAD)) == 2
    assert len(sent) == 1, "the answers before come first"


def test_the_body_is_asked_for_when_the_answers_before_are_out() -> None:
    http = Http()
    http.feed(GET * 2 + EXPECTING_HEAD)
    assert http.take_replies() == b""
    assert b"100 Continue" not in http.encode("one")
    assert http.encode("two").endswith(b"two" + INTERIM)
    assert len(http.feed(BODY)) == 1


# ---------------------------------------------------------------------------------------------------- upgrade, detach

UPGRADE = head(b"Connection: keep-alive, Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13")


def test_an_upgrade_ends_the_http() -> None:
    for pieces in ([UPGRADE + GET], [GET + UPGRADE, GET], in_bytes(UPGRADE + GET)):
        http = Http(upgrades=True)
        *_, request = feed_all(http, *pieces)
        assert request.upgrade
        assert http.detach() == GET
        assert http.buffered == 0


def test_too_much_behind_an_upgrade() -> None:
    http = Http(100, upgrades=True)
    http.feed(UPGRADE)
    with pytest.raises(ProtocolError):
        http.feed(b"x" * 101)


@pytest.mark.parametrize("upgrades", [True, False])
def test_an_upgrade_to_something_else_is_ignored(upgrades: bool) -> None:
    wire = POST.replace(b"\r\nContent", b"\r\nConnection: upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nContent")
    for pieces in ([wire + GET], in_bytes(wire + GET)):
        first, second = feed_all(Http(upgrades=upgrades), *pieces)
        assert (first.raw_body, first.upgrade) == (BODY, False)
        assert second.method == "GET"


def test_a_websocket_is_an_ordinary_request_where_there_are_none() -> None:
    (request,) = Http().feed(UPGRADE)
    assert not request.upgrade


def test_what_was_not_delivered_becomes_bytes_again() -> None:
    for wire in (GET * 3 + GET[:9], POST * 2 + POST[:-4], CHUNKED + POST[:30]):
        http = Http()
        requests = http.feed(wire)
        rest = http.detach(requests[1:], wire)
        assert http.owes == 1
        whole = [told(request) for request in requests]
        assert outcome([rest])[0] == whole[1:]
    http = Http()
    assert outcome([http.detach(http.feed(CHUNKED), CHUNKED)])[0] == outcome([CHUNKED])[0]


def test_a_fault_of_ours_is_not_taken_for_one_of_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Http, "_begin", lambda *_: 1 / 0)
    new = GET.replace(b"Host: ", b"Host: never-seen-before.")
    for pieces in ([new], in_bytes(new)):
        with pytest.raises(ZeroDivisionError):
            feed_all(Http(), *pieces)


def test_a_dead_connection_leaves_no_cycle() -> None:
    class Weak(Http):
        __slots__ = ("__weakref__",)

    http = Weak()
    http.feed(GET + POST[:-1])
    there = weakref.ref(http)
    Http().feed(b"")
    gc.disable()
    try:
        del http
        assert there() is None
    finally:
        gc.enable()


def test_only_one_request_has_a_turn() -> None:
    http = Http()
    with pytest.raises(RuntimeError, match="no request waits"):
        http.encode("hello")
    http.feed(GET)
    http.encode(Response(204))
    with pytest.raises(RuntimeError, match="no request waits"):
        http.encode({})


def test_the_last_of_many_requests_is_found() -> None:
    http = Http(requests=600)
    for _ in range(5):
        assert len(http.feed(GET * 100)) == 100
    with pytest.raises(EndOfInput) as end:
        http.feed(GET * 150)
    assert len(end.value.messages) == 100
    assert http.owes == 600
