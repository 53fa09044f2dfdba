"""keeping: links to servers that are not there yet, or go."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import pytest
import uvloop

from tests.services.links.conftest import serving
from workermand.services.gateway.keeping import Kept
from workermand.services.links.address import Address
from workermand.services.links.errors import Unauthorized, Unreachable


class States:
    """up, down and refused, as they come."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[str] = asyncio.Queue()

    def keep(self, address: Address, **options: Any) -> Kept:
        return Kept(
            address,
            "echo",
            on_up=lambda: self.queue.put_nowait("up"),
            on_down=lambda: self.queue.put_nowait("down"),
            on_refused=lambda error: self.queue.put_nowait("refused"),
            **{"secret": "", **options},
        )


def test_it_is_there_again_when_the_server_is() -> None:
    async def play(pid: int, address: Address) -> None:
        states = States()
        kept = states.keep(address)
        assert await kept.request(16, "at once") == ["at once"]
        await kept.tried()
        assert kept.up
        assert await states.queue.get() == "up"
        os.kill(pid, signal.SIGKILL)
        assert await states.queue.get() == "down"
        assert await states.queue.get() == "up"
        assert await kept.request(16, "again") == ["again"]
        await kept.close()
        with pytest.raises(Unreachable):
            await kept.request(16, "closed")

    with serving() as (server, address):
        (process,) = server.status()["processes"]
        uvloop.run(play(process["pid"], address))


def test_nobody_is_there() -> None:
    async def play() -> None:
        kept = States().keep(Address("127.0.0.1", 1, ""))
        asked = kept.request(16, "x")
        await kept.tried()
        assert not kept.up
        with pytest.raises(Unreachable):
            await asked
        await kept.close()

    uvloop.run(play())


def test_a_wrong_secret_is_said(caplog: pytest.LogCaptureFixture) -> None:
    async def play(address: Address) -> None:
        states = States()
        kept = states.keep(address, secret="wrong")
        asked = kept.request(16, "x")
        assert await states.queue.get() == "refused"
        with pytest.raises((Unauthorized, Unreachable)):
            await asked
        await kept.close()

    with serving("right") as (_server, address):
        uvloop.run(play(address))
    assert "wrong secret" in caplog.text
