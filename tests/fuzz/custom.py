"""What users build upon: lines, lengths, and Workerman's three functions."""

from __future__ import annotations

from typing import Any

from tests.fuzz.cutting import cuts, outcome, same, taken_apart
from workermand.protocols.base import Delimited, LengthPrefixed, Protocol
from workermand.protocols.custom import adapt
from workermand.protocols.frame import Frame
from workermand.protocols.text import Text

MOST = 300


class Crlf(Delimited):
    name = "crlf"
    delimiter = b"\r\n"


class Bodies(LengthPrefixed):
    """The length does not count itself."""

    name = "bodies"
    counts_header = False


class Netstrings:
    """ "5:hello,": the length is text, and may be malformed."""

    @staticmethod
    def input(buffer: bytes, connection: Any) -> int:
        size, colon, _ = buffer[:11].partition(b":")
        if not colon:
            return 0 if len(buffer) < 11 else -1
        return len(size) + int(size) + 2 if size.isdigit() else -1

    @staticmethod
    def decode(package: bytes, connection: Any) -> bytes:
        _, _, rest = package.partition(b":")
        if package[-1:] != b",":
            raise ValueError("no comma")
        return rest[:-1]

    @staticmethod
    def encode(message: bytes, connection: Any) -> bytes:
        return b"%d:%b," % (len(message), message)


KINDS: list[type[Protocol]] = [Text, Frame, Crlf, Bodies, adapt(Netstrings, "netstrings")]
SEEDS = [
    b"\0\x20\x60\xa0one\r\ntwo\n\xff\n\n",
    b"\1\x20\x60\xa0\0\0\0\x05a\0\0\0\x04\0\0\0\x06bc",
    b"\2\x20\x60\xa0one\r\n\r\ntwo\r\n",
    b"\3\x20\x60\xa0\0\0\0\x01a\0\0\0\0\0\0\0\x02bc",
    b"\4\x20\x60\xa05:hello,0:,3:a:b,",
]

WORDS = [b"\r", b"\n", b"\0\0\0\x04", b"\0\0\0\x05", b"\0\0\x01\x2c", b"0:,", b"3:abc,", b"300:", b"\xff"]


def check(data: bytes) -> None:
    options, where, wire = taken_apart(data)
    kind = KINDS[options % len(KINDS)]
    messages, end, *_ = same([outcome(kind(MOST), pieces, MOST + 16 + len(wire)) for pieces in cuts(wire, where)])
    again = kind()
    echoed = []
    for message in messages:
        step = again.feed(again.encode(message))
        echoed += step
    if kind is Text:  # a CR before the newline is of the line end
        messages = [message.removesuffix("\r") for message in messages]
    assert echoed == messages
    if not end:
        whole = kind(MOST)
        whole.feed(wire)
        held = whole.buffered
        assert len(whole.detach()) == held
