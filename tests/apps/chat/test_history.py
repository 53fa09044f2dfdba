"""apps.chat.history: the ring of a room's last lines."""

from __future__ import annotations

import asyncio

import pytest

from tests.apps.chat.conftest import Chat, history
from workermand import ConfigError, WorkermandError


def test_the_last_hundred_of_each_room(chat: Chat) -> None:
    async def main() -> None:
        ours = history.History()
        assert await ours.lines("1") == []
        for number in range(250):
            await ours.add("1", {"content": number})
        await ours.add("2", {"content": "other"})
        assert [line["content"] for line in await ours.lines("1")] == list(range(150, 250))
        assert [line["content"] for line in await ours.lines("2")] == ["other"]
        assert len(chat.data.values) == 103
        await ours.close()

    asyncio.run(main())


def test_several_at_once(chat: Chat) -> None:
    async def main() -> None:
        writers = [history.History() for _ in range(4)]
        adding = [writer.add("1", {"content": (n, k)}) for k in range(20) for n, writer in enumerate(writers)]
        await asyncio.gather(*adding)
        contents = [tuple(line["content"]) for line in await writers[0].lines("1")]
        assert sorted(contents) == [(n, k) for n in range(4) for k in range(20)]

    asyncio.run(main())


def test_a_daemon_without_globaldata_is_not_asked_again(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history.time, "monotonic", lambda: float(chat.data.calls) * 1e9)

    async def main() -> None:
        ours = history.History()
        chat.data.error = ConfigError("no URL", "no worker of this daemon has it", "add it")
        for _ in range(3):
            await ours.add("1", {"content": "x"})
            assert await ours.lines("1") == []
        assert chat.data.calls == 1

    asyncio.run(main())


def test_one_that_has_gone_is_asked_again_after_a_while(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(history.time, "monotonic", lambda: now)

    async def main() -> None:
        nonlocal now
        ours = history.History()
        chat.data.error = WorkermandError("gone")
        await asyncio.gather(*(ours.add("1", {"content": number}) for number in range(20)))
        assert await ours.lines("1") == [] and chat.data.calls == 1
        chat.data.error = None
        now += 11
        await ours.add("1", {"content": "back"})
        assert [line["content"] for line in await ours.lines("1")] == ["back"]

    asyncio.run(main())
