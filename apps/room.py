"""A room: what one says, all hear. Every client of this process is in worker.connections.

    workermand run text://127.0.0.1:2349 apps.room
    telnet 127.0.0.1 2349        in two shells

Processes share no memory, so that a room is one process: keep `count = 1`.
"""

from workermand import Connection, Worker


def on_connect(connection: Connection) -> None:
    tell_all(connection.worker, f"* guest {connection.id} came in")


def on_message(connection: Connection, data: str) -> None:
    tell_all(connection.worker, f"guest {connection.id}: {data}")


def on_close(connection: Connection) -> None:
    tell_all(connection.worker, f"* guest {connection.id} has left")


def tell_all(worker: Worker, line: str) -> None:
    # A copy: a send that fails may close a connection, and so change the dict.
    for guest in list(worker.connections.values()):
        guest.send(line)
