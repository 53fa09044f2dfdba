"""Clients that have fallen silent: one timer looks at all of them, and closes who has sent nothing for 25 seconds.

    workermand run text://127.0.0.1:2350 apps.heartbeat
    telnet 127.0.0.1 2350        and wait

A peer whose cable was pulled never says goodbye. One sweep for all is much cheaper than a timer for each connection.
Where a fixed limit will do, no code is needed at all: `timeouts = { idle = "25s" }`.
"""

import time

from workermand import Connection, Timer, Worker

SILENCE = 25
"""Seconds; a client is to send something more often than that. The option "silence" overrides it."""
SWEEP = 10
"""Seconds from one look to the next; the option "sweep"."""


def on_worker_start(worker: Worker) -> None:
    Timer.add(worker.options.get("sweep", SWEEP), sweep, (worker,))


def on_connect(connection: Connection) -> None:
    connection.context = time.monotonic()


def on_message(connection: Connection, data: str) -> None:
    connection.context = time.monotonic()
    connection.send(data)


def sweep(worker: Worker) -> None:
    oldest = time.monotonic() - worker.options.get("silence", SILENCE)
    for connection in list(worker.connections.values()):
        if connection.context < oldest:
            connection.close("silent for too long")
