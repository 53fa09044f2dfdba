"""What the harnesses share: how an input is taken apart, and how a stream is cut.

The first four bytes of an input are the harness's (options, and where to cut), all behind them is what a peer sent: so
an input can be read, and written, by hand.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

from workermand.errors import EndOfInput, ProtocolError
from workermand.protocols.base import Protocol

PREFIX = 4
BYTEWISE = 200
"""Bytes up to which a stream is also fed byte by byte."""

Outcome = tuple[list[Any], str, Any, bytes]
"""Messages, kind of end, its reason, and all that is said of our own accord: replies, then the farewell."""


def taken_apart(data: bytes) -> tuple[int, bytes, bytes]:
    """The options, the bytes that say where to cut, and the stream."""
    padded = data[:PREFIX].ljust(PREFIX, b"\0")
    return padded[0], padded[1:], data[PREFIX:]


def cuts(wire: bytes, where: bytes) -> Iterator[list[bytes]]:
    """Whole, cut at three points, byte by byte."""
    yield [wire]
    points = [0, *sorted(len(wire) * byte // 256 for byte in where), len(wire)]
    yield [wire[start:end] for start, end in itertools.pairwise(points)]
    if len(wire) <= BYTEWISE:
        yield [wire[at : at + 1] for at in range(len(wire))]


def outcome(
    protocol: Protocol, pieces: list[bytes], most: int, told: Callable[[Any], Any] = lambda one: one
) -> Outcome:
    """What a stream comes to. ``most``: bytes that may be held between two pieces. ``told``: a message as something
    that can be compared. Any exception but EndOfInput is a finding, and so is what is held beyond ``most``."""
    messages: list[Any] = []
    said = b""
    for piece in pieces:
        try:
            step = protocol.feed(piece)
            while step:
                messages += map(told, step)
                step = protocol.feed(b"") if protocol.stepwise else []
        except EndOfInput as end:
            kind = "violation" if isinstance(end, ProtocolError) else "end"
            said += protocol.take_replies() if protocol.replies else b""
            return [*messages, *map(told, end.messages)], kind, end.close_reason, said + end.farewell
        said += protocol.take_replies() if protocol.replies else b""
        assert protocol.buffered <= most, f"{protocol.buffered} bytes are held, {most} may be"
    return messages, "", None, said


def same(results: list[Any]) -> Any:
    """The one of all cuts."""
    for result in results[1:]:
        assert result == results[0], f"another cut, another outcome:\n{results[0]!r}\n{result!r}"
    return results[0]
