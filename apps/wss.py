"""WebSocket over TLS: each client is told how it is encrypted, and gets back what it sends.

    [worker.wss]
    listen = "wss://0.0.0.0:8443"
    handler = "apps.wss"
    tls = {cert = "/etc/ssl/example.org/fullchain.pem", key = "/etc/ssl/example.org/privkey.pem"}

In the console of a browser that believes the certificate:

    socket = new WebSocket("wss://example.org:8443"); socket.onmessage = (event) => console.log(event.data)
    socket.send("hello")
"""

from workermand import Connection, Request


def on_websocket_connected(connection: Connection, request: Request) -> None:
    if connection.tls is None:  # the same handler on a listener without tls
        connection.send("not encrypted")
    else:
        connection.send(f"{connection.tls.version}, {connection.tls.cipher}")


def on_message(connection: Connection, data: str | bytes) -> None:
    connection.send(data)
