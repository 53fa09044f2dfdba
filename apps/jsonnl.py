"""A protocol of one's own: JSON, one value a line. Three functions say how long a package is, what it means, and back.

[protocols]
jsonnl = "apps.jsonnl:JsonNL"

[worker.jsonnl]
listen = "jsonnl://127.0.0.1:2353"
handler = "apps.jsonnl"

printf '{"say": "hello"}\\n' | nc -q 1 127.0.0.1 2353
"""

import json
from typing import Any

from workermand import Connection


class JsonNL:
    @staticmethod
    def input(buffer: bytes, connection: Connection | None) -> int:
        """The length of the package that the buffer begins with, newline and all; 0 while there is no newline yet."""
        return buffer.find(b"\n") + 1

    @staticmethod
    def decode(package: bytes, connection: Connection | None) -> Any:
        """What on_message gets. What is not JSON raises, which closes the connection."""
        return json.loads(package)

    @staticmethod
    def encode(message: Any, connection: Connection | None) -> str:
        return json.dumps(message) + "\n"


def on_message(connection: Connection, data: Any) -> None:
    connection.send({"code": 0, "you_sent": data})
