"""Hooks: functions of the user's own in a gateway's process, ``options.hooks = "module"``. GatewayWorker: the callbacks
of a Gateway.

    def on_websocket_connect(connection, request):      before the upgrade; to refuse it:
        connection.handshake.refuse(403, "...")
    def on_connect(connection): ...                     before its events; to refuse it: connection.close()
    def on_close(connection): ...
    def on_business_worker_connected(key): ...
    def on_business_worker_close(key): ...
    async def on_worker_start(worker): ...
    async def on_worker_stop(worker): ...

They see every client and no message, wait for nothing, and are not reloaded: what changes belongs in the events.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Final

from workermand import Connection, Request, Worker
from workermand.services import options

PLAIN: Final = {
    "on_websocket_connect": 2,
    "on_connect": 1,
    "on_close": 1,
    "on_business_worker_connected": 1,
    "on_business_worker_close": 1,
}
KNOWN: Final = {"on_worker_start": 1, "on_worker_stop": 1, **PLAIN}
"""How many arguments each is called with."""


class Hooks:
    """Of one gateway process; thread: the one that runs the loop. What a hook raises at the start ends the start, what
    it raises for a client ends its connection; whatever else it raises is logged and counted."""

    def __init__(self, worker: Worker, found: Mapping[str, Callable[..., Any]]) -> None:
        self._worker = worker
        self._found = found

    async def start(self) -> None:
        await self._run("on_worker_start")

    async def stop(self) -> None:
        await self._run("on_worker_stop")

    def websocket_connect(self, connection: Connection, request: Request) -> None:
        if (hook := self._found.get("on_websocket_connect")) is not None:
            hook(connection, request)

    def connect(self, connection: Connection) -> None:
        if (hook := self._found.get("on_connect")) is not None:
            hook(connection)

    def close(self, connection: Connection) -> None:
        if (hook := self._found.get("on_close")) is not None:
            hook(connection)

    def business_worker(self, key: str, connected: bool) -> None:
        """It has come, or gone."""
        name = "on_business_worker_connected" if connected else "on_business_worker_close"
        if (hook := self._found.get(name)) is not None:
            try:
                hook(key)
            except Exception as error:
                self._worker.failed(name, None, error)

    async def _run(self, name: str) -> None:
        if (hook := self._found.get(name)) is not None:
            result = hook(self._worker)
            if inspect.isawaitable(result):
                await result


def load(worker: Worker, name: str) -> Hooks:
    """Those of a module; "": none. Raises LoadError."""
    if not name:
        return Hooks(worker, {})
    found = options.callbacks(worker, "hooks", name, KNOWN)
    for hook in PLAIN:
        if inspect.iscoroutinefunction(found.get(hook)):
            raise options.complaint(worker, "hooks", f"{name}.{hook} is async: a gateway does not wait for it")
    return Hooks(worker, found)
