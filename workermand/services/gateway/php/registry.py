"""PhpRegistry: the client's side of Registers in PHP, what registry.py is to ours: which gateways do they know?

Every one of them is asked for ever; what a lost one has said last holds. Lines of JSON, see wire.py.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec

from workermand import AsyncTcpConnection, CloseReason, ConfigError, Connection
from workermand.services.gateway import registry, wire
from workermand.services.gateway.messages import Place
from workermand.services.gateway.php.line import KEY
from workermand.services.gateway.php.register import place_of
from workermand.services.links import address
from workermand.services.links.address import Address, Server
from workermand.services.links.serialize import SerializeError

logger = logging.getLogger(__name__)

SCHEME: Final = "text"
PORT: Final = 1236
PING: Final = 25.0
"""Seconds, as PHP's business workers have it."""
BACKOFF: Final = {"initial": 0.2, "max": 5.0, "jitter": 0.5}
"""Seconds between attempts, and the part left to chance."""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``options.php`` of a business worker: it joins gateways in PHP."""

    secret_key: str = ""
    """GatewayWorker's secretKey."""
    register: str | list[str] = ""
    """Registers in PHP, "text://10.0.0.9:1236"; those of ours tell what they know of gateways in PHP by themselves."""


def settings(given: Mapping[str, Any] | None) -> Settings | None:
    """Raises ConfigError."""
    try:
        return None if given is None else msgspec.convert(given, Settings)
    except msgspec.ValidationError as error:
        raise ConfigError(
            "php", str(error), 'as in {"secret_key": "...", "register": "text://10.0.0.9:1236"}'
        ) from None


def addresses(settings: Settings | None) -> list[Address]:
    """Of its Registers. Raises ConfigError."""
    if settings is None:
        return []
    urls = [settings.register] if isinstance(settings.register, str) else settings.register
    found = [one for url in urls if url for one in address.parse(url, SCHEME, PORT)]
    if any(one.path for one in found):
        hint = f"as in {SCHEME}://127.0.0.1:{PORT}"
        raise ConfigError("php.register", "PHP's Registers listen on no unix socket", hint)
    return found


def ours(register: str | Iterable[str], secret: str, php: Settings | None) -> list[Server]:
    """Our own Registers, see registry.servers(): where PHP's are named there need be none. Raises ConfigError,
    RuntimeError."""
    try:
        return registry.servers(register, secret)
    except (ConfigError, RuntimeError):
        if addresses(php) and register in ("", []):
            return []
        raise


class PhpRegistry:
    """Process: any; thread: the one that runs the loop."""

    def __init__(self, registers: list[Address], secret_key: str, on_places: Callable[[set[Place]], None]) -> None:
        """``on_places`` is told which gateways there are, whenever that changes."""
        self.places: set[Place] = set()
        self._secret_key = secret_key
        self._on_places = on_places
        self._said: dict[Address, set[Place]] = {}
        """What each has said last."""
        self._first = asyncio.Event()
        self._refused: set[Address] = set()
        """Those whose refusal has been logged."""
        self._clock: asyncio.TimerHandle | None = None
        self._connections = [self._connect(register) for register in registers]
        self._ping()

    async def first(self) -> None:
        """Waits until one of them has answered."""
        await self._first.wait()

    async def close(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
        for connection in self._connections:
            connection.close()

    def _connect(self, register: Address) -> AsyncTcpConnection:
        connection = AsyncTcpConnection(register.uri, protocol="text", auto_reconnect=BACKOFF)
        connection.on_connect = self._greet
        connection.on_message = functools.partial(self._hear, register)
        connection.on_close = functools.partial(self._lost, register)
        connection.connect()
        return connection

    def _greet(self, connection: Connection) -> None:
        connection.context = None
        connection.send(wire.worker_connect(self._secret_key))

    def _ping(self) -> None:
        for connection in self._connections:
            if connection.context is not None:
                connection.send(wire.ping())
        self._clock = asyncio.get_running_loop().call_later(PING, self._ping)

    def _hear(self, register: Address, connection: Connection, line: str) -> None:
        try:
            said = wire.read_said(line)
        except SerializeError as error:
            logger.warning("register in PHP at %s: %s", register, error)
            connection.destroy()
            connection.reconnect(BACKOFF["max"])
            return
        if said.event != "broadcast_addresses":
            return
        connection.context = True
        self._refused.discard(register)
        self._said[register] = {place_of(one) for one in said.places}
        self._first.set()
        places = set().union(*self._said.values())
        if places != self.places:
            self.places = places
            self._on_places(places)

    def _lost(self, register: Address, connection: Connection) -> None:
        """It closes without a word when the key is wrong."""
        is_refused = connection.close_reason is CloseReason.PEER_CLOSED and connection.context is None
        connection.context = None
        if is_refused and register not in self._refused:
            self._refused.add(register)
            logger.error("register in PHP at %s has closed the connection at once: %s", register, KEY)
