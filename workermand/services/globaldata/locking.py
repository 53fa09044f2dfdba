"""Lock: one process at a time, by a variable that has an end.

    async with data.lock("report", ttl=60, wait=10) as lock:
        ...

The lock is a key that add() has made, with a token that nobody else knows: only who holds it can end it or prolong it.
It ends by itself after ``ttl`` seconds, for its holder may have died; a holder that takes longer has lost it, and is
told so. What must not happen twice even then is guarded by lock.version, which grows from holder to holder: hand it to
whatever is written to, and let that refuse a smaller one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable
from types import TracebackType

from workermand.services.globaldata.engine import Engine, GlobalDataError, Promise
from workermand.services.globaldata.wire import LOCKS, pack_value
from workermand.services.links.errors import ServiceError, TimedOut, Unreachable, Unsupported
from workermand.services.links.later import Later

logger = logging.getLogger(__name__)

LOOK = 1.0
"""Seconds between two attempts, for engines that do not tell when a key ends."""
ATTEMPTS = 3
"""At the end of a lock, when the connection breaks meanwhile."""


class Doormen:
    """Who waits for which lock: of one client. The lock's key is watched as long as somebody does."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waiting: dict[str, set[asyncio.Event]] = {}

    def on_change(self, key: str, gone: bool) -> None:
        """Whoever comes first gets it."""
        if gone:
            self.wake(key)

    def wake(self, key: str = "") -> None:
        """Those for ``key``, or all, look again."""
        for of, events in self._waiting.items():
            if key in ("", of):
                for event in events:
                    event.set()

    @contextlib.asynccontextmanager
    async def wait_for(self, key: str) -> AsyncIterator[asyncio.Event]:
        """The event is set when it may be free."""
        event = asyncio.Event()
        is_first = key not in self._waiting
        self._waiting.setdefault(key, set()).add(event)
        watches = Promise.WATCH in self._engine.promises
        try:
            if is_first and watches:
                await self._engine.watch(key)
            yield event
        finally:
            self._waiting[key].discard(event)
            if not self._waiting[key]:
                del self._waiting[key]
                if watches:
                    self._engine.unwatch(key)


class Lock:
    """One holding of it; thread: the one that runs the loop. For the next one make another, or enter this one again."""

    def __init__(self, engine: Engine, doormen: Doormen, name: str, ttl: float, wait: float) -> None:
        if not ttl > 0:
            raise ValueError("a lock's ttl: seconds, more than 0")
        self.name = name
        self.ttl = ttl
        """Seconds."""
        self.wait = wait
        """Seconds."""
        self.token = ""
        """What its holder alone knows; "" when it is not held."""
        self.version = 0
        """Grows from holder to holder, where the engine keeps Promise.VERSIONS."""
        self._engine, self._doormen = engine, doormen
        self._key = LOCKS + name
        self._packed = b""
        self._ends = 0.0

    @property
    def remaining(self) -> float:
        """Seconds for which it is surely held still, 0 when it may be another's. By the clock of this machine alone:
        time that it spends suspended counts."""
        return max(0.0, self._ends - time.monotonic()) if self.token else 0.0

    async def acquire(self) -> None:
        """Raises TimedOut after ``wait`` seconds; Unreachable; GlobalDataError."""
        if self.token:
            raise RuntimeError(f"lock {self.name}: it is held already; it is not to be entered twice")
        if Promise.TTL not in self._engine.promises:
            raise Unsupported("a lock needs an engine that keeps ttl")
        token = secrets.token_hex(16)
        self._packed = pack_value(token)
        deadline = time.monotonic() + self.wait
        try:
            version = await self._try() or await self._queue(deadline)
        except BaseException:
            # It may have been done all the same; then nobody else shall wait for its end.
            self._engine.delete(self._key, self._packed)
            raise
        self.token, self.version = token, version

    async def _try(self) -> int:
        """Its version, or 0."""
        ends = time.monotonic() + self.ttl
        try:
            version = await self._engine.add(self._key, self._packed, self.ttl)
        except Unreachable:
            entry = await self._engine.get(self._key)
            version = entry.version if entry is not None and entry.value == self._packed else 0
        self._ends = ends
        return version

    async def _queue(self, deadline: float) -> int:
        async with self._doormen.wait_for(self._key) as event:
            while not (version := await self._try()):
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimedOut(f"lock {self.name}: another has held it for {self.wait:g} s")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(event.wait(), min(left, LOOK))
                event.clear()
            return version

    async def extend(self, ttl: float | None = None) -> None:
        """Another ``ttl`` seconds from now on, the same as at first by default. Raises GlobalDataError when it was
        lost."""
        seconds = self.ttl if ttl is None else ttl
        ends = time.monotonic() + seconds
        if not self.token or not (await self._insist(lambda: self._engine.expire(self._key, seconds, self._packed)))[0]:
            self.token = ""
            raise self._lost()
        self._ends = ends

    async def release(self) -> None:
        """Raises GlobalDataError when it was lost before: another may have been at work, too."""
        token, self.token = self.token, ""
        if not token:
            raise self._lost()
        was_there, attempts = await self._insist(lambda: self._engine.delete(self._key, self._packed))
        if not was_there and attempts == 1:  # else the first one may have done it
            raise self._lost()

    async def _insist(self, ask: Callable[[], Later[bool]]) -> tuple[bool, int]:
        """With the token in it a request may be repeated. The answer, and how often it was asked."""
        for attempt in range(1, ATTEMPTS):
            try:
                return await ask(), attempt
            except Unreachable:
                continue
        return await ask(), ATTEMPTS

    def _lost(self) -> GlobalDataError:
        return GlobalDataError(f"lock {self.name}: it is not held any more; its ttl was {self.ttl:g} s")

    async def __aenter__(self) -> Lock:
        await self.acquire()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self.release()
        except ServiceError as lost:
            if error is None:
                raise
            logger.warning("%s", lost)  # what the block itself has raised is worth more
