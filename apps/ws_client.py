"""A worker without a listener that is a WebSocket client: it keeps one connection to a server, tells it the time every
so often, and prints what it hears. When the connection ends, or a ping stays unanswered, it comes back by itself.

    [worker.ws_client]
    handler = "apps.ws_client"
    options = { url = "wss://example.com/feed", every = 10 }     # seconds

To try it: `workermand run websocket://127.0.0.1:8081 apps.websocket_echo` beside it, and url = "ws://127.0.0.1:8081".
"""

import time

from workermand import AsyncTcpConnection, SendError, Timer, Worker


def on_worker_start(worker: Worker) -> None:
    again = {"initial": worker.options.get("again", 1), "max": 60}
    client = AsyncTcpConnection(worker.options["url"], ping_interval=30, auto_reconnect=again)
    client.on_websocket_connect = connected
    client.on_message = heard
    client.on_error = failed
    client.on_close = lost
    client.connect()


def connected(client: AsyncTcpConnection, answer: object) -> None:
    print(f"connected to {client.get_remote_uri()}")
    client.send("hello")
    client.context = Timer.add(client.worker.options.get("every", 10), tell, (client,))


def tell(client: AsyncTcpConnection) -> None:
    client.send(time.strftime("it is %H:%M:%S"))


def heard(client: AsyncTcpConnection, data: str | bytes) -> None:
    print(f"heard {data!r}")


def failed(client: AsyncTcpConnection, code: SendError, message: str) -> None:
    print(message)


def lost(client: AsyncTcpConnection) -> None:
    if client.context is not None:  # what is sent while it is away would wait, and go out late
        Timer.delete(client.context)
        client.context = None
    print(f"lost {client.get_remote_uri()}: {client.close_reason}")
