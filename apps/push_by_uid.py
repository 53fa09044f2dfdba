"""The manual's push: browsers say who they are over a WebSocket, and any program pushes to them by that name.

    workermand run websocket://127.0.0.1:1234 apps.push_by_uid       one process: it has all the browsers
    browser   socket = new WebSocket("ws://127.0.0.1:1234"); socket.onopen = () => socket.send("anne")
    program   echo '{"uid": "anne", "percent": "88%"}' | nc -N 127.0.0.1 5678        answers ok or fail

The second door, a line of JSON each, is for programs of this machine only: it asks nobody who he is.
options = { listen = "text://127.0.0.1:5678" }
"""

import json

from workermand import Connection, Worker

browsers: dict[str, Connection] = {}


async def on_worker_start(worker: Worker) -> None:
    await worker.listen(worker.options.get("listen", "text://127.0.0.1:5678"), Pushers())


def on_message(connection: Connection, uid: str) -> None:
    """The first message of a browser: its name."""
    if connection.context is None:
        connection.context = uid
        browsers[uid] = connection


def on_close(connection: Connection) -> None:
    if browsers.get(connection.context) is connection:  # a browser that came back has another one
        del browsers[connection.context]


class Pushers:
    """The callbacks of the second door."""

    def on_message(self, connection: Connection, line: str) -> None:
        try:
            browser = browsers.get(json.loads(line)["uid"])
        except (ValueError, KeyError, TypeError):
            browser = None
        connection.send("ok" if browser is not None and browser.send(line) is not False else "fail")
