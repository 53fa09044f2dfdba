"""chaining: outcomes that come from others."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from workermand.services.globaldata.chaining import all_of, named, then
from workermand.services.globaldata.engine import GlobalDataError
from workermand.services.links.errors import ServiceError, Unreachable
from workermand.services.links.later import Later


def test_then() -> None:
    async def play() -> None:
        assert await then(Later.of("a", 1), "b", lambda number: number + 1) == 2
        with pytest.raises(Unreachable):
            await then(Later.failed("a", Unreachable("gone")), "b", str)

        def refuse(_result: Any) -> None:
            raise GlobalDataError("no MessagePack")

        with pytest.raises(GlobalDataError, match="no MessagePack"):
            await then(Later.of("a", 1), "b", refuse)

    asyncio.run(play())


def test_then_of_one_that_is_cancelled() -> None:
    async def play() -> None:
        source: Later[int] = Later("a")
        target = then(source, "b", str)
        target.cancel()
        source.fulfil(1)
        await asyncio.sleep(0)
        assert target.cancelled()

    asyncio.run(play())


def test_all_of() -> None:
    async def play() -> None:
        assert await all_of([], "none", len) == 0
        sources: list[Later[int]] = [Later("a"), Later("b")]
        target = all_of(sources, "both", sum)
        sources[1].fulfil(2)
        await asyncio.sleep(0)
        assert not target.done()
        sources[0].fulfil(1)
        assert await target == 3
        failing: list[Later[int]] = [Later("a"), Later("b"), Later("c")]
        target = all_of(failing, "all", sum)
        failing[1].fail(Unreachable("gone"))
        with pytest.raises(Unreachable):
            await target
        failing[0].fail(Unreachable("gone, too"))
        failing[2].fulfil(1)
        await asyncio.sleep(0)

    asyncio.run(play())


def test_named() -> None:
    error = named(ServiceError("too long"), "set a")
    assert type(error) is GlobalDataError and str(error) == "set a: too long"
    gone = Unreachable("gone")
    assert named(gone, "set a") is gone
