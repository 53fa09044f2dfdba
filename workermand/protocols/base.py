"""The contract: bytes to messages and back. No sockets, no clock, no loop.

A Protocol object belongs to one connection. ``feed`` takes bytes as the network cut them and returns the messages that
are complete; how they were cut must not matter. ``encode`` makes the bytes of one outgoing message. A protocol never
touches a socket: what is wrong is a ProtocolError, whose ``messages`` are the good ones before it, and an end in good
order is an EndOfInput; what the protocol itself must answer waits in ``take_replies``.

Two bases do the usual work: Delimited (a line, a NUL, a CRLF ends a message) and LengthPrefixed (a binary length goes
before it). A subclass sets class attributes and, where messages are not bytes, overrides ``decode`` and ``encode``:

    class JsonLines(Delimited):
        name = "jsonlines"

        def decode(self, package):
            return json.loads(package)

        def encode(self, message):
            return json.dumps(message).encode() + b"\\n"

Speed: ``feed`` is called for every chunk and returns a list, because a generator costs seven times as much a message.
Memory: what is incomplete is kept once and searched once, however small the pieces it arrives in, and never beyond
``max_package``. Called by worker.connection and worker.datagram; registry.py finds the classes.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, NoReturn

from workermand.errors import CloseReason, ProtocolError

MAX_PACKAGE = 10 * 1024 * 1024
"""Bytes; Workerman's maxPackageSize. nginx takes bodies of 1 MiB, redis a bulk of 512 MiB."""
UNLIMITED = sys.maxsize


def as_bytes(message: Any) -> bytes:
    """``message`` as it goes over the wire: str in UTF-8, bytes as they are. TypeError for anything else.

    Lone surrogates that stand for broken UTF-8 ("surrogateescape") become the bytes they came from.
    """
    if isinstance(message, str):
        return message.encode("utf-8", "surrogateescape")
    if isinstance(message, bytes):
        return message
    if isinstance(message, (bytearray, memoryview)):
        return bytes(message)
    raise TypeError(f"a message must be str or bytes, not {type(message).__name__}")


class Protocol:
    """The contract, and the base of every protocol. Workerman: ProtocolInterface.

    ``max_package`` is the most that one message may take on the wire, in bytes, delimiter and header included; it may
    be assigned at any time, and 0 at construction means unlimited.
    """

    __slots__ = ("max_package",)

    name: ClassVar[str] = ""
    """The scheme, as status shows it."""
    replies: bool = False
    """True: ``take_replies`` must be asked after every feed."""
    has_deadlines: ClassVar[bool] = False
    """True: ``waits_for`` says what is unfinished, and the runtime bounds how long it may take."""
    moves: ClassVar[Literal["", "at once", "in turn"]] = ""
    """Whether a client can be told that this process is to be replaced, and when it then comes back. "": it cannot,
    and stays as long as it may."""
    upgrades: bool = False
    """True: a message may ask for another protocol, see worker/upgrade.py."""
    around: Callable[..., Any] | None = None
    """Not None: an async function through which on_message is called, ``around(on_message, connection, message)``."""
    tail: ClassVar[bytes | None] = None
    """Not None: a str goes out in UTF-8 with this behind it, so that send() need not ask ``encode`` (0.06 us each).
    A subclass with an ``encode`` of its own has none unless it says so."""
    stepwise: ClassVar[bool] = False
    """True: what comes next depends on what the handler did with the message before (it logged in, it swapped the
    protocol). feed then returns one message at most, and is called again with b"" until it returns none."""
    wants_more: bool | None = None
    """Of a message that its handler reads while it comes: whether more of it may come. None: there is no such message,
    and reading stops when too many wait."""
    cut_short: bool = False
    """True: the input has ended where the peer may still be sending, so that the connection must end lingering."""
    wants_connection: ClassVar[bool] = False
    """True: there is an attribute ``connection``, which the connection sets before the first feed or encode."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "encode" in vars(cls) and "tail" not in vars(cls):
            cls.tail = None

    def __init__(self, max_package: int = MAX_PACKAGE) -> None:
        self.max_package = max_package or UNLIMITED

    def feed(self, data: bytes) -> list[Any]:
        """The messages that ``data`` completes, in order; possibly none. ``data`` may be empty.

        Raises EndOfInput when no more input is wanted, its subclass ProtocolError when the peer broke the protocol;
        ``messages`` are the good ones before it. After that the object is not fed any more.
        """
        raise NotImplementedError

    def feed_eof(self) -> Sequence[Any]:
        """The peer sends no more: the messages that only this completes. Half of a message is dropped.

        May raise ProtocolError when an end just here is a violation.
        """
        return ()

    def encode(self, message: Any) -> bytes:
        """The bytes of one outgoing message. TypeError for what cannot be one."""
        return as_bytes(message)

    def lost(self) -> bool:
        """What ``encode`` gave last is not sent: the buffer was full. False: without it the rest makes no sense, and
        the connection has to end."""
        return True

    @property
    def buffered(self) -> int:
        """Bytes held of an unfinished message; 0 means: between two messages, a good moment to close."""
        return 0

    @property
    def owes(self) -> int:
        """Answers that the handler owes for messages it has got; while there are any, it is not between messages."""
        return 0

    @property
    def waits_for(self) -> str:
        """What of a message is incomplete, for the deadlines: "head", "body", or "" between messages, as for every
        protocol that has no deadlines."""
        return ""

    def wind_down(self) -> None:
        """The connection is to end after what is in hand: the protocol may tell the peer so with the next answer."""

    def answer_to(self, error: BaseException) -> Any:
        """What the peer is told when a handler found its message wrong, and raised ``error``; None when that is no
        such error, but the handler's own failure."""
        return None

    def farewell(self, reason: CloseReason) -> bytes:
        """The last words when we end the connection for ``reason``, once; b"" when there are none."""
        return b""

    @property
    def has_said_farewell(self) -> bool:
        """Such words are out already: a handler has sent them as a message."""
        return False

    def lose(self, reason: CloseReason) -> None:
        """The connection ends, and brings no more: for whoever waits for the rest of a message."""

    def take_replies(self) -> bytes:
        """What the protocol itself must answer (a pong, a 100-continue), once; b"" when there is nothing."""
        return b""

    def consume(self, length: int) -> None:
        """Drop the first ``length`` bytes of what is buffered: for protocols whose ``input`` looks at a connection."""
        raise TypeError(f"{self.name}: there is no buffer to consume from")

    def detach(self, undelivered: Sequence[Any] = (), data: bytes = b"") -> bytes:
        """Give up everything that is unconsumed: the bytes for the protocol that takes this one's place.

        ``undelivered`` are those messages of the last ``feed(data)`` that the handler has not seen (it has seen one or
        more): they become bytes again, before what is buffered. Here by ``encode``; a protocol whose encode is not the
        reverse of its decoding finds them in ``data`` (see text), or is stepwise, which leaves nothing undelivered.
        """
        return b"".join(map(self.encode, undelivered))


class Packaged(Protocol):
    """What Delimited and LengthPrefixed share: one unfinished package, and the way from packages to messages."""

    __slots__ = ("_held",)

    def __init__(self, max_package: int = MAX_PACKAGE) -> None:
        super().__init__(max_package)
        self._held: bytes | bytearray = b""

    def decode(self, package: bytes) -> Any:
        """One complete package, without delimiter or header, as the handler gets it. Override at will.

        An exception is taken as a violation: the peer sent what cannot be decoded.
        """
        return package

    def feed_eof(self) -> Sequence[Any]:
        self._held = b""
        return ()

    @property
    def buffered(self) -> int:
        return len(self._held)

    def detach(self, undelivered: Sequence[Any] = (), data: bytes = b"") -> bytes:
        held, self._held = bytes(self._held), b""
        return super().detach(undelivered, data) + held

    def _messages(self, packages: list[bytes]) -> list[Any]:
        if type(self).decode is Packaged.decode:
            return packages
        messages: list[Any] = []
        try:
            messages.extend(map(self.decode, packages))  # what was decoded before an exception stays in it
        except ProtocolError as error:
            error.messages = messages
            raise
        except Exception as error:
            raise ProtocolError(f"{self.name}: {type(error).__name__}: {error}", messages) from error
        return messages

    def _fail(self, why: str, good: list[bytes], close_reason: CloseReason = CloseReason.PROTOCOL_ERROR) -> NoReturn:
        """The packages before the violation are decoded first: one of them may be the real first violation."""
        self._held = b""
        raise ProtocolError(f"{self.name}: {why}", self._messages(good), close_reason=close_reason)

    def _too_big(self, good: list[bytes]) -> NoReturn:
        self._fail(f"package over the limit of {self.max_package} bytes", good, CloseReason.PACKAGE_TOO_BIG)


class Delimited(Packaged):
    """Every message ends with ``delimiter``, which it cannot contain."""

    __slots__ = ()

    delimiter: ClassVar[bytes] = b"\n"

    def feed(self, data: bytes) -> list[Any]:
        if self._held and not (data := self._join(data)):
            return []
        return self._split(data)

    def encode(self, message: Any) -> bytes:
        return as_bytes(message) + self.delimiter

    def _join(self, data: bytes) -> bytes:
        """What is held and ``data``, once they complete a message, else b"" (and all of it is held)."""
        held = self._held
        if isinstance(held, bytes):
            held = self._held = bytearray(held)
        # Only the new bytes are searched, and as many before them as may begin a delimiter cut in two.
        start = max(0, len(held) - len(self.delimiter) + 1)
        held += data
        if held.find(self.delimiter, start) >= 0:
            self._held = b""
            return bytes(held)
        if len(held) >= self.max_package:
            self._too_big([])
        return b""

    def _split(self, data: bytes) -> list[Any]:
        packages = data.split(self.delimiter)
        held = self._held = packages.pop()
        if len(data) >= self.max_package:
            longest = self.max_package - len(self.delimiter)
            for index, package in enumerate(packages):
                if len(package) > longest:
                    self._too_big(packages[:index])
            if len(held) >= self.max_package:
                self._too_big(packages)
        return self._messages(packages)


class LengthPrefixed(Packaged):
    """Before every message stands its length, a binary number."""

    __slots__ = ("_wanted",)

    header: ClassVar[struct.Struct] = struct.Struct(">I")
    """One unsigned integer."""
    counts_header: ClassVar[bool] = True
    """The length is that of header and body together, as in Workerman's frame; False: of the body alone."""

    def __init__(self, max_package: int = MAX_PACKAGE) -> None:
        super().__init__(max_package)
        self._wanted = self.header.size
        """Bytes that must be there before it is worth looking again."""

    def feed(self, data: bytes) -> list[Any]:
        if self._held and not (data := self._join(data)):
            return []
        unpack, size, limit = self.header.unpack_from, self.header.size, self.max_package
        beyond = 0 if self.counts_header else size
        packages: list[bytes] = []
        start, end = 0, len(data)
        wanted = size
        while (body := start + size) <= end:
            total = unpack(data, start)[0] + beyond
            if not size <= total <= limit:
                self._refuse(total, packages)
            if (stop := start + total) > end:
                wanted = total
                break
            packages.append(data[body:stop])
            start = stop
        self._wanted = wanted
        self._held = data[start:]
        return self._messages(packages)

    def encode(self, message: Any) -> bytes:
        body = as_bytes(message)
        return self.header.pack(len(body) + (self.header.size if self.counts_header else 0)) + body

    def _refuse(self, total: int, good: list[bytes]) -> NoReturn:
        if total > self.max_package:
            self._too_big(good)
        self._fail(f"length {total} is less than the header's own {self.header.size} bytes", good)

    def _join(self, data: bytes) -> bytes:
        """What is held and ``data``, once there is enough of it, else b"" (and all of it is held)."""
        held = self._held
        if isinstance(held, bytes):
            held = self._held = bytearray(held)
        held += data
        if len(held) < self._wanted:
            return b""
        self._held = b""
        return bytes(held)
