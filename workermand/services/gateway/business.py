"""The business worker: ``handler = "workermand.services.gateway.business"``, no listener. Workerman: BusinessWorker.

    [worker.chat_business]
    handler = "workermand.services.gateway.business"
    count = 4
    options = { events = "apps.chat.events" }

It connects to all gateways that the Registers know and runs the events of their clients: events.py. It may be reloaded
at any time: it takes no more events, finishes those it has, and its gateways go on with the next process.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import secrets
from typing import Annotated, Any, Final

import msgspec

from workermand import ConfigError, Worker
from workermand.services import options
from workermand.services.gateway import messages, transport
from workermand.services.gateway.events import CALLBACKS, Dispatcher, Gateway
from workermand.services.gateway.inner import Gate
from workermand.services.gateway.php import registry as phpregistry
from workermand.services.gateway.php.registry import Settings as Php
from workermand.services.links.errors import ServiceError, Unauthorized

logger = logging.getLogger(__name__)

PATIENCE: Final = 5.0
"""Seconds that a start waits for Registers and gateways; then it goes on without them."""
HOOKS: Final = {"on_worker_start": 1, "on_worker_stop": 1, "on_worker_reload": 1}
EVENTS: Final = {name: 2 if name in ("on_message", "on_websocket_connect") else 1 for name in CALLBACKS.values()}
"""What the user's module may have, and with how many arguments it is called."""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The keys of ``options``."""

    events: str
    """The module with on_connect, on_websocket_connect, on_message, on_close, on_worker_start and on_worker_stop."""
    register: str | list[str] = ""
    """See registry.servers()."""
    bus: str = ""
    """ "nats://host:4222/name": the inner links go over nats, and there are no Registers. See bus/."""
    secret: str = ""
    """What gateways and Registers prove to know, and are proved. "": that of the Register of this daemon."""
    tls: bool | dict[str, Any] = False
    """The inner links are encrypted: true, or as ``tls`` of AsyncTcpConnection."""
    timeout: Annotated[float, msgspec.Meta(gt=0)] = 10.0
    """Seconds that a gateway has for an answer."""
    inner_ping: Annotated[float, msgspec.Meta(gt=0)] = 5.0
    """Seconds between two pings on the inner links: who misses two is gone."""
    send_to_gateway_buffer: Annotated[int, msgspec.Meta(ge=1)] = 10_240_000
    """Bytes that may be unsent to one gateway."""
    php: Php | None = None
    """Gateways in PHP are joined as well."""


def on_worker_check(worker: Worker) -> None:
    """For `workermand check`."""
    transport.check(worker, options.read(worker, Settings).bus)


async def on_worker_start(worker: Worker) -> None:
    """Raises LoadError for options that cannot be."""
    worker.business = business = Business(worker, options.read(worker, Settings))
    await business.start()


async def on_worker_reload(worker: Worker) -> None:
    await worker.business.call("on_worker_reload")


async def on_worker_stop(worker: Worker) -> None:
    await worker.business.stop()


class Business:
    """Process: the child; thread: the one that runs the loop."""

    def __init__(self, worker: Worker, settings: Settings) -> None:
        self._worker = worker
        self._settings = settings
        self._callbacks = options.callbacks(worker, "events", settings.events, {**HOOKS, **EVENTS})
        if not self._callbacks.keys() & EVENTS:
            raise options.complaint(worker, "events", f"{settings.events} has none of {', '.join(EVENTS)}")
        self._dispatcher = Dispatcher(worker, self._callbacks)
        # A process that takes this one's place has its name and number, too, and both are there for a while.
        self._key = f"{worker.name}:{worker.id}:{os.getpid()}:{secrets.token_hex(4)}"
        self._serves = False
        self._enlisting: set[asyncio.Task[None]] = set()
        transport.check(worker, settings.bus)
        try:
            phpregistry.addresses(settings.php)
        except ConfigError as error:
            raise options.complaint(worker, "php", str(error)) from None
        try:
            bus = settings.bus
            registers = [] if bus else phpregistry.ours(settings.register, settings.secret, settings.php)
        except ConfigError as error:
            raise options.complaint(worker, "register", str(error)) from None
        self._mesh = transport.mesh(
            settings.bus,
            registers,
            settings.tls or None,
            settings.php,
            ping=settings.inner_ping,
            timeout=settings.timeout,
            send_buffer=settings.send_to_gateway_buffer,
            on_event=self._dispatcher.take,
            on_change=self._dispatcher.changed,
            on_up=self._is_up,
            on_down=self._has_gone,
        )

    async def start(self) -> None:
        """The user's on_worker_start may ask the cluster already; events come behind it."""
        Gateway.install(self._mesh)
        try:
            if not await self._mesh.ready(PATIENCE):
                what = "nats" if self._settings.bus else "Register"
                logger.warning("no %s within %g s: it goes on without", what, PATIENCE)
        except Unauthorized as error:
            raise options.complaint(self._worker, "bus" if self._settings.bus else "secret", str(error)) from None
        await self.call("on_worker_start")
        self._serves = True
        self._mesh.volunteer(yes=True)
        for gate in self._mesh.gates.values():
            self._is_up(gate)
        await asyncio.gather(*self._enlisting)

    async def stop(self) -> None:
        """Finishes what it has; the gateways send no more."""
        self._serves = False
        self._mesh.volunteer(yes=False)
        up = [gate for gate in self._mesh.gates.values() if gate.link.up]
        await asyncio.gather(*(gate.link.request(messages.LEAVE) for gate in up), return_exceptions=True)
        await self._dispatcher.idle()
        await self.call("on_worker_stop")
        await self._mesh.close()
        Gateway.install(None)

    async def call(self, name: str) -> None:
        """One of the user's hooks, if there is one."""
        if (callback := self._callbacks.get(name)) is not None:
            result = callback(self._worker)
            if inspect.isawaitable(result):
                await result

    def _is_up(self, gate: Gate) -> None:
        if self._serves and gate.link.up:
            task = self._worker.loop.create_task(self._enlist(gate))
            self._enlisting.add(task)
            task.add_done_callback(self._enlisting.discard)

    async def _enlist(self, gate: Gate) -> None:
        try:
            await gate.link.request(messages.ENLIST, self._key, self._settings.inner_ping)
        except ServiceError as error:
            logger.warning("%r: %s", gate, error)
        self._note()

    def _has_gone(self, gate: Gate) -> None:
        self._dispatcher.lost(gate)
        self._note()

    def _note(self) -> None:
        up = sum(gate.link.up for gate in self._mesh.gates.values())
        self._worker.figures |= {"gateways": len(self._mesh.gates), "connected": up}
