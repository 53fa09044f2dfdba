"""Registry: the client's side of Registers. A gateway announces itself to all of them; everybody else asks all of them,
and takes their answers together.

None of them is needed once it has answered. What those say holds that are here: one that is cut off may list gateways
that are cut off with it. When the last one goes, what it has said holds until one is back. A gateway is gone when no
Register lists it any more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any, Final

from workermand import ConfigError
from workermand.services.gateway import messages
from workermand.services.gateway.keeping import Kept
from workermand.services.gateway.messages import Place
from workermand.services.gateway.outbox.posting import Outboxes
from workermand.services.links import address
from workermand.services.links.address import Server
from workermand.services.links.errors import ServiceError, TimedOut, Unauthorized, Unreachable

logger = logging.getLogger(__name__)

HANDLER: Final = "workermand.services.gateway.register"
SCHEME: Final = "register"
PORT: Final = 1236


def servers(register: str | Iterable[str], secret: str) -> list[Server]:
    """The Registers of ``options.register``: "register://10.0.0.1:1236,10.0.0.2:1236", "register:///run/x/register.sock",
    a list of such; "" for that of this daemon, with its secret unless another is given. Raises ConfigError."""
    urls = [register] if isinstance(register, str) else list(register)
    if urls in ([""], []):
        found = address.of_this_daemon(HANDLER)
        return [found._replace(secret=secret or found.secret)]
    return [Server(one, secret) for url in urls for one in address.parse(url, SCHEME, PORT)]


class Registry:
    """Process: any; thread: the one that runs the loop."""

    def __init__(
        self,
        servers: list[Server],
        *,
        announce: Place | None = None,
        on_places: Callable[[set[Place]], None] | None = None,
        outboxes: Outboxes | None = None,
        tls: Any = None,
        ping: float = 5.0,
    ) -> None:
        """``announce`` this gateway, or tell ``on_places`` which there are, whenever that changes. ``outboxes``
        hears of those that they keep."""
        if not servers:
            raise ConfigError("register", "no address", f"as in {SCHEME}://127.0.0.1:{PORT}")
        self._announce = announce
        self._on_places = on_places
        self.outboxes = Outboxes() if outboxes is None else outboxes
        self._ping = ping
        self._said: dict[Server, set[Place]] = {}
        """What each of those that are here has said last."""
        self._first = asyncio.Event()
        self._refused: dict[Server, Unauthorized] = {}
        self.places: set[Place] = set()
        self._links: dict[Server, Kept] = {}
        for server in servers:
            self._links[server] = Kept(
                server.address,
                messages.REGISTER,
                secret=server.secret,
                tls=tls,
                on_message=lambda message, server=server: self._hear(server, message),  # type: ignore[misc]
                on_up=lambda server=server: self._greet(server),  # type: ignore[misc]
                on_down=lambda server=server: self._lose(server),  # type: ignore[misc]
                on_refused=lambda error, server=server: self._refuse(server, error),  # type: ignore[misc]
                ping=ping,
            )

    async def first(self) -> None:
        """Waits until one of them has answered. Raises Unauthorized when all of them have refused us."""
        await self._first.wait()
        if len(self._refused) == len(self._links):
            raise next(iter(self._refused.values()))

    async def close(self) -> None:
        self._on_places = None
        await asyncio.gather(*(link.close() for link in self._links.values()))

    def _refuse(self, server: Server, error: Unauthorized) -> None:
        self._refused[server] = error
        if len(self._refused) == len(self._links):
            self._first.set()

    def _greet(self, server: Server) -> None:
        self._refused.pop(server, None)
        link = self._links[server]
        link.request(messages.OUTBOX).add_done_callback(lambda asked: self._keeps(link, asked))
        if self._announce is not None:
            asked = link.request(messages.ANNOUNCE, self._announce, self._ping)
        else:
            asked = link.request(messages.WATCH)
        asked.add_done_callback(lambda asked: self._answered(server, asked))

    def _answered(self, server: Server, asked: asyncio.Future[Any]) -> None:
        if asked.cancelled():
            return
        if (error := asked.exception()) is not None:
            logger.warning("register at %s: %s", server.address, error)
            return
        if self._announce is not None:
            self._first.set()

    def _keeps(self, link: Kept, asked: asyncio.Future[Any]) -> None:
        """A Register of an earlier release does not know what is asked, and has none."""
        if asked.cancelled() or isinstance(asked.exception(), (Unreachable, TimedOut)):
            return  # what it has said before holds
        if asked.exception() is None and asked.result() is True:
            self.outboxes.add(link, list(self._links.values()))
        elif link in self.outboxes.ways:
            self.outboxes.ways.remove(link)

    def _hear(self, server: Server, message: list[Any]) -> None:
        if message[0] == messages.GATEWAYS and len(message) > 2 and self._announce is None:
            self._take(server, message[2])
        elif message[0] == messages.KEPT and len(message) > 2 and isinstance(message[2], list):
            self.outboxes.hear(message[2])

    def _take(self, server: Server, said: Any) -> None:
        try:
            self._said[server] = set(messages.places(said))
        except ServiceError as error:
            logger.warning("register at %s: %s", server.address, error)
            return
        self._first.set()
        self._merge()

    def _lose(self, server: Server) -> None:
        self._said.pop(server, None)
        self._merge()

    def _merge(self) -> None:
        places = set().union(*self._said.values())
        if self._said and places != self.places:
            self.places = places
            if self._on_places is not None:
                self._on_places(places)
