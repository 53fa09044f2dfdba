"""The upgrade, both sides: any headers are taken or refused, and what is answered can be read."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

from httptools import HttpResponseParser

from tests.fuzz.cutting import taken_apart
from workermand.errors import ProtocolError
from workermand.protocols.deflate import Codec, Deflate
from workermand.protocols.handshake import ClientHandshake, Refusal
from workermand.protocols.handshake import check as check_request

_GOOD = (
    b"Host: a\nUpgrade: websocket\nConnection: keep-alive, Upgrade\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n"
    b"Sec-WebSocket-Version: 13\nOrigin: https://example.com\nSec-WebSocket-Protocol: chat, superchat\n"
)
SEEDS = [
    bytes([options, 0, 0, 0]) + _GOOD + more
    for options in range(4)
    for more in (
        b"",
        b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\n",
        b'Sec-WebSocket-Extensions: x; a="b", permessage-deflate; server_max_window_bits=10\n',
        b"Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_max_window_bits=9,\n",
        b"Content-Length: 0\nTransfer-Encoding: chunked\n",
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\n",
    )
]

WORDS = [line + b"\n" for line in _GOOD.splitlines()]
WORDS += b"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits= client_max_window_bits=".split()
WORDS += b'server_no_context_takeover client_no_context_takeover websocket upgrade , ; = " 8 15'.split()


def check(data: bytes) -> None:
    options, _, text = taken_apart(data)
    lines = [line.partition(b":") for line in text.split(b"\n") if line]
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, _, value in lines]
    upgrade = refusal = None
    try:
        upgrade = check_request(
            "GET" if not options & 128 else "POST",
            "1.1" if not options & 64 else "1.0",
            headers,
            origins=["https://example.com"] if options & 1 else [],
            subprotocols=["superchat", "chat"],
            deflate=Deflate() if options & 2 else None,
        )
    except Refusal as refused:
        refusal = refused
    if refusal is not None:
        assert refusal.status in (400, 403, 426)
        assert read(refusal.answer()) == refusal.status
    elif upgrade is not None:
        assert read(upgrade.accept()) == 101
        for chosen in upgrade.subprotocols:
            assert read(upgrade.accept(chosen)) == 101
        if upgrade.deflate is not None:
            codec = Codec(upgrade.deflate)
            codec.compress(b"hello" * 20)
            codec.inflate(Codec(upgrade.deflate).compress(b""), last=True, room=100)
    client = ClientHandshake("a", subprotocols=["chat"], deflate=Deflate() if options & 2 else None)
    client._key = "dGhlIHNhbXBsZSBub25jZQ=="  # of RFC 6455: its answer can be in an input
    with contextlib.suppress(ProtocolError):
        client.verify(101 if not options & 32 else 200, headers)


def read(answer: bytes) -> int:
    """The status, once a client has read the whole."""
    parser = HttpResponseParser(SimpleNamespace())
    with contextlib.suppress(Exception):  # a pause for the upgrade
        parser.feed_data(answer)
    assert b"\r\n\r\n" in answer
    return int(parser.get_status_code())
