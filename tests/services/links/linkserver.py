"""A service that says what it hears: a handler for tests of links."""

from __future__ import annotations

from workermand import Connection, Worker
from workermand.services.links import wire
from workermand.services.links.door import Door

ECHO, SILENCE, REFUSAL, NEWS, GOODBYE = range(wire.FIRST, wire.FIRST + 5)


def on_worker_start(worker: Worker) -> None:
    worker.door = Door(worker, "echo", worker.options.get("secret", ""), "unix://echo.sock")


def on_connect(connection: Connection) -> None:
    connection.worker.door.on_connect(connection)


def on_message(connection: Connection, body: bytes) -> None:
    message = connection.worker.door.hear(connection, body)
    match message:
        case [16, number, *rest]:
            connection.send(wire.body([wire.OK, number, rest]))
        case [18, number, *_]:
            connection.send(wire.body([wire.FAIL, number, "not today"]))
        case [19, _, *rest]:
            connection.send(wire.body([NEWS, 0, *rest]))
        case [20, *_]:
            connection.destroy()


def on_close(connection: Connection) -> None:
    connection.worker.door.on_close(connection)
