"""BusThread: plans over the bus, for programs without a loop: one runs in a thread of its own.

The thread starts with the first call; after a fork the child has its own.
"""

from __future__ import annotations

import asyncio
import os
import threading
from typing import TypeVar

from workermand.services.gateway.bus.mesh import BusMesh
from workermand.services.gateway.plans import Plan
from workermand.services.links.errors import Unreachable

T = TypeVar("T")


class BusThread:
    """Any thread may call."""

    def __init__(self, url: str, timeout: float) -> None:
        """``timeout``: seconds for connecting, and for each call."""
        self._url, self._timeout = url, timeout
        self._lock = threading.Lock()
        self._pid = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._mesh: BusMesh | None = None

    def run(self, plan: Plan[T]) -> T:
        """Raises Unreachable, Unauthorized, and what the call raises."""
        with self._lock:
            if self._pid != os.getpid():
                self._loop = self._thread = self._mesh = None
            if self._loop is None:
                self._start()
            assert self._loop is not None
            loop = self._loop
            if self._mesh is None:
                asyncio.run_coroutine_threadsafe(self._connect(), loop).result()
        return asyncio.run_coroutine_threadsafe(self._ask(plan), loop).result()

    def close(self) -> None:
        """The next call connects again."""
        with self._lock:
            if self._loop is not None and self._thread is not None and self._pid == os.getpid():
                asyncio.run_coroutine_threadsafe(self._disconnect(), self._loop).result()
                self._loop.call_soon_threadsafe(self._loop.stop)
                self._thread.join()
                self._loop.close()
            self._loop = self._thread = self._mesh = None

    def _start(self) -> None:
        self._pid = os.getpid()
        self._loop = loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=loop.run_forever, name="workermand-bus", daemon=True)
        self._thread.start()

    async def _connect(self) -> None:
        mesh = BusMesh(self._url, timeout=self._timeout)
        try:
            if not await mesh.ready(self._timeout):
                raise Unreachable(f"no nats at {mesh.bus.where} within {self._timeout:g} s")
        except BaseException:
            await mesh.close()
            raise
        self._mesh = mesh

    async def _disconnect(self) -> None:
        if self._mesh is not None:
            await self._mesh.close()

    async def _ask(self, plan: Plan[T]) -> T:
        if self._mesh is None:
            raise Unreachable("closed")
        return await self._mesh.run(plan)
