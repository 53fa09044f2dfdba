"""check_protocol: does a protocol read the same messages however the network cuts the bytes?"""

from __future__ import annotations

import contextlib
import reprlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from workermand.errors import EndOfInput, ProtocolError
from workermand.protocols.base import Protocol

MAX_SPLITS = 500
"""Split points that are tried of one input, and pieces it is fed in: a long input is sampled."""

Case = tuple[bytes, Sequence[Any]]
"""Bytes that end with a whole message, and the messages in them."""


def check_protocol(
    make: Callable[[], Protocol], cases: Iterable[Case], *, violations: Iterable[bytes] = (), round_trip: bool = True
) -> None:
    """Asserts that a protocol keeps the contract of ``Protocol``, whatever the cut.

    ``make`` makes a fresh object, as ``lambda: Text()`` does. Every case, and all of them in one stream, is fed whole,
    byte by byte, and in two parts at every split point; in every part-way state ``buffered`` and ``detach`` must agree,
    and ``feed_eof`` must take nothing back. Each of ``violations``, bytes that a fresh object must refuse, must end in
    a ProtocolError, alone and behind good messages, none of which may be lost. With ``round_trip`` each message,
    encoded and fed, must come back equal.
    """
    cases = list(cases)
    stream = b"".join(wire for wire, _ in cases)
    expected = [message for _, messages in cases for message in messages]
    for wire, messages in [*cases, (stream, expected)]:
        for pieces in _cuts(wire):
            protocol = make()
            _equal(feed_all(protocol, *pieces), messages, protocol, pieces)
            assert protocol.buffered == 0, f"{_how(protocol, pieces)}: buffered is {protocol.buffered}, not 0"
            _equal(protocol.feed_eof(), [], protocol, [*pieces, b"(eof)"])
        for head, _ in _splits(wire):
            _check_part(make, head, messages)
    for bad in violations:
        for wire, good in ((bad, []), (stream + bad, expected)):
            for pieces in _cuts(wire):
                _check_violation(make(), pieces, good)
    for message in expected if round_trip else ():
        protocol = make()
        _equal(feed_all(protocol, protocol.encode(message)), [message], protocol, [b"(round trip)"])


def feed_all(protocol: Protocol, *pieces: bytes) -> list[Any]:
    """Feeds the pieces as a connection would. All messages; an EndOfInput carries those of all pieces."""
    messages: list[Any] = []
    for piece in pieces:
        try:
            messages += (step := protocol.feed(piece))
            while step and protocol.stepwise:
                messages += (step := protocol.feed(b""))
        except EndOfInput as error:
            error.messages = [*messages, *error.messages]
            raise
    return messages


def _check_part(make: Callable[[], Protocol], head: bytes, messages: Sequence[Any]) -> None:
    protocol, again = make(), make()
    before = feed_all(protocol, head)
    feed_all(again, head)
    buffered = again.buffered
    rest = again.detach()
    how = partial(_how, protocol, [head])
    assert len(rest) == buffered, f"{how()}: detach gives {len(rest)} bytes of {buffered} buffered"
    assert head.endswith(rest), f"{how()}: detach gives bytes that were not fed: {reprlib.repr(rest)}"
    assert again.buffered == 0, f"{how()}: something is buffered after detach"
    with contextlib.suppress(ProtocolError):
        before += protocol.feed_eof()
    _equal(before, messages[: len(before)], protocol, [head, b"(eof)"])


def _check_violation(protocol: Protocol, pieces: list[bytes], good: Sequence[Any]) -> None:
    try:
        messages = feed_all(protocol, *pieces)
    except ProtocolError as error:
        refusal = error
    else:
        raise AssertionError(f"{_how(protocol, pieces)}: no ProtocolError, but {reprlib.repr(messages)}")
    assert refusal.reason, f"{_how(protocol, pieces)}: ProtocolError without a reason"
    _equal(refusal.messages, good, protocol, pieces)


def _cuts(wire: bytes) -> Iterator[list[bytes]]:
    yield [wire]
    size = max(1, len(wire) // MAX_SPLITS)
    pieces = [wire[at : at + size] for at in range(0, len(wire), size)]
    yield pieces
    yield [part for piece in pieces for part in (b"", piece)]
    yield from map(list, _splits(wire))


def _splits(wire: bytes) -> Iterator[tuple[bytes, bytes]]:
    step = max(1, len(wire) // MAX_SPLITS)
    for at in range(1, len(wire), step):
        yield wire[:at], wire[at:]


def _equal(got: Sequence[Any], expected: Sequence[Any], protocol: Protocol, pieces: list[bytes]) -> None:
    if list(got) != list(expected):
        wanted = f"got {reprlib.repr(got)}, expected {reprlib.repr(expected)}"
        raise AssertionError(f"{_how(protocol, pieces)}: {wanted}")


def _how(protocol: Protocol, pieces: list[bytes]) -> str:
    return f"{protocol.name or type(protocol).__name__}, fed {reprlib.repr(pieces)}"
