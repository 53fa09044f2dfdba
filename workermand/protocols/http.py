"""http: HTTP/1.1, requests in and answers out. Workerman: Http.

httptools (llhttp) parses, policy.py refuses what its grammar lets pass, answers.py writes. Here is what lies between:
where a request begins and ends in the stream, which limits it meets on the way, and which answers are owed, in order.

Two ways lead in. ``feed`` itself takes a chunk that looks like complete GETs and nearly always is: what repeats.py does
not know goes to the parser at once, and the callbacks make the Requests. ``_by_parts`` cuts the stream where heads and
bodies end, so that every byte of an unfinished request is accounted for, whatever the cut. When a guess was wrong, it
is undone.

The callbacks are functions of this module and find their Http in ``_fed``: a parser that held bound methods would keep
its Http alive and be kept alive by it, on each of ten thousand connections. One process has one thread that feeds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, ClassVar, Final

from httptools import (
    HttpParserError,
    HttpParserInvalidMethodError,
    HttpParserUpgrade,
    HttpRequestParser,
)

from workermand.errors import CloseReason, ConnectionLost, EndOfInput, ProtocolError
from workermand.http import answers, policy
from workermand.http.policy import Head, Limits, Refusal
from workermand.http.request import CLOSE, HEAD, OLD, Network, Request
from workermand.protocols.base import MAX_PACKAGE
from workermand.protocols.bodies import Bodies, Stop
from workermand.protocols.repeats import END, recognize, remember

_HARMLESS: Final = (
    b"Accept Accept-Charset Accept-Encoding Accept-Language Authorization Cache-Control Cookie DNT If-Match "
    b"If-Modified-Since If-None-Match If-Range If-Unmodified-Since Origin Pragma Priority Range Referer "
    b"Sec-Fetch-Dest Sec-Fetch-Mode Sec-Fetch-Site Sec-Fetch-User Sec-GPC Upgrade-Insecure-Requests User-Agent "
    b"X-Forwarded-For X-Forwarded-Proto X-Real-IP X-Request-ID sec-ch-ua sec-ch-ua-mobile sec-ch-ua-platform Connection"
)
HARMLESS: Final = frozenset(_HARMLESS.split() + _HARMLESS.lower().split())
"""Names that no rule looks at. Where there are no others, the parser's verdict stands."""
NOTHING: Final[list[Request]] = []
ENOUGH: Final = 512
"""More requests than fit into a chunk that is read whole: with so many left, none of them needs to be counted."""
_BLANK_LINES = re.compile(rb"[\r\n]*")
_UPGRADE_LINE = re.compile(rb"\r\nupgrade:[^\r\n]*", re.IGNORECASE)
_OTHER_PROTOCOL = re.compile(rb"^[A-Z_-]+ +\S+ +(?:RTSP|ICE)/", re.MULTILINE)


class _InParts(Exception):
    """This chunk is no row of complete GETs."""


class _Downgrade(Exception):
    """It asks for a protocol that is not spoken here: it is served as if it had not."""


class Http(Bodies):
    """Requests in; str, bytes, dict, list, Response, Chunk and ServerSentEvents out.

    ``max_package`` bounds a body, in bytes, chunked ones with their framing. ``requests`` is how many a connection may
    send. ``upgrades``: a request for a WebSocket ends the HTTP (``request.upgrade``), and what follows it is there for
    detach(). ``streams``: long bodies come as they come, see Bodies. Of ``gzip`` and what goes out see Answering.
    """

    __slots__ = (
        "_cause",
        "_dropped",
        "_ended",
        "_harmless_up_to",
        "_head_size",
        "_host",
        "_host_name",
        "_left",
        "_most_fields",
        "_raw",
        "_whole_up_to",
        "feed_data",
        "fields",
        "get_method",
        "limits",
        "messages",
        "parser",
        "should_keep_alive",
        "target",
        "trusted",
        "upgrades",
    )

    name: ClassVar[str] = "http"
    has_deadlines: ClassVar[bool] = True

    def __init__(
        self,
        max_package: int = MAX_PACKAGE,
        *,
        limits: Limits | None = None,
        requests: int = 10_000,
        upgrades: bool = False,
        gzip: bool = False,
        streams: bool = False,
        trusted: tuple[Network, ...] = (),
    ) -> None:
        super().__init__(max_package, gzip=gzip, streams=streams)
        self.limits = limits or _DEFAULTS
        self.upgrades = upgrades
        self.trusted = trusted
        self._left = requests
        self._most_fields = 2 * self.limits.fields
        self._harmless_up_to = min(self.limits.line, self.limits.field, self.limits.head, 8192)
        """Bytes: in what is no longer than this nothing can be over a limit of size."""
        self._whole_up_to = self._harmless_up_to if requests >= ENOUGH else 0
        self._host_name = self._host = b""
        """The last Host that stood first and was found good."""
        self._raw = bytearray()
        """An unfinished request as it came; of a body with a length the head only, of a stream the last bytes."""
        self._dropped = self._head_size = 0
        """Bytes that are not in it any more; and where the body begins."""
        self._ended = False
        """A chunk of no bytes has begun: the last."""
        self.messages = NOTHING
        """Complete, of what is being fed."""
        self._renew()

    def _renew(self) -> None:
        parser = HttpRequestParser(_CALLBACKS)
        self.feed_data = parser.feed_data
        self.get_method = parser.get_method
        self.should_keep_alive = parser.should_keep_alive
        self.parser = parser
        self.target = b""
        self.fields: list[bytes] = []
        self._cause: Exception | None = None
        """What a callback raised, which stops the parser."""

    # ------------------------------------------------------------------ in

    def feed(self, data: bytes) -> list[Any]:
        if data[-4:] != END or self._part or len(data) > self._whole_up_to:
            return self._by_parts(data)
        messages = recognize(data, self._most_fields, self.connection, self.trusted) or self._whole(data)
        if not messages:
            return self._by_parts(data)
        self.owed += messages
        self._left = left = self._left - len(messages)
        if left < ENOUGH:
            self._whole_up_to = 0
        return messages

    def _whole(self, data: bytes) -> list[Request]:
        """The requests of ``data`` if they are complete, good GETs, else []."""
        global _fed
        if data[:4] != b"GET ":
            return []
        _fed = self
        messages: list[Request] = []
        self.messages = messages
        try:
            self.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            if isinstance(self._cause, Stop):
                raise self._end(error) from None
            self._renew()
            messages.clear()
        else:
            remember(data, messages[-1])
        self.messages = NOTHING
        return messages

    def feed_eof(self) -> Sequence[Any]:
        self.end_events()
        self._forget(ConnectionLost("the client has ended its sending within the body of a request"))
        return ()

    @property
    def buffered(self) -> int:
        return self._dropped + len(self._raw) + (self._received if self._length else 0)

    def detach(self, undelivered: Sequence[Any] = (), data: bytes = b"") -> bytes:
        """Requests become bytes again as they were understood: blanks around values are gone, a chunked body is one
        chunk."""
        for _ in undelivered:
            self.owed.pop()
        again = b"".join(request.as_bytes() for request in undelivered)
        held = bytes(self._raw) if self._stream is None else b""
        if self._length and self._body is not None:
            held += self._body.getvalue()
        self._forget(ConnectionLost("another protocol has taken over the connection within the body of a request"))
        self._part = "upgraded"
        return again + held

    def wind_down(self) -> None:
        self.end_events()
        self._whole_up_to = 0
        undelivered = self.request if self._stream is None else None
        last = undelivered or (self.owed[-1] if self.owed else None)
        if last is not None:
            last.demands |= CLOSE
        self._left = 1 if last is undelivered else 0

    def _by_parts(self, data: bytes) -> list[Any]:
        global _fed
        _fed = self
        self.messages = []
        at, size = 0, len(data)
        try:
            while at < size:
                at = self._step(data, at)
        except (HttpParserError, Refusal) as error:
            raise self._end(error) from None
        return self._deliver()

    def _deliver(self) -> list[Request]:
        """From here on they are the handler's, and it owes the answers. Nothing here keeps a body, or an upload."""
        messages, self.messages = self.messages, NOTHING
        self.owed.extend(messages)
        self._left -= len(messages)
        if self._continue and self.connection is not None and (interim := self.take_replies()):
            self.connection.send(interim, raw=True)
        return messages

    def _step(self, data: bytes, at: int) -> int:
        """One part from ``at`` on: a head, a body, or what there is of it. Where the next begins."""
        if self._part == "upgraded":
            return self._keep(data, at)
        if not self._part:
            blank = _BLANK_LINES.match(data, at)
            at = blank.end() if blank is not None else at
            if at == len(data):
                return at
            self._part = "head"
        if self._length:
            end = stop = min(len(data), at + self._length - self._received)
        else:
            end = self._end_of_part(data, at)
            stop = end if end > 0 else len(data)
        part = data[at:stop]
        if not self._length:
            self._raw += part
            if self._part == "body" and self._dropped + len(self._raw) - self._head_size > self.max_package:
                policy.refuse("body-size", f"body over {self.max_package} bytes")
        self._parse(part)
        if self._part == "head":
            policy.measure_part(self._raw, self.limits)
        elif self._stream is not None:
            self._dropped += len(self._raw[:-3])
            del self._raw[:-3]
        return stop

    def _parse(self, part: bytes) -> None:
        try:
            self.feed_data(part)
        except HttpParserUpgrade:
            pass
        except HttpParserError:
            if not isinstance(self._cause, _Downgrade):
                raise
            self._renew()
            self._parse(_UPGRADE_LINE.sub(b"", bytes(self._raw)))

    def _end_of_part(self, data: bytes, at: int) -> int:
        """Behind the empty line that ends a head, or a chunked body; 0 when there is none."""
        if tail := self._raw[-3:]:
            across = (tail + data[at : at + 3]).find(END)
            if across >= 0:
                return at + across + 4 - len(tail)
        found = data.find(END, at)
        return found + 4 if found >= 0 else 0

    def _keep(self, data: bytes, at: int) -> int:
        """What follows an upgrade is not ours."""
        self._raw += data[at:]
        if len(self._raw) > self.max_package:
            policy.refuse("body-size", "too much before the upgrade was answered")
        return len(data)

    def _end(self, error: Exception) -> EndOfInput:
        """What the end of the input is told the runtime as."""
        messages = self._deliver()
        cause = error if isinstance(error, Refusal) else self._cause
        if isinstance(cause, Stop):
            return EndOfInput("http: the last request", messages, close_reason=CloseReason.CLOSED)
        if cause is None:
            cause = self._syntax_error(error)
        if not isinstance(cause, Refusal):
            raise cause  # a fault of ours
        farewell = answers.error(cause.status, cause.why, head_only=self.get_method() == b"HEAD")
        if self._stream is not None and self.request is not None:  # it is its handler that will answer
            self.request.demands |= CLOSE
            self.cut_short = True
            farewell = b""
        self._forget(cause)
        reason = CloseReason.PACKAGE_TOO_BIG if cause.status in (413, 414, 431) else None
        return ProtocolError(f"http: {cause.rule}: {cause}", messages, close_reason=reason, farewell=farewell)

    def _syntax_error(self, error: Exception) -> Refusal:
        why = str(error)
        if isinstance(error, HttpParserInvalidMethodError) and self._raw[:1].isupper():
            return Refusal("method", why)  # a word in capitals: a method that is unknown, and no TLS on a plain port
        return Refusal("version" if why == "Invalid HTTP version" or self._raw.startswith(b"PRI ") else "syntax", why)

    def _forget(self, error: Exception | None = None) -> None:
        """The unfinished request is dropped; whoever reads it gets ``error``."""
        self._raw.clear()
        self._dropped = 0
        self._close_body(error)

    # ------------------------------------------------------------------ what the parser found

    def _head_complete(self, fields: list[bytes], target: bytes) -> None:
        if self._left <= len(self.messages):
            raise Stop
        version = self.parser.get_http_version()
        if not self._part:
            if version != "1.1" or self.parser.should_upgrade():
                raise _InParts
        else:
            if version != "1.1" and _OTHER_PROTOCOL.match(self._raw):
                policy.refuse("version", "this is another protocol")
            if len(self._raw) > self._harmless_up_to:
                policy.measure(self._raw, fields, self.limits)
        head = policy.examine(self.get_method(), target, fields, version, self.should_keep_alive(), self.limits)
        if fields and fields[0].lower() == b"host":
            self._host_name, self._host = fields[:2]
        self._begin(head, Request(head.method, target, head.fields, self.connection, self.trusted, version))

    def _begin(self, head: Head, request: Request) -> None:
        """What a good head is followed by."""
        if head.length > self.max_package:
            policy.refuse("body-size", f"body over {self.max_package} bytes")
        if self.parser.should_upgrade():
            if not (self.upgrades and _WEBSOCKET.search(head.upgrade)):
                raise _Downgrade
            request.upgrade = True
        if head.method == "HEAD":
            request.demands |= HEAD
        if request.version == "1.0":
            request.demands |= OLD
        if not head.keep_alive or self._left == len(self.messages) + 1:
            request.demands |= CLOSE
        if request.upgrade or not (head.length or head.chunked):
            self._finish(request)
            return
        if not self._part:
            raise _InParts
        self._head_size = len(self._raw)
        if self._open(request, head.length, head.expects_continue):
            self.messages.append(request)

    def _take(self, piece: bytes) -> None:
        self._ended = False
        self._keep_piece(piece)
        if self._received == self._length:
            self._complete()

    def _complete(self) -> None:
        request, trailers = self.request, self.fields
        assert request is not None
        if self._body is not None:
            request.whole = self._body.getvalue()
        if trailers:
            policy.check_trailers(trailers, self.limits)
            request.trailer_fields = policy.without_underscores(trailers)
            self.fields = []
        self._finish(request)

    def _finish(self, request: Request) -> None:
        """It is complete."""
        if self._stream is None:
            self.messages.append(request)
        self._forget()
        if request.upgrade:
            self._part = "upgraded"
        elif request.demands & CLOSE:
            raise Stop


# ---------------------------------------------------------------------------------------------------- callbacks

_DEFAULTS: Final = Limits()
_WEBSOCKET: Final = re.compile(rb"(?:^|,)[ \t]*websocket[ \t]*(?:,|$)")
_fed: Http
"""Whose bytes are being parsed."""


def _on_url(piece: bytes) -> None:
    _fed.target += piece


def _on_header(name: bytes, value: bytes) -> None:
    _fed.fields += (name, value)


def _on_headers_complete() -> None:
    """The plain GET of a client that has been here before costs no look at the rules: its names are all harmless, and
    what keeps alive without a word about it is HTTP/1.1."""
    http = _fed
    fields, target = http.fields, http.target
    http.fields = []
    http.target = b""
    if (
        fields
        and fields[1] == http._host
        and fields[0] == http._host_name
        and HARMLESS.issuperset(fields[2::2])
        and not http._part
        and target[0] == 47
        and b"#" not in target
        and len(fields) <= http._most_fields
    ):
        get_method, should_keep_alive = http.get_method, http.should_keep_alive
        if (
            get_method() == b"GET"
            and should_keep_alive()
            and (
                (b"Connection" not in fields and b"connection" not in fields) or http.parser.get_http_version() == "1.1"
            )
        ):
            request = Request("GET", target, fields, http.connection, http.trusted)
            http.messages.append(request)
            return
    _noting(http._head_complete, fields, target)


def _on_body(piece: bytes) -> None:
    _noting(_fed._take, piece)


def _on_chunk_header() -> None:
    _fed._ended = True


def _on_chunk_complete() -> None:
    if _fed._ended:
        _noting(_fed._complete)


def _noting(work: Callable[..., None], *args: Any) -> None:
    """The parser says of an exception only that there was one, and loses it when another is being handled."""
    try:
        work(*args)
    except Exception as error:
        _fed._cause = error
        raise


_CALLBACKS = SimpleNamespace(
    on_url=_on_url,
    on_header=_on_header,
    on_headers_complete=_on_headers_complete,
    on_body=_on_body,
    on_chunk_header=_on_chunk_header,
    on_chunk_complete=_on_chunk_complete,
)
