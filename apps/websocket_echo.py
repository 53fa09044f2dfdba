"""What a browser sends over a WebSocket it gets back: text as text, binary as binary.

    workermand run websocket://127.0.0.1:8081 apps.websocket_echo
    python -m websockets ws://127.0.0.1:8081

In a browser's console:

    socket = new WebSocket("ws://127.0.0.1:8081"); socket.onmessage = (event) => console.log(event.data)
    socket.send("hello")
"""

from workermand import Connection


def on_message(connection: Connection, data: str | bytes) -> None:
    connection.send(data)
