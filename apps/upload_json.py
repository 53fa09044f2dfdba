"""The manual's fourth example: files uploaded as JSON, a line for each, the content in base64.

    {"file_name": "photo.jpg", "file_data": "/9j/4AAQ..."}

    [worker.upload]
    listen = "tcp://127.0.0.1:2357"
    protocol = "apps.upload_json:JsonUpload"
    handler = "apps.upload_json"
    limits = { package = "100MiB" }              # a file is held in memory until it is whole
    options = { directory = "/srv/uploads" }     # without it: worker.state_dir

    python apps/upload_json_client.py 127.0.0.1 2357 FILE

One third more to send than in binary, but any language can do it.
"""

import base64
import json

from apps.storage import store
from workermand import Connection


class JsonUpload:
    @staticmethod
    def input(buffer: bytes, connection: Connection | None) -> int:
        return buffer.find(b"\n") + 1

    @staticmethod
    def decode(package: bytes, connection: Connection | None) -> tuple[str, bytes]:
        """(name, content). What lacks either raises, which closes the connection."""
        upload = json.loads(package)
        return str(upload["file_name"]), base64.b64decode(upload["file_data"], validate=True)

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
