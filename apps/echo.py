"""The smallest handler: what comes in goes out.

    workermand run text://127.0.0.1:2347 apps.echo
    telnet 127.0.0.1 2347        (or: nc 127.0.0.1 2347)

With text:// a message is a line, as str; the same handler echoes bytes on raw tcp:// and frames on frame://.
"""

from workermand import Connection


def on_message(connection: Connection, data: str) -> None:
    connection.send(data)
