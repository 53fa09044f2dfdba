"""For the tests of handlers and protocols, yours and ours; nothing of the daemon calls it.

    check_protocol(make, cases)     does a protocol read the same messages however the network cuts the bytes?
    feed_all(protocol, *pieces)     all messages of these bytes, as a connection would feed them
    MemoryTransport                 an asyncio transport without a socket, that can be made to stall
    running_server(...)             a real daemon on a free port, for one `with` block

A test of a handler, with a daemon and a client:

    def test_echo():
        with running_server("apps.echo", listen="text://127.0.0.1:0") as server, server.connect() as client:
            client.sendall(b"hello\n")
            assert client.recv(100) == b"hello\n"
"""

from workermand.testing.protocols import Case, check_protocol, feed_all
from workermand.testing.server import RunningServer, ServerFailed, running_server
from workermand.testing.transport import MemoryTransport

__all__ = ["Case", "MemoryTransport", "RunningServer", "ServerFailed", "check_protocol", "feed_all", "running_server"]
