"""A unix socket, for programs on the same machine; who may connect is a matter of the file's mode and owner.

    workermand run unix:///tmp/echo.sock apps.unix_echo
    nc -U /tmp/echo.sock

Without a protocol a message is whatever bytes have arrived; `protocol = "text"` in the TOML file makes it lines.
"""

from workermand import Connection


def on_message(connection: Connection, data: bytes) -> None:
    connection.send(data)
