"""The manual's second example of a protocol: four bytes, the length of all of it, big-endian, and then JSON.

    [worker.json]
    listen = "tcp://127.0.0.1:2355"
    protocol = "apps.json_length:JsonWithLength"
    handler = "apps.json_length"

    printf '\\0\\0\\0\\022{"type":"hi"}\\n' | nc -q 1 127.0.0.1 2355 | tail -c +5

The base class LengthPrefixed does the same in fewer lines and more speed; this is the way of the three functions.
"""

import json
import struct
from typing import Any

from workermand import Connection

HEADER = struct.Struct(">I")


class JsonWithLength:
    @staticmethod
    def input(buffer: bytes, connection: Connection | None) -> int:
        if len(buffer) < HEADER.size:
            return 0
        length: int = HEADER.unpack_from(buffer)[0]
        return length if length > HEADER.size else -1

    @staticmethod
    def decode(package: bytes, connection: Connection | None) -> Any:
        return json.loads(package[HEADER.size :])

    @staticmethod
    def encode(message: Any, connection: Connection | None) -> bytes:
        body = json.dumps(message).encode()
        return HEADER.pack(HEADER.size + len(body)) + body


def on_message(connection: Connection, data: Any) -> None:
    connection.send({"type": "answer", "to": data})
