"""Response: builders, cookies with all their attributes, and that nothing a client says can split an answer."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from workermand.http.response import Chunk, FileFacts, Response, ServerSentEvents
from workermand.protocols.http import Http

EVIL = ["a\r\nSet-Cookie: x=1", "a\nb", "a\rb", "a\0b", "a\x1bb", "a\x7fb"]


def test_builders_change_and_return_it() -> None:
    response = Response().with_status(418, "Short and stout").with_body("no").with_header("X-A", "1")
    assert (response.status, response.reason, response.body) == (418, "Short and stout", "no")
    response.with_headers({"x-a": ["2", "3"], "X-B": "4"}).add_header("X-B", "5")
    assert response.headers == [("x-a", "2"), ("x-a", "3"), ("X-B", "4"), ("X-B", "5")]
    assert response.header("X-A") == "2"
    assert response.header("x-c") is None
    assert response.without_header("X-b").headers == [("x-a", "2"), ("x-a", "3")]
    assert Response(200, [("A", "1"), ("B", "2"), ("a", "3")]).headers == [("A", "1"), ("B", "2"), ("a", "3")]
    assert repr(response) == "<Response 418 Short and stout>"


@pytest.mark.parametrize("status", [100, 101, 199, 600, 0])
def test_what_is_no_status_of_an_answer(status: int) -> None:
    with pytest.raises(ValueError, match="no status"):
        Response(status)


@pytest.mark.parametrize("evil", EVIL)
@pytest.mark.parametrize(
    "use",
    [
        lambda evil: Response(200, {"X": evil}),
        lambda evil: Response(200, {evil: "x"}),
        lambda evil: Response(200, [("X", evil)]),
        lambda evil: Response().with_header("X", ["good", evil]),
        lambda evil: Response().with_status(200, evil),
        lambda evil: Response.redirect("/" + evil),
        lambda evil: Response().cookie(evil, "x"),
        lambda evil: Response().cookie("x", "x", path=evil),
        lambda evil: Response().cookie("x", "x", domain=evil),
        lambda evil: Response().cookie("x", "x", same_site=evil),
    ],
)
def test_no_answer_can_be_split(use: Callable[[str], object], evil: str) -> None:
    with pytest.raises(ValueError, match=r"sent|same_site"):
        use(evil)


@pytest.mark.parametrize("name", ["", "a b", "a:b", "ä", "a(b"])
def test_what_is_no_header_name(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be sent"):
        Response().with_header(name, "x")
    with pytest.raises(ValueError, match="cannot be sent"):
        Response().cookie(name, "x")


def test_a_header_is_latin_1() -> None:
    assert Response(200, {"X": "grüße"}).header("X") == "grüße"
    with pytest.raises(ValueError, match="latin-1"):
        Response(200, {"X": "世界"})


def test_redirect_and_json() -> None:
    response = Response.redirect("/grüße?a=b&c=%20#d", 303)
    assert (response.status, response.header("location")) == (303, "/gr%C3%BC%C3%9Fe?a=b&c=%20#d")

    @dataclasses.dataclass
    class Point:
        x: int

    response = Response.json([Point(1)], 201)
    assert (response.status, response.body) == (201, b'[{"x":1}]')
    assert response.header("content-type") == "application/json"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({}, "n=v"),
        ({"max_age": 0}, "n=v; Max-Age=0"),
        ({"expires": 784111777}, "n=v; Expires=Sun, 06 Nov 1994 08:49:37 GMT"),
        ({"domain": "example.com", "path": "/a"}, "n=v; Domain=example.com; Path=/a"),
        ({"secure": True, "http_only": True, "same_site": "Lax"}, "n=v; Secure; HttpOnly; SameSite=Lax"),
        ({"same_site": "None", "secure": True, "partitioned": True}, "n=v; Secure; SameSite=None; Partitioned"),
        ({"value": 'a "b"; c,d=\\ %ü'}, "n=a%20%22b%22%3B%20c%2Cd=%5C%20%25%C3%BC"),
        ({"value": "abc/def+ghi==x"}, "n=abc/def+ghi==x"),
    ],
)
def test_cookies(arguments: dict[str, Any], line: str) -> None:
    arguments = {"value": "v", **arguments}
    assert Response().cookie("n", **arguments).headers == [("Set-Cookie", line)]


def test_several_cookies_are_several_headers() -> None:
    response = Response().cookie("a", "1").cookie("b", "2")
    assert response.headers == [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]


def test_a_part_of_a_file_is_not_negative() -> None:
    with pytest.raises(ValueError, match="not negative"):
        Response().with_file("/x", -1)


def test_a_file_that_is_open_already(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"four")
    with open(tmp_path / "x", "rb") as file:
        sent = Response().with_open_file(file.fileno(), "page.html").file
        assert sent is not None and sent.facts is not None
        mtime = os.fstat(file.fileno()).st_mtime_ns
        assert (sent.path, sent.facts) == ("page.html", FileFacts(file.fileno(), 4, mtime))
    with pytest.raises(OSError, match="Bad file descriptor"):
        Response().with_open_file(1_000_000, "page.html")


def test_chunks_are_bytes() -> None:
    assert Chunk("ü").data == "ü".encode()
    assert Chunk(bytearray(b"x")).data == b"x"
    assert Chunk().data == b""


@pytest.mark.parametrize(
    ("fields", "wire"),
    [
        ({"data": "x"}, b"data: x\n\n"),
        ({"data": "a\nb\r\nc\rd"}, b"data: a\ndata: b\ndata: c\ndata: d\n\n"),
        ({"data": "x", "id": 7, "event": "tick", "retry": 100}, b"event: tick\nid: 7\nretry: 100\ndata: x\n\n"),
        ({"": "ping"}, b": ping\n\n"),
        ({"": "two\nlines"}, b": two\n: lines\n\n"),
        ({"data": ""}, b"data: \n\n"),
        ({"data": "grüße", "id": None}, "data: grüße\n\n".encode()),
    ],
)
def test_events(fields: dict[str, Any], wire: bytes) -> None:
    assert ServerSentEvents(fields).data == wire


@pytest.mark.parametrize("fields", [{"id": "a\nb"}, {"event": "a\rdata: b"}, {"retry": "1\n"}, {"id": "a\0"}, {"x": 1}])
def test_what_is_no_event(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="an event"):
        ServerSentEvents(fields)


def test_an_answer_survives_being_sent_twice() -> None:
    http, response = Http(), Response(200, {"X": "1"}, "hello")
    http.feed(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 2)
    assert http.encode(response) == http.encode(response)
