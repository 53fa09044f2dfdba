"""The WebSocket codec, both roles, with and without deflate, its limits small."""

from __future__ import annotations

from tests.fuzz.cutting import cuts, outcome, same, taken_apart
from workermand.protocols.deflate import Codec, Terms
from workermand.protocols.websocket import WebSocket

TERMS = (None, Terms(12, True, 12, True, 6, 5), Terms(9, False, 9, False, 6, 5), Terms(15, True, 15, False, 1, 1))
MOST = 3000
"""Bytes of a message. A frame may have 500, a message 20 fragments, where the options say so."""
OVERHEAD = 14 + 125
"""A frame's header, and a control frame between fragments."""

SEEDS = [
    bytes([options, 20, 130, 200]) + wire
    for options in (0, 1, 2, 3, 4, 8, 16, 33, 34)
    for wire in (
        b"\x81\x85maskHello\x89\x80mask\x82\x80mask",
        b"\x01\x83\0\0\0\0Hel\x8a\x81\0\0\0\0x\x80\x82\0\0\0\0lo",
        b"\x82\xfe\x00\x80\0\0\0\0" + bytes(128),
        b"\x88\x84\0\0\0\0\x03\xe8ok",
        b"\xc1\x87\0\0\0\0" + bytes.fromhex("f248cdc9c90700"),
        b"\x41\x83\0\0\0\0" + bytes.fromhex("f248cd") + b"\x80\x84\0\0\0\0" + bytes.fromhex("c9c90700"),
        b"\xc2\xfe\x00\x80\0\0\0\0" + Codec(Terms(9, False, 9, False, 6, 5)).compress(bytes(100_000)),
        b"\x81\x05Hello\x88\x02\x03\xe8",
    )
]

WORDS = [bytes([first]) for first in (0x00, 0x01, 0x02, 0x40, 0x41, 0x80, 0x81, 0x82, 0x88, 0x89, 0x8A, 0xC1, 0xC2)]
WORDS += [b"\x80mask", b"\x85mask", b"\xfe\x00\x7e", b"\xff" + bytes(6), "\u20ac".encode(), b"\x00\x00\xff\xff"]


def check(data: bytes) -> None:
    options, where, wire = taken_apart(data)
    terms = TERMS[options & 3]
    client = bool(options & 4)
    max_frame, fragments = (500 if options & 8 else 0), (20 if options & 16 else 1024)
    if options & 32:
        wire = framed(wire, client)

    def fresh() -> WebSocket:
        return WebSocket(MOST, client=client, deflate=terms, max_frame=max_frame, max_fragments=fragments)

    results = [outcome(fresh(), pieces, 2 * MOST + OVERHEAD) for pieces in cuts(wire, where)]
    if client:  # each of our frames has a mask of its own
        results = [(*result[:3], b"") for result in results]
    messages, *_ = same([(*result[:3], without_words(result[3])) for result in results])
    for message in messages:
        assert len(message if isinstance(message, bytes) else message.encode()) <= MOST
    ours = WebSocket(client=client, deflate=terms)
    peer = WebSocket(client=not client, deflate=terms and reverse(terms))
    assert [one for message in messages for one in peer.feed(ours.encode(message))] == messages


def without_words(said: bytes) -> bytes:
    """Of two faults in one header the cut decides which one is named; the code is the same."""
    at = said.rfind(b"\x88")
    return said[: at + 1] + said[at + 2 : at + 4] if at >= 0 else said


def reverse(terms: Terms) -> Terms:
    return Terms(terms.peer_bits, terms.peer_takeover, terms.bits, terms.takeover, terms.level, terms.memory_level)


def framed(script: bytes, client: bool) -> bytes:
    """Frames whose lengths are right, which are hard to come upon: a first byte, a size, and so many bytes of payload.
    A size of 200 or more is multiplied."""
    wire = b""
    while len(script) > 1:
        first, size = script[0], script[1]
        payload = script[2 : 2 + size]
        script = script[2 + size :]
        if size >= 200:
            payload *= size - 199
        if first & 8:
            payload = payload[:125]
        length = len(payload)
        bit = 0 if client else 0x80
        head = bytes([first, bit | length]) if length < 126 else bytes([first, bit | 126]) + length.to_bytes(2)
        wire += head + (b"" if client else bytes(4)) + payload
    return wire
