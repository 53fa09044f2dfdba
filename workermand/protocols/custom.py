"""Protocols of the user's own that are not subclasses of Protocol: two shapes, each turned into one here.

Workerman's three functions, static, of the class, or of an object that is made for every connection:

    input(buffer, connection) -> int     0: more bytes are needed; > 0: the length of the first package, which may be
                                         more than there is yet; < 0: the peer broke the protocol
    decode(package, connection) -> Any   what on_message gets
    encode(message, connection) -> bytes what goes out; str is sent as UTF-8, "" and b"" send nothing

``buffer`` is bytes and begins with the package; it may be shorter than what has arrived, as after any cut. Unlike in
Workerman every package is decoded (no cache by content), and a buffer whose length stays unknown is bounded.

Or ``feed(data) -> list`` and ``encode(message) -> bytes`` alone; whatever else of Protocol is there is used.

registry.py calls ``adapt`` once per class, in the child. An exception in ``input``, ``decode`` or ``feed`` means that
the peer's bytes could not be read: a ProtocolError, the exception its cause.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, ClassVar

from workermand.errors import CloseReason, LoadError, ProtocolError
from workermand.protocols.base import MAX_PACKAGE, Protocol, as_bytes

WINDOW = 4096
"""Bytes that ``input`` sees at first: with the whole buffer, a chunk of small packages would be copied for each."""

THREE_FUNCTIONS = {"input": "buffer, connection", "decode": "package, connection", "encode": "message, connection"}
FEED_AND_ENCODE = {"feed": "data", "encode": "message"}


def adapt(cls: Any, name: str) -> type[Protocol]:
    """A Protocol class for ``cls``, shown as ``name``. LoadError says what is missing or misshapen."""
    if not isinstance(cls, type):
        raise LoadError(f"protocol {name}: {cls!r} is not a class")
    shape = FEED_AND_ENCODE if hasattr(cls, "feed") else THREE_FUNCTIONS
    if missing := [function for function in shape if not hasattr(cls, function)]:
        wanted = "input, decode and encode, or feed and encode"
        raise LoadError(f"protocol {name}: {cls.__name__} has no {' and no '.join(missing)}; a protocol has {wanted}")
    try:
        adapted = cls if issubclass(cls, Protocol) else _adapted(cls, name, shape is FEED_AND_ENCODE)
        adapted(MAX_PACKAGE)
    except Exception as error:
        raise LoadError(f"protocol {name}: {cls.__name__} cannot be made: {type(error).__name__}: {error}") from error
    for function, arguments in shape.items():
        _check(cls, function, arguments, name)
    return adapted


def _adapted(cls: Any, name: str, feeds: bool) -> type[Protocol]:
    if not feeds:
        return type(cls.__name__, (ThreeFunctions,), {"__slots__": (), "name": name, "made_of": cls})

    def construct(self: Any, max_package: int = MAX_PACKAGE) -> None:
        cls.__init__(self)
        Protocol.__init__(self, max_package)

    # What the class lacks of the contract it inherits.
    return type(cls.__name__, (cls, Protocol), {"__init__": construct, "name": name})


def _check(cls: type, function: str, arguments: str, name: str) -> None:
    member = inspect.getattr_static(cls, function)
    method = getattr(cls, function)
    bound = isinstance(member, (staticmethod, classmethod))
    try:
        inspect.signature(method).bind(*[None] * (len(arguments.split(",")) + (not bound)))
    except TypeError:
        raise LoadError(f"protocol {name}: it must be {cls.__name__}.{function}({arguments})") from None
    if inspect.isgeneratorfunction(method) or inspect.iscoroutinefunction(method):
        raise LoadError(f"protocol {name}: {cls.__name__}.{function} must return its result, neither yield nor await")


class ThreeFunctions(Protocol):
    """Workerman's input, decode, encode. Stepwise: a package may be read by what its forerunner changed."""

    __slots__ = ("_buffer", "_decode", "_encode", "_input", "_length", "connection")

    stepwise: ClassVar[bool] = True
    wants_connection: ClassVar[bool] = True
    made_of: ClassVar[type[Any]]

    def __init__(self, max_package: int = MAX_PACKAGE) -> None:
        super().__init__(max_package)
        functions = self.made_of()
        self._input = functions.input
        self._decode = functions.decode
        self._encode = functions.encode
        self._buffer = bytearray()
        self._length = 0
        """Of the first package in the buffer; 0: not known yet."""
        self.connection: Any = None

    def feed(self, data: bytes) -> list[Any]:
        buffer = self._buffer
        buffer += data
        if not buffer:
            return []
        length = self._length or self._measure()
        if not length or length > len(buffer):
            self._length = length
            return []
        self._length = 0
        package = bytes(memoryview(buffer)[:length])
        del buffer[:length]
        try:
            return [self._decode(package, self.connection)]
        except ProtocolError:
            raise
        except Exception as error:
            raise ProtocolError(f"{self.name}: decode: {type(error).__name__}: {error}") from error

    def encode(self, message: Any) -> bytes:
        return as_bytes(self._encode(message, self.connection))

    @property
    def buffered(self) -> int:
        return len(self._buffer)

    def consume(self, length: int) -> None:
        del self._buffer[:length]

    def feed_eof(self) -> Sequence[Any]:
        self.detach()
        return ()

    def detach(self, undelivered: Sequence[Any] = (), data: bytes = b"") -> bytes:
        buffered = bytes(self._buffer)
        self._buffer.clear()
        self._length = 0
        return buffered

    def _measure(self) -> int:
        """The length of the first package, 0 while it is unknown."""
        length = self._ask_input()
        if length < 0:
            raise ProtocolError(f"{self.name}: refused by input")
        if length > self.max_package or (not length and len(self._buffer) >= self.max_package):
            reason = f"{self.name}: package over the limit of {self.max_package} bytes"
            raise ProtocolError(reason, close_reason=CloseReason.PACKAGE_TOO_BIG)
        return length

    def _ask_input(self) -> int:
        buffer, window = self._buffer, WINDOW
        try:
            while not (length := self._input(bytes(memoryview(buffer)[:window]), self.connection)):
                if window >= len(buffer):
                    return 0
                window *= 2
            return int(length)
        except ProtocolError:
            raise
        except Exception as error:
            raise ProtocolError(f"{self.name}: input: {type(error).__name__}: {error}") from error
