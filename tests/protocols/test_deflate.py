"""permessage-deflate: the negotiation, the streams of RFC 7692 7.2.3, and bombs."""

from __future__ import annotations

import subprocess
import sys
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory, ServerPerMessageDeflateFactory

from workermand.protocols.deflate import TAIL, Codec, Deflate, Terms, accept, compress_afresh, confirm, offer, parse

PLAIN = Terms(15, True, 15, True, 6, 5)
FORGETFUL = Terms(15, False, 15, False, 6, 5)
WIDE = Deflate(server_bits=15, client_bits=15)
HELLO = bytes.fromhex("f248cdc9c90700")
"""RFC 7692 7.2.3.1"""


def agree(header: str, wanted: Deflate = WIDE) -> str | None:
    terms = accept(parse([header]), wanted)
    return terms.answer if terms is not None else None


# ------------------------------------------------------------------------------------------------ the header


def test_the_grammar_of_the_header() -> None:
    assert parse(["a", "b ;x; y=1 , c;z=\"10\"", "", ",d,,"]) == [
        ("a", []), ("b", [("x", None), ("y", "1")]), ("c", [("z", "10")]), ("d", []),
    ]  # fmt: skip


@pytest.mark.parametrize("bad", ["a b", "a;", "a; =1", "a; x=", 'a; x="', "a; x==1", "ä", "a;x y"])
def test_what_is_not_the_grammar(bad: str) -> None:
    with pytest.raises(ValueError, match="malformed"):
        parse([bad])


def test_a_long_header_is_read_in_no_time() -> None:
    for hard in ("a" + "; x" * 20_000 + " y", "a;" + " " * 50_000 + "=", "a" * 50_000 + " b", "," * 50_000):
        try:
            parse([hard])
        except ValueError:
            continue


# ------------------------------------------------------------------------------------------------ the server


@pytest.mark.parametrize(
    ("header", "answer"),
    [
        ("permessage-deflate", "permessage-deflate"),
        ("permessage-deflate; client_max_window_bits", "permessage-deflate; client_max_window_bits=15"),
        ("permessage-deflate; client_max_window_bits=10", "permessage-deflate; client_max_window_bits=10"),
        ("permessage-deflate; server_max_window_bits=10", "permessage-deflate; server_max_window_bits=10"),
        ('permessage-deflate; server_max_window_bits="10"', "permessage-deflate; server_max_window_bits=10"),
        ("permessage-deflate; server_no_context_takeover", "permessage-deflate; server_no_context_takeover"),
        ("permessage-deflate; client_no_context_takeover", "permessage-deflate; client_no_context_takeover"),
        ("x-webkit-deflate-frame, permessage-deflate", "permessage-deflate"),
        ("permessage-deflate; server_max_window_bits=8, permessage-deflate", "permessage-deflate"),
        ("permessage-deflate; unheard_of, permessage-deflate; server_no_context_takeover",
         "permessage-deflate; server_no_context_takeover"),
        ("permessage-deflate; server_max_window_bits=8", None),
        ("permessage-deflate; server_max_window_bits", None),
        ("permessage-deflate; server_max_window_bits=16", None),
        ("permessage-deflate; server_max_window_bits=010", None),
        ("permessage-deflate; client_max_window_bits=7", None),
        ("permessage-deflate; server_no_context_takeover=1", None),
        ("permessage-deflate; server_no_context_takeover; server_no_context_takeover", None),
        ("permessage-deflate; unheard_of", None),
        ("", None),
    ],
)  # fmt: skip
def test_a_server_takes_the_first_offer_that_it_can_meet(header: str, answer: str | None) -> None:
    assert agree(header) == answer


def test_a_server_wants_something_too() -> None:
    wanted = Deflate(server_takeover=False, client_takeover=False, server_bits=10, client_bits=11)
    assert agree("permessage-deflate; client_max_window_bits", wanted) == (
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
        "; server_max_window_bits=10; client_max_window_bits=11"
    )
    terms = accept(parse(["permessage-deflate"]), wanted)
    assert terms is not None
    assert (terms.bits, terms.takeover, terms.peer_bits, terms.peer_takeover) == (10, False, 15, False)
    assert agree("permessage-deflate; server_max_window_bits=9", wanted) is not None


# ------------------------------------------------------------------------------------------------ the client


def test_what_a_client_offers() -> None:
    assert offer(Deflate(server_bits=15, client_bits=15)) == "permessage-deflate; client_max_window_bits"
    assert offer(Deflate(server_takeover=False, client_takeover=False)) == (
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
        "; server_max_window_bits=12; client_max_window_bits=12"
    )


def test_a_client_takes_what_it_offered() -> None:
    terms = confirm(parse(["permessage-deflate; server_max_window_bits=10; client_max_window_bits=9"]), Deflate())
    assert terms is not None
    assert (terms.bits, terms.peer_bits, terms.takeover, terms.peer_takeover) == (9, 10, True, True)
    wider = confirm(parse(["permessage-deflate; server_max_window_bits=12; client_max_window_bits=15"]), Deflate())
    assert wider is not None and wider.bits == 12  # of its own, and less than it may
    assert confirm([], Deflate()) is None
    assert confirm([], None) is None
    both = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
    terms = confirm(parse([both]), Deflate(server_bits=15, client_bits=11))
    assert terms is not None
    assert (terms.bits, terms.peer_bits, terms.takeover, terms.peer_takeover) == (11, 15, False, False)


@pytest.mark.parametrize(
    "answer",
    [
        "x-other",
        "permessage-deflate",
        "permessage-deflate; server_no_context_takeover; server_max_window_bits=13",
        "permessage-deflate; server_max_window_bits=12",
        "permessage-deflate; server_no_context_takeover; server_max_window_bits=12; client_max_window_bits",
        "permessage-deflate; server_no_context_takeover; server_max_window_bits=12; client_max_window_bits=8",
        "permessage-deflate; server_no_context_takeover; server_max_window_bits=12; unheard_of",
        "permessage-deflate; server_no_context_takeover; server_max_window_bits=12, permessage-deflate",
    ],
)
def test_a_client_refuses_what_it_did_not_offer(answer: str) -> None:
    with pytest.raises(ValueError, match=r"offered|parameters|window_bits|takeover"):
        confirm(parse([answer]), Deflate(server_takeover=False))


def test_a_client_that_offered_nothing() -> None:
    with pytest.raises(ValueError, match="was not offered: permessage-deflate"):
        confirm(parse(["permessage-deflate"]), None)


settings = st.builds(Deflate, st.booleans(), st.booleans(), st.integers(9, 15), st.integers(9, 15))


@given(settings, settings)
def test_our_two_ends_agree(client: Deflate, server: Deflate) -> None:
    theirs = accept(parse([offer(client)]), server)
    assert theirs is not None
    ours = confirm(parse([theirs.answer]), client)
    assert ours is not None
    assert ours.bits <= theirs.peer_bits
    assert theirs.bits <= ours.peer_bits
    assert (ours.peer_takeover or not theirs.takeover) and (theirs.peer_takeover or not ours.takeover)
    sender, receiver = Codec(theirs), Codec(ours)
    for message in (b"hello" * 100, b"", b"hello" * 100, bytes(range(256)) * 40):
        assert receiver.inflate(sender.compress(message), last=True, room=20_000) == message


@given(settings, settings)
def test_we_agree_with_another_implementation(one: Deflate, other: Deflate) -> None:
    server = ServerPerMessageDeflateFactory(not one.server_takeover, not one.client_takeover, one.server_bits)
    parameters, _ = server.process_request_params([(n, v) for _, ps in parse([offer(other)]) for n, v in ps], [])
    header = "; ".join(["permessage-deflate", *(n if v is None else f"{n}={v}" for n, v in parameters)])
    assert confirm(parse([header]), other) is not None

    client = ClientPerMessageDeflateFactory(
        not one.server_takeover, not one.client_takeover, one.server_bits, one.client_bits
    )
    asked = "; ".join(["permessage-deflate", *(n if v is None else f"{n}={v}" for n, v in client.get_request_params())])
    terms = accept(parse([asked]), other)
    assert terms is not None
    client.process_response_params(parse([terms.answer])[0][1], [])


# ------------------------------------------------------------------------------------------------ the streams


@pytest.mark.parametrize(
    ("wire", "message"),
    [
        ("f248cdc9c90700", b"Hello"),
        ("000500faff48656c6c6f00", b"Hello"),
        ("f348cdc9c9070000", b"Hello"),
        ("f248050000 00ffffcac9c90700", b"Hello"),
        ("00", b""),
    ],
    ids=["one block", "stored", "final block", "two blocks", "empty"],
)
def test_the_examples_of_rfc_7692_7_2_3(wire: str, message: bytes) -> None:
    codec = Codec(PLAIN)
    for _ in range(3):
        assert codec.inflate(bytes.fromhex(wire), last=True, room=5) == message
    first = codec.inflate(bytes.fromhex(wire)[:3], last=False, room=5)
    assert first + codec.inflate(bytes.fromhex(wire)[3:], last=True, room=5) == message


def test_the_window_is_kept_or_not() -> None:
    """7.2.3.2: the second Hello refers to the first."""
    again = bytes.fromhex("f200110000")
    codec = Codec(PLAIN)
    assert [codec.inflate(wire, last=True, room=5) for wire in (HELLO, again)] == [b"Hello"] * 2
    forgetful = Codec(FORGETFUL)
    forgetful.inflate(HELLO, last=True, room=5)
    with pytest.raises(zlib.error):
        forgetful.inflate(again, last=True, room=5)
    message = bytes(range(250))
    assert len(Codec(FORGETFUL).compress(message)) > 250
    codec = Codec(PLAIN)
    assert len(codec.compress(message)) > len(codec.compress(message)) * 5
    codec.forget()
    assert len(codec.compress(message)) > 250


def test_a_fragment_at_a_time() -> None:
    message = b"hello, world " * 1000
    wire = Codec(PLAIN).compress(message)
    codec, inflated = Codec(FORGETFUL), b""
    for at in range(len(wire)):
        inflated += codec.inflate(wire[at : at + 1], last=False, room=len(message) - len(inflated))
    assert inflated + codec.inflate(b"", last=True, room=0) == message


def test_a_message_for_all_fits_between_others() -> None:
    sender, receiver = Codec(PLAIN), Codec(PLAIN)
    shared = compress_afresh(b"for all of you, hello", PLAIN)
    for message in (b"hello one", b"hello two"):
        assert receiver.inflate(sender.compress(message), last=True, room=99) == message
        sender.forget()
        assert receiver.inflate(shared, last=True, room=99) == b"for all of you, hello"


def test_never_more_than_the_room_and_one() -> None:
    wire = Codec(PLAIN).compress(b"x" * 1000)
    assert len(Codec(PLAIN).inflate(wire, last=True, room=1000)) == 1000
    for room in (0, 1, 10, 999):
        assert len(Codec(PLAIN).inflate(wire, last=True, room=room)) == room + 1


def test_final_blocks_are_counted() -> None:
    end = zlib.compressobj(wbits=-15).flush()
    assert Codec(PLAIN).inflate(end * 8 + b"\x00", last=True, room=9) == b""
    with pytest.raises(zlib.error, match="too many final blocks"):
        Codec(PLAIN).inflate(end * 1_000_000, last=True, room=9)


def test_a_tail_without_its_block_is_no_harm() -> None:
    codec = Codec(PLAIN)
    end = zlib.compressobj(wbits=-15).flush()
    assert codec.inflate(end, last=True, room=9) == b""
    assert codec.inflate(HELLO, last=True, room=9) == b"Hello"
    assert not HELLO.endswith(TAIL)


@pytest.mark.parametrize("megabytes", [10, 1024])
def test_a_bomb_takes_no_more_memory_than_a_message(megabytes: int) -> None:
    """In a process of its own, because the greatest size that it ever had is what counts; 1 MiB holds the 1 GiB."""
    program = f"""
import resource, zlib
from workermand.errors import CloseReason, ProtocolError
from workermand.protocols.deflate import Terms
from workermand.protocols.websocket import WebSocket
from workermand.protocols.wsframe import frame
packer = zlib.compressobj(9, zlib.DEFLATED, -15)
piece = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
chunk = frame(0xC2, (piece * {megabytes})[:-4], masked=True)
socket = WebSocket(deflate=Terms(12, True, 15, True, 6, 5))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    outcome = len(socket.feed(chunk)[0]) >> 20
except ProtocolError as error:
    assert error.close_reason is CloseReason.PACKAGE_TOO_BIG
    outcome = int.from_bytes(error.farewell[2:4])
print(len(chunk), outcome, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    size, outcome, kibibytes = map(int, done.stdout.split())
    assert size < 1.1 * megabytes * 1024
    assert outcome == (10 if megabytes == 10 else 1009)
    assert kibibytes < 32 * 1024
