"""permessage-deflate (RFC 7692): what two ends agree on, and the two streams that follow from it.

``Deflate`` is what one end wants, in the words of the RFC's parameters. A server picks from a client's offers
(``accept``); a client makes one (``offer``) and holds the server to it (``confirm``); both ends then have the ``Terms``
of their connection, from which a ``Codec`` is made. A Codec never inflates beyond the room it is given: 1 MiB can stand
for 1 GiB. Called by handshake.py and websocket.py.

Memory, by zlib's own account: a window of 12 bits with memory level 5 takes 32 KiB to compress, 15 bits with level 8
take 256 KiB; inflating takes the window and 10 KiB. Without context takeover nothing is kept between two messages.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from typing import Final

import msgspec

NAME: Final = "permessage-deflate"
TAIL: Final = b"\x00\x00\xff\xff"
"""The end of a sync flush, which does not travel (RFC 7692 7.2.1)."""
WIDEST: Final = 15
"""Window bits where nothing else is agreed on."""
FINAL_BLOCKS: Final = 8
"""So many streams may end within one frame. One is what a flush by a final block makes (7.2.3.4)."""

Parameters = list[tuple[str, str | None]]
Extension = tuple[str, Parameters]

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_S = r"[ \t]*+"
_EXTENSION = re.compile(rf'{_S}(?:({_TOKEN})((?:{_S};{_S}{_TOKEN}(?:{_S}={_S}(?:{_TOKEN}|"{_TOKEN}"))?)*))?{_S}(?:,|$)')
_PARAMETER = re.compile(rf';{_S}({_TOKEN})(?:{_S}={_S}"?({_TOKEN})"?)?')
_BITS = re.compile(r"[89]|1[0-5]")


class Deflate(msgspec.Struct, frozen=True):
    """What this end wants. Windows are in bits, 9 to 15: zlib cannot compress with 8."""

    server_takeover: bool = True
    """The server's compressor remembers the messages before: smaller, at the cost of memory per connection."""
    client_takeover: bool = True
    server_bits: int = 12
    client_bits: int = 12
    """A client that cannot limit its window keeps 15."""
    level: int = 6
    memory_level: int = 5


class Terms(msgspec.Struct, frozen=True):
    """What is agreed on, as one of the two ends sees it."""

    bits: int
    """Our compressor's window."""
    takeover: bool
    """Our compressor remembers."""
    peer_bits: int
    peer_takeover: bool
    level: int
    memory_level: int
    answer: str = ""
    """A server's: its Sec-WebSocket-Extensions."""


def parse(values: Iterable[str]) -> list[Extension]:
    """The elements of Sec-WebSocket-Extensions headers, in order. ValueError for what is not its grammar."""
    extensions = []
    for value in values:
        position = 0
        while position < len(value):
            match = _EXTENSION.match(value, position)
            if match is None:
                raise ValueError("malformed Sec-WebSocket-Extensions")
            if match[1]:  # between two commas there may be nothing
                parameters: Parameters = [(name, given or None) for name, given in _PARAMETER.findall(match[2])]
                extensions.append((match[1], parameters))
            position = match.end()
    return extensions


def accept(offers: Iterable[Extension], wanted: Deflate) -> Terms | None:
    """A server: the terms of the first offer that can be met; None when there is none."""
    for name, parameters in offers:
        if name == NAME and (terms := _accept(parameters, wanted)) is not None:
            return terms
    return None


def _accept(parameters: Parameters, wanted: Deflate) -> Terms | None:
    given = _read(parameters)
    if given is None or given.get("server_max_window_bits", WIDEST) in (8, None):
        return None
    bits = min(wanted.server_bits, given.get("server_max_window_bits") or WIDEST)
    takeover = wanted.server_takeover and "server_no_context_takeover" not in given
    peer_takeover = wanted.client_takeover and "client_no_context_takeover" not in given
    answer = NAME
    if not takeover:
        answer += "; server_no_context_takeover"
    if not peer_takeover:
        answer += "; client_no_context_takeover"
    if bits < WIDEST or "server_max_window_bits" in given:
        answer += f"; server_max_window_bits={bits}"
    peer_bits = WIDEST
    if "client_max_window_bits" in given:  # a client that does not say it understands this is not asked for it
        peer_bits = min(wanted.client_bits, given["client_max_window_bits"] or WIDEST)
        answer += f"; client_max_window_bits={peer_bits}"
    return Terms(bits, takeover, peer_bits, peer_takeover, wanted.level, wanted.memory_level, answer)


def offer(wanted: Deflate) -> str:
    """A client: its Sec-WebSocket-Extensions."""
    words = [NAME]
    if not wanted.server_takeover:
        words.append("server_no_context_takeover")
    if not wanted.client_takeover:
        words.append("client_no_context_takeover")
    if wanted.server_bits < WIDEST:
        words.append(f"server_max_window_bits={wanted.server_bits}")
    words.append("client_max_window_bits" + (f"={wanted.client_bits}" if wanted.client_bits < WIDEST else ""))
    return "; ".join(words)


def confirm(answers: list[Extension], wanted: Deflate | None) -> Terms | None:
    """A client: the terms in the server's answer, None when it declined. ValueError for what was not offered."""
    if not answers:
        return None
    if wanted is None or len(answers) > 1 or answers[0][0] != NAME:
        raise ValueError(f"extension that was not offered: {', '.join(name for name, _ in answers)}")
    given = _read(answers[0][1])
    if given is None:
        raise ValueError(f"parameters of {NAME} that cannot be")
    peer_bits = given.get("server_max_window_bits", WIDEST)
    own_bits = given.get("client_max_window_bits", WIDEST)
    if peer_bits is None or peer_bits > wanted.server_bits:
        raise ValueError("server_max_window_bits beyond what was asked for")
    if own_bits is None or own_bits == 8:
        raise ValueError("client_max_window_bits that cannot be met")
    peer_takeover = "server_no_context_takeover" not in given
    if peer_takeover and not wanted.server_takeover:
        raise ValueError("server_no_context_takeover was asked for and not granted")
    takeover = wanted.client_takeover and "client_no_context_takeover" not in given
    # Some servers answer 15, whatever was offered. A window that is narrower than allowed does no harm.
    bits = min(own_bits, wanted.client_bits)
    return Terms(bits, takeover, peer_bits, peer_takeover, wanted.level, wanted.memory_level)


def _read(parameters: Parameters) -> dict[str, int | None] | None:
    """By name, the bits as numbers; None when one is unknown, stands twice or has a value that cannot be (7.1)."""
    given: dict[str, int | None] = {}
    for name, value in parameters:
        if name in given:
            return None
        if name in ("server_no_context_takeover", "client_no_context_takeover"):
            if value is not None:
                return None
            given[name] = None
        elif name in ("server_max_window_bits", "client_max_window_bits"):
            if value is not None and not _BITS.fullmatch(value):
                return None
            given[name] = int(value) if value is not None else None
        else:
            return None
    return given


class Codec:
    """The two streams of one connection. What is not remembered is not kept."""

    __slots__ = ("_compressor", "_inflater", "terms")

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self._compressor: zlib._Compress | None = None
        self._inflater: zlib._Decompress | None = None

    def compress(self, payload: bytes) -> bytes:
        """One message."""
        compressor = self._compressor or _compressor(self.terms)
        if self.terms.takeover:
            self._compressor = compressor
        return _flushed(compressor, payload)

    def forget(self) -> None:
        """Our next message begins afresh. Always allowed: the peer's window only has more in it than is referred to."""
        self._compressor = None

    def inflate(self, payload: bytes, *, last: bool, room: int) -> bytes:
        """One fragment, the ``last`` of its message or not. More than ``room`` bytes, by one, come out when there
        would be more. Raises zlib.error for what is not deflated."""
        inflater = self._inflater or zlib.decompressobj(-self.terms.peer_bits)
        if last:
            payload += TAIL
        inflated = inflater.decompress(payload, room + 1)
        ends = 0
        while inflater.eof and len(inflated) <= room:
            if (ends := ends + 1) > FINAL_BLOCKS:
                raise zlib.error("too many final blocks")
            payload = inflater.unused_data
            inflater = zlib.decompressobj(-self.terms.peer_bits)
            if payload != TAIL:
                inflated += inflater.decompress(payload, room + 1 - len(inflated))
        self._inflater = inflater if self.terms.peer_takeover or not last else None
        return inflated


def compress_afresh(payload: bytes, terms: Terms) -> bytes:
    """A message for every peer with a window of ``terms.bits`` or more; their Codecs must ``forget``."""
    return _flushed(_compressor(terms), payload)


def _compressor(terms: Terms) -> zlib._Compress:
    return zlib.compressobj(terms.level, zlib.DEFLATED, -terms.bits, terms.memory_level)


def _flushed(compressor: zlib._Compress, payload: bytes) -> bytes:
    if not payload:
        return b"\x00"  # 7.2.3.6; a second flush in a row gives nothing at all
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[: -len(TAIL)]
