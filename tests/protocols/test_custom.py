"""Protocols of the user's own: the three functions in every shape, one step at a time, and what is refused at load."""

from __future__ import annotations

import json
from typing import Any

import pytest

from workermand.errors import CloseReason, LoadError, ProtocolError
from workermand.protocols.base import MAX_PACKAGE, Delimited, Protocol
from workermand.protocols.custom import WINDOW, ThreeFunctions, adapt
from workermand.protocols.text import Text
from workermand.testing import Case, check_protocol, feed_all


class Lines:
    """As in the manual: static functions."""

    @staticmethod
    def input(buffer: bytes, connection: Any) -> int:
        return buffer.find(b"\n") + 1

    @staticmethod
    def decode(package: bytes, connection: Any) -> Any:
        return json.loads(package)

    @staticmethod
    def encode(message: Any, connection: Any) -> str:
        return json.dumps(message) + "\n"


class OfTheClass(Lines):
    @classmethod
    def input(cls, buffer: bytes, connection: Any) -> int:
        return buffer.find(b"\n") + 1


class Counting:
    """An object for every connection, whose decode depends on what came before."""

    def __init__(self) -> None:
        self.count = 0

    def input(self, buffer: bytes, connection: Any) -> int:
        return 2 if len(buffer) > 1 and buffer[0] == 0 else -1 if buffer and buffer[0] else 0

    def decode(self, package: bytes, connection: Any) -> tuple[int, bytes]:
        self.count += 1
        return self.count, package[1:]

    def encode(self, message: Any, connection: Any) -> bytes:
        return b"\x00" + bytes(message[1])


class Sized:
    """input knows the length long before the package is there."""

    @staticmethod
    def input(buffer: bytes, connection: Any) -> int:
        return int(buffer[:6]) if len(buffer) >= 6 else 0

    @staticmethod
    def decode(package: bytes, connection: Any) -> bytes:
        return package[6:]

    @staticmethod
    def encode(message: bytes, connection: Any) -> bytes:
        return b"%06d" % (len(message) + 6) + message


def make(cls: Any, limit: int = MAX_PACKAGE) -> Protocol:
    return adapt(cls, "mine")(limit)


# ------------------------------------------------------------------------------------------------ three functions


@pytest.mark.parametrize("cls", [Lines, OfTheClass])
def test_three_functions_however_they_are_cut(cls: type) -> None:
    cases: list[Case] = [
        (b'{"a": 1}\n', [{"a": 1}]),
        (b"1\n2\n3\n", [1, 2, 3]),
        (b'"%s"\n' % (b"x" * 9000), ["x" * 9000]),
    ]
    check_protocol(lambda: make(cls), cases, violations=[b"nonsense\n", b"nonsense\n7\n"])


def test_a_negative_length_refuses_and_every_package_is_decoded() -> None:
    cases = [(b"\x00a\x00a\x00a", [(1, b"a"), (2, b"a"), (3, b"a")])]
    check_protocol(lambda: make(Counting), cases, violations=[b"\x01", b"\x02x"], round_trip=False)


def test_the_length_may_exceed_what_is_there() -> None:
    wire = b"000010abcd" + b"000006" + b"012006" + b"y" * 12000
    check_protocol(lambda: make(Sized), [(wire, [b"abcd", b"", b"y" * 12000])], violations=[b"12345x", b"-00001"])


def test_the_reason_names_the_function_and_keeps_the_cause() -> None:
    with pytest.raises(ProtocolError, match=r"^mine: decode: JSONDecodeError: ") as failure:
        feed_all(make(Lines), b"1\n}\n")
    assert failure.value.messages == [1]
    assert isinstance(failure.value.__cause__, json.JSONDecodeError)
    with pytest.raises(ProtocolError, match=r"^mine: input: ValueError: ") as failure:
        make(Sized).feed(b"abcdef")
    assert isinstance(failure.value.__cause__, ValueError)
    with pytest.raises(ProtocolError, match=r"^mine: refused by input$"):
        make(Counting).feed(b"\x01")


def test_the_functions_may_raise_the_protocol_error_themselves() -> None:
    class Strict(Lines):
        @staticmethod
        def input(buffer: bytes, connection: Any) -> int:
            raise ProtocolError("my own words")

    with pytest.raises(ProtocolError, match=r"^my own words$"):
        make(Strict).feed(b"x")

    class Strict2(Lines):
        @staticmethod
        def decode(package: bytes, connection: Any) -> Any:
            raise ProtocolError("my own words")

    with pytest.raises(ProtocolError, match=r"^my own words$"):
        make(Strict2).feed(b"x\n")


@pytest.mark.parametrize("wire", [b"000011abcde", b"000011", b"x" * 10])
def test_a_length_over_the_limit_and_one_that_stays_unknown(wire: bytes) -> None:
    protocol = make(Lines if wire[:1] == b"x" else Sized, 10)
    assert feed_all(make(Sized, 10), b"000010abcd") == [b"abcd"]
    with pytest.raises(ProtocolError, match="mine: package over the limit of 10 bytes") as failure:
        protocol.feed(wire)
    assert failure.value.close_reason is CloseReason.PACKAGE_TOO_BIG


def test_it_is_one_step_at_a_time_for_the_next_may_depend_on_the_handler() -> None:
    protocol = make(Lines)
    assert protocol.stepwise
    assert protocol.feed(b"1\n2\n3") == [1]
    assert protocol.buffered == 3
    assert protocol.detach() == b"2\n3"
    assert protocol.feed(b"4\n") == [4]
    assert protocol.feed(b"") == []


def test_input_sees_a_window_that_grows() -> None:
    seen: list[int] = []

    class Watched(Lines):
        @staticmethod
        def input(buffer: bytes, connection: Any) -> int:
            seen.append(len(buffer))
            assert type(buffer) is bytes
            return buffer.find(b"\n") + 1

    assert feed_all(make(Watched), b"1\n" * 5000) == [1] * 5000
    assert max(seen) == WINDOW
    seen.clear()
    assert feed_all(make(Watched), b"[%s]\n" % (b" " * 3 * WINDOW)) == [[]]
    assert seen == [WINDOW, 2 * WINDOW, 3 * WINDOW + 3]


def test_the_functions_get_the_connection() -> None:
    class Asking(Lines):
        @staticmethod
        def decode(package: bytes, connection: Any) -> Any:
            return connection, package

        @staticmethod
        def encode(message: Any, connection: Any) -> str:
            return f"{connection} {message}"

    protocol: Any = make(Asking)
    assert protocol.wants_connection
    assert protocol.feed(b"a\n") == [(None, b"a\n")]
    protocol.connection = 7
    assert protocol.feed(b"a\n") == [(7, b"a\n")]
    assert protocol.encode("x") == b"7 x"


def test_encode_may_return_str_and_nothing() -> None:
    assert make(Lines).encode("grüße") == b'"gr\\u00fc\\u00dfe"\n'
    assert make(Counting).encode((0, b"")) == b"\x00"

    class Silent(Lines):
        @staticmethod
        def encode(message: Any, connection: Any) -> str:
            return ""

    assert make(Silent).encode("x") == b""


def test_what_input_has_seen_may_be_consumed() -> None:
    protocol = adapt(Lines, "lines")()
    assert protocol.feed(b'junk"yes') == []
    protocol.consume(4)
    assert (protocol.buffered, protocol.feed(b'"\n')) == (4, ["yes"])


def test_half_a_package_is_dropped_at_the_end() -> None:
    protocol = make(Lines)
    protocol.feed(b"12")
    assert protocol.feed_eof() == ()
    assert protocol.buffered == 0


def test_it_costs_no_dict() -> None:
    assert not hasattr(make(Lines), "__dict__")


# ------------------------------------------------------------------------------------------------ feed and encode


class Semicolons:
    """No base class, a constructor without arguments."""

    def __init__(self) -> None:
        self.rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        *words, self.rest = (self.rest + data).split(b";")
        if b"bad" in words:
            raise ProtocolError("bad word", words[: words.index(b"bad")])
        return words

    def encode(self, message: bytes) -> bytes:
        return message + b";"


def test_feed_and_encode_are_enough() -> None:
    protocol = make(Semicolons, 77)
    assert isinstance(protocol, Protocol)
    assert (protocol.name, protocol.max_package, protocol.stepwise) == ("mine", 77, False)
    assert feed_all(protocol, b"a;b", b"c;", b"d") == [b"a", b"bc"]
    assert protocol.encode(b"x") == b"x;"
    assert protocol.feed_eof() == ()
    with pytest.raises(ProtocolError, match="bad word") as failure:
        feed_all(protocol, b";e;bad;f;")
    assert failure.value.messages == [b"d", b"e"]


def test_whatever_else_of_the_contract_is_there_is_used() -> None:
    class Whole(Semicolons):
        replies = True

        @property
        def buffered(self) -> int:
            return len(self.rest)

        def detach(self, undelivered: Any = (), data: bytes = b"") -> bytes:
            rest, self.rest = self.rest, b""
            return rest

        def take_replies(self) -> bytes:
            return b"pong"

    check_protocol(lambda: make(Whole), [(b"a;b;", [b"a", b"b"])], violations=[b"bad;"])
    assert make(Whole).replies
    assert make(Whole).take_replies() == b"pong"


def test_a_subclass_of_protocol_is_taken_as_it_is() -> None:
    class Mine(Delimited):
        name = "own"

    assert adapt(Mine, "mine") is Mine
    assert adapt(Text, "mine") is Text
    assert issubclass(adapt(Lines, "mine"), ThreeFunctions)


# ------------------------------------------------------------------------------------------------ refused at load


class NoEncode:
    input = decode = staticmethod(lambda one, two: 0)


class OneArgument(Lines):
    @staticmethod
    def input(buffer: bytes) -> int:  # type: ignore[override]
        return 0


class Yields(Semicolons):
    def feed(self, data: bytes) -> Any:
        yield data


class Awaits(Lines):
    @staticmethod
    async def decode(package: bytes, connection: Any) -> Any:
        return package


class NeedsMore(Lines):
    def __init__(self, colour: str) -> None:
        self.colour = colour


class Fails(Lines):
    def __init__(self) -> None:
        raise OSError("no")


class ClashingSlots:
    __slots__ = ("rest",)
    feed = Semicolons.feed
    encode = Semicolons.encode


@pytest.mark.parametrize(
    ("cls", "text"),
    [
        (len, "is not a class"),
        (NoEncode, "NoEncode has no encode; a protocol has input, decode and encode, or feed and encode"),
        (object, "object has no input and no decode and no encode"),
        (OneArgument, r"it must be OneArgument.input\(buffer, connection\)"),
        (Yields, "Yields.feed must return its result, neither yield nor await"),
        (Awaits, "Awaits.decode must return its result"),
        (NeedsMore, "NeedsMore cannot be made: TypeError: .*colour"),
        (Fails, "Fails cannot be made: OSError: no"),
        (ClashingSlots, "ClashingSlots cannot be made: TypeError"),
    ],
)
def test_what_is_misshapen_is_refused_with_a_sentence(cls: Any, text: str) -> None:
    with pytest.raises(LoadError, match=f"^protocol mine: .*{text}"):
        adapt(cls, "mine")
