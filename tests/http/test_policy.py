"""policy: every rule by its name, as a client meets it; what the parser refuses is told apart from what we do."""

from __future__ import annotations

import pytest

from workermand.errors import ProtocolError
from workermand.http import policy
from workermand.http.policy import RULES, Limits, Refusal
from workermand.http.request import Request
from workermand.protocols.http import Http

LINE = "GET / HTTP/1.1"
HOST = "Host: example.com"


def fed(*lines: str, body: bytes = b"") -> Request:
    (request,) = Http().feed("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
    assert isinstance(request, Request)
    return request


def rule_of(*lines: str, body: bytes = b"") -> str:
    with pytest.raises(ProtocolError) as refusal:
        fed(*lines, body=body)
    _, rule, _ = refusal.value.reason.split(": ", 2)
    assert int(refusal.value.farewell.split()[1]) == RULES[rule]
    return rule


@pytest.mark.parametrize(
    ("rule", "lines"),
    [
        ("method", ["TRACE / HTTP/1.1", HOST]),
        ("method", ["CONNECT example.com:80 HTTP/1.1", HOST]),
        ("method", ["SOURCE / HTTP/1.1", HOST]),
        ("method", ["NEVERHEARDOF / HTTP/1.1", HOST]),
        ("version", ["GET /"]),
        ("version", ["GET / HTTP/2.0", HOST]),
        ("version", ["GET / RTSP/1.0", HOST]),
        ("version", ["GET / HTTP/3.7", HOST]),
        ("target", ["GET * HTTP/1.1", HOST]),
        ("target", ["GET /a#b HTTP/1.1", HOST]),
        ("target", ["GET ftp://example.com/ HTTP/1.1", HOST]),
        ("target", ["GET http://user:word@example.com/ HTTP/1.1", HOST]),
        ("target", ["GET http:///x HTTP/1.1", HOST]),
        ("misdirected", ["GET http://other.com/ HTTP/1.1", HOST]),
        ("misdirected", ["GET http://example.com:81/ HTTP/1.1", HOST]),
        ("host", [LINE]),
        ("host", [LINE, HOST, HOST]),
        ("host", [LINE, HOST, "host: example.com"]),
        ("host", [LINE, "Host: a b"]),
        ("host", [LINE, "Host: a, b"]),
        ("host", [LINE, "Host: a/b"]),
        ("host", [LINE, "Host: user@a"]),
        ("host", [LINE, "Host: a:port"]),
        ("host", [LINE, "Host: [::g]"]),
        ("host", [LINE, "Host: [1.2.3.4]"]),
        ("host", ["GET / HTTP/1.0", HOST, HOST]),
        ("content-type", [LINE, HOST, "Content-Type: a/b", "Content-Type: a/b"]),
        ("transfer-encoding-old", ["POST / HTTP/1.0", HOST, "Transfer-Encoding: chunked"]),
        ("transfer-coding", ["POST / HTTP/1.1", HOST, "Transfer-Encoding: gzip, chunked"]),
        ("expectation", [LINE, HOST, "Expect: a-miracle"]),
        ("expectation", [LINE, HOST, "Expect: 100-continue, a-miracle"]),
        ("expectation", [LINE, HOST, "Expect: 100-continue", "Expect: 100-continue"]),
        ("body-size", ["POST / HTTP/1.1", HOST, "Content-Length: 99999999999"]),
        ("field-count", [LINE, HOST, *["X: y"] * 100]),
        # the parser's: what two servers in a row might read in two ways
        ("syntax", [LINE, HOST, "X : y"]),
        ("syntax", [LINE, HOST, "X: y", " z"]),
        ("syntax", [LINE, " X: y", HOST]),
        ("syntax", [LINE, HOST, "X: y\x00"]),
        ("syntax", [LINE, HOST, "X: y\rz"]),
        ("syntax", [LINE, HOST, "X: y\nContent-Length: 5"]),
        ("syntax", [LINE, HOST, "Content-Length: 1", "Transfer-Encoding: chunked"]),
        ("syntax", [LINE, HOST, "Content-Length: 1", "Content-Length: 1"]),
        ("syntax", [LINE, HOST, "Content-Length: 1, 1"]),
        ("syntax", [LINE, HOST, "Content-Length: +1"]),
        ("syntax", [LINE, HOST, "Transfer-Encoding: chunked, chunked"]),
        ("syntax", [LINE, HOST, "Transfer-Encoding: chunked, identity"]),
        ("syntax", ["GET /a b HTTP/1.1", HOST]),
        ("syntax", ["GET /ä HTTP/1.1", HOST]),
    ],
)
def test_refused(rule: str, lines: list[str]) -> None:
    assert rule_of(*lines) == rule


def test_forbidden_trailers() -> None:
    lines = ["POST / HTTP/1.1", HOST, "Transfer-Encoding: chunked"]
    for name in policy.FRAMING - {b"content-length", b"transfer-encoding"}:
        assert rule_of(*lines, body=b"0\r\n%b: 1\r\n\r\n" % name) == "trailer"
    assert rule_of(*lines, body=b"0\r\n" + b"a: b\r\n" * 101 + b"\r\n") == "field-count"


@pytest.mark.parametrize(
    "lines",
    [
        ["GET / HTTP/1.1", "Host:"],
        ["GET / HTTP/1.1", "Host:  example.com:8080 \t"],
        ["GET / HTTP/1.1", "Host: [2001:db8::1]:443"],
        ["GET / HTTP/1.1", "Host: under_score.example"],
        ["OPTIONS * HTTP/1.1", HOST],
        ["GET http://EXAMPLE.com/x?y=http://z HTTP/1.1", HOST],
        ["GET //example.com/ HTTP/1.1", HOST],
        ["M-SEARCH / HTTP/1.1", HOST],
    ],
)
def test_not_refused(lines: list[str]) -> None:
    assert fed(*lines).method == lines[0].split()[0]


def test_names_with_underscores_are_dropped() -> None:
    """A CGI, a WSGI application behind us cannot tell X_Real_IP from X-Real-IP."""
    request = fed(LINE, HOST, "X_Real_IP: 10.0.0.1", "Content_Length: 5", "X-Real-IP: 10.0.0.2")
    assert dict(request.headers) == {"host": "example.com", "x-real-ip": "10.0.0.2"}


def test_what_a_head_says() -> None:
    fields = [b"Host", b"a", b"CONTENT-length", b"7", b"Expect", b"100-Continue "]
    head = policy.examine(b"POST", b"/", fields, "1.1", True, Limits())
    assert (head.method, head.length, head.chunked, head.expects_continue) == ("POST", 7, False, True)
    head = policy.examine(b"POST", b"/", [b"Host", b"a", b"Transfer-encoding", b"Chunked "], "1.1", True, Limits())
    assert (head.chunked, head.keep_alive) == (True, True)
    head = policy.examine(b"GET", b"/", [b"Expect", b"100-continue"], "1.0", True, Limits())
    assert (head.keep_alive, head.expects_continue) == (False, False)


def test_every_rule_is_refused_by_its_own_status() -> None:
    for rule, status in RULES.items():
        assert Refusal(rule, "why").status == status
    assert set(RULES.values()) == {400, 413, 414, 415, 417, 421, 431, 501, 503, 505}
