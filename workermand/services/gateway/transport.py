"""Transport: what carries the inner links of a cluster: sockets between processes that Registers introduce, or a bus.

nats-py is imported where there is a bus, and nowhere else.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from workermand import ConfigError, Worker
from workermand.services import options
from workermand.services.gateway.commands import Commands
from workermand.services.gateway.inner import Mesh
from workermand.services.gateway.outbox.posting import Outboxes
from workermand.services.gateway.php.registry import Settings as Php
from workermand.services.gateway.routing import Router
from workermand.services.gateway.sockets import Sockets
from workermand.services.gateway.table import Table
from workermand.services.links.address import Server

if TYPE_CHECKING:
    from workermand.services.gateway.gateway import Settings

REFUSED: Final = {
    "register": "on a bus there are no Registers",
    "secret": "on a bus it is nats that lets in: nats://user:password@host",
    "tls": "on a bus it is tls://host",
    "php": "PHP programs find gateways by a Register, and on a bus there is none",
}
"""Options that say something else than ``bus``, and why."""
UNUSED: Final = ("lan_ip", "listen_inner", "start_port")


def check(worker: Worker, bus: str) -> list[str]:
    """Remarks. Raises LoadError when the options contradict ``bus``, or it is none."""
    if not bus:
        return []
    for key, why in REFUSED.items():
        if worker.options.get(key):
            raise options.complaint(worker, key, f"there is options.bus, too: {why}")
    try:
        importlib.import_module("workermand.services.gateway.bus.connection").split(bus)
    except ConfigError as error:
        raise options.complaint(worker, "bus", str(error)) from None
    return [f"options.{key} is not used: on a bus nothing listens" for key in UNUSED if key in worker.options]


def mesh(bus: str, servers: list[Server], tls: Any, php: Php | None, **rest: Any) -> Mesh:
    """The links to all gateways: over ``bus``, or to those that the Registers ``servers`` know. Raises ConfigError."""
    if bus:
        made: Mesh = importlib.import_module("workermand.services.gateway.bus.mesh").BusMesh(bus, **rest)
        return made
    return Mesh(servers, tls=tls, php=php, **rest)


def inside(
    worker: Worker, settings: Settings, table: Table, commands: Commands, router: Router, outboxes: Outboxes
) -> Any:
    """The inner side of a gateway: Sockets or BusDoor. Raises LoadError."""
    if not settings.bus:
        return Sockets(worker, settings, table, commands, router, outboxes)
    check(worker, settings.bus)
    module = importlib.import_module("workermand.services.gateway.bus.door")
    buffer, ping = settings.send_to_worker_buffer, settings.inner_ping
    return module.BusDoor(worker, settings.bus, table, commands, router, outboxes, buffer, ping)


def outbox(worker: Worker, bus: str, limits: Any) -> Any:
    """A BusOutbox."""
    return importlib.import_module("workermand.services.gateway.bus.outbox").BusOutbox(worker, bus, limits)


def thread(bus: str, timeout: float) -> Any:
    """A BusThread, for programs without a loop. Raises ConfigError."""
    module = importlib.import_module("workermand.services.gateway.bus.blocking")
    return module.BusThread(bus, timeout)


def refuse_beside(bus: str, register: Any, secret: str, tls: Any, php: Any = None) -> None:
    """What is given beside ``bus`` to a client. Raises ConfigError."""
    for key, value in (("register", register), ("secret", secret), ("tls", tls), ("php", php)):
        if bus and value:
            raise ConfigError("bus", f"there is {key}, too: {REFUSED[key]}")
