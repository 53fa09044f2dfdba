"""Door: the server's side of its links: who may come in. Two of it in a service: on_connect, and hear() on messages."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

from workermand import Connection, LoadError, Worker
from workermand.services.links import wire
from workermand.services.links.address import bound
from workermand.services.links.challenge import Asking
from workermand.services.links.errors import ServiceError

logger = logging.getLogger(__name__)

PATIENCE: Final = 10.0
"""Seconds that a client has for its proof."""


class Door:
    """Of one process. Thread: the one that runs the loop."""

    def __init__(self, worker: Worker, service: str, secret: str, default: str) -> None:
        """``default`` is what to listen on, for the complaint. Raises LoadError when the worker listens nowhere, or
        without a secret where another machine could call."""
        self._service = service
        self._secret = secret
        self._strangers: dict[Connection, tuple[Asking, asyncio.TimerHandle]] = {}
        self._loop = asyncio.get_running_loop()
        self.refused = 0
        """Clients without the secret, or that were none of ours."""
        for remark in check(worker, service, secret, default):
            logger.warning("worker %s: %s", worker.name, remark)

    def on_connect(self, connection: Connection) -> None:
        """It has PATIENCE for its proof."""
        timer = self._loop.call_later(PATIENCE, self._refuse, connection, "no proof in time")
        self._strangers[connection] = (Asking(self._service, self._secret), timer)

    def on_close(self, connection: Connection) -> None:
        self._forget(connection)

    def hear(self, connection: Connection, body: bytes) -> list[Any] | None:
        """A message for the service; None for what is the link's own, or what was refused and ends the connection."""
        try:
            message = wire.unpack(body)
        except ServiceError as error:
            self._refuse(connection, str(error))
            return None
        if connection in self._strangers:
            self._ask(connection, message)
            return None
        if message[0] >= wire.FIRST:
            return message
        if message[0] == wire.PING:
            connection.send(wire.body([wire.PONG, 0]))
        return None

    def is_open_to(self, connection: Connection) -> bool:
        """It has proved what there is to prove."""
        return connection not in self._strangers

    def _ask(self, connection: Connection, message: list[Any]) -> None:
        asking = self._strangers[connection][0]
        try:
            answer = asking.hear(message)
        except ServiceError as error:
            self._refuse(connection, str(error))
            return
        if asking.is_done:
            self._forget(connection)
        connection.send(wire.body(answer))

    def _refuse(self, connection: Connection, words: str) -> None:
        self._forget(connection)
        self.refused += 1
        logger.warning("%s: %s is refused: %s", self._service, connection.get_remote_address(), words)
        connection.close(wire.body([wire.FAIL, 0, words]))

    def _forget(self, connection: Connection) -> None:
        if (stranger := self._strangers.pop(connection, None)) is not None:
            stranger[1].cancel()


def check(worker: Worker, service: str, secret: str, default: str) -> list[str]:
    """Remarks, for on_worker_check. Raises LoadError, as Door does."""
    own = [uri for sibling in worker.siblings if sibling.name == worker.name for uri in sibling.listen]
    if not own:
        raise LoadError(f'worker {worker.name}: {service} listens nowhere: add listen = "{default}"')
    for uri in own:
        address = bound(uri)
        if address is None or not (secret or address.is_near):
            raise LoadError(
                f"worker {worker.name}: {uri} can be reached from other machines, and there is no options.secret: set "
                f'one, or listen on "{default}" or 127.0.0.1'
            )
    return ["reloadable = true: a reload ends what it holds in memory; set it to false"] if worker.reloadable else []
