"""wire: packages byte for byte, as PHP's pack() writes them, and what cannot be one."""

from __future__ import annotations

import re
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workermand import ProtocolError
from workermand.services.gateway import wire
from workermand.services.gateway.wire import Command, Package, Packages, Talk
from workermand.services.links.serialize import SerializeError
from workermand.testing import check_protocol, feed_all

U8, U16, U32 = st.integers(0, 255), st.integers(0, 65535), st.integers(0, 2**32 - 1)


def test_a_package() -> None:
    package = Package(Command.ON_MESSAGE, b"hello", b"a:0:{}", 1, wire.SCALAR, 0x7F000001, 2900, 0xC0000201, 5555, 7272)
    parts = ("00000027", "03", "7f000001", "0b54", "c0000201", "15b3", "00000001", "01", "1c68", "00000006")
    packed = bytes.fromhex("".join(parts)) + b"a:0:{}hello"
    assert wire.pack(package) == packed
    assert wire.unpack(packed) == package
    assert package.value == b"hello"
    assert wire.SIZE == 28


@given(
    st.builds(
        Package, U8, st.binary(max_size=5), st.binary(max_size=5), U32, U8, U32, U16, U32, U16, U16
    )
)  # fmt: skip
def test_what_is_packed_is_unpacked(package: Package) -> None:
    packed = wire.pack(package)
    assert wire.unpack(packed) == package
    assert struct.unpack(">I", packed[:4]) == (len(packed),)


def test_bodies_of_another_kind() -> None:
    assert Package(1, b"a:1:{i:0;i:7;}", flags=0).value == [7]
    assert Package(7, b"N;", flags=0).value is None
    with pytest.raises(SerializeError):
        _ = Package(1, b'O:8:"stdClass":0:{}', flags=0).value


@pytest.mark.parametrize(
    "packed", [b"", b"\0\0\0\x04", wire.pack(Package(1)) + b"x", b"\0\0\0\x1c" + b"\xff" * 24], ids=range(4)
)
def test_lengths_that_contradict_each_other(packed: bytes) -> None:
    with pytest.raises(ProtocolError, match=r"header alone|contradict"):
        wire.unpack(packed)


def test_the_stream() -> None:
    packages = [Package(Command.PING), Package(6, b"x" * 300, b"{}")]
    lying = b"\0\0\0\x1c" + b"\xff" * 24
    check_protocol(
        Packages,
        [(wire.pack(one), [one]) for one in packages],
        violations=[b"\0\0\0\0", b"\xff\xff\xff\xff", lying],
    )
    with pytest.raises(ProtocolError, match="limit"):
        feed_all(Packages(100), wire.pack(packages[1]))


def test_answers() -> None:
    assert wire.answer([7]) == b"\0\0\0\x0ea:1:{i:0;i:7;}"
    assert wire.answer(None) == b"\0\0\0\x02N;"


def test_what_a_gateway_says() -> None:
    event = Package(Command.ON_MESSAGE, b"hello" * 100, b"a:0:{}", 7)
    ping = Package(Command.PING)
    said = wire.answer([7]) + wire.pack(event) + wire.answer(0) + wire.pack(ping) + wire.answer(None)
    check_protocol(
        Talk,
        [(said, [b"a:1:{i:0;i:7;}", event, b"i:0;", ping, b"N;"])],
        violations=[b"\0\0\0\0\x03", b"\0\0\0\0a", b"\xff\xff\xff\xff\x03", b"\xff\xff\xff\xffa"],
        round_trip=False,
    )
    assert Talk().encode(event) == wire.pack(event)
    with pytest.raises(ProtocolError, match="limit"):
        feed_all(Talk(100), wire.pack(event))


@pytest.mark.parametrize(("ip", "number"), [("127.0.0.1", 0x7F000001), ("0.0.0.0", 0), ("255.1.2.3", 0xFF010203)])
def test_addresses(ip: str, number: int) -> None:
    assert wire.ip_number(ip) == number
    assert wire.number_ip(number) == ip


@pytest.mark.parametrize("ip", ["", "::1", "1.2.3", "1.2.3.400", "a.b.c.d"])
def test_what_php_has_no_number_for(ip: str) -> None:
    assert wire.ip_number(ip) == 0


@pytest.mark.parametrize(
    ("value", "text"),
    [({"group": ["a/b", "é"], "exclude": None}, rb'{"group":["a\/b","\u00e9"],"exclude":null}'), ({1: 1}, b'{"1":1}')],
)
def test_json_as_php_writes_it(value: Any, text: bytes) -> None:
    assert wire.json_bytes(value) == text


def test_bad_json() -> None:
    with pytest.raises(SerializeError, match="no JSON"):
        wire.read_json(b"{")


def test_lines_of_a_register() -> None:
    assert wire.gateway_connect("10.0.0.1:2900", "s") == (
        '{"event":"gateway_connect","address":"10.0.0.1:2900","secret_key":"s"}'
    )
    assert wire.worker_connect("") == '{"event":"worker_connect","secret_key":""}'
    assert wire.broadcast_addresses(["a:1"]) == '{"event":"broadcast_addresses","addresses":["a:1"]}'
    assert wire.read_said(wire.broadcast_addresses(["a:1"])).places == ["a:1"]
    # array_unique() leaves gaps.
    said = wire.read_said('{"event":"broadcast_addresses","addresses":{"0":"a:1","2":"b:2"}}')
    assert said.places == ["a:1", "b:2"]
    assert wire.read_said(' {"event": "gateway_connect", "address": "x", "secret_key": "y"}').secret_key == "y"


@pytest.mark.parametrize("line", ["", "[]", "{}", '{"event":1}', "{" * 2000, "\udcff"])
def test_what_is_no_line(line: str) -> None:
    with pytest.raises(SerializeError, match=re.escape("no line of a Register's")):
        wire.read_said(line)
