"""Where a server of ours is: "channel://127.0.0.1:2206", "channel:///run/x/channel.sock", "globaldata://a:2207,b:2207".
Without a URL it is the one of this daemon."""

from __future__ import annotations

import re
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from workermand import ConfigError, Worker

EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}


class Address(NamedTuple):
    """One server."""

    host: str
    """As in a URI, an IPv6 address in brackets; "" for a unix socket."""
    port: int
    path: str
    """Of a unix socket, or ""."""

    @property
    def uri(self) -> str:
        """For AsyncTcpConnection."""
        return f"unix://{self.path}" if self.path else f"tcp://{self.host}:{self.port}"

    def __str__(self) -> str:
        return self.path or f"{self.host}:{self.port}"

    @property
    def is_near(self) -> bool:
        """On this machine: a unix socket, or loopback."""
        return bool(self.path) or self.host in ("localhost", "[::1]") or self.host.startswith("127.")


class Server(NamedTuple):
    """One server and its secret, "" for none."""

    address: Address
    secret: str


def parse(url: str, scheme: str, port: int) -> list[Address]:
    """The servers of a URL ``scheme://host:port,host:port`` or ``scheme:///path``; ``port`` is the default. Raises
    ConfigError."""
    found, _, rest = url.partition("://")
    if found != scheme:
        raise ConfigError(url, f"expected {scheme}://", f"as in {scheme}://127.0.0.1:{port}")
    if rest.startswith("/"):
        return [Address("", 0, rest)]
    return [_parse_one(url, scheme, part.strip(), port) for part in rest.rstrip("/").split(",")]


def _parse_one(url: str, scheme: str, part: str, port: int) -> Address:
    try:
        split = urlsplit(f"//{part}")
        host, given = split.hostname or "", split.port
    except ValueError:
        host, given = "", None
    if not host or "@" in part or re.search(r"[/?#\s]", part):
        raise ConfigError(url, f'"{part}" is no address', f"as in {scheme}://127.0.0.1:{port}")
    return Address(f"[{host}]" if ":" in host else host, port if given is None else given, "")


def bound(uri: str) -> Address | None:
    """What a worker that listens at ``uri`` is bound to; None for what is no stream."""
    scheme, _, rest = uri.partition("://")
    if scheme == "unix":
        return Address("", 0, rest)
    host, _, port = rest.rpartition(":")
    return Address(host, int(port), "") if host and port.isdigit() and scheme != "udp" else None


def from_here(address: Address) -> Address:
    """Where it is reached from this machine: who is bound to every address is bound to loopback, too."""
    return address._replace(host=EVERYWHERE.get(address.host, address.host))


def of_this_daemon(handler: str) -> Server:
    """Where the worker with ``handler`` listens, in the daemon that this process belongs to, and its secret. Raises
    ConfigError when there is none, RuntimeError outside a worker process."""
    for sibling in Worker.current().siblings:
        if sibling.handler == handler:
            for address in filter(None, map(bound, sibling.listen)):
                return Server(from_here(address), str(sibling.options.get("secret", "")))
    raise ConfigError(
        "no URL", f'no worker of this daemon has handler = "{handler}" and listens', "give a URL, or add that worker"
    )
