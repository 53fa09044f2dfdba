"""The embedded engine against the conformance suite, with and without a store."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.services.globaldata.conftest import serving
from workermand.services.globaldata.embedded import Embedded
from workermand.services.globaldata.engine import Promise
from workermand.services.links.address import Address
from workermand.testing import RunningServer
from workermand.testing import globaldata_suite as suite


@pytest.fixture(scope="module", params=[True, False], ids=["persist", "memory"])
def server(request: pytest.FixtureRequest) -> Iterator[tuple[RunningServer, bool]]:
    with serving(options={"persist": request.param}) as (running, _):
        yield running, request.param


@pytest.mark.parametrize("check", suite.CHECKS, ids=lambda check: check.name)
def test_it_keeps_its_promises(check: suite.Check, server: tuple[RunningServer, bool]) -> None:
    running, persists = server
    host, port = running.address

    def make() -> Embedded:
        return Embedded(Address(str(host), int(port), ""))

    async def main() -> None:
        async with suite.clients(make, 1) as (client,):
            assert set(Promise) - client.engine.promises == (set() if persists else {Promise.PERSISTENCE})
        await check(make)

    asyncio.run(main())
