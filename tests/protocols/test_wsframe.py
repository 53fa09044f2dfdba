"""Frames as RFC 6455 prints them, what may stand in a Close, and how a message becomes bytes."""

from __future__ import annotations

import importlib.util
import sys

import pytest
from websockets import frames

from workermand.protocols.wsframe import Close, CloseCode, Ping, Pong, apply_mask, frame, may_be_sent, payload_of


def test_the_examples_of_rfc_6455_5_7() -> None:
    assert frame(0x81, b"Hello") == bytes.fromhex("810548656c6c6f")
    assert frame(0x01, b"Hel") + frame(0x80, b"lo") == bytes.fromhex("010348656c80026c6f")
    assert frame(0x89, b"Hello") == bytes.fromhex("890548656c6c6f")
    assert frame(0x82, bytes(256))[:4] == bytes.fromhex("827e0100")
    assert frame(0x82, bytes(65536))[:10] == bytes.fromhex("827f0000000000010000")
    assert apply_mask(bytes.fromhex("7f9f4d5158"), bytes.fromhex("37fa213d")) == b"Hello"


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536])
def test_lengths(size: int) -> None:
    payload = bytes(size)
    assert frame(0x82, payload) == frames.Frame(frames.Opcode.BINARY, payload).serialize(mask=False)
    masked = frame(0x82, payload, masked=True)
    head = len(masked) - size
    assert masked[1] & 0x80
    assert apply_mask(masked[head:], masked[head - 4 : head]) == payload


def test_masks_without_the_extension_in_c(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "websockets.speedups", None)
    spec = importlib.util.find_spec("workermand.protocols.wsframe")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.apply_mask is not apply_mask
    assert module.apply_mask(b"hello", b"mask") == apply_mask(b"hello", b"mask")


def test_every_mask_is_another() -> None:
    assert len({frame(0x82, b"", masked=True) for _ in range(20)}) == 20


def test_codes_of_a_close_frame() -> None:
    allowed = {code for code in range(6000) if may_be_sent(code)}
    assert allowed == {1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)}


def test_the_payload_of_a_close() -> None:
    assert Close().payload == b"\x03\xe8"
    assert Close(4000, "grüße").payload == b"\x0f\xa0" + "grüße".encode()
    assert Close(CloseCode.NO_CODE).payload == b""


@pytest.mark.parametrize("code", [0, 999, 1004, 1006, 1015, 1016, 2999, 5000, 70000])
def test_a_code_that_may_not_be_sent(code: int) -> None:
    with pytest.raises(ValueError, match=f"{code} is no code for a Close frame"):
        _ = Close(code).payload


def test_a_reason_needs_a_code() -> None:
    with pytest.raises(ValueError, match="1005 is no code"):
        _ = Close(CloseCode.NO_CODE, "why").payload


def test_ping_and_pong_differ() -> None:
    assert Ping(b"a") == Ping(b"a")
    assert len({Ping(b"a"), Pong(b"a"), Ping(b"b")}) == 3


def test_payloads() -> None:
    assert payload_of("grüße") == ("grüße".encode(), True)
    for binary in (b"ab", bytearray(b"ab"), memoryview(b"ab")):
        assert payload_of(binary) == (b"ab", False)
    assert payload_of({"a": [1, None, "ü"]}) == ('{"a":[1,null,"ü"]}'.encode(), True)
    assert payload_of(5) == (b"5", True)
    with pytest.raises(TypeError):
        payload_of(object())
