"""websocket: the frames of RFC 6455, for both roles; permessage-deflate in deflate.py, the upgrade in handshake.py.

A message is a str (a text frame) or bytes (a binary one). ``encode`` also takes Ping, Pong and Close, a Prepared
message that many connections get, and whatever JSON can say, which goes out as text.

The way of a chunk: ``feed`` takes what nearly every frame is, a short, whole, masked text, in one loop without a call
of our own; the first frame that is anything else, and all behind it, go through ``_parse``. Which first bytes may come
now is data, a frozenset: one between two messages, one within a fragmented message. A frame is looked at when it is
whole, its header before that: what is too long is refused before it is there. UTF-8 is checked fragment by fragment.

Control frames overtake the messages that are not delivered yet, unless a subclass, the runtime's, has
``on_control(messages, event)``: that delivers ``messages``, those before the event in this chunk, empties the list, and
answers a ping itself. Without it pings are answered by ``take_replies``. A Close ends the input: feed raises
EndOfInput, whose farewell is the Close that answers it.
"""

from __future__ import annotations

import codecs
import zlib
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Final, Literal, NoReturn

from workermand.errors import CloseReason, EndOfInput, ProtocolError
from workermand.protocols.base import MAX_PACKAGE, UNLIMITED, Protocol
from workermand.protocols.deflate import Codec, Terms, compress_afresh
from workermand.protocols.wsframe import (
    BINARY,
    CLOSE,
    FIN,
    MASKED,
    PING,
    PONG,
    RSV1,
    SHORT,
    TEXT,
    Close,
    CloseCode,
    Ping,
    Pong,
    Prepared,
    apply_mask,
    frame,
    may_be_sent,
    payload_of,
)

__all__ = ["BINARY_TYPE_ARRAYBUFFER", "BINARY_TYPE_BLOB", "Close", "CloseCode", "Ping", "Pong", "Prepared", "WebSocket"]

MAX_FRAGMENTS: Final = 1024
BINARY_TYPE_BLOB: Final = 0x81
"""For websocket_type: all goes out as text."""
BINARY_TYPE_ARRAYBUFFER: Final = 0x82
"""For websocket_type: all goes out as binary."""

LEAST_DEFLATED = 32
"""Bytes; what is shorter goes out as it is."""

CONTROL = frozenset({CLOSE, PING, PONG})
STARTING = CONTROL | {0x01, 0x02, TEXT, BINARY}
STARTING_DEFLATED = STARTING | {first | RSV1 for first in (0x01, 0x02, TEXT, BINARY)}
CONTINUING = CONTROL | {0x00, 0x80}

SPANS = (*[UNLIMITED] * 128, *range(6, 6 + SHORT), UNLIMITED, UNLIMITED)
"""By the second byte: how long a short masked frame is, mask and all. Any other is endless, and so left to _parse."""
TEXT_HEADS, BINARY_HEADS = (tuple(bytes((first, size)) for size in range(SHORT)) for first in (TEXT, BINARY))

CODES = {
    CloseReason.CLOSED: CloseCode.NORMAL,
    CloseReason.STOPPED: CloseCode.GOING_AWAY,
    CloseReason.IDLE: CloseCode.GOING_AWAY,
    CloseReason.PING_TIMEOUT: CloseCode.GOING_AWAY,
    CloseReason.PROTOCOL_ERROR: CloseCode.PROTOCOL_ERROR,
    CloseReason.PACKAGE_TOO_BIG: CloseCode.TOO_BIG,
    CloseReason.HANDLER_ERROR: CloseCode.INTERNAL_ERROR,
    CloseReason.RELOADED: CloseCode.RESTART,
    CloseReason.DRAINED: CloseCode.GOING_AWAY,
    CloseReason.DRAIN_DEADLINE: CloseCode.GOING_AWAY,
}
"""What we say when it is us who end it; for any other reason nothing."""


class Violation(Exception):
    """Ends the reading within this module; feed makes the ProtocolError of it."""

    def __init__(self, why: str, code: int = CloseCode.PROTOCOL_ERROR) -> None:
        super().__init__(why)
        self.code = code


class Unfinished:
    """A message of which fragments are to come."""

    __slots__ = ("count", "decode", "deflated", "parts", "size")

    def __init__(self, first: int) -> None:
        self.deflated = bool(first & RSV1)
        self.decode = codecs.getincrementaldecoder("utf-8")().decode if first & 0x0F == 1 else None
        self.parts: list[Any] = []
        self.count = self.size = 0
        """Fragments, and bytes in them once inflated."""

    def add(self, payload: bytes, last: bool) -> None:
        self.size += len(payload)
        self.parts.append(payload if self.decode is None else self.decode(payload, last))

    def join(self) -> str | bytes:
        return b"".join(self.parts) if self.decode is None else "".join(self.parts)


class WebSocket(Protocol):
    """One connection after its upgrade. Workerman: Websocket and, with ``client``, Ws.

    ``max_package``: bytes of a message, fragments joined and inflated. ``max_frame``: bytes of a frame's payload, 126
    or more; 0: no limit but that of the message. ``deflate``: the terms that the handshake came to, if any.
    """

    __slots__ = (
        "_allowed",
        "_close_sent",
        "_deflate",
        "_heads",
        "_held",
        "_mask_bit",
        "_plain",
        "_replies",
        "_short",
        "_type",
        "_unfinished",
        "_wanted",
        "client",
        "max_fragments",
        "max_frame",
    )

    name: ClassVar[str] = "websocket"
    moves: ClassVar[Literal["", "at once", "in turn"]] = "in turn"
    on_control: Callable[[list[Any], Ping | Pong | Close], object] | None = None
    """For a subclass."""

    def __init__(
        self,
        max_package: int = MAX_PACKAGE,
        *,
        client: bool = False,
        deflate: Terms | None = None,
        max_frame: int = 0,
        max_fragments: int = MAX_FRAGMENTS,
    ) -> None:
        super().__init__(max_package)
        self.client = client
        self.max_frame = max(max_frame, SHORT) if max_frame else UNLIMITED
        self.max_fragments = max_fragments
        self._deflate = Codec(deflate) if deflate else None
        self._mask_bit = 0 if client else MASKED
        self._held: bytes | bytearray = b""
        self._wanted = 0
        """Bytes that must be held before it is worth looking again."""
        self._unfinished: Unfinished | None = None
        self._replies = b""
        self._close_sent = False
        self._type: int | None = None
        self._heads = TEXT_HEADS
        """Of short frames that hold a str."""
        self._short = 0 if client or deflate else SHORT
        self._expect_start()

    def _expect_start(self) -> None:
        self._allowed = STARTING if self._deflate is None else STARTING_DEFLATED
        self._plain = -1 if self.client else TEXT
        """The first byte of a frame that feed takes itself."""

    # ------------------------------------------------------------------ in

    def feed(self, data: bytes) -> list[Any]:
        if self._held and not (data := self._join(data)):
            return []
        messages: list[Any] = []
        start, end = 0, len(data)
        plain = self._plain if self.max_package >= SHORT else -1
        try:
            while (
                (body := start + 6) <= end
                and data[start] == plain
                and (stop := start + SPANS[data[start + 1]]) <= end
            ):  # fmt: skip
                messages.append(apply_mask(data[body:stop], data[start + 2 : body]).decode())
                start = stop
            if start < end:
                self._parse(data, start, messages)
        except UnicodeDecodeError:
            self._fail(CloseCode.INVALID_DATA, "text that is not UTF-8", messages)
        except Violation as violation:
            self._fail(violation.code, str(violation), messages)
        return messages

    def _join(self, data: bytes) -> bytes:
        """What is held and ``data``, once there is enough of it, else b"" (and all of it is held)."""
        held = self._held
        if isinstance(held, bytes):
            held = self._held = bytearray(held)
        held += data
        if len(held) < self._wanted:
            return b""
        self._held = b""
        return held  # type: ignore[return-value]  # read as bytes are, and not copied

    def _parse(self, data: bytes, start: int, messages: list[Any]) -> None:
        """Every kind of frame."""
        end, wanted = len(data), 2
        while start + wanted <= end:
            first, second = data[start], data[start + 1]
            mask, size = start + 2, second & 0x7F
            if size >= SHORT and first in self._allowed and first not in CONTROL:
                mask += 2 if size == SHORT else 8
                if mask > end:
                    self._check(first, second, SHORT)
                    wanted = mask - start
                    break
                size = _long(data, start, mask)
            self._check(first, second, size)
            body = mask + 4 if second & MASKED else mask
            stop = body + size
            if stop > end:
                wanted = stop - start
                break
            payload = memoryview(data)[body:stop] if size > 0xFFFF else data[body:stop]
            payload = apply_mask(payload, data[mask:body]) if second & MASKED else bytes(payload)
            start = stop
            if first == TEXT:
                messages.append(payload.decode())
            elif first == BINARY:
                messages.append(payload)
            elif first in CONTROL:
                self._control(first, payload, messages)
            else:
                self._fragment(first, payload, messages)
        self._wanted = wanted
        self._held = data[start:]

    def _check(self, first: int, second: int, size: int) -> None:
        """The header: may this frame come, and now?"""
        if first not in self._allowed:
            raise Violation(_why_not(first, within=self._unfinished is not None))
        if second & MASKED != self._mask_bit:
            raise Violation("masked frame from a server" if self.client else "frame without a mask")
        if size < SHORT and size <= self.max_package:
            return
        if first in CONTROL and size >= SHORT:
            raise Violation("control frame of more than 125 bytes")
        if size > self.max_frame:
            raise Violation(f"frame over the limit of {self.max_frame} bytes", CloseCode.TOO_BIG)
        before = self._unfinished.size if self._unfinished is not None else 0
        if first not in CONTROL and before + size > self.max_package:
            self._too_big()

    def _fragment(self, first: int, payload: bytes, messages: list[Any]) -> None:
        """A frame that is not a whole message, or deflated."""
        message = self._unfinished
        if message is None:
            message = self._unfinished = Unfinished(first)
            self._allowed, self._plain = CONTINUING, -1
        message.count += 1
        if message.count > self.max_fragments:
            raise Violation(f"message of more than {self.max_fragments} fragments", CloseCode.TOO_BIG)
        last = first >= FIN
        if message.deflated:
            payload = self._inflate(payload, last, message.size)
        message.add(payload, last)
        if message.size > self.max_package:
            self._too_big()
        if last:
            self._unfinished = None
            self._expect_start()
            messages.append(message.join())

    def _inflate(self, payload: bytes, last: bool, before: int) -> bytes:
        assert self._deflate is not None
        room = min(self.max_package - before, UNLIMITED - 1)
        try:
            inflated = self._deflate.inflate(payload, last=last, room=room)
        except zlib.error as error:
            raise Violation("data that cannot be inflated", CloseCode.INVALID_DATA) from error
        if len(inflated) > room:
            self._too_big()
        return inflated

    def _control(self, first: int, payload: bytes, messages: list[Any]) -> None:
        if first == CLOSE:
            self._closed(payload, messages)
        elif self.on_control is not None:
            self.on_control(messages, Ping(payload) if first == PING else Pong(payload))
        elif first == PING and not self._close_sent:
            self._replies += self._frame(PONG, payload)

    def _closed(self, payload: bytes, messages: list[Any]) -> NoReturn:
        code = int.from_bytes(payload[:2]) if payload else CloseCode.NO_CODE
        if payload and not (len(payload) > 1 and may_be_sent(code)):
            raise Violation("Close frame whose code cannot be")
        close = Close(code, payload[2:].decode())
        if self.on_control is not None:
            self.on_control(messages, close)
        raise EndOfInput(
            f"websocket: closed by the peer: {code} {close.reason}".rstrip(),
            messages,
            close_reason=CloseReason.WEBSOCKET_CLOSED,
            farewell=self._close(payload),
        )

    def _too_big(self) -> NoReturn:
        raise Violation(f"message over the limit of {self.max_package} bytes", CloseCode.TOO_BIG)

    def _fail(self, code: int, why: str, messages: list[Any]) -> NoReturn:
        self._unfinished = None
        reason = CloseReason.PACKAGE_TOO_BIG if code == CloseCode.TOO_BIG else CloseReason.PROTOCOL_ERROR
        farewell = self._close(Close(code, why).payload)
        raise ProtocolError(f"websocket: {why}", messages, close_reason=reason, farewell=farewell)

    def feed_eof(self) -> Sequence[Any]:
        self._held, self._unfinished = b"", None
        return ()

    @property
    def replies(self) -> bool:  # type: ignore[override]
        return self.on_control is None

    @property
    def buffered(self) -> int:
        return len(self._held) + (max(1, self._unfinished.size) if self._unfinished is not None else 0)

    def take_replies(self) -> bytes:
        replies, self._replies = self._replies, b""
        return replies

    def detach(self, undelivered: Sequence[Any] = (), data: bytes = b"") -> bytes:
        """Undelivered messages become frames of the peer's again."""
        held, self._held, self._unfinished = bytes(self._held), b"", None
        again = [frame(TEXT if text else BINARY, one, not self.client) for one, text in map(payload_of, undelivered)]
        return b"".join([*again, held])

    # ------------------------------------------------------------------ out

    def encode(self, message: Any) -> bytes:
        """ValueError for a str, or with BINARY_TYPE_BLOB for bytes, that is not Unicode text; TypeError for what JSON
        cannot say."""
        if isinstance(message, str):
            payload = message.encode()
            size = len(payload)
            if size < self._short:
                return self._heads[size] + payload
            return self._whole(payload, text=True)
        if isinstance(message, bytes):
            return self._whole(message, text=False)
        if isinstance(message, Prepared):
            return self._prepared(message)
        if isinstance(message, (Ping, Pong)):
            return self._frame(PING if isinstance(message, Ping) else PONG, message.data)
        if isinstance(message, Close):
            return self._close(message.payload)
        payload, text = payload_of(message)
        return self._whole(payload, text)

    @property
    def websocket_type(self) -> int | None:
        """None: a str is text, bytes are binary. Else everything goes out as BINARY_TYPE_BLOB (text) or as
        BINARY_TYPE_ARRAYBUFFER (binary). Workerman: websocketType, where BLOB is what it begins with."""
        return self._type

    @websocket_type.setter
    def websocket_type(self, which: int | None) -> None:
        check_type(which)
        self._type = which
        self._heads = BINARY_HEADS if which == BINARY_TYPE_ARRAYBUFFER else TEXT_HEADS

    def farewell(self, reason: CloseReason) -> bytes:
        code = CODES.get(reason)
        return self._close(Close(code, str(reason)).payload) if code is not None else b""

    @property
    def has_said_farewell(self) -> bool:
        return self._close_sent

    def lost(self) -> bool:
        """The peer's window does not have what our compressor may refer to."""
        if self._deflate is not None:
            self._deflate.forget()
        return True

    def _close(self, payload: bytes) -> bytes:
        """The one Close frame that a side may send."""
        if self._close_sent:
            return b""
        closing = self._frame(CLOSE, payload)
        self._close_sent = True
        return closing

    def _whole(self, payload: bytes, text: bool) -> bytes:
        first = self._first(payload, text)
        if self._deflate is not None and len(payload) >= LEAST_DEFLATED:
            return frame(first | RSV1, self._deflate.compress(payload), self.client)
        return frame(first, payload, self.client)

    def _first(self, payload: bytes, text: bool) -> int:
        if self._type is None:
            return TEXT if text else BINARY
        if self._type == BINARY_TYPE_BLOB and not text:
            payload.decode()  # a text frame of anything else would break the peer
        return self._type

    def _prepared(self, message: Prepared) -> bytes:
        if self.client:  # each of its frames has a mask of its own
            return self._whole(message.payload, message.text)
        codec = self._deflate if len(message.payload) >= LEAST_DEFLATED else None
        key = self._type, codec.terms.bits if codec is not None else 0
        ready = message.frames.get(key)
        if ready is None:
            first = self._first(message.payload, message.text)
            if codec is None:
                ready = frame(first, message.payload)
            else:
                ready = frame(first | RSV1, compress_afresh(message.payload, codec.terms))
            message.frames[key] = ready
        if codec is not None:
            codec.forget()
        return ready

    def _frame(self, first: int, payload: bytes) -> bytes:
        """A control frame."""
        if len(payload) >= SHORT:
            raise ValueError("a Ping or Pong holds 125 bytes at most, the reason of a Close 123")
        return frame(first, payload, self.client)


def check_type(which: int | None) -> None:
    """Raises ValueError for what is no websocket_type."""
    if which not in (None, BINARY_TYPE_BLOB, BINARY_TYPE_ARRAYBUFFER):
        raise ValueError("websocket_type must be BINARY_TYPE_BLOB, BINARY_TYPE_ARRAYBUFFER or None")


def _long(data: bytes, start: int, end: int) -> int:
    """The length in the 2 or 8 bytes behind the first two; the shortest form is the only one (RFC 6455 5.2)."""
    size = int.from_bytes(data[start + 2 : end])
    if size < (SHORT if end - start == 4 else 0x10000):
        raise Violation("length in more bytes than it needs")
    if size >> 63:
        raise Violation("length with its highest bit set")
    return size


def _why_not(first: int, within: bool) -> str:
    opcode = first & 0x0F
    if first & 0x70:
        return "reserved bit set"
    if opcode not in (0, 1, 2, 8, 9, 10):
        return f"unknown opcode {opcode}"
    if opcode >= 8:
        return "fragmented control frame"
    return "message within a fragmented message" if within else "continuation of no message"
