"""Kept: a Link to a gateway or a Register that is away at first, or goes: it is tried again, soon and for ever.

All parts of a cluster start in any order, and a network that is cut heals within a second or two. A request while the
other side is away waits for the attempt that is under way, and fails with it.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Any, Final

from workermand.services.gateway.php.link import PhpLink
from workermand.services.links.address import Address
from workermand.services.links.client import Link
from workermand.services.links.errors import ServiceError, Unauthorized
from workermand.services.links.later import Later

logger = logging.getLogger(__name__)

FIRST: Final = 0.1
LAST: Final = 0.5
"""Seconds between attempts, the first and the longest; half of them are left to chance."""
REFUSED: Final = 10.0
"""Seconds until the next one, when it was the wrong secret."""
PATIENCE: Final = 2.0
"""Seconds for one attempt. The kernel sends a lost SYN again after one second, and then after two more: with a new
attempt before that, and LAST between the two, it knocks at least every 1.5 seconds, and a network that is healed is in
use again within two."""


class Kept:
    """Process: any; thread: the one that runs the loop."""

    def __init__(
        self,
        address: Address,
        service: str,
        *,
        secret: str,
        tls: Any = None,
        on_message: Callable[[list[Any]], None] = lambda message: None,
        on_up: Callable[[], None] = lambda: None,
        on_down: Callable[[], None] = lambda: None,
        on_refused: Callable[[Unauthorized], None] = lambda error: None,
        ping: float = 5.0,
        timeout: float = 10.0,
        send_buffer: int = 16 * 1024 * 1024,
        kind: type[Link | PhpLink] = Link,
    ) -> None:
        """As Link has it. ``on_refused``: one of the two does not know the secret."""
        self.address = address
        self._service = service
        self._kind = kind
        self._options: dict[str, Any] = {
            "secret": secret,
            "tls": tls,
            "on_message": on_message,
            "on_up": on_up,
            "on_down": self._has_gone,
            "ping": ping,
            "timeout": min(timeout, PATIENCE),
            "send_buffer": send_buffer,
        }
        self._timeout = timeout
        self._on_down, self._on_refused = on_down, on_refused
        self._gone = asyncio.Event()
        self._tried = asyncio.Event()
        self._link = self._make()
        self._task = asyncio.get_running_loop().create_task(self._keep())

    @property
    def up(self) -> bool:
        return self._link.up

    def request(
        self, op: int, *rest: Any, timeout: float | None = None, outcome: Later[Any] | None = None
    ) -> Later[Any]:
        """See Link.request."""
        return self._link.request(op, *rest, timeout=self._timeout if timeout is None else timeout, outcome=outcome)

    def send(self, frame: bytes) -> bool:
        """See Link.send."""
        return self._link.send(frame)

    async def tried(self) -> None:
        """Waits for the end of the first attempt, however it goes."""
        await self._tried.wait()

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        await self._link.close()

    def _make(self) -> Link | PhpLink:
        return self._kind(self.address, self._service, **self._options)

    def _has_gone(self, why: str) -> None:
        logger.info("%s at %s: %s", self._service, self.address, why)
        self._on_down()
        self._gone.set()

    async def _keep(self) -> None:
        delay = FIRST
        said: type[ServiceError] | None = None
        """What the last failure was: the next one like it is not logged."""
        while True:
            try:
                await self._link.open()
            except ServiceError as error:
                if type(error) is not said:
                    said = type(error)
                    logger.log(logging.ERROR if said is Unauthorized else logging.INFO, "%s", error)
                if isinstance(error, Unauthorized):
                    delay = REFUSED
                    self._on_refused(error)
            else:
                delay, said = FIRST, None
                self._tried.set()
                await self._gone.wait()
                await self._link.close()
            self._tried.set()
            self._gone.clear()
            self._link = self._make()
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))
            delay = min(LAST, delay * 2)
