"""PROXY headers of both versions, cut at every byte, and what is none."""

from __future__ import annotations

import socket

import pytest

from workermand.errors import ProtocolError
from workermand.protocols.proxy import LONGEST, LONGEST_LINE, SIGNATURE, Client, Header, parse


def binary(family: int, addresses: bytes, *, command: int = 0x21, tlvs: bytes = b"") -> bytes:
    return SIGNATURE + bytes([command, family]) + (len(addresses) + len(tlvs)).to_bytes(2, "big") + addresses + tlvs


def ports(source: int, destination: int) -> bytes:
    return source.to_bytes(2, "big") + destination.to_bytes(2, "big")


def ipv4(source: str = "192.0.2.1") -> bytes:
    return socket.inet_aton(source) + socket.inet_aton("192.0.2.2") + ports(5555, 80)


def ipv6(source: str = "2001:db8::1") -> bytes:
    both = [socket.inet_pton(socket.AF_INET6, name) for name in (source, "2001:db8::2")]
    return b"".join(both) + ports(5555, 80)


UNIX = b"/run/client".ljust(108, b"\0") + b"/run/proxy".ljust(108, b"\0")
CRC32C = b"\x03\x00\x04\xde\xad\xbe\xef"
NOOP = b"\x04\x01\x00" + bytes(256)
LONGEST_IPV6 = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"

GOOD: list[tuple[bytes, Client | None]] = [
    (b"PROXY TCP4 192.0.2.1 192.0.2.2 5555 80\r\n", ("192.0.2.1", 5555)),
    (b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", ("255.255.255.255", 65535)),
    (b"PROXY TCP4 192.0.2.1 192.0.2.2 0 0\r\n", ("192.0.2.1", 0)),
    (b"PROXY TCP6 2001:DB8:0::1 2001:db8::2 5555 80\r\n", ("2001:db8::1", 5555)),
    (b"PROXY TCP6 ::ffff:192.0.2.1 ::1 5555 80\r\n", ("192.0.2.1", 5555)),
    (f"PROXY TCP6 {LONGEST_IPV6} {LONGEST_IPV6} 65535 65535\r\n".encode(), (LONGEST_IPV6, 65535)),
    (b"PROXY UNKNOWN\r\n", None),
    (f"PROXY UNKNOWN {LONGEST_IPV6} {LONGEST_IPV6} 65535 65535\r\n".encode(), None),
    (b"PROXY UNKNOWN \xff\n\r whatever\r\n", None),
    (binary(0x11, ipv4()), ("192.0.2.1", 5555)),
    (binary(0x12, ipv4()), ("192.0.2.1", 5555)),
    (binary(0x11, ipv4(), tlvs=CRC32C + NOOP), ("192.0.2.1", 5555)),
    (binary(0x11, ipv4(), tlvs=b"\x04\xff\xff no TLV"), ("192.0.2.1", 5555)),
    (binary(0x21, ipv6()), ("2001:db8::1", 5555)),
    (binary(0x21, ipv6("::ffff:192.0.2.1"), tlvs=CRC32C), ("192.0.2.1", 5555)),
    (binary(0x31, UNIX), ""),
    (binary(0x32, UNIX, tlvs=NOOP), ""),
    (binary(0x00, b""), None),
    (binary(0x00, b"", tlvs=CRC32C), None),
    (binary(0x11, b"", command=0x20), None),
    (binary(0xFF, b"ignored", command=0x20), None),
    (binary(0x11, ipv4(), command=0x20), None),
]


@pytest.mark.parametrize(("data", "client"), GOOD)
def test_a_header_is_read_however_it_is_cut(data: bytes, client: Client | None) -> None:
    for end in range(len(data)):
        assert parse(data[:end]) is None
    assert parse(data) == Header(client, len(data))
    assert parse(data + b"PROXY UNKNOWN\r\n") == Header(client, len(data))


def test_the_longest_are_taken() -> None:
    line = b"PROXY UNKNOWN ".ljust(LONGEST_LINE - 2, b"x") + b"\r\n"
    assert parse(line) == Header(None, LONGEST_LINE)
    assert max(len(data) for data, _ in GOOD if data.startswith(b"PROXY TCP6")) <= LONGEST_LINE
    header = binary(0x11, ipv4(), tlvs=bytes(LONGEST - 16 - 12))
    assert parse(header[:-1]) is None
    assert parse(header) == Header(("192.0.2.1", 5555), LONGEST)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"x", "begins otherwise"),
        (b"GET / HTTP/1.1\r\n", "begins otherwise"),
        (b"proxy TCP4", "begins otherwise"),
        (b"PROXY\tTCP4", "begins otherwise"),
        (b"\r\n\r\n\r", "begins otherwise"),
        (b"\x16\x03\x01\x02\x00\x01", "begins otherwise"),
        (b"PROXY UNKNOWN ".ljust(LONGEST_LINE, b"x"), "no end of line within 107 bytes"),
        (b"PROXY UNKNOWN ".ljust(LONGEST_LINE - 1, b"x") + b"\r\n", "no end of line within 107 bytes"),
        (b"PROXY \r\n", "not a line of version 1"),
        (b"PROXY UNKNOWNS\r\n", "not a line of version 1"),
        (b"PROXY UDP4 192.0.2.1 192.0.2.2 5555 80\r\n", "not a line of version 1"),
        (b"PROXY TCP5 192.0.2.1 192.0.2.2 5555 80\r\n", "not a line of version 1"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 5555\r\n", "not a line of version 1"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 5555 80 \r\n", "not a line of version 1"),
        (b"PROXY TCP4  192.0.2.1 192.0.2.2 5555 80\r\n", "not a line of version 1"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 05555 80\r\n", "not a line of version 1"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 +5555 80\r\n", "not a line of version 1"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 5555 -1\r\n", "not a line of version 1"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 5555 80\n\r\n", "not a line of version 1"),
        (b"PROXY TCP6 fe80::1%eth0 ::1 5555 80\r\n", "not a line of version 1"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 65536 80\r\n", "port 65536"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 80 99999\r\n", "port 99999"),
        (b"PROXY TCP4 192.0.2.256 192.0.2.2 5555 80\r\n", "192.0.2.256"),
        (b"PROXY TCP4 192.0.2.01 192.0.2.2 5555 80\r\n", "192.0.2.01"),
        (b"PROXY TCP4 192.0.2.1 192.0.2 5555 80\r\n", "192.0.2"),
        (b"PROXY TCP4 ::1 ::1 5555 80\r\n", "::1"),
        (b"PROXY TCP6 192.0.2.1 ::1 5555 80\r\n", "192.0.2.1"),
        (b"PROXY TCP6 1::2::3 ::1 5555 80\r\n", "1::2::3"),
        (binary(0x11, ipv4(), command=0x11), "version and command 0x11"),
        (binary(0x11, ipv4(), command=0x22), "version and command 0x22"),
        (binary(0x41, ipv4()), "family and transport 0x41"),
        (binary(0x13, ipv4()), "family and transport 0x13"),
        (binary(0x10, ipv4()), "family and transport 0x10"),
        (binary(0x11, ipv4()[:-1]), "too short for its addresses"),
        (binary(0x21, ipv4()), "too short for its addresses"),
        (binary(0x31, UNIX[:-1]), "too short for its addresses"),
        (binary(0x11, ipv4(), tlvs=bytes(LONGEST - 27)), "4097 bytes, of 4096 allowed"),
        (binary(0x11, b"", command=0x20, tlvs=bytes(LONGEST - 15)), "4097 bytes, of 4096 allowed"),
        (SIGNATURE + b"\x21\x11\xff\xff", "65551 bytes, of 4096 allowed"),
    ],
)
def test_what_is_none_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(ProtocolError, match="PROXY header") as caught:
        parse(data)
    assert words in caught.value.reason


@pytest.mark.parametrize("data", [b"GET", b"PROXX", SIGNATURE[:-1] + b"\r", b"\r\nPROXY"])
def test_the_first_wrong_byte_is_enough(data: bytes) -> None:
    wrong = next(end for end in range(1, len(data) + 1) if _is_refused(data[:end]))
    assert all(not _is_refused(data[:end]) for end in range(wrong))
    assert all(_is_refused(data[:end]) for end in range(wrong, len(data) + 1))


def _is_refused(data: bytes) -> bool:
    try:
        parse(data)
    except ProtocolError:
        return True
    return False
