"""Requests and their deadlines."""

from __future__ import annotations

import asyncio

import pytest

from workermand.services.links.errors import ServiceError, TimedOut, Unreachable
from workermand.services.links.later import Later
from workermand.services.links.waiting import Waiting


def test_outcomes() -> None:
    async def play() -> None:
        waiting = Waiting(asyncio.get_running_loop())
        laters: list[Later[int]] = [Later(str(number)) for number in range(6)]
        for number, seconds in enumerate([60, 60, 0.01, 60, 60, 0.02]):
            waiting.add(number, laters[number], seconds)
        waiting.fulfil(0, 7)
        waiting.fulfil(0, 8)
        waiting.fail(1, ServiceError("no"))
        waiting.fail(1, ServiceError("no, no"))
        assert await laters[0] == 7
        with pytest.raises(ServiceError, match=r"^no$"):
            await laters[1]
        with pytest.raises(TimedOut, match=r"2: no answer within 0\.01 s"):
            await laters[2]
        with pytest.raises(TimedOut, match=r"5: no answer"):
            await laters[5]
        waiting.fail_all(Unreachable("gone"), but={4})
        with pytest.raises(Unreachable, match="gone"):
            await laters[3]
        assert waiting.has(4) and len(waiting) == 1
        waiting.fulfil(4, 1)
        assert await laters[4] == 1 and not len(waiting)

    asyncio.run(play())
