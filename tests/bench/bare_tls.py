"""An echo over TLS and nothing else, by one stack: `python tests/bench/bare_tls.py uvloop|aiofastnet|ours PORT`.

As bare.py it parses nothing. Ours is the stream of the package, without the daemon around it.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from types import SimpleNamespace
from typing import Any

import aiofastnet
import trustme
import uvloop

from workermand.worker.tls_stream import TlsStream

CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
trustme.CA().issue_cert("localhost").configure_cert(CONTEXT)


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.write = transport.write

    def data_received(self, data: bytes) -> None:
        self.write(data)


class Listener:
    """What a TlsStream needs of one."""

    worker = SimpleNamespace(timeouts=SimpleNamespace(handshake=10.0))

    def handshake_began(self, *_: Any) -> None: ...

    def handshake_ended(self, *_: Any, **__: Any) -> None: ...


async def main(stack: str, port: int) -> None:
    loop = asyncio.get_running_loop()
    server: Any
    if stack == "uvloop":
        server = await loop.create_server(Echo, "127.0.0.1", port, ssl=CONTEXT)
    elif stack == "aiofastnet":
        server = await aiofastnet.create_server(loop, Echo, "127.0.0.1", port, ssl=CONTEXT)
    else:
        listener: Any = Listener()

        def make() -> TlsStream:
            echo: Any = Echo()
            return TlsStream(echo, CONTEXT, listener)

        server = await loop.create_server(make, "127.0.0.1", port)
    print("ready", flush=True)
    await server.serve_forever()


uvloop.run(main(sys.argv[1], int(sys.argv[2])))
