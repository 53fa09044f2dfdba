"""apps.json_length: four bytes and JSON."""

from __future__ import annotations

import json
import struct
from typing import Any

from apps.json_length import JsonWithLength
from workermand.protocols.custom import adapt
from workermand.testing import Case, check_protocol, running_server


def package(value: Any) -> bytes:
    body = json.dumps(value).encode()
    return struct.pack(">I", len(body) + 4) + body


def test_the_protocol() -> None:
    values = [{"type": "message", "content": "hello all"}, [], "x" * 500]
    cases: list[Case] = [(package(value), [value]) for value in values]
    violations = [b"\0\0\0\x04", b"\0\0\0\0", b"\0\0\0\x05}", b"\xff\xff\xff\xff"]
    check_protocol(lambda: adapt(JsonWithLength, "json")(1000), cases, violations=violations)


def test_the_handler() -> None:
    listen, protocol = "tcp://127.0.0.1:0", "apps.json_length:JsonWithLength"
    with running_server("apps.json_length", listen=listen, protocol=protocol) as server, server.connect() as client:
        client.sendall(package({"type": "message", "content": "hello all"}))
        answer = package({"type": "answer", "to": {"type": "message", "content": "hello all"}})
        assert client.makefile("rb").read(len(answer)) == answer
