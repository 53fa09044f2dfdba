"""Response, Chunk, ServerSentEvents: what a handler answers with. Workerman's Response in snake_case.

A Response is data; answers.py makes bytes of it, for one request. What would let a client's words into the head of an
answer (CR, LF, NUL) is refused when it is set, with ValueError: the handler's traceback then shows where.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any, Final, Literal, Self
from urllib.parse import quote

import msgspec

from workermand.http.ranges import http_date

REASONS: Final = {status.value: status.phrase for status in HTTPStatus}
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_FORBIDDEN = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_COOKIE_SAFE: Final = "!#$&'()*+-./:<=>?@[]^_`{|}~"
"""What a cookie's value may hold as it is (RFC 6265 4.1.1); all else, and "%" itself, is percent-encoded."""
_ATTRIBUTE = re.compile(r"[\x00-\x1f\x7f;]")
_URL_SAFE: Final = "!#$%&'()*+,-./:;=?@[]_~"

Pairs = Mapping[str, str | Iterable[str]] | Iterable[tuple[str, str]]


class FilePart(msgspec.Struct, frozen=True):
    """For the runtime: ``count`` bytes of the open file ``fd`` from ``offset`` on are to be sent, after ``head`` and
    what was encoded before. Whoever gets the ``last`` one of an answer closes ``fd``."""

    fd: int
    offset: int
    count: int
    head: bytes = b""
    last: bool = True


class FileFacts(msgspec.Struct, frozen=True):
    """What the runtime finds when it opens the file of a Response."""

    fd: int
    size: int
    mtime_ns: int


class File(msgspec.Struct):
    """The body of a Response: ``length`` bytes of ``path`` from ``offset`` on; 0: up to its end."""

    path: str
    offset: int = 0
    length: int = 0
    facts: FileFacts | None = None


class Response:
    """An answer: ``Response(404, {"Content-Type": "text/plain"}, "no such room")``.

    A str goes out as UTF-8 and, unless Content-Type is set, as text/html; bytes as application/octet-stream. Date,
    Content-Length and Connection are the protocol's, an empty Content-Type is none. ``Transfer-Encoding: chunked``
    leaves the answer open for Chunk objects, which with a Content-Length besides must come to just that;
    ``Content-Type: text/event-stream`` without a body leaves it open for ServerSentEvents. The with_* methods change
    this response and return it.
    """

    __slots__ = ("_headers", "body", "file", "reason", "status")

    def __init__(self, status: int = 200, headers: Pairs = (), body: str | bytes = b"") -> None:
        self._headers: list[tuple[str, str]] = []
        self.file: File | None = None
        self.with_status(status)
        if headers:
            self.with_headers(headers)
        self.body = body

    def __repr__(self) -> str:
        return f"<Response {self.status} {self.reason}>"

    @classmethod
    def json(cls, data: Any, status: int = 200) -> Self:
        """Whatever msgspec encodes: dict, list, dataclasses, Structs, datetimes ..."""
        return cls(status, [("Content-Type", "application/json")], msgspec.json.encode(data))

    @classmethod
    def redirect(cls, location: str, status: int = 302) -> Self:
        """``location``: a path or an address; what an address cannot hold as it is gets percent-encoded. ValueError for
        CR, LF and NUL."""
        _refuse_controls("Location", location)
        return cls(status, [("Location", quote(location, safe=_URL_SAFE))])

    # ------------------------------------------------------------------ status and body

    def with_status(self, status: int, reason: str = "") -> Self:
        """Three digits from 200 on, and the words behind them, which no client reads."""
        if not 200 <= status <= 599:
            raise ValueError(f"{status} is no status of an answer: 200 to 599")
        _refuse_controls("reason", reason)
        self.status = status
        self.reason = reason or REASONS.get(status, "")
        return self

    def with_body(self, body: str | bytes) -> Self:
        self.body = body
        return self

    def with_file(self, path: str | os.PathLike[str], offset: int = 0, length: int = 0) -> Self:
        """The file is the body: sent without reading it into memory, with Content-Type by its name, ETag,
        Last-Modified and Range; 404 when there is none. With ``offset`` or ``length`` (bytes; 0: up to the end) it is
        that part alone, as 206."""
        if offset < 0 or length < 0:
            raise ValueError("offset and length are bytes of a file, not negative")
        self.file = File(os.fspath(path), offset, length)
        return self

    def with_open_file(self, fd: int, name: str) -> Self:
        """Like with_file(), for a file that is open for reading already; Content-Type is by its ``name``. ``fd`` is the
        runtime's once the response is sent, and closed by it. OSError for what is no open file."""
        facts = os.fstat(fd)
        self.file = File(name, facts=FileFacts(fd, facts.st_size, facts.st_mtime_ns))
        return self

    # ------------------------------------------------------------------ headers

    def with_header(self, name: str, value: str | Iterable[str]) -> Self:
        """In place of those of that name; several values stand there one after the other. ValueError for what cannot
        be sent."""
        values = [value] if isinstance(value, str) else list(value)
        self.without_header(name)
        for each in values:
            self.add_header(name, each)
        return self

    def with_headers(self, headers: Pairs) -> Self:
        """Of a mapping each replaces those of its name; of pairs, names may repeat."""
        if isinstance(headers, Mapping):
            for name, value in headers.items():
                self.with_header(name, value)
            return self
        pairs = list(headers)
        for name, _ in pairs:
            self.without_header(name)
        for name, value in pairs:
            self.add_header(name, value)
        return self

    def add_header(self, name: str, value: str) -> Self:
        """Beside those of that name."""
        if not _TOKEN.fullmatch(name):
            raise ValueError(f"header name {name!r} cannot be sent")
        _refuse_controls(name, value)
        value.encode("latin-1")  # UnicodeEncodeError is a ValueError, and shows which character
        self._headers.append((name, value))
        return self

    def without_header(self, name: str) -> Self:
        lower = name.lower()
        self._headers = [pair for pair in self._headers if pair[0].lower() != lower]
        return self

    def header(self, name: str, default: str | None = None) -> str | None:
        """The first of that name, in any case."""
        lower = name.lower()
        return next((value for found, value in self._headers if found.lower() == lower), default)

    @property
    def headers(self) -> list[tuple[str, str]]:
        """All, as they were set: a copy."""
        return list(self._headers)

    def cookie(
        self,
        name: str,
        value: str = "",
        max_age: int | None = None,
        path: str = "",
        domain: str = "",
        secure: bool = False,
        http_only: bool = False,
        same_site: Literal["", "Lax", "Strict", "None"] = "",
        *,
        expires: int | None = None,
        partitioned: bool = False,
    ) -> Self:
        """Adds a Set-Cookie. ``value`` is percent-encoded, and request.cookie() decodes it; ``max_age`` in seconds, 0
        deletes it; ``expires`` in seconds since 1970. ValueError for what cannot be sent."""
        if not _TOKEN.fullmatch(name):
            raise ValueError(f"cookie name {name!r} cannot be sent")
        if _ATTRIBUTE.search(path) or _ATTRIBUTE.search(domain):
            raise ValueError(f"cookie {name}: path or domain cannot be sent")
        if same_site not in ("", "Lax", "Strict", "None"):
            raise ValueError(f"cookie {name}: same_site is Lax, Strict or None, not {same_site!r}")
        attributes = [
            f"Max-Age={int(max_age)}" if max_age is not None else "",
            f"Expires={http_date(expires)}" if expires is not None else "",
            f"Domain={domain}" if domain else "",
            f"Path={path}" if path else "",
            "Secure" if secure else "",
            "HttpOnly" if http_only else "",
            f"SameSite={same_site}" if same_site else "",
            "Partitioned" if partitioned else "",
        ]
        encoded = quote(value, safe=_COOKIE_SAFE, errors="surrogateescape")
        return self.add_header("Set-Cookie", "; ".join([f"{name}={encoded}", *filter(None, attributes)]))


class Chunk:
    """The next piece of an answer with ``Transfer-Encoding: chunked``; an empty one is its end."""

    __slots__ = ("data",)

    def __init__(self, data: str | bytes = b"") -> None:
        self.data = data.encode() if isinstance(data, str) else bytes(data)


class ServerSentEvents:
    """One event of a text/event-stream: ``ServerSentEvents({"event": "tick", "id": "7", "data": "two\\nlines"})``.

    Keys: event, id, retry (milliseconds), data, and "" for a comment. Every line of ``data`` and of a comment has a
    line of its own; the others cannot have any: ValueError.
    """

    __slots__ = ("data",)

    def __init__(self, fields: Mapping[str, Any]) -> None:
        lines = []
        for name in ("", "event", "id", "retry", "data"):
            if (value := fields.get(name)) is None:
                continue
            text = str(value)
            pieces = _LINE_END.split(text)
            if (len(pieces) > 1 and name not in ("", "data")) or (name == "id" and "\0" in text):
                raise ValueError(f"an event's {name} has one line: {text!r}")
            lines += [f"{name}: {piece}" for piece in pieces]
        if unknown := set(fields) - {"", "event", "id", "retry", "data"}:
            raise ValueError(f"an event has no {min(unknown)!r}: event, id, retry, data, or '' for a comment")
        self.data = "\n".join([*lines, "", ""]).encode()


_LINE_END = re.compile(r"\r\n|\n|\r")


def _refuse_controls(name: str, value: str) -> None:
    if _FORBIDDEN.search(value):
        raise ValueError(f"{name}: a control character cannot be sent: {value!r}")
