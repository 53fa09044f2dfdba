"""A cluster of real processes, and clients to it."""

from __future__ import annotations

import contextlib
import json
import random
import secrets
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.services.servers import Server, nats_server
from workermand.testing import RunningServer, running_server

EVENTS = "tests.services.gateway.events"
FIRST_PORT = 10_240


@contextlib.contextmanager
def ports(count: int) -> Iterator[int]:
    """The first of ``count`` free ports in a row, this test's until the end."""
    last = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        first = random.SystemRandom().randrange(FIRST_PORT, max(last, 2 * FIRST_PORT) - count)
        with contextlib.ExitStack() as stack:
            try:
                for port in range(first, first + count):
                    held = stack.enter_context(socket.socket())
                    held.bind(("0.0.0.0", port))
                    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            except OSError:
                continue
            yield first
            return


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(one)}" for key, one in value.items()) + "}"
    return json.dumps(value)


@contextlib.contextmanager
def cluster(
    *,
    listen: str = "text://127.0.0.1:0",
    gateways: int = 1,
    business: int = 1,
    events: str = EVENTS,
    files: dict[str, str] | None = None,
    secret: str = "",
    gateway: dict[str, Any] | None = None,
    worker: dict[str, Any] | None = None,
    register: dict[str, Any] | None = None,
    more: str = "",
    bus: str = "",
) -> Iterator[RunningServer]:
    """Register, gateways and business workers in one daemon. ``gateway``, ``worker`` and ``register``
    are further options of the three kinds; ``more`` is further TOML. With ``bus`` there is a Register only if it has
    ``register``, for an outbox."""
    with ports(gateways) as first:
        introduction = f"""
[worker.register]
listen = "frame://127.0.0.1:0"
handler = "workermand.services.gateway.register"
reloadable = false
options = {toml({"secret": secret, **(register or {})})}
"""
        if bus:
            introduction = (
                f"""
[worker.register]
handler = "workermand.services.gateway.register"
reloadable = false
options = {toml({"bus": bus, **register})}
"""
                if register
                else ""
            )
        place = {"bus": bus} if bus else {"start_port": first}
        text = f"""
{introduction}

[worker.gateway]
listen = "{listen}"
handler = "workermand.services.gateway.gateway"
count = {gateways}
reloadable = false
options = {toml({**place, **(gateway or {})})}

[worker.business]
handler = "workermand.services.gateway.business"
count = {business}
options = {toml({"events": events, **({"bus": bus} if bus else {}), **(worker or {})})}

{more}
"""
        with running_server(text, files=files) as server:
            yield server


def register_of(server: RunningServer) -> str:
    address = server.addresses["register"][0]
    return f"register://{address[0]}:{address[1]}"


class Transport:
    """What the inner links go over: a Register introduces them, or a bus carries them."""

    def __init__(self, nats: Server | None) -> None:
        self.nats = nats
        self.bus = f"{nats.url}/{secrets.token_hex(4)}" if nats is not None else ""
        """With a name of this test's own."""

    def cluster(self, secret: str = "", **options: Any) -> contextlib.AbstractContextManager[RunningServer]:
        """As cluster() has it. A bus has no secret."""
        return cluster(bus=self.bus, **options) if self.bus else cluster(secret=secret, **options)

    def to(self, server: RunningServer, secret: str = "") -> dict[str, Any]:
        """What a client is to be told."""
        return {"bus": self.bus} if self.bus else {"register": register_of(server), "secret": secret}


@pytest.fixture(scope="session")
def nats() -> Iterator[Server]:
    with nats_server("--no_advertise") as server:
        yield server


@pytest.fixture(params=["links", "bus"])
def transport(request: pytest.FixtureRequest) -> Transport:
    """The same over both."""
    return Transport(request.getfixturevalue("nats") if request.param == "bus" else None)


class Client:
    """One that speaks lines."""

    def __init__(self, server: RunningServer, tls: ssl.SSLContext | None = None) -> None:
        self.sock = server.connect("gateway")
        if tls is not None:
            self.sock = tls.wrap_socket(self.sock, server_hostname="localhost")
        self._lines = self.sock.makefile("rb")

    def say(self, line: str) -> None:
        self.sock.sendall(line.encode() + b"\n")

    def hear(self) -> str:
        line = self._lines.readline()
        assert line, "closed"
        return line.decode().rstrip("\n")

    def ask(self, line: str) -> str:
        self.say(line)
        return self.hear()

    def is_closed(self) -> bool:
        return self._lines.readline() == b""

    def close(self) -> None:
        self._lines.close()
        self.sock.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
