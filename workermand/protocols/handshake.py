"""The upgrade of an HTTP connection to a WebSocket (RFC 6455 section 4), both sides of it; pure.

A server calls ``check`` with what the HTTP parser found: an ``Upgrade``, whose ``accept()`` makes the bytes of the 101,
or a ``Refusal`` is raised, whose ``answer()`` are the bytes of a 400, 403 or 426 that a person with a browser can read.
A client makes a ``ClientHandshake``, sends its ``request`` and gives the answer's head to ``verify``. What follows the
head, in the same bytes too, is the WebSocket's: feed it to ``WebSocket(max_package, deflate=agreed.deflate)``.

Headers are (name, value) pairs as they came, in any case; who has a mapping gives ``mapping.items()``.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
from collections.abc import Collection, Iterable, Sequence
from http import HTTPStatus
from typing import Any, ClassVar, Final

import msgspec

from workermand.errors import ProtocolError, WorkermandError
from workermand.protocols import deflate as extension
from workermand.protocols.base import MAX_PACKAGE
from workermand.protocols.deflate import Deflate, Terms
from workermand.protocols.http import Http

Headers = Iterable[tuple[str, str]]

VERSION: Final = "13"
GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""RFC 6455 1.3."""
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
OURS: Final = frozenset({"upgrade", "connection", "sec-websocket-accept", "sec-websocket-extensions", "content-length",
                         "transfer-encoding", "sec-websocket-key", "sec-websocket-version", "host"})  # fmt: skip
"""Headers that nobody may add: the handshake is made of them, or would break by them."""


class Upgrading(Http):
    """What a websocket listener reads first."""

    __slots__ = ()

    name: ClassVar[str] = "websocket"

    def __init__(self, max_package: int = MAX_PACKAGE, **settings: Any) -> None:
        """As Http."""
        super().__init__(max_package, **{**settings, "upgrades": True})


class Refusal(WorkermandError):
    """This request does not become a WebSocket."""

    def __init__(self, status: int, why: str, headers: Headers = ()) -> None:
        super().__init__(why)
        self.status = status
        self.why = why
        self.headers = tuple(headers)

    def answer(self) -> bytes:
        """A whole HTTP response, after which the connection is closed."""
        body = f"{self.why}\n".encode()
        lines = [
            ("Content-Type", "text/plain; charset=utf-8"),
            ("Content-Length", str(len(body))),
            ("Connection", "Upgrade, close" if self.status == HTTPStatus.UPGRADE_REQUIRED else "close"),
            *self.headers,
        ]
        return _head(f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}", lines) + body


class Upgrade(msgspec.Struct, frozen=True):
    """A request that may become a WebSocket."""

    key: str
    subprotocols: tuple[str, ...]
    """What the client offers, in its order."""
    subprotocol: str | None
    """What we would choose: the first of ours that it offers."""
    deflate: Terms | None

    def accept(self, subprotocol: str | None = None, headers: Headers = ()) -> bytes:
        """The 101. ``subprotocol`` replaces the one chosen, and "" answers none. ValueError for one that the client did
        not offer, and for headers that cannot be added."""
        chosen = self.subprotocol if subprotocol is None else subprotocol
        if chosen and chosen not in self.subprotocols:
            raise ValueError(f"sub-protocol {chosen!r} was not offered")
        lines = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", accept_of(self.key))]
        if chosen:
            lines.append(("Sec-WebSocket-Protocol", chosen))
        if self.deflate is not None:
            lines.append(("Sec-WebSocket-Extensions", self.deflate.answer))
        return _head("HTTP/1.1 101 Switching Protocols", [*lines, *_added(headers, "sec-websocket-protocol")])


class Agreed(msgspec.Struct, frozen=True):
    """What a client's handshake came to."""

    subprotocol: str | None
    deflate: Terms | None


def check(
    method: str,
    version: str,
    headers: Headers,
    *,
    origins: Collection[str] = (),
    subprotocols: Sequence[str] = (),
    deflate: Deflate | None = None,
) -> Upgrade:
    """``version`` is "1.1". ``origins``: those whose pages may connect ("https://example.com"), none for all; a client
    without an Origin is no browser, and no page can misuse it. ``subprotocols``: ours, the dearest first. Raises
    Refusal."""
    fields = _Fields(headers)
    if "websocket" not in fields.tokens("upgrade"):
        asked = [("Upgrade", "websocket"), ("Sec-WebSocket-Version", VERSION)]
        raise Refusal(HTTPStatus.UPGRADE_REQUIRED, "This address speaks WebSocket: ask for an upgrade.", asked)
    _hold_to_http(method, version, fields)
    if fields.one("sec-websocket-version") != VERSION:
        if not fields.all("sec-websocket-version"):
            raise _bad("Sec-WebSocket-Version is missing")
        spoken = [("Upgrade", "websocket"), ("Sec-WebSocket-Version", VERSION)]
        raise Refusal(HTTPStatus.UPGRADE_REQUIRED, "Only version 13 of WebSocket is spoken here.", spoken)
    key = fields.one("sec-websocket-key")
    if not _is_key(key):
        raise _bad("Sec-WebSocket-Key is not 16 bytes in base64")
    if origins and (origin := fields.one("origin")) and origin.lower() not in map(str.lower, origins):
        raise Refusal(HTTPStatus.FORBIDDEN, "Pages of this origin may not connect.")
    offered = fields.elements("sec-websocket-protocol")
    if not all(map(_TOKEN.fullmatch, offered)) or len(set(offered)) < len(offered):
        raise _bad("Sec-WebSocket-Protocol is malformed")
    try:
        extensions = extension.parse(fields.all("sec-websocket-extensions"))
    except ValueError as error:
        raise _bad(str(error)) from None
    return Upgrade(
        key,
        tuple(offered),
        next((ours for ours in subprotocols if ours in offered), None),
        extension.accept(extensions, deflate) if deflate is not None else None,
    )


def _hold_to_http(method: str, version: str, fields: _Fields) -> None:
    """What of the request is not the WebSocket's own."""
    if method != "GET":
        raise _bad("A WebSocket begins with GET")
    if version != "1.1":
        raise _bad("A WebSocket begins with HTTP/1.1")
    if "upgrade" not in fields.tokens("connection"):
        raise _bad("Connection does not say upgrade")
    if fields.one("content-length") not in ("", "0") or fields.all("transfer-encoding"):
        raise _bad("A request for a WebSocket has no body")
    if not fields.one("host"):
        raise _bad("Host is missing")


class ClientHandshake:
    """Our side when we are the client. ``host`` as it stands in the URL, with its port; ``path`` with the query."""

    def __init__(
        self,
        host: str,
        path: str = "/",
        *,
        origin: str | None = None,
        subprotocols: Sequence[str] = (),
        deflate: Deflate | None = None,
        headers: Headers = (),
    ) -> None:
        if not re.fullmatch(r"[!-~]+", host) or not re.fullmatch(r"/[!-~]*", path):
            raise ValueError(f"no host and path of a request: {host!r}, {path!r}")
        self._key = base64.b64encode(os.urandom(16)).decode()
        self._subprotocols = tuple(subprotocols)
        self._deflate = deflate
        lines = [
            ("Host", host),
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Key", self._key),
            ("Sec-WebSocket-Version", VERSION),
        ]
        if origin is not None:
            lines.append(("Origin", origin))
        if subprotocols:
            lines.append(("Sec-WebSocket-Protocol", ", ".join(subprotocols)))
        if deflate is not None:
            lines.append(("Sec-WebSocket-Extensions", extension.offer(deflate)))
        self.request = _head(f"GET {path} HTTP/1.1", [*lines, *_added(headers, "sec-websocket-protocol")])
        """The bytes to send."""

    def verify(self, status: int, headers: Headers) -> Agreed:
        """The head of the server's answer (RFC 6455 4.1). Raises ProtocolError."""
        fields = _Fields(headers)
        try:
            if status != HTTPStatus.SWITCHING_PROTOCOLS:
                raise ValueError(f"the server answered {status}")
            if fields.tokens("upgrade") != ["websocket"] or "upgrade" not in fields.tokens("connection"):
                raise ValueError("the server did not upgrade to websocket")
            if fields.one("sec-websocket-accept") != accept_of(self._key):
                raise ValueError("Sec-WebSocket-Accept does not fit the key")
            subprotocol = fields.one("sec-websocket-protocol") or None
            if subprotocol is not None and subprotocol not in self._subprotocols:
                raise ValueError(f"sub-protocol {subprotocol!r} was not offered")
            extensions = extension.parse(fields.all("sec-websocket-extensions"))
            return Agreed(subprotocol, extension.confirm(extensions, self._deflate))
        except (ValueError, Refusal) as error:
            raise ProtocolError(f"websocket handshake: {error}") from None


def accept_of(key: str) -> str:
    """Sec-WebSocket-Accept for a Sec-WebSocket-Key."""
    return base64.b64encode(hashlib.sha1(key.encode() + GUID, usedforsecurity=False).digest()).decode()


class _Fields:
    """Headers by name."""

    def __init__(self, headers: Headers) -> None:
        self._values: dict[str, list[str]] = {}
        for name, value in headers:
            self._values.setdefault(name.lower(), []).append(value.strip(" \t"))

    def all(self, name: str) -> list[str]:
        return self._values.get(name, [])

    def one(self, name: str) -> str:
        """ "" when it is missing. Raises Refusal when it stands there twice."""
        values = self.all(name)
        if len(values) > 1:
            raise _bad(f"{name} stands there {len(values)} times")
        return values[0] if values else ""

    def elements(self, name: str) -> list[str]:
        """Of a comma-separated list, over all the lines it may take."""
        return [word for value in self.all(name) for part in value.split(",") if (word := part.strip(" \t"))]

    def tokens(self, name: str) -> list[str]:
        return [word.lower() for word in self.elements(name)]


def _bad(why: str) -> Refusal:
    return Refusal(HTTPStatus.BAD_REQUEST, f"{why}.")


def _is_key(key: str) -> bool:
    try:
        return len(key) == 24 and len(base64.b64decode(key, validate=True)) == 16
    except (binascii.Error, ValueError):
        return False


def _added(headers: Headers, *besides: str) -> list[tuple[str, str]]:
    """A handler's own headers. ValueError for those of the handshake itself."""
    added = list(headers)
    for name, _ in added:
        if name.lower() in OURS or name.lower() in besides:
            raise ValueError(f"header {name} belongs to the handshake")
    return added


def _head(first: str, headers: Headers) -> bytes:
    """ValueError for what would end a line, or is no name."""
    lines = [first]
    for name, value in headers:
        if not _TOKEN.fullmatch(name) or _CONTROL.search(value):
            raise ValueError(f"header {name!r} cannot be sent")
        lines.append(f"{name}: {value}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")
