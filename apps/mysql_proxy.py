"""In front of MySQL or MariaDB: a proxy that sees what passes, and says at the end how many queries that was.

[worker.mysql]
listen = "tcp://127.0.0.1:3307"
handler = "apps.mysql_proxy"
options = { upstream = "127.0.0.1:3306" }

mariadb --host=127.0.0.1 --port=3307 --user=USER --password --execute='SELECT 1'

After pipe() an on_message of one's own may take its place: it looks at the bytes, and sends them on. Queries may have
secrets in them, so they are counted, not printed; over TLS (the client's --ssl) there is nothing to be seen.
"""

from workermand import AsyncTcpConnection, Connection, SendError

HEADER = 4
"""Bytes before each packet: its length (three, little-endian) and its number, 0 for a command."""
QUERY = 3
"""COM_QUERY, the first byte of a packet."""


def on_connect(client: Connection) -> None:
    server = AsyncTcpConnection(f"tcp://{client.worker.options['upstream']}")
    client.context = Counter()
    client.pipe(server)
    server.pipe(client)

    def on_message(client: Connection, data: bytes) -> None:
        client.context.feed(data)
        server.send(data)

    def on_close(client: Connection) -> None:
        print(f"{client.context.queries} queries, {server.bytes_written} bytes there, {server.bytes_read} back")
        server.close()

    client.on_message = on_message
    client.on_close = on_close
    server.on_error = report
    server.connect()


def report(server: AsyncTcpConnection, code: SendError, message: str) -> None:
    if code is SendError.CONNECT_FAIL:
        print(message)


class Counter:
    """Finds where packets begin, however the network has cut them, and keeps none of them."""

    def __init__(self) -> None:
        self.queries = 0
        self.start = b""
        self.rest = 0

    def feed(self, data: bytes) -> None:
        while data:
            if self.rest:
                skipped = min(self.rest, len(data))
                self.rest -= skipped
                data = data[skipped:]
                continue
            missing = HEADER + 1 - len(self.start)
            self.start, data = self.start + data[:missing], data[missing:]
            if len(self.start) > HEADER:
                self.queries += self.start[3] == 0 and self.start[HEADER] == QUERY
                self.rest = max(int.from_bytes(self.start[:3], "little") - 1, 0)
                self.start = b""
