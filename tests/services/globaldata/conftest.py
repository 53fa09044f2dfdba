"""A server of GlobalData, and clients to it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Iterator
from typing import Any

from tests.conftest import wait_until
from workermand.services.globaldata import GlobalData
from workermand.testing import RunningServer, running_server

HANDLER = "workermand.services.globaldata.server"


@contextlib.contextmanager
def serving(listen: str = "tcp://127.0.0.1:0", **keys: Any) -> Iterator[tuple[RunningServer, str]]:
    """The server, and its URL. ``keys``: of its [worker.NAME]."""
    with running_server(HANDLER, listen=listen, protocol="frame", reloadable=False, **keys) as server:
        yield server, url_of(server)


def url_of(server: RunningServer) -> str:
    address = server.address
    return f"globaldata://{address}" if isinstance(address, str) else f"globaldata://{address[0]}:{address[1]}"


@contextlib.asynccontextmanager
async def connected(url: str, **options: Any) -> AsyncIterator[GlobalData]:
    async with asyncio.timeout(60), await GlobalData.connect(url, **options) as data:
        yield data


def children(server: RunningServer) -> list[int]:
    return [int(process["pid"]) for process in server.status()["processes"]]


def crash(server: RunningServer) -> None:
    """kill -9 of its one process; returns when there is another."""
    (child,) = children(server)
    os.kill(child, signal.SIGKILL)
    wait_until("another process", lambda: set(children(server)) - {child})
