"""A Response as bytes, for the request that it answers. Pure but for ``date``, which the runtime sets.

Who asked decides the shape: a HEAD has no body, HTTP/1.0 no chunks, the last answer of a connection says so. Status 204
and 304 have no body whatever the handler gave them. ``plain`` is the head of the commonest answer, a str to a GET, all
but its length: rebuilt once a second at most.
"""

from __future__ import annotations

import functools
import mimetypes
import re
import zlib
from collections.abc import Iterable
from typing import Final

import msgspec

from workermand.http import ranges
from workermand.http.ranges import Part
from workermand.http.request import CLOSE, HEAD, OLD, SESSION, Request
from workermand.http.response import REASONS, File, FileFacts, FilePart, Response

HTML: Final = "text/html; charset=utf-8"
BINARY: Final = "application/octet-stream"
COMPRESSED_FROM: Final = 1024
"""Bytes: below it gzip gains nothing."""
_TEXT = re.compile(r"text/|application/(?:[\w.+-]+\+)?(?:json|xml|javascript)\b|image/svg\+xml", re.IGNORECASE)
_GZIP = re.compile(r"(?:^|,)\s*(?:gzip|\*)\s*(?:;\s*q=(?P<q>[\d.]+)\s*)?(?=,|$)", re.IGNORECASE)
_NAMES: Final = frozenset({"content-length", "connection", "transfer-encoding", "date", "keep-alive"})
"""The protocol's own: what a handler sets of these is looked at, and not sent."""
BOUNDARY: Final = "workermand-part-of-a-file"
"""Between the parts of a multipart/byteranges; it may stand in the file: Content-Range says how long a part is."""

date: bytes = b"Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n"
plain: bytes = b""
heads: dict[int, bytes] = {}
"""Whole ones, by length, of short bodies."""


def set_date(value: bytes) -> None:
    """ "Sun, 06 Nov 1994 08:49:37 GMT", from now on; called once a second by the janitor."""
    global date, plain
    heads.clear()
    date = b"Date: %b\r\n" % value
    plain = b"HTTP/1.1 200 OK\r\n%bContent-Type: %b\r\nContent-Length: " % (date, HTML.encode())


set_date(ranges.http_date(0).encode())


def plain_head(length: int) -> bytes:
    """For a str of ``length`` bytes."""
    head = b"%b%d\r\n\r\n" % (plain, length)
    if length < COMPRESSED_FROM:
        heads[length] = head
    return head


class Answer(msgspec.Struct):
    """What goes out. ``is_open``: the handler sends more of it, ``remaining`` bytes when its head has said so;
    ``is_endless``: for as long as the client listens. ``files`` follow ``data``."""

    data: bytes
    is_open: bool = False
    is_endless: bool = False
    is_chunked: bool = False
    remaining: int | None = None
    files: tuple[FilePart, ...] = ()


def answer(response: Response, request: Request, *, gzip: bool = False) -> Answer:
    """``gzip``: text may be compressed, when the client takes that."""
    if response.file is not None:
        return _file_answer(response, response.file, request)
    body, kind = response.body, response.header("content-type")
    if isinstance(body, str):
        body, kind = body.encode(), kind or HTML
    headers: list[tuple[str, str]] = []
    if (response.header("transfer-encoding") or "").lower() == "chunked":
        return _open_answer(response, request, body)
    if not body and kind is not None and kind.lower().startswith("text/event-stream"):
        request.demands |= CLOSE
        listens = not request.demands & HEAD
        return Answer(_head(response, request, [("Cache-Control", "no-cache")], None), listens, listens)
    if response.status in (204, 304):
        return Answer(_head(response, request, headers, None))
    if body and response.header("content-type") is None:
        headers.append(("Content-Type", kind or BINARY))
    if gzip and len(body) > COMPRESSED_FROM and _may_compress(response, kind or BINARY):
        headers.append(("Vary", "Accept-Encoding"))
        if accepts_gzip(request.header("accept-encoding", "")):
            headers.append(("Content-Encoding", "gzip"))
            body = compress(body)
    if request.demands & HEAD:
        length = response.header("content-length") if not body else None
        return Answer(_head(response, request, headers, int(length) if length else len(body)))
    return Answer(_head(response, request, headers, len(body)) + body)


def error(status: int, text: str, *, head_only: bool = False, headers: Iterable[tuple[str, str]] = ()) -> bytes:
    """A whole answer to what is no request: short, and the last of its connection."""
    body = f"{status} {REASONS[status]}: {text}\n".encode()
    response = Response(status, [("Content-Type", "text/plain; charset=utf-8"), *headers])
    request = Request("", b"", [], demands=CLOSE)
    return _head(response, request, [], len(body)) + (b"" if head_only else body)


def chunk(data: bytes, *, is_chunked: bool) -> bytes:
    """A piece of an open answer; chunked, an empty one ends it."""
    return b"%x\r\n%b\r\n" % (len(data), data) if is_chunked else data


def accepts_gzip(value: str) -> bool:
    """Of Accept-Encoding."""
    named = {match[0].strip(", ").split(";")[0].strip().lower(): match["q"] for match in _GZIP.finditer(value)}
    weight = named.get("gzip", named.get("*", "0"))
    return weight is None or weight.strip("0.") != ""


def compress(body: bytes) -> bytes:
    """As a gzip stream; the same bytes for the same body."""
    deflater = zlib.compressobj(6, zlib.DEFLATED, 31)
    return deflater.compress(body) + deflater.flush()


def _may_compress(response: Response, kind: str) -> bool:
    return response.header("content-encoding") is None and _TEXT.match(kind) is not None and response.status != 206


def _open_answer(response: Response, request: Request, body: bytes) -> Answer:
    """HTTP/1.0 has no chunks: there the end of the connection ends the body. With a Content-Length none are needed."""
    if (length := response.header("content-length")) is not None:
        remaining = int(length) - len(body)
        body = b"" if request.demands & HEAD else body
        return Answer(_head(response, request, [], int(length)) + body, is_open=True, remaining=remaining)
    is_chunked = not request.demands & OLD
    head = _head(response, request, [("Transfer-Encoding", "chunked")] if is_chunked else [], None)
    if request.demands & HEAD:
        return Answer(head, is_open=True, is_chunked=is_chunked)
    first = chunk(body, is_chunked=is_chunked) if body else b""
    return Answer(head + first, is_open=True, is_chunked=is_chunked)


def _head(response: Response, request: Request, headers: list[tuple[str, str]], length: int | None) -> bytes:
    own = [(name, value) for name, value in response.headers if name.lower() not in _NAMES and _is_said(name, value)]
    lines = "".join(f"{name}: {value}\r\n" for name, value in [*headers, *own])
    if length is not None:
        lines += f"Content-Length: {length}\r\n"
    if "close" in (response.header("connection") or "").lower():
        request.demands |= CLOSE
    if request.demands & CLOSE:
        lines += "Connection: close\r\n"
    if request.demands & SESSION and request.set_cookies:
        if response.header("cache-control") is None and not any(name == "Cache-Control" for name, _ in headers):
            lines += "Cache-Control: private\r\n"  # no cache in between may give this visitor's cookie to another
        lines += "".join(f"Set-Cookie: {cookie}\r\n" for cookie in request.set_cookies)
    first = f"HTTP/1.1 {response.status} {response.reason}\r\n"
    return b"%b%b%b\r\n" % (first.encode("latin-1"), date, lines.encode("latin-1"))


def _is_said(name: str, value: str) -> bool:
    """An empty Content-Type is none."""
    return bool(value) or name.lower() != "content-type"


# ---------------------------------------------------------------------------------------------------- files


def _file_answer(response: Response, file: File, request: Request) -> Answer:
    facts = file.facts
    if facts is None:
        return answer(_nothing(response), request)
    etag, modified = ranges.etag_of(facts.size, facts.mtime_ns), facts.mtime_ns // 1_000_000_000
    headers = [("ETag", etag), ("Last-Modified", ranges.http_date(modified)), ("Accept-Ranges", "bytes")]
    headers = [(name, value) for name, value in headers if response.header(name) is None]
    if file.offset or file.length:
        start = min(file.offset, facts.size)
        part = Part(start, min(file.length or facts.size, facts.size - start))
        decision = ranges.Decision(206, (part,)) if part.count else ranges.Decision(416)
    elif response.status == 200:
        decision = ranges.decide(request.method, request.header, facts.size, etag, modified)
    else:
        decision = ranges.Decision(response.status, (Part(0, facts.size),))
    if decision.status != response.status:
        response.with_status(decision.status)
    kind = response.header("content-type") or type_of(file.path)
    if len(decision.parts) > 1:
        return _multipart_answer(response, request, headers, facts, decision.parts, kind)
    if decision.status in (206, 416):
        headers.append(("Content-Range", ranges.content_range(next(iter(decision.parts), None), facts.size)))
    if decision.parts and response.header("content-type") is None:
        headers.append(("Content-Type", kind))
    part = decision.parts[0] if decision.parts else Part(0, 0)
    head = _head(response, request, headers, None if decision.status == 304 else part.count)
    count = 0 if request.demands & HEAD else part.count
    return Answer(head, files=(FilePart(facts.fd, part.offset, count),))


def _nothing(response: Response) -> Response:
    """The file is not there; the headers were meant for it."""
    status = response.status if response.status >= 400 else 404
    return Response(status, [("Content-Type", "text/plain; charset=utf-8")], f"{status} {REASONS.get(status, '')}\n")


def _multipart_answer(
    response: Response,
    request: Request,
    headers: list[tuple[str, str]],
    facts: FileFacts,
    parts: tuple[Part, ...],
    kind: str,
) -> Answer:
    """Several ranges: their heads go out between the parts of the file (RFC 9110 14.6)."""
    files: list[FilePart] = []
    for part in parts:
        lines = (
            f"--{BOUNDARY}\r\nContent-Type: {kind}\r\nContent-Range: {ranges.content_range(part, facts.size)}\r\n\r\n"
        )
        before = "\r\n" if files else ""
        files.append(FilePart(facts.fd, part.offset, part.count, (before + lines).encode("latin-1"), last=False))
    files.append(FilePart(facts.fd, 0, 0, f"\r\n--{BOUNDARY}--\r\n".encode()))
    length = sum(len(part.head) + part.count for part in files)
    response.with_header("Content-Type", f"multipart/byteranges; boundary={BOUNDARY}")
    head = _head(response, request, headers, length)
    return Answer(head, files=tuple(files))


@functools.lru_cache(maxsize=1024)
def type_of(path: str) -> str:
    """By the name's ending."""
    kind, encoding = mimetypes.guess_type(path)
    if kind is None or encoding is not None:
        return BINARY
    return f"{kind}; charset=utf-8" if kind.startswith("text/") or kind.endswith("javascript") else kind
