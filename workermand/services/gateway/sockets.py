"""Sockets: the inner side of a gateway: its listeners for our own programs and for PHP's, and the Registers that it is
announced to. bus/door.py is the same on a bus; transport.py chooses.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from workermand import ConfigError, ControlError, Worker
from workermand.services import options
from workermand.services.gateway import ids, messages, registry
from workermand.services.gateway.commands import Commands
from workermand.services.gateway.messages import Place
from workermand.services.gateway.outbox.posting import Outboxes
from workermand.services.gateway.peers import Peers
from workermand.services.gateway.php.visitors import Visitors
from workermand.services.gateway.registry import Registry
from workermand.services.gateway.routing import Router
from workermand.services.gateway.table import Table
from workermand.services.links.errors import Unauthorized

if TYPE_CHECKING:
    from workermand.services.gateway.gateway import Settings

logger = logging.getLogger(__name__)

PATIENCE: Final = 5.0
"""Seconds that a start waits for a Register; then it goes on without."""


class Sockets:
    """Of one gateway process. Thread: the one that runs the loop."""

    def __init__(
        self, worker: Worker, settings: Settings, table: Table, commands: Commands, router: Router, outboxes: Outboxes
    ) -> None:
        """Raises LoadError."""
        self._worker = worker
        self._settings = settings
        self._outboxes = outboxes
        try:
            self._registers = registry.servers(settings.register, settings.secret)
        except ConfigError as error:
            raise options.complaint(worker, "register", str(error)) from None
        port = settings.start_port + worker.id
        # Of the schemes that are always encrypted; peers.py swaps the protocol.
        scheme = "https" if settings.tls else "frame"
        self._uri = f"{scheme}://{_host(settings.listen_inner or settings.lan_ip)}:{port}"
        buffer = settings.send_to_worker_buffer
        self._visitors: Visitors | None = None
        self.prefix, php_address = ids.new_tag(), ""
        """What its client_ids begin with."""
        if settings.php is not None:
            self._visitors = Visitors(worker, settings.php, table, commands, router, buffer)
            self.prefix, php_address = self._visitors.prefix, self._visitors.address
        service, secret = messages.service(self.prefix), self._registers[0].secret
        self.peers = Peers(worker, self._uri, service, secret, table, commands, router, buffer)
        self._place = Place(f"tcp://{_host(settings.lan_ip)}:{port}", self.prefix, php_address)
        self._registry: Registry | None = None

    async def start(self) -> None:
        """The others hear of this gateway when they can reach it. Raises LoadError."""
        await self._listen("start_port", self._uri, self.peers)
        if self._visitors is not None:
            await self._listen("php", self._visitors.uri, self._visitors)
        self._registry = Registry(
            self._registers,
            announce=self._place,
            outboxes=self._outboxes,
            tls=self._settings.tls or None,
            ping=self._settings.inner_ping,
        )
        try:
            async with asyncio.timeout(PATIENCE):
                await self._registry.first()
        except TimeoutError:
            logger.warning("no Register within %g s: it goes on without", PATIENCE)
        except Unauthorized as error:
            raise options.complaint(self._worker, "secret", str(error)) from None

    async def stop(self) -> None:
        if self._registry is not None:
            await self._registry.close()

    async def _listen(self, key: str, uri: str, handler: object) -> None:
        try:
            await self._worker.listen(uri, handler)
        except (ConfigError, ControlError) as error:
            raise options.complaint(self._worker, key, f"{uri}: {error}") from None


def _host(ip: str) -> str:
    return f"[{ip}]" if ":" in ip else ip
