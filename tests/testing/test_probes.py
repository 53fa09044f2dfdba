"""The parts of the conformance suites."""

from __future__ import annotations

import asyncio

import pytest

from workermand.testing import probes


def test_what_does_not_come_is_said_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "PATIENCE", 0.01)

    async def main() -> None:
        with pytest.raises(AssertionError, match=r"a bus: not within 0\.01 s"):
            await probes.soon("a bus", asyncio.Event().wait())
        with pytest.raises(AssertionError, match="never"):
            await probes.until("never", never)

    async def never() -> bool:
        return False

    asyncio.run(main())


def test_fresh_names_differ() -> None:
    assert probes.fresh("a") != probes.fresh("a")
    assert probes.fresh("a").startswith("a.")
