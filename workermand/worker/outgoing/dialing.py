"""Happy Eyeballs (RFC 8305): the first of a host's addresses that answers is taken.

IPv6 and IPv4 are looked up beside each other and tried in turn, a new one every 250 ms, or as soon as one has failed;
the others go on meanwhile. uvloop has none of this: its create_connection tries one address after the other, each for
as long as the kernel likes.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
from collections.abc import Callable, Coroutine
from typing import Any

from workermand.errors import ConnectError
from workermand.worker.outgoing.names import FAMILIES, Names, SockAddr, literal
from workermand.worker.outgoing.target import join

ATTEMPT_DELAY = 0.25
"""Seconds before the next address is tried (RFC 8305 8)."""
RESOLUTION_DELAY = 0.05
"""Seconds that IPv4 waits for the answer of IPv6 (RFC 8305 3)."""

Prepare = Callable[[socket.socket], None]
"""Sets options, binds. Raises OSError."""


async def dial(loop: asyncio.AbstractEventLoop, names: Names, host: str, port: int, prepare: Prepare) -> socket.socket:
    """A connected socket. Raises ConnectError, with what every address said. The deadline is the caller's."""
    if (address := literal(host, port)) is not None:
        return await _connect(loop, address, prepare)
    race = _Race(loop, prepare)
    try:
        return await race.run({family: names.look_up(host, port, family) for family in FAMILIES})
    finally:
        race.end()


async def dial_unix(loop: asyncio.AbstractEventLoop, path: str, prepare: Prepare) -> socket.socket:
    """The same for a unix socket."""
    return await _connect(loop, (socket.AF_UNIX, path), prepare)  # type: ignore[arg-type]


async def _connect(loop: asyncio.AbstractEventLoop, address: SockAddr, prepare: Prepare) -> socket.socket:
    family, place = address
    try:
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    except OSError as error:
        raise ConnectError(f"{_shown(place)}: {words(error)}") from error
    try:
        prepare(sock)
        await loop.sock_connect(sock, place)
    except OSError as error:
        sock.close()
        raise ConnectError(f"{_shown(place)}: {words(error)}") from error
    except BaseException:
        sock.close()
        raise
    return sock


class _Race:
    """Between the addresses of one host."""

    def __init__(self, loop: asyncio.AbstractEventLoop, prepare: Prepare) -> None:
        self._loop = loop
        self._prepare = prepare
        self._lookups: dict[asyncio.Task[Any], socket.AddressFamily] = {}
        self._connects: set[asyncio.Task[socket.socket]] = set()
        self._addresses: list[SockAddr] = []
        """Those that are not tried yet, in their turn."""
        self._complaints: list[str] = []

    async def run(self, lookups: dict[socket.AddressFamily, Coroutine[Any, Any, list[SockAddr]]]) -> socket.socket:
        self._lookups = {self._loop.create_task(lookup): family for family, lookup in lookups.items()}
        wait: float | None = None
        while self._lookups or self._connects or self._addresses:
            done: set[asyncio.Task[Any]] = set()
            if self._lookups or self._connects:
                done, _ = await asyncio.wait(
                    [*self._lookups, *self._connects], timeout=wait, return_when=asyncio.FIRST_COMPLETED
                )
            before = len(self._connects)
            if (sock := self._look_at(done)) is not None:
                return sock
            if not self._addresses:
                wait = None
                continue
            if not self._connects and self._waits_for_ipv6(done):
                wait = RESOLUTION_DELAY
                continue
            if not done or len(self._connects) < before or not self._connects:
                self._connects.add(self._loop.create_task(_connect(self._loop, self._addresses.pop(0), self._prepare)))
            wait = ATTEMPT_DELAY
        raise ConnectError("; ".join(dict.fromkeys(self._complaints)))

    def _look_at(self, done: set[asyncio.Task[Any]]) -> socket.socket | None:
        """The socket, if one is connected."""
        found: socket.socket | None = None
        for task in done:
            its_error = task.exception()
            if task in self._lookups:
                del self._lookups[task]
                if its_error is None:
                    self._addresses = _interleaved(self._addresses, task.result())
            else:
                self._connects.discard(task)
                if its_error is None and found is None:
                    found = task.result()
                elif its_error is None:
                    task.result().close()
            if its_error is not None and not isinstance(its_error, ConnectError):
                raise its_error
            if its_error is not None:
                self._complaints.append(str(its_error))
        return found

    def _waits_for_ipv6(self, done: set[asyncio.Task[Any]]) -> bool:
        """IPv4 is there first; its 50 ms begin now."""
        return bool(done) and socket.AF_INET6 in self._lookups.values()

    def end(self) -> None:
        for task in self._lookups:
            task.cancel()
        for task in self._connects:
            task.cancel()
            task.add_done_callback(_close_result)


def _close_result(task: asyncio.Task[socket.socket]) -> None:
    """It won in the very turn in which it was cancelled."""
    if not task.cancelled() and task.exception() is None:
        task.result().close()


def _interleaved(addresses: list[SockAddr], more: list[SockAddr]) -> list[SockAddr]:
    """IPv6 first, then one of each in turn (RFC 8305 4)."""
    both = [*addresses, *more]
    split = [[address for address in both if address[0] == family] for family in FAMILIES]
    return [address for pair in itertools.zip_longest(*split) for address in pair if address is not None]


def _shown(place: Any) -> str:
    return place if isinstance(place, str) else join(place[0], place[1])


def words(error: Exception) -> str:
    """ "Connection refused": uvloop's own texts begin with the number."""
    return os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
