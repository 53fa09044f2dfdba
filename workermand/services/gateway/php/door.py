"""Who may come in from PHP: to a gateway (visitors.py) and to a Register (register.py).

What PHP programs say is no proof: their ``secret_key`` travels as it stands, and so it is another one than ``secret``.
The doors are there only where ``php`` stands among the options, and open to the networks of ``allow`` alone.
"""

from __future__ import annotations

import hmac
import ipaddress
import logging

import msgspec

from workermand import Connection, Worker
from workermand.services import options

logger = logging.getLogger(__name__)

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Allowed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What both doors have."""

    secret_key: str = ""
    """GatewayWorker's secretKey; "": whoever may come in may do everything."""
    allow: list[str] = msgspec.field(default_factory=lambda: ["127.0.0.0/8", "::1"])
    """Addresses and networks."""


class Door:
    """Who may come in. Of one process; thread: the one that runs the loop."""

    def __init__(self, worker: Worker, settings: Allowed) -> None:
        """Raises LoadError."""
        self._key = settings.secret_key.encode()
        self._allow = [_network(worker, text) for text in settings.allow]
        self.refused = 0
        """Connections from elsewhere, and those with a wrong key."""

    @property
    def is_locked(self) -> bool:
        return bool(self._key)

    def admits(self, connection: Connection) -> bool:
        """Else it is ended."""
        ip = connection.get_remote_ip()
        if not ip or any(ipaddress.ip_address(ip) in network for network in self._allow):
            return True
        self.refuse(connection, "is none of options.php.allow")
        return False

    def fits(self, connection: Connection, key: str) -> bool:
        """Likewise."""
        if hmac.compare_digest(key.encode(), self._key):
            return True
        self.refuse(connection, "has another secret_key")
        return False

    def refuse(self, connection: Connection, why: str) -> None:
        self.refused += 1
        if self.refused & (self.refused - 1) == 0:  # 1, 2, 4, 8 ...: nobody fills the log
            logger.warning("PHP: %s %s: refused (%d so far)", connection.get_remote_address(), why, self.refused)
        connection.close()


def _network(worker: Worker, text: str) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise options.complaint(worker, "php.allow", f'{error}: write "10.0.0.0/8" or "192.0.2.1"') from None
