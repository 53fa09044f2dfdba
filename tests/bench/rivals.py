"""Other servers, for the comparison: `rivals.py uvicorn|websockets PORT`, both on uvloop, `rivals.py nginx FILE PORT`.

Each says "ready" when it accepts; logs and compression are off, as they are in ours.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

import uvicorn
import uvloop
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed


async def hello(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """ASGI: "hello" for every request."""
    if scope["type"] == "http":
        headers = [(b"content-type", b"text/html; charset=utf-8"), (b"content-length", b"5")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"hello"})


class Ready(uvicorn.Server):
    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        print("ready", flush=True)


async def echo(connection: ServerConnection) -> None:
    with contextlib.suppress(ConnectionClosed):  # the load generator just goes
        async for message in connection:
            await connection.send(message)


async def websockets(port: int) -> None:
    async with serve(echo, "127.0.0.1", port, compression=None) as server:
        print("ready", flush=True)
        await server.serve_forever()


def nginx(file: Path, port: int) -> None:
    """It answers with the file whatever is asked. A child of ours says when it is ready."""
    settings = file.with_name("nginx.conf")
    settings.write_text(
        f"daemon off; master_process off; user root; pid {file}.pid; events {{}}\n"
        f"http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000000;\n"
        f"server {{ listen 127.0.0.1:{port}; root {file.parent}; location / {{ try_files /{file.name} =404; }} }} }}\n"
    )
    if os.fork():
        os.execvp("nginx", ["nginx", "-e", "stderr", "-c", settings])
    while True:
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            break
        time.sleep(0.01)
    print("ready", flush=True)


if __name__ == "__main__":
    which, port = sys.argv[1], int(sys.argv[-1])
    if which == "nginx":
        nginx(Path(sys.argv[2]), port)
    elif which == "uvicorn":
        Ready(
            uvicorn.Config(hello, port=port, http="httptools", lifespan="off", access_log=False, log_level="error")
        ).run()
    else:
        uvloop.run(websockets(port))
