"""The conformance suite finds what an engine does wrong: here one that does nothing right."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from workermand.services.globaldata.engine import Promise
from workermand.services.links.later import Later
from workermand.testing import globaldata_suite as suite
from workermand.testing import probes


class Idle:
    """Promises everything, and does nothing."""

    promises = frozenset(Promise)

    async def start(self, receiver: Any) -> None: ...

    async def close(self) -> None: ...

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments, **options: Later.of(name, None)


@pytest.mark.parametrize("check", suite.CHECKS, ids=lambda check: check.name)
def test_an_engine_that_does_nothing_fails(check: suite.Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "PATIENCE", 0.05)
    with pytest.raises((AssertionError, AttributeError, TypeError, asyncio.QueueEmpty, StopIteration, RuntimeError)):
        asyncio.run(check(Idle))  # type: ignore[arg-type, return-value]


def test_every_promise_has_a_check() -> None:
    checked = frozenset[Promise]().union(*(check.needs for check in suite.CHECKS))
    assert checked == set(Promise) - {Promise.PERSISTENCE}, "persistence needs a server that one may kill"
