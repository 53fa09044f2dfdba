"""Request: what is read out of it, lazily, and the client's address behind proxies."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workermand.http.policy import Refusal
from workermand.http.request import Request, networks, remote_ip
from workermand.http.response import Response
from workermand.http.session import Session
from workermand.protocols.http import Http


def make(target: str = "/", headers: str = "", body: bytes = b"", method: str = "GET") -> Request:
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    (request,) = Http().feed(f"{method} {target} HTTP/1.1\r\nHost: a\r\n{headers}{length}\r\n".encode("latin-1") + body)
    assert isinstance(request, Request)
    return request


def test_the_request_line() -> None:
    request = make("/shop%2F/caf%C3%A9?item=7&x=a?b")
    assert (request.method, request.version) == ("GET", "1.1")
    assert request.uri == "/shop%2F/caf%C3%A9?item=7&x=a?b"
    assert request.path == "/shop%2F/caf%C3%A9"
    assert request.query_string == "item=7&x=a?b"
    assert repr(request) == "<Request GET /shop%2F/caf%C3%A9?item=7&x=a?b>"


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("http://a/x/y?z=http://b/c", "/x/y", "z=http://b/c"),
        ("http://a", "/", ""),
        ("http://a?z", "/", "z"),
        ("//a/b", "//a/b", ""),
        ("/go?to=http://b/", "/go", "to=http://b/"),
        ("/x://y", "/x://y", ""),
    ],
)
def test_the_path_of_any_target(target: str, path: str, query: str) -> None:
    request = make(target)
    assert (request.path, request.query_string) == (path, query)


def test_headers() -> None:
    request = make(headers="X-One: 1\r\nx-two: a \t\r\nX-TWO: b\r\nCookie: a=1\r\nCookie: b=2\r\n")
    assert request.header("X-ONE") == request.headers["x-one"] == "1"
    assert request.header("x-Two") == "a, b"
    assert request.header("cookie") == "a=1; b=2"
    assert request.header("missing") is None
    assert request.header("missing", "default") == "default"


@pytest.mark.parametrize(
    ("host", "without_port"),
    [("a.b", "a.b"), ("a.b:80", "a.b"), ("[::1]", "[::1]"), ("[::1]:80", "[::1]"), ("", "")],
)
def test_host(host: str, without_port: str) -> None:
    (request,) = Http().feed(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    assert request.host() == host
    assert request.host(without_port=True) == without_port


def test_get() -> None:
    request = make("/?a=1&b=2&b=3&c[]=4&d=%C3%BC+x&e")
    assert request.get("a") == "1"
    assert request.get("b") == ["2", "3"]
    assert request.get("missing", "x") == "x"
    assert request.get() == {"a": "1", "b": ["2", "3"], "c": ["4"], "d": "ü x", "e": ""}


def test_post_of_a_form() -> None:
    request = make(
        "/?a=0", "Content-Type: application/x-www-form-urlencoded; charset=utf-8\r\n", b"a=1&b=2&b=3", "POST"
    )
    assert request.post() == {"a": "1", "b": ["2", "3"]}
    assert request.post("a") == "1"
    assert request.get("a") == "0"
    assert request.file() == {}


def test_the_same_bytes_of_another_type_are_another_form() -> None:
    body = b'{"a": 1}'
    assert make("/", "Content-Type: application/x-www-form-urlencoded\r\n", body, "POST").post() == {'{"a": 1}': ""}
    assert make("/", "Content-Type: application/json\r\n", body, "POST").post("a") == 1
    assert make("/", "Content-Type: application/vnd.api+json\r\n", b"[1]", "POST").post() == {}
    assert make("/", "Content-Type: text/plain\r\n", body, "POST").post() == {}
    assert make("/", "", body, "POST").json() == {"a": 1}


def test_json() -> None:
    assert make("/", "", b"[1]", "POST").json(list[int]) == [1]
    for request in (make("/", "", b"[1", "POST"), make("/")):
        with pytest.raises(Refusal) as refusal:
            request.json()
        assert refusal.value.status == 400
    with pytest.raises(Refusal):
        make("/", "", b"[1]", "POST").json(dict)


def test_a_form_is_parsed_once() -> None:
    request = make("/", "Content-Type: multipart/form-data; boundary=x\r\n", MULTIPART, "POST")
    file = request.file("f")
    assert file is not None
    assert file is request.file("f") is request.file()["f"][0]
    assert request.post() == {"t": "text"}
    assert request.file("none") is None


MULTIPART = (
    b'--x\r\nContent-Disposition: form-data; name="t"\r\n\r\ntext\r\n'
    b'--x\r\nContent-Disposition: form-data; name="f"; filename="a.txt"\r\n\r\ncontent\r\n--x--\r\n'
)


def test_trailers_and_the_raw_parts() -> None:
    wire = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 7\r\n\r\n"
    (request,) = Http().feed(wire)
    assert request.trailer("x-sum") == "7"
    assert request.trailer("missing", "x") == "x"
    assert request.header("x-sum") is None
    assert request.raw_body == b"abc"
    assert request.raw_head == b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert make().trailer("x") is None


def test_cookies() -> None:
    request = make(headers='Cookie: a=1;b="q u"; c=%C3%BC%20%3B; d; a=2; e=x=y\r\n')
    assert request.cookie() == {"a": "1", "b": "q u", "c": "ü ;", "e": "x=y"}
    assert request.cookie("a") == "1"
    assert request.cookie("missing", "x") == "x"
    assert make().cookie() == {}


@given(st.text(st.characters(codec="utf-8"), max_size=50))
def test_a_cookie_comes_back_as_it_was_set(value: str) -> None:
    ((_, set_cookie),) = Response().cookie("name", value, path="/").headers
    assert make(headers=f"Cookie: {set_cookie.split('; ')[0]}\r\n").cookie("name") == value


# ---------------------------------------------------------------------------------------------------- behind proxies

PROXIES = networks(["10.0.0.0/8", "::1"])


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "real_ip", "ip"),
    [
        ("192.0.2.1", "1.1.1.1", "2.2.2.2", "192.0.2.1"),
        ("10.0.0.1", None, None, "10.0.0.1"),
        ("10.0.0.1", "192.0.2.1", None, "192.0.2.1"),
        ("10.0.0.1", "6.6.6.6, 192.0.2.1", None, "192.0.2.1"),
        ("10.0.0.1", "6.6.6.6, 192.0.2.1, 10.0.0.9", None, "192.0.2.1"),
        ("10.0.0.1", "10.0.0.7, 10.0.0.9", None, "10.0.0.7"),
        ("10.0.0.1", "6.6.6.6, unknown", None, "10.0.0.1"),
        ("10.0.0.1", "192.0.2.1:4711", None, "192.0.2.1"),
        ("::1", "[2001:db8::1]:4711", None, "2001:db8::1"),
        ("::1", "2001:db8::1", "3.3.3.3", "2001:db8::1"),
        ("10.0.0.1", None, "192.0.2.1", "192.0.2.1"),
        ("10.0.0.1", None, "nobody", "10.0.0.1"),
        ("10.0.0.1", " , ", "192.0.2.1", "192.0.2.1"),
        ("", "192.0.2.1", None, "192.0.2.1"),
        ("", None, None, ""),
        ("no address", "192.0.2.1", "192.0.2.1", "no address"),
    ],
)
def test_remote_ip(peer: str, forwarded_for: str | None, real_ip: str | None, ip: str) -> None:
    assert remote_ip(peer, forwarded_for, real_ip, PROXIES) == ip


def test_proxies_are_not_believed_unless_trusted() -> None:
    for trusted, ip in (((), "10.0.0.1"), (PROXIES, "192.0.2.1")):
        http = Http(trusted=trusted)
        http.connection = SimpleNamespace(get_remote_ip=lambda: "10.0.0.1")
        (request,) = http.feed(b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n")
        assert request.remote_ip == ip
        assert request.connection is http.connection


def test_networks() -> None:
    with pytest.raises(ValueError, match="does not appear to be"):
        networks(["example.com"])


@pytest.mark.parametrize(
    ("tls", "peer", "proto", "is_secure"),
    [
        (True, "192.0.2.1", "", True),
        (False, "192.0.2.1", "https", False),
        (False, "127.0.0.1", "https", True),
        (False, "", "HTTPS", True),
        (False, "127.0.0.1", "https, http", False),
        (False, "127.0.0.1", "http, https", True),
        (False, "127.0.0.1", "", False),
    ],
)
def test_whether_the_client_speaks_tls(tls: bool, peer: str, proto: str, is_secure: bool) -> None:
    request = make(headers=f"X-Forwarded-Proto: {proto}\r\n" if proto else "")
    request.connection = SimpleNamespace(is_secure=tls, get_remote_ip=lambda: peer)
    request.trusted = networks(["127.0.0.1"])
    assert request.is_secure is is_secure
    request.trusted = ()
    assert request.is_secure is tls


def test_the_session_is_the_runtimes() -> None:
    opened: list[Session] = []

    class Sessions:
        def open(self, request: Request) -> Session:
            opened.append(Session())
            request.begin_session(opened[0])
            return opened[0]

        async def load(self, request: Request) -> Session:
            return self.open(request)

        def settle(self, request: Request, session: Session) -> list[str]:
            return [f"id={session.id}"]

    for of in ("session", "load_session"):
        opened.clear()
        request = make()
        assert request.set_cookies == [] and request.session_if_read is None
        request.settle_session()
        request.connection = SimpleNamespace(worker=SimpleNamespace(sessions=Sessions()))
        session = request.session if of == "session" else asyncio.run(request.load_session())
        assert request.session is session is request.session_if_read and asyncio.run(request.load_session()) is session
        assert request.session_id() == session.id != request.session_regenerate_id()
        request.settle_session()
        assert request.set_cookies == [f"id={session.id}"] and len(opened) == 1
