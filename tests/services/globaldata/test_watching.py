"""watching.Watcher: what a callback is told, and what not."""

from __future__ import annotations

import asyncio

from workermand.services.globaldata.watching import Change, Watcher


class Heard(list[Change]):
    def failed(self, key: str, error: BaseException) -> None:
        self.append(Change(key, str(error), -1))


def change(number: int) -> Change:
    return Change("a", number, number)


def test_news() -> None:
    watcher = Watcher("a", lambda change: None, Heard().failed)
    told = [
        (True, 5, False),  # not there, and never was
        (False, 5, False),  # an answer that was overtaken
        (False, 6, True),
        (False, 6, False),
        (True, 0, True),  # deletions without a version
        (True, 0, False),
        (False, 6, False),
        (False, 8, True),
        (True, 9, True),
        (True, 10, False),
    ]
    for gone, version, expected in told:
        assert watcher.is_news(gone, version) is expected, (gone, version)


def test_a_callback_that_returns() -> None:
    heard = Heard()
    watcher = Watcher("a", heard.append, heard.failed)
    watcher.tell(change(1))
    watcher.tell(change(2))
    assert [each.value for each in heard] == [1, 2]


def test_a_callback_that_awaits_gets_the_last_one() -> None:
    async def play() -> None:
        heard, go_on = Heard(), asyncio.Event()
        done = asyncio.Event()

        async def callback(change: Change) -> None:
            await go_on.wait()
            heard.append(change)
            if change.value == 9:
                done.set()

        watcher = Watcher("a", callback, heard.failed)
        for number in range(1, 10):
            watcher.tell(change(number))
        go_on.set()
        await done.wait()
        assert [each.value for each in heard] == [1, 9]

    asyncio.run(play())


def test_a_callback_that_raises_goes_on() -> None:
    async def play() -> None:
        heard = Heard()

        def callback(change: Change) -> None:
            raise ValueError(f"sync {change.value}")

        async def awaiting(change: Change) -> None:
            raise ValueError(f"async {change.value}")

        for function in (callback, awaiting):
            watcher = Watcher("a", function, heard.failed)
            for number in (1, 2):
                watcher.tell(change(number))
                await asyncio.sleep(0)
                await asyncio.sleep(0)
        assert [each.value for each in heard] == ["sync 1", "sync 2", "async 1", "async 2"]

    asyncio.run(play())


def test_one_that_is_over_is_not_called_again() -> None:
    async def play() -> None:
        heard, go_on = Heard(), asyncio.Event()

        async def callback(change: Change) -> None:
            heard.append(change)
            await go_on.wait()

        watcher = Watcher("a", callback, heard.failed)
        watcher.tell(change(1))
        watcher.tell(change(2))
        await asyncio.sleep(0)
        watcher.is_over = True
        go_on.set()
        for _ in range(5):
            await asyncio.sleep(0)
        assert [each.value for each in heard] == [1]

    asyncio.run(play())
