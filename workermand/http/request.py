"""Request: what on_message gets of an http listener. Workerman's Request in snake_case.

It is made by protocols/http.py from what the parser found, and holds just that; everything else is read out of it when
it is asked for, once.
"""

from __future__ import annotations

import io
import ipaddress
from collections.abc import AsyncIterator, Sequence
from typing import Any, TypeVar, overload

import msgspec

from workermand.http import forms
from workermand.http.body import Body
from workermand.http.forms import Upload, Values
from workermand.http.policy import Refusal
from workermand.http.session import Session

T = TypeVar("T")

HEAD = 1
"""What an answer to this request has to be: without a body;"""
CLOSE = 2
"""the last one;"""
OLD = 4
"""for HTTP/1.0: neither chunked nor interim;"""
CONTINUE = 8
"""followed by 100 Continue, for the request behind it;"""
OPEN = 16
"""under way: its head is out;"""
SESSION = 32
"""sent when the session is saved, with its cookie;"""
STREAMED = 64
"""perhaps earlier than the request is complete."""

MULTIPART = "multipart/form-data"
UNREAD = "the body of this request is a stream: await request.read(), or request.read_form(), or iterate stream()"

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class _Read:
    """What has been read out of a request so far."""

    __slots__ = ("cookies", "files", "get", "headers", "post", "session", "set_cookies")

    def __init__(self) -> None:
        self.headers: dict[str, str] | None = None
        self.get: Values | None = None
        self.post: dict[str, Any] | None = None
        self.files: dict[str, list[Upload]] = {}
        self.cookies: dict[str, str] | None = None
        self.session: Session | None = None
        self.set_cookies: list[str] = []


class Request(msgspec.Struct, eq=False):
    """One request. Process: the child; thread: the one that runs the loop.

    Values that a client sends are str; where a name repeats in a query or a form it has a list of them. Methods that
    read a body raise Refusal (status 400, 413 or 415) for one that cannot be read.
    """

    method: str
    """ "GET", in capitals."""
    target: bytes
    fields: list[bytes]
    """Headers as they came: name, value, name, value; a value may have blanks at its end."""
    connection: Any = None
    """The Connection it came on."""
    trusted: tuple[Network, ...] = ()
    """The proxies that are believed what they say of the client."""
    version: str = "1.1"
    demands: int = 0
    """The protocol's: bits from above."""
    whole: bytes | None = b""
    """The protocol's: the body; None of one that is streamed and has not been read."""
    body: Body | None = None
    """The protocol's."""
    trailer_fields: list[bytes] | None = None
    upgrade: bool = False
    """It asks for a WebSocket, and nothing more is read as HTTP."""
    context: Any = None
    """Yours; None at first."""
    _read: _Read | None = None

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.uri}>"

    # ------------------------------------------------------------------ the request line

    @property
    def uri(self) -> str:
        """The target as it came: "/shop?item=7"."""
        return self.target.decode("latin-1")

    @property
    def path(self) -> str:
        """ "/shop": without the query, and as it came: %2F is not yet a slash. "*" for OPTIONS * only."""
        path = self.uri.partition("?")[0]
        if "://" in path and not path.startswith("/"):
            _, slash, rest = path.partition("://")[2].partition("/")
            return slash + rest or "/"
        return path

    @property
    def query_string(self) -> str:
        """ "item=7": behind the question mark, as it came; "" when there is none."""
        return self.uri.partition("?")[2]

    @overload
    def get(self) -> Values: ...
    @overload
    def get(self, name: str) -> str | list[str] | None: ...
    @overload
    def get(self, name: str, default: T) -> str | list[str] | T: ...

    def get(self, name: str | None = None, default: Any = None) -> Any:
        """A value of the query string; without a name all of them."""
        read = self._reading()
        if read.get is None:
            read.get = forms.parse_query(self.query_string)
        return read.get if name is None else read.get.get(name, default)

    # ------------------------------------------------------------------ headers

    @property
    def headers(self) -> dict[str, str]:
        """By name in lower case. One that repeats is joined with ", " (Cookie with "; "), as RFC 9110 5.3 has it."""
        read = self._reading()
        if read.headers is None:
            read.headers = _by_name(self.fields)
        return read.headers

    @overload
    def header(self, name: str) -> str | None: ...
    @overload
    def header(self, name: str, default: T) -> str | T: ...

    def header(self, name: str, default: Any = None) -> Any:
        """One header; its name in any case."""
        return self.headers.get(name.lower(), default)

    def trailer(self, name: str, default: Any = None) -> Any:
        """What came behind a chunked body."""
        return _by_name(self.trailer_fields or []).get(name.lower(), default)

    def host(self, without_port: bool = False) -> str:
        """ "example.com:8080"; "" when HTTP/1.0 named none."""
        host = str(self.header("host", ""))
        if not without_port:
            return host
        end = host.find("]") + 1
        return host[: host.index(":", end)] if ":" in host[end:] else host

    def cookie(self, name: str | None = None, default: Any = None) -> Any:
        """A cookie's value, decoded; without a name all of them."""
        read = self._reading()
        if read.cookies is None:
            read.cookies = forms.parse_cookies([self.headers.get("cookie", "")])
        return read.cookies if name is None else read.cookies.get(name, default)

    @property
    def content_type(self) -> str:
        """ "text/html": in lower case and without parameters; "" when there is none."""
        return str(self.header("content-type", "")).partition(";")[0].strip().lower()

    @property
    def raw_head(self) -> bytes:
        """The request line and the headers, with the empty line; blanks before values are one."""
        first = b"%b %b HTTP/%b" % (self.method.encode(), self.target, self.version.encode())
        return b"%b\r\n%b\r\n" % (first, lines_of(self.fields))

    def as_bytes(self) -> bytes:
        """As it was understood, for whoever reads the connection next: blanks around values are gone, a chunked body
        is one chunk."""
        body = self.whole if self.body is None else self.body.waiting
        assert body is not None
        if "transfer-encoding" in self.headers:
            body = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            if self.body is None or not self.body.is_open:
                body += b"0\r\n%b\r\n" % lines_of(self.trailer_fields or [])
        return self.raw_head + body

    # ------------------------------------------------------------------ the body

    @property
    def raw_body(self) -> bytes:
        """The body as it came. RuntimeError when it is streamed, and read() has not been awaited."""
        if self.whole is None:
            raise RuntimeError(UNREAD)
        return self.whole

    @property
    def is_streamed(self) -> bool:
        """It has been handed over before its body was there."""
        return bool(self.demands & STREAMED)

    def stream(self) -> AsyncIterator[bytes]:
        """The body piece by piece: ``async for piece in request.stream()``. With ``stream_body = True`` in the handler
        bodies above 64 KiB, and chunked ones, come as the client sends them, and a client that is faster than the
        handler is slowed down; all others are one piece. The iteration raises ConnectionLost (a ConnectionError) when
        the client does not send all of it, and Refusal for a body over limits.http.body (status 413) or badly chunked
        (400), which the client is answered unless the handler catches it. What is not read before the answer is thrown
        away."""
        if self.body is None:
            self.body = Body(whole=self.whole or b"")
        return self.body

    async def read(self) -> bytes:
        """All of the body, which raw_body, post(), file() and json() then have. Raises what stream() raises."""
        if self.whole is None:
            gathered = io.BytesIO()
            async for piece in self.stream():
                gathered.write(piece)
            self.whole = gathered.getvalue()
        return self.whole

    async def read_form(self) -> dict[str, Any]:
        """The same for a form, and post() of it: uploads go to files while they come, so that they may be larger than
        memory. Raises what stream() raises, and Refusal for what is no such form."""
        if self.whole is None and self.content_type == MULTIPART:
            reader = forms.Multipart(str(self.header("content-type")))
            async for piece in self.stream():
                reader.feed(piece)
            read = self._reading()
            values, read.files = reader.finish()
            read.post = dict(values)
        else:
            await self.read()
        form: dict[str, Any] = self.post()
        return form

    def post(self, name: str | None = None, default: Any = None) -> Any:
        """A value of a form (urlencoded or multipart), or of a JSON object; without a name all of them."""
        read = self._reading()
        if read.post is None:
            read.post = self._read_form(read)
        return read.post if name is None else read.post.get(name, default)

    def json(self, type: Any = Any) -> Any:
        """The body as JSON, whatever Content-Type says; ``type`` as msgspec.json.decode takes it."""
        try:
            return msgspec.json.decode(self.raw_body, type=type)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise Refusal("json", f"JSON body: {error}") from None

    @overload
    def file(self) -> dict[str, list[Upload]]: ...
    @overload
    def file(self, name: str) -> Upload | None: ...

    def file(self, name: str | None = None) -> Any:
        """The first file of that name; without a name all: a list for each name."""
        self.post()
        files = self._reading().files
        if name is None:
            return files
        return files[name][0] if name in files else None

    def _read_form(self, read: _Read) -> dict[str, Any]:
        kind = self.content_type
        if kind == "application/x-www-form-urlencoded":
            return dict(forms.parse_query(self.raw_body))
        if kind == MULTIPART:
            values, read.files = forms.parse_multipart(self.raw_body, str(self.header("content-type")))
            return dict(values)
        if kind == "application/json" or kind.endswith("+json"):
            data = self.json()
            return data if isinstance(data, dict) else {}
        return {}

    # ------------------------------------------------------------------ the session

    @property
    def session(self) -> Session:
        """What the server remembers of this browser: a dict. It is read when it is first asked for, and saved by
        itself. Raises Refusal (503) when the store fails, RuntimeError when it would have to be awaited."""
        session: Session | None = self.session_if_read
        if session is None:
            session = self._sessions.open(self)
        return session

    async def load_session(self) -> Session:
        """The same, also where ``session`` cannot be read at once: with the store of redis, outside of on_message."""
        session: Session | None = self.session_if_read
        if session is None:
            session = await self._sessions.load(self)
        return session

    @property
    def session_if_read(self) -> Session | None:
        """For the runtime: None when nobody has asked for it."""
        return self._read.session if self._read is not None else None

    def session_id(self) -> str:
        """The id of the session, which is stored from now on, be it empty."""
        return self.session.keep()

    def session_regenerate_id(self) -> str:
        """A new id for the session, whose former one is worth nothing any more: for a login."""
        return self.session.regenerate_id()

    def begin_session(self, session: Session) -> None:
        """For the runtime: it has been read."""
        self._reading().session = session
        self.demands |= SESSION

    def settle_session(self) -> None:
        """For the protocol, before an answer with SESSION: the session is saved, and ``set_cookies`` says what the
        browser is told. Raises Refusal."""
        read = self._reading()
        if read.session is not None:
            read.set_cookies = self._sessions.settle(self, read.session)

    @property
    def set_cookies(self) -> list[str]:
        """What its answer has to say in Set-Cookie, beside what the handler says there."""
        return self._read.set_cookies if self._read is not None else []

    @property
    def _sessions(self) -> Any:
        return self.connection.worker.sessions

    # ------------------------------------------------------------------ who

    @property
    def is_secure(self) -> bool:
        """Nobody between the client and us could listen: its connection is TLS, or, as X-Forwarded-Proto of a trusted
        proxy has it, the one to the proxy is."""
        if self.connection.is_secure:
            return True
        if not self.trusted:
            return False
        peer = self.connection.get_remote_ip()
        is_trusted = not peer or is_in(peer, self.trusted)
        return is_trusted and str(self.header("x-forwarded-proto", "")).rpartition(",")[2].strip().lower() == "https"

    @property
    def remote_ip(self) -> str:
        """The client's address; behind trusted proxies the one that they name."""
        ip: str = self.connection.get_remote_ip()
        if not self.trusted:
            return ip
        return remote_ip(ip, self.headers.get("x-forwarded-for"), self.headers.get("x-real-ip"), self.trusted)

    def _reading(self) -> _Read:
        if self._read is None:
            self._read = _Read()
        return self._read


def lines_of(fields: list[bytes]) -> bytes:
    """Header fields as they stand in a head."""
    return b"".join([b"%b: %b\r\n" % pair for pair in zip(fields[::2], fields[1::2], strict=True)])


def networks(names: Sequence[str]) -> tuple[Network, ...]:
    """["127.0.0.1", "10.0.0.0/8"] for ``trusted``. ValueError for what is none."""
    return tuple(ipaddress.ip_network(name) for name in names)


def remote_ip(peer: str, forwarded_for: str | None, real_ip: str | None, trusted: Sequence[Network]) -> str:
    """Who sent a request that came from ``peer``: X-Forwarded-For is read from its end, and the first address that is
    no trusted proxy is the client; what stands before it anybody may have written. A unix socket's peer ("") is
    trusted when there are trusted ones at all: what may connect there is decided by its mode."""
    if peer and not is_in(peer, trusted):
        return peer
    hops = [_plain(hop) for hop in (forwarded_for or "").split(",") if hop.strip()]
    for hop in reversed(hops):
        if not _is_address(hop):
            return peer
        peer = hop
        if not is_in(hop, trusted):
            return hop
    if not hops and real_ip is not None and _is_address(named := _plain(real_ip)):
        return named
    return peer


def _plain(hop: str) -> str:
    """Without blanks, brackets and port."""
    hop = hop.strip(" \t")
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def is_in(ip: str, trusted: Sequence[Network]) -> bool:
    """False also for what is no address."""
    if not _is_address(ip):
        return False
    address = ipaddress.ip_address(ip)
    return any(address in network for network in trusted)


def _by_name(fields: list[bytes]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for raw_name, raw_value in zip(fields[::2], fields[1::2], strict=True):
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1").rstrip(" \t")
        if name in headers:
            value = headers[name] + ("; " if name == "cookie" else ", ") + value
        headers[name] = value
    return headers
