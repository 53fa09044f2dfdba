"""A process that ends itself after so many requests, against memory that leaks in a library. Another takes its place.

    workermand run text://127.0.0.1:2352 apps.max_requests
    telnet 127.0.0.1 2352        and `workermanctl status` after 1000 lines: another pid

stop_all() ends this process only: it accepts no more, and what its clients have sent is still answered. Without code,
`limits = { requests = 1000 }` does the same, with a jitter, and one process of the worker at a time.
"""

from workermand import Connection

MAX_REQUESTS = 1000
"""The option "max_requests" overrides it."""

served = 0


def on_message(connection: Connection, data: str) -> None:
    global served
    connection.send(data)
    served += 1
    if served >= connection.worker.options.get("max_requests", MAX_REQUESTS):
        connection.worker.stop_all()
