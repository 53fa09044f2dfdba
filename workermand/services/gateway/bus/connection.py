"""Bus: the connection of one process to the nats server that carries its cluster's inner links, instead of sockets.

    bus = "nats://user:password@host:4222/name"       the name keeps clusters apart that share a server

Everything below is said in subjects without their beginning, "wm.g.NAME.". What is published goes out in the order in
which it was, subscriptions with it. It is tried soon and for ever: a server that is away at first, or goes, comes.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import secrets
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

from workermand import ConfigError
from workermand.services.links.errors import ServiceError, Unauthorized
from workermand.services.links.nats import NatsLink

logger = logging.getLogger(__name__)

NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
DEFAULT: Final = "gateway"
FIRST: Final = 0.1
LAST: Final = 1.0
"""Seconds between attempts, the first and the longest; half of them are left to chance."""
REFUSED: Final = 10.0
"""Seconds until the next one, when it was the wrong password."""
FAREWELL: Final = 2.0
"""Seconds that close() has for what is still to be written."""

Handler = Callable[[str, str, bytes, bool], None]
"""The rest of the subject, the one to answer to, the data; True: it is none, but word that nobody listens there."""
Job = tuple[bool, str, str, bytes]
"""Publish: True, subject, reply, data; or subscribe and unsubscribe: False, subject, queue group, b"+" or b"-"."""


class Bus:
    """Process: any; thread: the one that runs the loop."""

    def __init__(self, url: str) -> None:
        """Raises ConfigError."""
        self._url, name = split(url)
        self._root = f"wm.g.{name}."
        self.id = secrets.token_hex(8)
        """This process."""
        self.up = self._was_lost = False
        self.on_up: list[Callable[[], None]] = []
        self.on_down: list[Callable[[], None]] = []
        self._handlers: dict[str, Handler] = {}
        self._subjects: dict[tuple[str, str], None] = {}
        self._jobs: deque[Job] = deque()
        self._link = self._make()
        self.where = self._link.where
        self._ended = asyncio.Event()
        self._settled = asyncio.Event()
        self._refused: Unauthorized | None = None
        self._writer: asyncio.Task[None] | None = None
        self._keeper = asyncio.get_running_loop().create_task(self._keep())

    async def opened(self) -> None:
        """Waits for the server. Raises Unauthorized when it does not let us in."""
        while not self.up:
            await self._settled.wait()
            if self._refused is not None:
                raise self._refused

    async def close(self) -> None:
        """What has been published still goes out."""
        if self._writer is not None and self.up:
            await asyncio.wait([self._writer], timeout=FAREWELL)
        self._keeper.cancel()
        await asyncio.wait([self._keeper])
        self.up = False
        await self._link.close()
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.wait([self._writer])

    # ------------------------------------------------------------------ messages

    @property
    def piece(self) -> int:
        """Bytes of the largest message."""
        return self._link.max_payload

    def publish(self, subject: str, data: bytes, reply: str = "") -> None:
        """Nothing while it is down. ``reply``: a subject of ours, which hears of it when nobody listens there."""
        if self.up:
            self._do((True, subject, reply, data))

    def route(self, beginning: str, handler: Handler) -> None:
        """Who gets the messages whose subject is ``beginning``, or begins with it and a dot."""
        self._handlers[beginning] = handler

    def listen(self, subject: str, queue: str = "") -> None:
        """From now on, and again whenever the server comes back. ``queue``: one of those in it gets each message."""
        if (subject, queue) not in self._subjects:
            self._subjects[subject, queue] = None
            self._do((False, subject, queue, b"+"))

    def forget(self, subject: str, queue: str = "") -> None:
        """The opposite."""
        if (subject, queue) in self._subjects:
            del self._subjects[subject, queue]
            self._do((False, subject, queue, b"-"))

    def _do(self, job: Job) -> None:
        self._jobs.append(job)
        if self._writer is None and self.up:
            self._writer = asyncio.get_running_loop().create_task(self._write())

    async def _write(self) -> None:
        link, root = self._link, self._root
        try:
            while self._jobs and self.up:
                is_message, subject, other, data = self._jobs.popleft()
                if is_message:
                    await link.publish(root + subject, data, other and root + other)
                elif data == b"+":
                    await link.listen(root + subject, other)
                else:
                    await link.forget(root + subject, other)
        except (ServiceError, TimeoutError) as error:
            logger.warning("bus at %s: %s", self.where, error)  # its link misses it, and breaks
        finally:
            self._writer = None
            if self._jobs and self.up and not asyncio.current_task().cancelling():  # type: ignore[union-attr]
                self._writer = asyncio.get_running_loop().create_task(self._write())

    def _hear(self, subject: str, reply: str, data: bytes, headers: Mapping[str, str]) -> None:
        root = self._root
        if not subject.startswith(root):
            return
        beginning, _, rest = subject[len(root) :].partition(".")
        handler = self._handlers.get(beginning)
        if handler is not None and self.up:
            handler(rest, reply.removeprefix(root), data, headers.get("Status") == "503")

    # ------------------------------------------------------------------ the connection

    def _make(self) -> NatsLink:
        link = NatsLink(self._url, on_up=self._is_up, on_down=self._is_down, on_given_up=self._has_ended)
        link.route("wm.g.", self._hear)
        return link

    def _is_up(self) -> None:
        if self._was_lost:
            self._was_lost = False
            logger.warning("the bus at %s is back", self.where)
        self.up = True
        self._refused = None
        self._settled.set()
        self._jobs.extendleft([(False, subject, queue, b"+") for subject, queue in self._subjects])
        for told in self.on_up:
            told()
        if self._jobs and self._writer is None:
            self._writer = asyncio.get_running_loop().create_task(self._write())

    def _is_down(self) -> None:
        if self.up:
            self.up, self._was_lost = False, True
            self._settled.clear()
            logger.warning("the bus at %s is gone", self.where)
            # What it has not been sent, it will not be: the links that it was for are gone.
            self._jobs = deque(job for job in self._jobs if not job[0])
            for told in self.on_down:
                told()

    def _has_ended(self) -> None:
        self._is_down()
        self._ended.set()

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
                    logger.log(logging.ERROR if said is Unauthorized else logging.WARNING, "bus: %s", error)
                if isinstance(error, Unauthorized):
                    delay = REFUSED
                    self._refused = error
                    self._settled.set()
            else:
                delay, said = FIRST, None
                self._is_up()
                await self._ended.wait()
            self._ended.clear()
            await self._link.close()
            self._link = self._make()
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))
            delay = min(LAST, delay * 2)


def split(url: str) -> tuple[str, str]:
    """The servers' URL, and the name of the cluster. Raises ConfigError."""
    scheme, separator, rest = url.partition("://")
    hosts, slash, name = rest.partition("/")
    as_in = 'as in bus = "nats://127.0.0.1:4222" or "nats://127.0.0.1:4222/chat"'
    if scheme not in ("nats", "tls") or not separator or not hosts:
        raise ConfigError("bus", f'"{scheme}://...": expected nats:// or tls:// and a host', as_in)
    if slash and NAME.fullmatch(name) is None:
        raise ConfigError("bus", f'"/{name}" is no name of a cluster: letters, digits, - and _', as_in)
    return f"{scheme}://{hosts}", name or DEFAULT
