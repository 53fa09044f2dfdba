"""Clients: what all outgoing connections of one process share: its worker, its names, and their end.

process.py opens it with install(), as it does with Timer; runtime.py ends it behind on_worker_stop, which may still
send. The connections themselves are in worker.outgoing, which is what keeps them alive.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from workermand.errors import CloseReason
from workermand.spec import WorkerSpec
from workermand.worker.outgoing.names import Names

if TYPE_CHECKING:
    from workermand.worker.worker import Worker

LAST_WORDS = 0.2
"""Seconds in which what is unsent goes out, and on_close is called, when the process ends."""


class Clients:
    """Process: the child; thread: the one that runs the loop."""

    def __init__(self, worker: Worker, schemes: Mapping[str, str], run_dir: str = "") -> None:
        """``schemes`` is the [protocols] table."""
        self.worker = worker
        self.schemes = schemes
        self.run_dir = run_dir
        self.names = Names(worker.loop)
        self.is_over = False
        """The process ends: nothing is connected any more."""
        self._all_gone = asyncio.Event()

    async def close(self, seconds: float = LAST_WORDS) -> None:
        """Ends them all, in order, within ``seconds``."""
        self.is_over = True
        await self.names.close()
        outgoing = self.worker.outgoing
        for connection in list(outgoing.values()):
            connection.leave(CloseReason.DRAINED)
        self.one_has_ended()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._all_gone.wait()
        for connection in list(outgoing.values()):
            connection.abort(CloseReason.DRAIN_DEADLINE)
        await asyncio.sleep(0)

    def one_has_ended(self) -> None:
        """Called for each AsyncTcpConnection, behind its on_close."""
        if self.is_over and not self.worker.outgoing:
            self._all_gone.set()


_installed: Clients | None = None


def install(clients: Clients | None) -> None:
    """Opens outgoing connections to this process. Called by process.py; by tests with None to close them again."""
    global _installed
    _installed = clients


def installed(who: str) -> Clients:
    """Raises RuntimeError outside a worker process."""
    if _installed is None:
        raise RuntimeError(f"{who}: this is no worker process; call it in a handler")
    return _installed


_loose: dict[asyncio.AbstractEventLoop, Clients] = {}


def of_this_loop(who: str) -> Clients:
    """Those of the worker process; in any other program, those of the loop that runs. Raises RuntimeError when none
    does."""
    if _installed is not None:
        return _installed
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError(f"{who}: a connection needs a running event loop; make it in a coroutine") from None
    if (found := _loose.get(loop)) is None:
        from workermand.worker.worker import Worker  # noqa: PLC0415 -- which imports us

        for former in [former for former in _loose if former.is_closed()]:
            del _loose[former]
        found = _loose[loop] = Clients(Worker(WorkerSpec(name="program", handler=""), loop=loop), {})
    return found
