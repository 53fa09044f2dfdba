"""What the conformance suites of engines share: clients of one server that take down what they are told."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from workermand.services.channel.engine import Engine, Item

T = TypeVar("T")

PATIENCE = 30.0
"""Seconds for what has to happen: far above what it needs."""


class Probe:
    """A client that writes down what its engine tells."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.events: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
        self.items: asyncio.Queue[Item] = asyncio.Queue()
        self.dropped: list[tuple[str, int]] = []
        self.lost = asyncio.Event()
        self.regained = asyncio.Event()

    def on_event(self, event: str, envelope: bytes) -> None:
        self.events.put_nowait((event, envelope))

    def on_item(self, item: Item) -> None:
        self.items.put_nowait(item)

    def on_lost(self) -> None:
        self.lost.set()

    def on_regained(self) -> None:
        self.regained.set()

    def on_dropped(self, what: str, count: int) -> None:
        self.dropped.append((what, count))

    async def event(self) -> tuple[str, bytes]:
        """The next one."""
        return await soon("an event", self.events.get())

    async def item(self) -> Item:
        """The next one."""
        return await soon("an item", self.items.get())

    async def has_no_event(self, event: str) -> None:
        """All that was published before has arrived, and was taken: only the one that is published now comes. ``event``
        is one that this client is subscribed to."""
        mark = secrets.token_bytes(8)
        await self.engine.publish([event], mark)
        found = await self.event()
        assert found == (event, mark), f"an event too many: {found}"


async def soon(what: str, waiting: Awaitable[T]) -> T:
    """Raises AssertionError, in words."""
    try:
        return await asyncio.wait_for(waiting, PATIENCE)
    except TimeoutError:
        raise AssertionError(f"{what}: not within {PATIENCE:g} s") from None


async def until(what: str, condition: Callable[[], Awaitable[Any]]) -> None:
    """For what has no event of its own."""
    deadline = time.monotonic() + PATIENCE
    while not await condition():
        assert time.monotonic() < deadline, f"{what}: not within {PATIENCE:g} s"
        await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def clients(make: Callable[[], Engine], count: int) -> AsyncIterator[list[Probe]]:
    """``count`` of them, started, and closed at the end."""
    probes = [Probe(make()) for _ in range(count)]
    async with contextlib.AsyncExitStack() as stack:
        for probe in probes:
            await probe.engine.start(probe)
            stack.push_async_callback(probe.engine.close)
        yield probes


def fresh(name: str) -> str:
    """A name that nobody else uses: the server may be shared."""
    return f"{name}.{secrets.token_hex(6)}"
