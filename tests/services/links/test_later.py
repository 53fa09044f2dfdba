"""Later: awaited, or dropped."""

from __future__ import annotations

import asyncio

import pytest

from workermand.services.links.errors import ServiceError
from workermand.services.links.later import Later


def test_it_is_awaited(caplog: pytest.LogCaptureFixture) -> None:
    async def play() -> None:
        assert await Later.of("one", 7) == 7
        with pytest.raises(ServiceError, match="why"):
            await Later.failed("two", ServiceError("why"))
        later: Later[int] = Later("three")
        later.fail(ServiceError("first"))
        later.fulfil(7)
        later.fail(ServiceError("third"))
        with pytest.raises(ServiceError, match="first"):
            await asyncio.wait_for(later, 1)

    asyncio.run(play())
    assert not caplog.records


def test_it_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    async def play() -> None:
        Later.of("one", 7)
        Later.failed("publish to room", ServiceError("no room"))
        later: Later[int] = Later("three")
        later.cancel()
        later.fulfil(7)
        await asyncio.sleep(0)

    asyncio.run(play())
    (record,) = caplog.records
    assert record.getMessage() == "publish to room failed, and nobody waited for it: no room"
    assert record.exc_info is None
