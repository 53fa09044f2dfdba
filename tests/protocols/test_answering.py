"""The way out of http: which request an answer belongs to, its shape for that request, and answers in pieces."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from httptools import HttpResponseParser

from workermand.errors import CloseReason, EndOfInput
from workermand.http import answers
from workermand.http.policy import Refusal
from workermand.http.request import Request
from workermand.http.response import Chunk, File, FileFacts, FilePart, Response, ServerSentEvents
from workermand.http.session import Session
from workermand.protocols.answering import INTERIM, Answering
from workermand.protocols.http import Http

DATE = b"Sun, 06 Nov 1994 08:49:37 GMT"


@pytest.fixture(autouse=True)
def a_date() -> Iterator[None]:
    answers.set_date(DATE)
    yield
    answers.set_date(b"Thu, 01 Jan 1970 00:00:00 GMT")


def asked(*requests: str, **settings: Any) -> Http:
    """An Http that owes answers to ``requests``: "GET", "HEAD", "GET HTTP/1.0", "GET gzip"."""
    http = Http(**settings)
    for request in requests:
        method, _, more = request.partition(" ")
        version = more if more.startswith("HTTP/") else "HTTP/1.1"
        extra = f"Accept-Encoding: {more}\r\n" if more and more != version else ""
        try:
            http.feed(f"{method} /x HTTP/1.1\r\nHost: a\r\n{extra}\r\n".replace("HTTP/1.1", version).encode())
        except EndOfInput:
            assert request == requests[-1]
    return http


def parts_of(answer: bytes) -> tuple[bytes, dict[bytes, bytes], bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    return first, dict(line.split(b": ", 1) for line in lines), body


@pytest.mark.parametrize(
    ("message", "content_type", "body"),
    [
        ("hello", b"text/html; charset=utf-8", b"hello"),
        ("grüße", b"text/html; charset=utf-8", "grüße".encode()),
        ("x" * 5000, b"text/html; charset=utf-8", b"x" * 5000),
        (b"\xff\x00", b"application/octet-stream", b"\xff\x00"),
        (bytearray(b"ab"), b"application/octet-stream", b"ab"),
        ({"a": [1, None]}, b"application/json", b'{"a":[1,null]}'),
        ([1, 2], b"application/json", b"[1,2]"),
        (Response(body="hello"), b"text/html; charset=utf-8", b"hello"),
        (Response(201, {"content-type": "text/plain"}, "hello"), b"text/plain", b"hello"),
    ],
)
def test_what_a_handler_may_send(message: Any, content_type: bytes, body: bytes) -> None:
    first, headers, sent = parts_of(asked("GET").encode(message))
    assert first in (b"HTTP/1.1 200 OK", b"HTTP/1.1 201 Created")
    assert sent == body
    assert headers.get(b"Content-Type", headers.get(b"content-type")) == content_type
    assert headers[b"Content-Length"] == str(len(body)).encode()
    assert headers[b"Date"] == DATE
    assert b"Connection" not in headers


def test_the_date_is_the_last_one_set() -> None:
    http = asked("GET", "GET", "GET")
    assert DATE in http.encode("hello")
    answers.set_date(b"Mon, 07 Nov 1994 08:49:37 GMT")
    assert b"Date: Mon, 07 Nov" in http.encode("hello")
    assert b"Date: Mon, 07 Nov" in http.encode(Response(204))


@pytest.mark.parametrize("message", [None, 7, object(), {1, 2}])
def test_what_a_handler_may_not_send(message: Any) -> None:
    http = asked("GET")
    with pytest.raises(TypeError):
        http.encode(message)
    assert http.owes == 1


@pytest.mark.parametrize("message", ["hello", b"hello", {"a": 1}, Response(body="hello"), Response(404, (), "no")])
def test_the_answer_to_head_is_that_to_get_without_its_body(message: Any) -> None:
    full = asked("GET").encode(message)
    assert asked("HEAD").encode(message) == full.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"


@pytest.mark.parametrize("status", [204, 304])
def test_these_have_no_body(status: int) -> None:
    first, headers, body = parts_of(asked("GET").encode(Response(status, {"ETag": '"1"'}, "hello")))
    assert first.startswith(b"HTTP/1.1 %d " % status)
    assert set(headers) == {b"Date", b"ETag"}
    assert body == b""


def test_an_empty_body_has_a_length() -> None:
    headers = parts_of(asked("GET").encode(Response(404)))[1]
    assert headers == {b"Date": DATE, b"Content-Length": b"0"}


def test_what_is_the_protocols_own_is_not_taken_from_a_handler() -> None:
    own = {"Content-Length": "7", "Date": "never", "Connection": "keep-alive", "Keep-Alive": "x", "Server": "mine"}
    headers = parts_of(asked("GET").encode(Response(200, own, "hello")))[1]
    assert headers[b"Content-Length"] == b"5"
    assert headers[b"Date"] == DATE
    assert headers[b"Server"] == b"mine"
    assert b"Connection" not in headers
    assert parts_of(asked("HEAD").encode(Response(200, {"Content-Length": "7"})))[1][b"Content-Length"] == b"7"


def test_connection_close_of_a_handler_is_said() -> None:
    assert b"\r\nConnection: close\r\n" in asked("GET").encode(Response(200, {"Connection": "close"}))


def test_http_1_0_is_always_closed() -> None:
    for message in ("hello", Response()):
        assert parts_of(asked("GET HTTP/1.0").encode(message))[1][b"Connection"] == b"close"


# ---------------------------------------------------------------------------------------------------- in pieces


def body_of(wire: bytes) -> bytes:
    """As a client reads it."""
    body: list[bytes] = []

    class Client:
        def on_body(self, piece: bytes) -> None:
            body.append(piece)

        def on_message_complete(self) -> None:
            body.append(b"(end)")

    HttpResponseParser(Client()).feed_data(wire)
    return b"".join(body)


def test_chunks() -> None:
    http = asked("GET", "GET")
    wire = http.encode(Response(200, {"Transfer-Encoding": "chunked", "Content-Type": "text/plain"}, "first "))
    assert http.owes == 2
    wire += http.encode(Chunk("grüße ")) + http.encode(Chunk(b"x" * 20))
    with pytest.raises(RuntimeError, match="not at its end"):
        http.encode("hello")
    assert http.owes == 2
    wire += http.encode(Chunk())
    assert http.owes == 1
    assert parts_of(wire)[1][b"Transfer-Encoding"] == b"chunked"
    assert b"Content-Length" not in wire
    assert body_of(wire) == "first grüße ".encode() + b"x" * 20 + b"(end)"
    assert http.encode("hello").endswith(b"hello")
    with pytest.raises(RuntimeError, match="no request"):
        http.encode(Chunk("late"))


def test_a_chunk_needs_an_open_answer() -> None:
    with pytest.raises(RuntimeError, match="no answer is open"):
        asked("GET").encode(Chunk("x"))


def test_chunks_for_http_1_0_end_with_the_connection() -> None:
    http = asked("GET HTTP/1.0")
    wire = http.encode(Response(200, {"Transfer-Encoding": "chunked"})) + http.encode(Chunk("one"))
    wire += http.encode(Chunk())
    assert http.owes == 0
    assert b"Transfer-Encoding" not in wire
    assert wire.endswith(b"Connection: close\r\n\r\none")


def test_chunks_for_head_are_not_sent() -> None:
    http = asked("HEAD", "GET")
    head = http.encode(Response(200, {"Transfer-Encoding": "chunked"}, "first"))
    assert head.endswith(b"\r\n\r\n")
    assert b"Transfer-Encoding: chunked" in head
    assert http.encode(Chunk("x")) == http.encode(Chunk()) == b""
    assert http.owes == 1


def test_server_sent_events_end_with_the_connection() -> None:
    http = asked("GET")
    _, headers, body = parts_of(http.encode(Response(200, {"Content-Type": "text/event-stream"})))
    assert headers[b"Connection"] == b"close"
    assert headers[b"Cache-Control"] == b"no-cache"
    assert b"Content-Length" not in headers
    assert body == b""
    assert http.encode(ServerSentEvents({"data": "a\nb"})) == b"data: a\ndata: b\n\n"
    with pytest.raises(RuntimeError, match="ends with its connection"):
        http.encode(Chunk())
    assert http.owes == 1


@pytest.mark.parametrize("leave", [Http.feed_eof, Http.wind_down])
def test_events_end_when_nobody_listens_any_more(leave: Callable[[Http], object]) -> None:
    http = asked("GET")
    assert http.moves == "at once"
    http.encode(Response(200, {"Content-Type": "text/event-stream"}))
    assert http.moves == "in turn"
    leave(http)
    assert http.owes == 0
    assert http.encode(ServerSentEvents({"data": "late"})) == b"data: late\n\n", "it is refused further down"


def test_pieces_are_owed_to_the_end() -> None:
    """Who sends no more may still read the rest."""
    http = asked("GET HTTP/1.0")
    http.encode(Response(200, {"Transfer-Encoding": "chunked"}, "one"))
    http.feed_eof()
    assert http.owes == 1


def test_server_sent_events_in_chunks() -> None:
    http = asked("GET")
    headers = {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"}
    wire = http.encode(Response(200, headers)) + http.encode(ServerSentEvents({"id": 1})) + http.encode(Chunk())
    assert body_of(wire) == b"id: 1\n\n(end)"


def test_server_sent_events_of_a_whole_body_are_an_ordinary_answer() -> None:
    wire = asked("GET").encode(Response(200, {"Content-Type": "text/event-stream"}, "data: x\n\n"))
    assert b"Content-Length: 9" in wire


# ---------------------------------------------------------------------------------------------------- gzip

LONG = "ä text that repeats " * 100


@pytest.mark.parametrize(
    ("message", "request_", "compressed"),
    [
        (LONG, "GET gzip", True),
        (LONG, "GET br, GZIP;q=0.5", True),
        (LONG, "GET *", True),
        ({"a": LONG}, "GET gzip", True),
        (Response(404, {"Content-Type": "image/svg+xml"}, LONG), "GET gzip", True),
        (LONG, "GET", False),
        (LONG, "GET br", False),
        (LONG, "GET gzip;q=0", False),
        (LONG, "GET gzip;q=0.000, *", False),
        (LONG[:500], "GET gzip", False),
        (LONG.encode(), "GET gzip", False),
        (Response(200, {"Content-Type": "image/png"}, LONG), "GET gzip", False),
        (Response(200, {"Content-Encoding": "br"}, LONG), "GET gzip", False),
    ],
)
def test_gzip(message: Any, request_: str, compressed: bool) -> None:
    plain = parts_of(asked(request_).encode(message))[2]
    _, headers, body = parts_of(asked(request_, gzip=True).encode(message))
    assert (headers.get(b"Content-Encoding") == b"gzip") is compressed
    assert headers[b"Content-Length"] == str(len(body)).encode()
    assert (gzip.decompress(body) if compressed else body) == plain
    if compressed:
        assert headers[b"Vary"] == b"Accept-Encoding"
        assert len(body) < len(plain)


def test_a_cache_learns_that_the_answer_varies() -> None:
    assert b"\r\nVary: Accept-Encoding\r\n" in asked("GET", gzip=True).encode(LONG)


# ---------------------------------------------------------------------------------------------------- files


class Filing(Http):
    """Stands for the runtime's: there is no file, and what is sent is noted."""

    def __init__(self) -> None:
        super().__init__()
        self.files: list[FilePart] = []

    def open_file(self, file: File) -> FileFacts | None:
        return None

    def send_file(self, part: FilePart) -> bytes:
        self.files.append(part)
        return b""

    def close_file(self, facts: FileFacts) -> None:
        self.files.append(FilePart(facts.fd, 0, 0))


FACTS = FileFacts(fd=7, size=1000, mtime_ns=784111777_000000000)


def file_answer(headers: str = "", method: str = "GET", response: Response | None = None) -> tuple[Any, ...]:
    """Status, headers, and the parts of the file."""
    http = Filing()
    files = http.files
    http.feed(f"{method} /f HTTP/1.1\r\nHost: a\r\n{headers}\r\n".encode())
    response = response or Response().with_file("/srv/page.html")
    assert response.file is not None
    response.file.facts = FACTS
    first, fields, body = parts_of(http.encode(response))
    assert body == b""
    assert http.owes == 0
    assert [part.last for part in files] == [False] * (len(files) - 1) + [True], "somebody has to close it"
    return int(first.split()[1]), fields, files


def test_a_file_follows_its_head() -> None:
    status, headers, files = file_answer()
    assert (status, files) == (200, [FilePart(7, 0, 1000)])
    assert headers[b"Content-Type"] == b"text/html; charset=utf-8"
    assert headers[b"Content-Length"] == b"1000"
    assert headers[b"Last-Modified"] == DATE
    assert headers[b"ETag"].startswith(b'"')
    assert headers[b"Accept-Ranges"] == b"bytes"


def test_a_range_of_a_file() -> None:
    status, headers, files = file_answer("Range: bytes=10-19\r\n")
    assert (status, files) == (206, [FilePart(7, 10, 10)])
    assert headers[b"Content-Range"] == b"bytes 10-19/1000"
    assert headers[b"Content-Length"] == b"10"


def test_several_ranges_of_a_file() -> None:
    status, headers, files = file_answer("Range: bytes=0-1,-2\r\n")
    assert status == 206
    assert headers[b"Content-Type"].startswith(b"multipart/byteranges; boundary=")
    assert b"Content-Range" not in headers
    assert [(part.offset, part.count) for part in files] == [(0, 2), (998, 2), (0, 0)]
    assert b"Content-Range: bytes 998-999/1000\r\n\r\n" in files[1].head
    assert int(headers[b"Content-Length"]) == sum(len(part.head) + part.count for part in files)


@pytest.mark.parametrize(
    ("headers", "method", "status", "length"),
    [
        ("Range: bytes=2000-\r\n", "GET", 416, b"0"),
        (f"If-Modified-Since: {DATE.decode()}\r\n", "GET", 304, None),
        ('If-Match: "other"\r\n', "GET", 412, b"0"),
        ("", "HEAD", 200, b"1000"),
    ],
)
def test_a_file_that_is_not_sent_is_closed_all_the_same(
    headers: str, method: str, status: int, length: bytes | None
) -> None:
    got, fields, files = file_answer(headers, method)
    assert (got, fields.get(b"Content-Length")) == (status, length)
    assert files == [FilePart(7, 0, 0)]
    assert (b"Content-Range" in fields) is (status == 416)


@pytest.mark.parametrize(
    ("offset", "length", "status", "files", "content_range"),
    [
        (10, 0, 206, [FilePart(7, 10, 990)], b"bytes 10-999/1000"),
        (0, 10, 206, [FilePart(7, 0, 10)], b"bytes 0-9/1000"),
        (990, 100, 206, [FilePart(7, 990, 10)], b"bytes 990-999/1000"),
        (1000, 0, 416, [FilePart(7, 0, 0)], b"bytes */1000"),
    ],
)
def test_the_part_that_the_handler_names(
    offset: int, length: int, status: int, files: list[FilePart], content_range: bytes
) -> None:
    response = Response().with_file("/srv/film.mp4", offset, length)
    got = file_answer("Range: bytes=0-0\r\n", response=response)
    assert (got[0], got[2], got[1][b"Content-Range"]) == (status, files, content_range)
    if status == 206:
        assert got[1][b"Content-Type"] == b"video/mp4"


def test_an_error_page_from_a_file_has_no_ranges() -> None:
    response = Response(404).with_file("/srv/404.html")
    assert file_answer("Range: bytes=0-0\r\n", response=response)[::2] == (404, [FilePart(7, 0, 1000)])


def test_a_file_that_is_not_there() -> None:
    http = Filing()
    http.feed(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    first, headers, body = parts_of(http.encode(Response(200, {"ETag": "x"}).with_file("/srv/none")))
    assert first == b"HTTP/1.1 404 Not Found"
    assert b"ETag" not in headers
    assert body == b"404 Not Found\n"


def test_a_body_that_is_not_what_it_says_is_answered() -> None:
    http = asked("GET")
    refusal = Refusal("form-type", "a body of another kind")
    assert http.answer_to(KeyError("x")) is None, "the handler's own failure"
    first, headers, body = parts_of(http.encode(http.answer_to(refusal)))
    assert first == b"HTTP/1.1 415 Unsupported Media Type"
    assert headers[b"Content-Type"] == b"text/plain; charset=utf-8"
    assert body == b"415 Unsupported Media Type: a body of another kind\n"
    assert http.answer_to(refusal) is None, "no request waits"


def test_an_open_answer_cannot_be_taken_back() -> None:
    http = asked("GET")
    http.encode(Response(headers={"Transfer-Encoding": "chunked"}))
    assert http.answer_to(Refusal("json", "x")) is None
    assert http.farewell(CloseReason.HANDLER_ERROR) == b""


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_handler_that_fails_is_an_error_of_the_server(method: str) -> None:
    first, headers, body = parts_of(asked(method, "GET").farewell(CloseReason.HANDLER_ERROR))
    assert first == b"HTTP/1.1 500 Internal Server Error"
    assert headers[b"Connection"] == b"close"
    assert int(headers[b"Content-Length"]) > 0
    assert bool(body) == (method == "GET")


@pytest.mark.parametrize("cookies", [[], ["PHPSESSID=x; HttpOnly"]])
@pytest.mark.parametrize("own", [{}, {"Cache-Control": "no-store"}])
def test_the_cookie_of_a_session_is_kept_from_caches(cookies: list[str], own: dict[str, str]) -> None:
    http = Http()
    settled: list[Any] = []

    def settle(request: Request, session: Any) -> list[str]:
        settled.append(session)
        return cookies

    http.connection = SimpleNamespace(worker=SimpleNamespace(sessions=SimpleNamespace(settle=settle)))
    (request,) = http.feed(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    session = Session()
    request.begin_session(session)
    _, headers, _ = parts_of(http.encode(Response(headers=own, body="hello")))
    assert settled == [session]
    assert headers.get(b"Set-Cookie") == (cookies[0].encode() if cookies else None)
    expected = own.get("Cache-Control", "private" if cookies else "")
    assert headers.get(b"Cache-Control", b"") == expected.encode()


def test_nothing_is_expected_of_one_who_only_answers() -> None:
    assert not Answering().is_waited_for


def test_files_need_somebody_to_send_them() -> None:
    response = Response().with_file("/srv/page.html")
    assert response.file is not None
    for facts in (None, FACTS):
        response.file.facts = facts
        with pytest.raises(RuntimeError, match="by the runtime only"):
            asked("GET").encode(response)


# ---------------------------------------------------------------------------------------------------- the end


@pytest.mark.parametrize(
    ("reason", "status"), [(CloseReason.HANDLER_ERROR, b"500"), (CloseReason.DRAIN_DEADLINE, b"503")]
)
def test_a_request_that_gets_no_answer_is_told_so(reason: CloseReason, status: bytes) -> None:
    assert asked("GET").farewell(reason).startswith(b"HTTP/1.1 " + status)
    assert asked("HEAD").farewell(reason).endswith(b"\r\n\r\n")
    assert Http().farewell(reason) == b"", "there is no request"
    assert asked("GET").farewell(CloseReason.CLOSED) == b"", "the handler's own will"
    under_way = asked("GET")
    under_way.encode(Response(200, {"Transfer-Encoding": "chunked"}))
    assert under_way.farewell(reason) == b""


def test_a_refusal_that_a_handler_meets_is_an_answer() -> None:
    http = asked("GET")
    answer = http.answer_to(Refusal("json", "no JSON"))
    assert http.encode(answer).startswith(b"HTTP/1.1 400 Bad Request")
    assert http.answer_to(Refusal("json", "no JSON")) is None, "it has one"
    assert asked("GET").answer_to(ValueError("no")) is None


def test_a_100_goes_behind_the_file_it_waited_for() -> None:
    http = Filing()
    http.feed(b"GET /f HTTP/1.1\r\nHost: a\r\n\r\n")
    http.feed(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n")
    http.take_replies()
    response = Response().with_file("/srv/page.html")
    assert response.file is not None
    response.file.facts = FACTS
    http.encode(response)
    assert http.files == [FilePart(7, 0, 1000, last=False), FilePart(7, 0, 0, INTERIM)]


def test_a_file_is_closed_when_its_head_cannot_be_made() -> None:
    http = Filing()
    http.feed(b"GET /f HTTP/1.1\r\nHost: a\r\n\r\n")
    response = Response().with_file("/srv/page.html")
    response.reason = "\u20ac"
    assert response.file is not None
    response.file.facts = FACTS
    with pytest.raises(UnicodeEncodeError):
        http.encode(response)
    assert http.files == [FilePart(7, 0, 0)]


def test_what_has_no_file_closes_none() -> None:
    response = Response()
    response.reason = "\u20ac"
    http = asked("GET")
    with pytest.raises(UnicodeEncodeError):
        http.encode(response)
    with pytest.raises(RuntimeError):
        http.close_file(FACTS)


def test_an_answer_in_pieces_of_a_known_length_has_no_chunks() -> None:
    opened = Response(200, {"Transfer-Encoding": "chunked", "Content-Length": "5", "Content-Type": ""}, "a")
    http = asked("GET", "HEAD", "GET")
    first, headers, body = parts_of(http.encode(opened))
    assert (first, headers[b"Content-Length"], body) == (b"HTTP/1.1 200 OK", b"5", b"a")
    assert not headers.keys() & {b"Transfer-Encoding", b"Content-Type"}
    assert [http.encode(Chunk(piece)) for piece in ("bc", "de", "")] == [b"bc", b"de", b""]
    _, headers, body = parts_of(http.encode(opened))
    assert (headers[b"Content-Length"], body) == (b"5", b"")
    assert [http.encode(Chunk(piece)) for piece in ("x" * 100, "")] == [b"", b""]
    assert http.owes == 1
    http.encode(opened)
    with pytest.raises(RuntimeError, match="not as long as its Content-Length"):
        http.encode(Chunk("bcdef"))


def test_an_answer_that_is_shorter_than_it_has_said() -> None:
    http = asked("GET")
    http.encode(Response(200, {"Transfer-Encoding": "chunked", "Content-Length": "5"}))
    http.encode(Chunk("four"))
    with pytest.raises(RuntimeError, match="not as long as its Content-Length"):
        http.encode(Chunk())
