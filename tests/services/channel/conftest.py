"""A server of channels, and clients of it: in the test's own loop, and in worker processes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import pytest
import uvloop

from tests.conftest import PATIENCE
from workermand.services.channel import Channel
from workermand.testing import RunningServer, running_server

HANDLER = "workermand.services.channel.server"


@contextlib.contextmanager
def serving(listen: str = "tcp://127.0.0.1:0", **keys: Any) -> Iterator[RunningServer]:
    """A daemon with nothing but the channel's server."""
    with running_server(HANDLER, listen=listen, protocol="frame", reloadable=False, **keys) as server:
        yield server


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    """One for all tests of a module: names are theirs to choose."""
    with serving() as server:
        yield server


def url_of(server: RunningServer) -> str:
    """Of its first listener."""
    address = server.address
    return f"channel://{address}" if isinstance(address, str) else f"channel://127.0.0.1:{address[1]}"


@contextlib.asynccontextmanager
async def connected(server: RunningServer, **settings: Any) -> AsyncIterator[Channel]:
    channel = await Channel.connect(url_of(server), **settings)
    async with channel:
        yield channel


def play(scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Runs it on a loop of its own; it has PATIENCE seconds."""

    async def in_time() -> None:
        async with asyncio.timeout(PATIENCE):
            await scene()

    uvloop.run(in_time())


async def turns(count: int = 50) -> None:
    """So many turns of the loop: more than what is ready needs to come to its end."""
    for _ in range(count):
        await asyncio.sleep(0)
