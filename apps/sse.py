"""Server-sent events: a page whose clock the server moves. The connection stays open, and a timer sends.

workermand run http://127.0.0.1:8083 apps.sse
curl -N http://127.0.0.1:8083/clock
"""

import time

from workermand import Connection, Request, Response, ServerSentEvents, Timer

PAGE = """<!doctype html><title>Clock</title><h1></h1>
<script>new EventSource("/clock").onmessage = (event) => document.querySelector("h1").textContent = event.data</script>
"""


def on_message(connection: Connection, request: Request) -> None:
    if request.path != "/clock":
        connection.send(PAGE)
        return
    connection.send(Response(200, {"Content-Type": "text/event-stream"}))
    tell(connection)
    connection.context = Timer.add(1, tell, (connection,))


def tell(connection: Connection) -> None:
    connection.send(ServerSentEvents({"data": time.strftime("%H:%M:%S")}))


def on_close(connection: Connection) -> None:
    if connection.context is not None:
        Timer.delete(connection.context)
