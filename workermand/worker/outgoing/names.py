"""From a host's name to its addresses, without holding anybody up.

c-ares asks the servers of /etc/resolv.conf, after /etc/hosts, over sockets of its own: a thousand names that nobody
answers wait beside each other, and not before the thousand and first. (The loop's getaddrinfo has four threads, which
four such names fill for 20 seconds.) The deadline is the caller's.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from typing import Any

import aiodns

from workermand.errors import ConnectError

TIMEOUT = 2.0
"""Seconds that a server has to answer, before it is asked again, or another one is."""
TRIES = 3
FAMILIES = (socket.AF_INET6, socket.AF_INET)

SockAddr = tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int]]
"""Family and address, as connect() takes it."""


class Names:
    """Process: the child; thread: the one that runs the loop. From the first name on c-ares has one of its own."""

    def __init__(self, loop: asyncio.AbstractEventLoop, servers: Sequence[str] | None = None) -> None:
        """``servers``: those to ask in the place of resolv.conf's, "127.0.0.1:5353"."""
        self._loop = loop
        self._servers = servers
        self._resolver: aiodns.DNSResolver | None = None

    async def look_up(self, host: str, port: int, family: socket.AddressFamily) -> list[SockAddr]:
        """The addresses of one family. Raises ConnectError."""
        if self._resolver is None:
            self._resolver = aiodns.DNSResolver(self._servers, loop=self._loop, timeout=TIMEOUT, tries=TRIES)
        try:
            result = await self._resolver.getaddrinfo(host, family, port, type=socket.SOCK_STREAM)
        except aiodns.error.DNSError as error:
            raise ConnectError(f"{host}: {error.args[-1]}") from error
        return [(family, _plain(node.addr)) for node in result.nodes]

    async def close(self) -> None:
        if self._resolver is not None:
            await self._resolver.close()
            self._resolver = None


def literal(host: str, port: int) -> SockAddr | None:
    """What is an address already; None for a name."""
    for family in FAMILIES:
        try:
            socket.inet_pton(family, host)
        except OSError:
            continue
        return family, (host, port)
    return None


def _plain(addr: Any) -> Any:
    host, *rest = addr
    return (host.decode(), *rest)
