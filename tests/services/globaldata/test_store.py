"""store.Store: what it calls safe is there afterwards, whatever happened in between."""

from __future__ import annotations

import asyncio
import contextlib
import math
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvloop

from workermand import LoadError
from workermand.services.globaldata import store as module
from workermand.services.globaldata.store import FILE, Batch, Row, Store
from workermand.services.globaldata.table import Change


class Kept:
    """A store, and what it says."""

    def __init__(self, directory: Path) -> None:
        self.safe: asyncio.Queue[int] = asyncio.Queue()
        self.trouble: asyncio.Queue[str] = asyncio.Queue()
        self.store = Store(str(directory), self.safe.put_nowait, self.trouble.put_nowait)
        self.version = 0
        self.rows: dict[str, Row] = {}
        self.number = 0

    def write(self, *changes: Change, skew: float = 0.0) -> int:
        self.number += 1
        self.store.write(Batch(self.number, changes, skew))
        return self.number

    async def until_safe(self, number: int) -> None:
        while await self.safe.get() < number:
            pass


@contextlib.asynccontextmanager
async def kept(directory: Path) -> AsyncIterator[Kept]:
    it = Kept(directory)
    it.version, rows = await it.store.open()
    it.rows = {row.key: row for row in rows}
    try:
        async with asyncio.timeout(60):
            yield it
    finally:
        await it.store.close()


def put(key: str, value: bytes, version: int, ends: float = math.inf) -> Change:
    return Change(key, value, version, ends, is_new=True)


def gone(key: str, version: int) -> Change:
    return Change(key, None, version, math.inf, is_new=True)


def test_what_is_written_is_there_again(tmp_path: Path) -> None:
    async def play() -> None:
        soon = time.time() + 1000
        async with kept(tmp_path) as it:
            assert (it.version, it.rows) == (0, {})
            it.write(put("a", b"1", 1), put("b\0ü", b"", 2), put("c", b"\0\xff", 3, ends=500.0), skew=soon - 500)
            await it.until_safe(it.write(put("a", b"2", 4), gone("b\0ü", 5), put("d", b"4", 6, ends=time.time() - 1)))
            it.write(put("e", b"unsaid", 7))  # closing writes it
        async with kept(tmp_path) as it:
            assert it.version == 7
            assert it.rows["a"] == Row("a", b"2", 4, None)
            assert it.rows["c"][:3] == ("c", b"\0\xff", 3) and it.rows["c"].ends == pytest.approx(soon)
            assert sorted(it.rows) == ["a", "c", "e"], "what has ended is not kept"
            await it.until_safe(it.write(gone("a", 9)))
        async with kept(tmp_path) as it:
            assert it.version == 9, "versions grow, also across a deletion"

    uvloop.run(play())


def test_one_process_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def play() -> None:
        async with kept(tmp_path):
            monkeypatch.setattr(module, "PATIENCE", 0.1)
            with pytest.raises(LoadError, match=r"another process has it.* count = 1 and reloadable = false"):
                await Kept(tmp_path).store.open()
        monkeypatch.setattr(module, "PATIENCE", 30.0)
        first = Kept(tmp_path)
        await first.store.open()
        second = Kept(tmp_path)
        opening = asyncio.ensure_future(second.store.open())
        await asyncio.sleep(0)
        await first.store.close()
        await opening
        await second.store.close()

    uvloop.run(play())


@pytest.mark.parametrize("damage", ["garbage", "a page", "another format", "another table", "a directory", "no state"])
def test_a_database_that_cannot_be_used(tmp_path: Path, damage: str) -> None:
    file = tmp_path / FILE

    async def fill() -> None:
        async with kept(tmp_path) as it:
            for number in range(100):
                it.write(put(f"key{number}", bytes(2000), number + 1))

    async def play() -> None:
        store = Kept(tmp_path).store
        with pytest.raises(LoadError) as caught:
            await store.open()
        assert str(file) in str(caught.value)
        if damage in ("garbage", "a page"):
            assert "move it away" in str(caught.value)
        await store.close()

    if damage == "garbage":
        file.write_bytes(b"garbage " * 1000)
    elif damage == "a directory":
        file.mkdir()
    else:
        uvloop.run(fill())
        with contextlib.closing(sqlite3.connect(file)) as database:
            if damage == "another format":
                database.execute("PRAGMA user_version = 99")
            elif damage == "another table":
                database.executescript("PRAGMA user_version = 0")
            elif damage == "no state":
                database.executescript("DELETE FROM state")
        if damage == "a page":
            with file.open("r+b") as out:
                out.seek(4096 * 3)
                out.write(b"\xff" * 4096 * 20)
    uvloop.run(play())


def test_no_directory(tmp_path: Path) -> None:
    async def play() -> None:
        with pytest.raises(LoadError, match="No such file"):
            await Kept(tmp_path / "missing").store.open()

    uvloop.run(play())


def test_a_database_that_cannot_be_written_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else holds it; and what was given meanwhile is written when he lets go."""
    monkeypatch.setattr(module, "AGAIN", 0.02)
    monkeypatch.setattr(module, "PATIENCE", 0.02)

    async def play() -> None:
        async with kept(tmp_path) as it:
            await it.until_safe(it.write(put("a", b"1", 1)))
            with contextlib.closing(sqlite3.connect(tmp_path / FILE, isolation_level=None)) as other:
                other.execute("BEGIN EXCLUSIVE")
                number = it.write(put("b", b"2", 2))
                assert "locked" in await it.trouble.get()
                it.write(put("c", b"3", 3))
                assert it.safe.empty()
                other.execute("ROLLBACK")
            await it.until_safe(number)
            assert await it.trouble.get() == ""
        async with kept(tmp_path) as it:
            assert sorted(it.rows) == ["a", "b", "c"]

    uvloop.run(play())


def test_closing_does_not_wait_for_a_database_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.02)

    async def play() -> None:
        it = Kept(tmp_path)
        await it.store.open()
        with contextlib.closing(sqlite3.connect(tmp_path / FILE, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            it.write(put("a", b"1", 1))
            assert await it.trouble.get()
            await it.store.close()
        assert it.safe.empty()

    uvloop.run(play())


def test_many_batches_are_few_transactions(tmp_path: Path) -> None:
    """What gathers while one is written goes into the next."""

    async def play() -> None:
        async with kept(tmp_path) as it:
            for number in range(1, 2001):
                it.write(put("counter", b"%d" % number, number))
            told = []
            while not told or told[-1] < 2000:
                told.append(await it.safe.get())
            assert told == sorted(told) and len(told) < 2000
        async with kept(tmp_path) as it:
            assert it.rows["counter"].value == b"2000"

    uvloop.run(play())
