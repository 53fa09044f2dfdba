"""The way of a request: parser, policy, everything that a handler can ask of it, and the answers."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser, HttpResponseParser

from tests.fuzz.cutting import cuts, outcome, same, taken_apart
from workermand.errors import EndOfInput
from workermand.http.policy import Limits, Refusal, without_underscores
from workermand.http.request import Request, networks
from workermand.http.response import Chunk, Response
from workermand.protocols.answering import INTERIM
from workermand.protocols.http import Http

LIMITS = Limits(line=120, field=100, fields=12, head=400)
BODY = 500
TRUSTED = networks(["127.0.0.0/8", "::1"])
PEER = SimpleNamespace(get_remote_ip=lambda: "127.0.0.1")

_CORPUS = Path(__file__).parents[1] / "protocols" / "llhttp_requests.json"
_FORM = (
    b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n'
    b'--x\r\nContent-Disposition: form-data; name="f"; filename="../b"\r\n\r\nhello\r\n--x--\r\n'
)
_GET = b"GET /a?b=1&c[]=2 HTTP/1.1\r\nHost: a:80\r\nCookie: x=%41; y=2\r\n\r\n"
_POST = b'POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 8\r\n\r\n{"a": 1}'
_PUT = b"PUT /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nX-S: 7\r\n\r\n"
SEEDS = [
    *(b"\0\x20\x60\xa0" + case["request"].encode("latin-1") for case in json.loads(_CORPUS.read_text())),
    *(
        bytes([options, 30, 120, 200]) + stream
        for options in range(8)
        for stream in (
            _GET * 3,
            _POST + _GET + _POST,
            _PUT + _POST + _PUT,
            b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nab",
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x80mask",
            b"GET http://a/b HTTP/1.0\r\nHost: a\r\nX-Forwarded-For: 1.2.3.4, ::1\r\nX-Real-IP: [::2]:1\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data; boundary=x\r\n"
            b"Content-Length: %d\r\n\r\n" % len(_FORM) + _FORM,
        )
    ),
]
WORDS = (
    b"GET HEAD POST OPTIONS HTTP/1.1\r\n HTTP/1.0\r\n \r\n\r\n Host: Connection: close keep-alive Upgrade: websocket "
    b"h2c Content-Length: Transfer-Encoding: chunked Expect: 100-continue Content-Type: application/json Cookie: "
    b"Accept-Encoding: gzip application/x-www-form-urlencoded multipart/form-data;boundary=x Trailer: X_Y: "
    b"0\r\n\r\n 5\r\nhello\r\n http://a/ * ? # %41 &"
).split(b" ")


def check(data: bytes) -> None:
    options, where, wire = taken_apart(data)
    limits = LIMITS if options & 1 else Limits()

    def fresh() -> Http:
        requests = 3 if options & 4 else 10_000
        return Http(BODY, limits=limits, requests=requests, upgrades=bool(options & 2), gzip=True, trusted=TRUSTED)

    most = limits.head + BODY
    results = [outcome(fresh(), pieces, most + max(map(len, pieces), default=0), told) for pieces in cuts(wire, where)]
    # Of two faults the cut decides which one is told; who sends the body at once is not asked for it.
    same([(*result[:2], b"" if result[1] == "violation" else result[3].replace(INTERIM, b"")) for result in results])
    agrees(results[0][0], wire)
    http = fresh()
    try:
        requests = http.feed(wire)
    except EndOfInput as end:
        requests = end.messages
    for request in requests:
        read_all_of(request)
    answered(http, requests)
    again(fresh(), wire)


def told(request: Request) -> Any:
    return (
        request.method,
        request.target,
        request.fields,
        request.version,
        request.raw_body,
        request.trailer_fields,
        request.upgrade,
    )


class Found:
    """What the parser alone finds: method, target, fields, body, trailers of each request."""

    def __init__(self) -> None:
        self.requests: list[list[Any]] = []
        self.parser = HttpRequestParser(self)

    def on_message_begin(self) -> None:
        self.requests.append([b"", b"", [], b"", []])

    def on_url(self, piece: bytes) -> None:
        self.requests[-1][1] += piece

    def on_header(self, name: bytes, value: bytes) -> None:
        self.requests[-1][4 if self.requests[-1][0] else 2] += [name, value]

    def on_headers_complete(self) -> None:
        self.requests[-1][0] = self.parser.get_method()

    def on_body(self, piece: bytes) -> None:
        self.requests[-1][3] += piece


def agrees(requests: list[Any], wire: bytes) -> None:
    """The requests that are let through are those that the parser alone finds, from the first on."""
    found = Found()
    upgrade = False
    try:
        found.parser.feed_data(wire)
    except HttpParserUpgrade:
        upgrade = True
    except HttpParserError:
        pass
    assert len(requests) <= len(found.requests) or upgrade
    for ours, (method, target, fields, body, trailers) in zip(requests, found.requests, strict=False):
        if b"upgrade" in {name.lower() for name in fields[::2]}:
            return  # we ignore those that are not to WebSocket, the parser alone reads no further
        expected = (method.decode(), target, without_underscores(fields), body, without_underscores(trailers))
        assert (*ours[:3], *ours[4:6]) == (*expected[:4], expected[4] if ours[5] is not None else None)


def read_all_of(request: Request) -> None:
    """Whatever a handler may ask; a Refusal is what it may be told."""
    request.connection = PEER
    questions: list[Callable[[], Any]] = [
        lambda: (
            request.uri,
            request.path,
            request.query_string,
            request.content_type,
            request.raw_head,
            repr(request),
        ),
        lambda: (request.headers, request.header("host"), request.trailer("x-s"), request.cookie(), request.remote_ip),
        lambda: (request.host(), request.host(without_port=True)),
        request.get,
        request.post,
        request.file,
        request.json,
    ]
    for question in questions:
        with contextlib.suppress(Refusal):
            question()


def answered(http: Http, requests: Any) -> None:
    """Each request gets an answer, in another shape each, and a client's parser reads as many."""
    shapes: list[Any] = ["text", b"bytes", {"a": [1]}, Response(404, body="x" * 2000), Response(204)]
    wire = b""
    heads = []
    for number, request in enumerate(requests):
        heads.append(request.method == "HEAD")
        if number % 6 == 5:
            wire += http.encode(Response(headers={"Transfer-Encoding": "chunked"}))
            wire += http.encode(Chunk("piece")) + (http.encode(Chunk()) if request.version == "1.1" else b"")
        else:
            wire += http.encode(shapes[number % 6])
    if any(heads) or not heads:
        return
    complete: list[None] = []
    parser = HttpResponseParser(SimpleNamespace(on_message_complete=lambda: complete.append(None)))
    parser.feed_data(wire)
    assert len(complete) >= len(heads) - (requests[-1].version == "1.0")


def again(http: Http, wire: bytes) -> None:
    """Requests that were read and not delivered become bytes, which are read as the same requests."""
    try:
        requests = http.feed(wire)
    except EndOfInput:
        return
    expected = [told(request) for request in requests]
    if not expected or expected[-1][-1]:
        return
    rest = http.detach(requests, wire)
    fresh = Http(10 * BODY, limits=Limits(line=10_000, field=10_000, fields=1000, head=40_000), upgrades=True)
    with contextlib.suppress(EndOfInput):
        assert [told(request) for request in fresh.feed(rest)] == expected
