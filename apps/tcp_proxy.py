"""A proxy for anything over TCP: what a client sends goes upstream, what comes back goes to the client.

[worker.front]
listen = "tcp://127.0.0.1:8080"
handler = "apps.tcp_proxy"
options = { upstream = "127.0.0.1:80" }

curl http://127.0.0.1:8080/

pipe() is one direction. It does not read faster than the other side takes; it passes on the end of one half while the
other half goes on; and the end of one connection is the end of both. What a client sends before the upstream is
connected waits, up to limits.send_buffer.
"""

from workermand import AsyncTcpConnection, Connection, SendError


def on_connect(client: Connection) -> None:
    upstream = AsyncTcpConnection(f"tcp://{client.worker.options['upstream']}")
    client.pipe(upstream)
    upstream.pipe(client)
    upstream.on_error = report
    upstream.connect()


def report(upstream: AsyncTcpConnection, code: SendError, message: str) -> None:
    """The client is closed when this returns: upstream.pipe(client) takes care of that."""
    if code is SendError.CONNECT_FAIL:
        print(message)
