"""The manual's third example: files uploaded in binary packages. Each is

4 bytes   the length of all of it, big-endian
1 byte    the length of the name
n bytes   the name, UTF-8
the rest  the file

[worker.upload]
listen = "tcp://127.0.0.1:2356"
protocol = "apps.upload_binary:BinaryUpload"
handler = "apps.upload_binary"
limits = { package = "100MiB" }              # a file is held in memory until it is whole
options = { directory = "/srv/uploads" }     # without it: worker.state_dir

python apps/upload_binary_client.py 127.0.0.1 2356 FILE
"""

import struct

from apps.storage import store
from workermand import Connection

HEADER = struct.Struct(">IB")


class BinaryUpload:
    @staticmethod
    def input(buffer: bytes, connection: Connection | None) -> int:
        if len(buffer) < HEADER.size:
            return 0
        length, name_length = HEADER.unpack_from(buffer)
        return int(length) if length >= HEADER.size + name_length else -1

    @staticmethod
    def decode(package: bytes, connection: Connection | None) -> tuple[str, bytes]:
        """(name, content)."""
        body = HEADER.size + package[HEADER.size - 1]
        return package[HEADER.size : body].decode(), package[body:]

    @staticmethod
    def encode(message: str, connection: Connection | None) -> str:
        """Answers are lines."""
        return message + "\n"


def on_message(connection: Connection, data: tuple[str, bytes]) -> None:
    name, content = data
    worker = connection.worker
    try:
        stored = store(worker.options.get("directory", worker.state_dir), name, content)
    except ValueError as error:
        connection.close(f"refused: {error}")
    else:
        connection.send(f"stored {stored.name}, {len(content)} bytes")
