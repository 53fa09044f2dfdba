"""check_protocol must find what is wrong: each broken protocol here breaks one promise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from workermand.errors import EndOfInput, ProtocolError
from workermand.protocols.base import Delimited, Protocol
from workermand.testing import Case, check_protocol, feed_all

CASES: list[Case] = [(b"one\ntwo\n", [b"one", b"two"])]


class Good(Delimited):
    name = "good"


class Chunks(Good):
    """Takes every chunk for a message."""

    def feed(self, data: bytes) -> list[Any]:
        return data.splitlines()


class Forgets(Good):
    """Loses what came before."""

    def feed(self, data: bytes) -> list[Any]:
        self._held = b""
        return super().feed(data)


class Miscounts(Good):
    @property
    def buffered(self) -> int:
        return 1


class NeverCounts(Good):
    @property
    def buffered(self) -> int:
        return 0


class KeepsOnDetach(Good):
    def detach(self, undelivered: Sequence[Any] = (), data: bytes = b"") -> bytes:
        return bytes(self._held)


class InventsOnDetach(Good):
    def detach(self, undelivered: Sequence[Any] = (), data: bytes = b"") -> bytes:
        return b"?" * len(super().detach())


class InventsAtTheEnd(Good):
    def feed_eof(self) -> Sequence[Any]:
        return [b"more"]


class Mangles(Good):
    def encode(self, message: Any) -> bytes:
        return b"!" + super().encode(message)


class Refuses(Good):
    """A good one, for "bad" is bad."""

    def decode(self, package: bytes) -> bytes:
        if package == b"bad":
            raise ProtocolError("bad")
        return package


class LosesTheGoodOnes(Refuses):
    def feed(self, data: bytes) -> list[Any]:
        try:
            return super().feed(data)
        except ProtocolError as error:
            error.messages = []
            raise


class Wordless(Good):
    def decode(self, package: bytes) -> bytes:
        if package == b"bad":
            raise ProtocolError("")
        return package


def test_a_good_one_passes() -> None:
    check_protocol(Good, CASES)
    check_protocol(Refuses, CASES, violations=[b"bad\n", b"bad\nmore\n"])


@pytest.mark.parametrize(
    ("cls", "text"),
    [
        (Chunks, r"good, fed \[b'o', .*got .*b'o', b'n'"),
        (Forgets, "got .*, expected"),
        (Miscounts, "buffered is 1, not 0"),
        (NeverCounts, "detach gives 1 bytes of 0 buffered"),
        (KeepsOnDetach, "something is buffered after detach"),
        (InventsOnDetach, "detach gives bytes that were not fed"),
        (InventsAtTheEnd, "got .*more"),
        (Mangles, "round trip"),
    ],
)
def test_a_broken_promise_is_found(cls: type[Protocol], text: str) -> None:
    with pytest.raises(AssertionError, match=text):
        check_protocol(cls, CASES)


def test_a_one_way_protocol_is_not_fed_its_own_answers() -> None:
    check_protocol(Mangles, CASES, round_trip=False)


@pytest.mark.parametrize(
    ("cls", "text"),
    [
        (Good, "no ProtocolError, but .*b'bad'"),
        (LosesTheGoodOnes, r"got \[\], expected \[b'one', b'two'\]"),
        (Wordless, "ProtocolError without a reason"),
    ],
)
def test_a_violation_must_be_refused_with_a_reason_and_the_good_ones_kept(cls: type[Protocol], text: str) -> None:
    with pytest.raises(AssertionError, match=text):
        check_protocol(cls, CASES, violations=[b"bad\n"])


def test_a_long_input_is_sampled() -> None:
    feeds = 0

    class Watched(Good):
        def feed(self, data: bytes) -> list[Any]:
            nonlocal feeds
            feeds += 1
            return super().feed(data)

    check_protocol(Watched, [(b"x" * 100_000 + b"\n", [b"x" * 100_000])])
    assert feeds < 10_000


def test_feed_all_collects_what_stood_before_a_violation_in_all_pieces() -> None:
    assert feed_all(Good(), b"a\nb", b"\n", b"") == [b"a", b"b"]
    with pytest.raises(ProtocolError) as failure:
        feed_all(Refuses(), b"a\nb", b"\nc\nbad\nd\n")
    assert failure.value.messages == [b"a", b"b", b"c"]


def test_feed_all_collects_what_stood_before_an_orderly_end() -> None:
    class UntilQuit(Delimited):
        name = "until quit"

        def feed(self, data: bytes) -> list[Any]:
            if b"quit" in (messages := super().feed(data)):
                raise EndOfInput("quit", messages[: messages.index(b"quit")])
            return messages

    with pytest.raises(EndOfInput, match="quit") as caught:
        feed_all(UntilQuit(), b"a\nb", b"\nc\nquit\n", b"d\n")
    assert caught.value.messages == [b"a", b"b", b"c"]
