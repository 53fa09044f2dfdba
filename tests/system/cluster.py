"""A gateway cluster as a daemon's tables: register, gateways on websocket, business workers with events, GlobalData."""

from __future__ import annotations

import os
import random
import signal
import socket

from tests.conftest import wait_until
from workermand.testing import RunningServer

CLUSTER = """
[worker.register]
listen = "unix://register.sock"
protocol = "frame"
handler = "workermand.services.gateway.register"
reloadable = false

[worker.gateway]
listen = "websocket://127.0.0.1:{port}"
handler = "workermand.services.gateway.gateway"
count = {gateways}
reloadable = false
options = {{ start_port = {start_port} }}

[worker.business]
handler = "workermand.services.gateway.business"
count = {businesses}
options = {{ events = "{events}" }}

[worker.globaldata]
listen = "unix://globaldata.sock"
protocol = "frame"
handler = "workermand.services.globaldata.server"
reloadable = false
"""
GATEWAYS = 2


def cluster(events: str, port: int = 0, gateways: int = GATEWAYS, businesses: int = 2) -> str:
    """TOML. Clients connect to ``port``, 0: a free one."""
    start_port = free_ports(gateways)
    return CLUSTER.format(events=events, port=port, gateways=gateways, businesses=businesses, start_port=start_port)


def free_ports(count: int) -> int:
    """The first of so many in a row that nobody listens on, below those that the kernel gives to clients."""
    while True:
        first = random.randrange(20_000, 32_000)
        try:
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first


def address(server: RunningServer) -> str:
    """Where clients connect."""
    return f"ws://127.0.0.1:{server.addresses['gateway'][0][1]}/"


def kill(server: RunningServer, worker: str, id: int) -> None:
    """One process, as a machine that loses its power. Returns when another is in its place."""

    def pid() -> int | None:
        processes = server.status()["processes"]
        return next((one["pid"] for one in processes if (one["worker"], one["id"]) == (worker, id)), None)

    before = pid()
    assert before is not None
    os.kill(before, signal.SIGKILL)
    wait_until("another process", lambda: pid() not in (None, before))
