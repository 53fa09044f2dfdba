"""The embedded engine against the conformance suite, and what a kill -9 of its server leaves."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.services.channel.conftest import play, serving
from tests.services.channel.faults import items_survive, publishers_learn_what_was_lost
from workermand.services.channel.embedded import Embedded
from workermand.services.channel.engine import Promise
from workermand.services.links.address import Address, Server
from workermand.testing import RunningServer, channels


@pytest.fixture(scope="module")
def persisting() -> Iterator[RunningServer]:
    with serving(options={"persist": True}) as server:
        yield server


def maker(server: RunningServer) -> Any:
    host, port = server.address
    return lambda **settings: Embedded(Server(Address(str(host), int(port), ""), ""), **settings)


@pytest.mark.parametrize("check", channels.CHECKS, ids=lambda check: check.name)
def test_it_keeps_its_promises(persisting: RunningServer, check: channels.Check) -> None:
    assert check.needs <= set(Promise)
    play(lambda: check(maker(persisting)))  # type: ignore[arg-type, return-value]


class Killed:
    """A daemon whose channel server is killed, and stays away until start(): its master is held meanwhile."""

    def __init__(self, server: RunningServer) -> None:
        self._server = server

    def kill(self) -> None:
        (process,) = self._server.status()["processes"]
        os.kill(self._server.pid, signal.SIGSTOP)
        os.kill(process["pid"], signal.SIGKILL)

    def start(self) -> None:
        os.kill(self._server.pid, signal.SIGCONT)
        self._server.ctl("restart", "main")  # at once, however often it has crashed


def test_publishers_learn_what_was_lost() -> None:
    with serving() as server:
        killed: Any = Killed(server)
        asyncio.run(publishers_learn_what_was_lost(maker(server), killed))


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_items_survive_a_kill(full: bool) -> None:
    with serving(options={"persist": True}) as server:
        killed: Any = Killed(server)
        asyncio.run(items_survive(maker(server), killed, 100 if full else 5))
