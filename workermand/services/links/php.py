"""The door for PHP: clients of Workerman's own Channel and GlobalData, frames of serialize()d arrays, on an address of
their own.

They know no secret: whoever may come in may do whatever such a client can. So there is no door unless options.php
names an address, and it is open to the networks of ``allow`` only. Their messages are read here, their meaning is that
of channel/php.py and globaldata/php.py. The wire has no way to say what was wrong: it is logged.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable
from typing import Any, Final, Protocol

import msgspec

from workermand import ConfigError, Connection, ControlError, Worker, WorkermandError
from workermand.services import options
from workermand.services.links.serialize import SIZE, unserialize

logger = logging.getLogger(__name__)

SCHEMES: Final = ("frame", "tcp", "unix")
"""Whichever it is, frames are spoken there."""
PINGS: Final = (b"", b"ping")
"""Channel's and GlobalData's: they keep a connection alive, and are not answered."""
NEWS: Final = 10
"""Refusals that are logged one by one."""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``options.php``."""

    listen: str | list[str]
    """ "frame://127.0.0.1:2206", or "unix://php.sock" for one in run_dir."""
    allow: list[str] = msgspec.field(default_factory=lambda: ["127.0.0.0/8", "::1"])
    """Addresses and networks; whoever can open a unix socket may come in, too."""

    @property
    def addresses(self) -> list[str]:
        return [self.listen] if isinstance(self.listen, str) else self.listen


def check(worker: Worker, settings: Settings) -> str:
    """What an operator has to know of this door. Raises LoadError."""
    for uri in settings.addresses:
        if uri.partition("://")[0] not in SCHEMES:
            raise options.complaint(
                worker, "php.listen", f'"{uri}": PHP clients speak frames, write frame:// or unix://'
            )
    if not settings.addresses:
        raise options.complaint(worker, "php.listen", 'names no address, as in "frame://127.0.0.1:2206"')
    for text in settings.allow:
        try:
            ipaddress.ip_network(text)
        except ValueError as error:
            raise options.complaint(worker, "php.allow", f'{error}: write "10.0.0.0/8" or "192.0.2.1"') from None
    return (
        f"PHP clients at {', '.join(settings.addresses)} are not authenticated: whoever comes from "
        f"{', '.join(settings.allow) or 'a unix socket'} may do what such a client can"
    )


class Guest(Protocol):
    """One PHP client, as a service has it."""

    def hear(self, message: Any) -> None:
        """What it has sent, unserialized. Raises WorkermandError for what is refused."""

    def full(self) -> None:
        """It does not take what it is sent."""

    def drained(self) -> None:
        """It does again."""

    def gone(self) -> None:
        """The connection has ended: called once."""


class PhpDoor:
    """Of one process. Thread: the one that runs the loop."""

    def __init__(
        self,
        worker: Worker,
        service: str,
        settings: Settings,
        welcome: Callable[[Connection], Guest],
        *,
        closes: bool = False,
    ) -> None:
        """``welcome`` makes the guest of a connection. ``closes`` those whose message was refused, for they wait for
        an answer. Raises LoadError."""
        self._worker = worker
        self._service = service
        self._remark = check(worker, settings)
        self._listen = settings.addresses
        self._allow = [ipaddress.ip_network(text) for text in settings.allow]
        self._welcome = welcome
        self._closes = closes
        self._guests: dict[Connection, Guest] = {}
        self._offences: dict[Connection, int] = {}
        self.refused = 0
        """Connections from elsewhere."""
        self.offences = 0
        """Messages that were refused."""

    async def open(self) -> None:
        """Raises LoadError."""
        for uri in self._listen:
            try:
                await self._worker.listen(uri, self)
            except (ConfigError, ControlError) as error:
                raise options.complaint(self._worker, "php.listen", str(error)) from None
        logger.warning("%s", self._remark)

    # ------------------------------------------------------------------ the callbacks of its connections

    def on_connect(self, connection: Connection) -> None:
        if not self._admits(connection.get_remote_ip()):
            self.refused += 1
            if _is_news(self.refused):
                where = connection.get_remote_address()
                words = "%s: %s is none of options.php.allow: refused (%d so far)"
                logger.warning(words, self._service, where, self.refused)
            connection.destroy()
            return
        if connection.protocol.name != "frame":
            connection.protocol = "frame"
        self._guests[connection] = self._welcome(connection)

    def on_message(self, connection: Connection, body: bytes) -> None:
        guest = self._guests.get(connection)
        if guest is None or body in PINGS:
            return
        try:
            guest.hear(unserialize(body, size=connection.max_package_size or SIZE))
        except WorkermandError as error:
            self.complain(connection, str(error))

    def on_buffer_full(self, connection: Connection) -> None:
        if (guest := self._guests.get(connection)) is not None:
            guest.full()

    def on_buffer_drain(self, connection: Connection) -> None:
        if (guest := self._guests.get(connection)) is not None:
            guest.drained()

    def on_close(self, connection: Connection) -> None:
        guest = self._guests.pop(connection, None)
        self._offences.pop(connection, None)
        if guest is not None:
            guest.gone()

    def complain(self, connection: Connection, words: str) -> None:
        """Something of this client's is refused: logged, the more rarely the more there is."""
        if connection not in self._guests:
            return
        self.offences += 1
        count = self._offences[connection] = self._offences.get(connection, 0) + 1
        if _is_news(count):
            where = connection.get_remote_address()
            logger.warning("%s: PHP client %s, refused (%d so far): %s", self._service, where, count, words)
        if self._closes:
            connection.close()

    def _admits(self, ip: str) -> bool:
        if not ip:
            return True
        address = ipaddress.ip_address(ip)
        return any(address in network for network in self._allow)


def _is_news(count: int) -> bool:
    """The first ones, then 16, 32, 64 ...: nobody fills the log."""
    return count < NEWS or count & (count - 1) == 0
