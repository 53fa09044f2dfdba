"""UDP ASSOCIATE of apps.socks5 (RFC 1928, 7): datagrams of one client, each with its destination before it, and back.

The client's side is a socket of our own in worker.loop, for as long as its TCP connection lives. The other side is an
AsyncUdpConnection for each destination: names are looked up without waiting, and nobody else's answers come through.
"""

import ipaddress
import socket

from workermand import AsyncUdpConnection, ConfigError, Connection

DESTINATIONS = 64
"""Of one client; the oldest makes room."""


class Relay:
    def __init__(self, client: Connection) -> None:
        self.client = client
        self.peer: tuple[str, int] | None = None
        self.loop = client.worker.loop
        self.destinations: dict[bytes, AsyncUdpConnection] = {}
        self.sock = socket.socket(socket.AF_INET if client.is_ipv4() else socket.AF_INET6, socket.SOCK_DGRAM)
        self.sock.setblocking(False)
        self.sock.bind((client.get_local_ip(), 0))
        self.address: tuple[str, int] = self.sock.getsockname()[:2]
        self.loop.add_reader(self.sock, self.receive)

    def receive(self) -> None:
        try:
            data, sender = self.sock.recvfrom(65_535)
        except OSError:
            return
        if sender[0] != self.client.get_remote_ip() or len(data) < 5 or data[:3] != bytes(3):
            return  # somebody else, or a fragment
        self.peer = self.peer or sender
        size = {1: 10, 3: 7 + data[4], 4: 22}.get(data[3], len(data) + 1)
        if sender == self.peer and len(data) >= size:
            self.pass_on(data[:size], data[size:])

    def pass_on(self, head: bytes, data: bytes) -> None:
        if head not in self.destinations:
            host, port = head[5:-2] if head[3] == 3 else head[4:-2], int.from_bytes(head[-2:], "big")
            try:
                made = AsyncUdpConnection(f"udp://{host_of(head[3], host)}:{port}")
            except ConfigError:
                return
            if len(self.destinations) >= DESTINATIONS:
                self.destinations.pop(next(iter(self.destinations))).close()
            made.on_message = lambda _destination, answer: self.pass_back(head + answer)
            made.on_close = lambda _destination: self.destinations.pop(head, None)
            self.destinations[head] = made
        self.destinations[head].send(data)

    def pass_back(self, data: bytes) -> None:
        assert self.peer is not None
        try:
            self.sock.sendto(data, self.peer)
        except OSError:  # full, or too long: it is lost, as datagrams are
            return

    def close(self) -> None:
        self.loop.remove_reader(self.sock)
        self.sock.close()
        for destination in list(self.destinations.values()):
            destination.close()


def host_of(kind: int, host: bytes) -> str:
    """As a URI has it."""
    if kind == 3:
        return host.decode("latin-1")
    address = ipaddress.ip_address(host)
    return str(address) if kind == 1 else f"[{address}]"


def packed(host: str, port: int) -> bytes:
    address = ipaddress.ip_address(host)
    return bytes([1 if address.version == 4 else 4]) + address.packed + port.to_bytes(2, "big")
