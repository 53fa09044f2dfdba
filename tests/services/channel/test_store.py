"""The journal on disk: real SQLite, processes that are killed, disks that are full, files that are broken."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from workermand import LoadError
from workermand.services.channel import store as module
from workermand.services.channel.items import Changed, Done, Put, Record
from workermand.services.channel.store import Memory, SqliteStore


class Desk:
    """A store, and who waits for it."""

    def __init__(self, path: Path) -> None:
        self.store = SqliteStore(str(path), asyncio.get_running_loop())
        self.rows = self.store.load()

    async def write(self, *records: Record) -> None:
        written = asyncio.get_running_loop().create_future()
        self.store.write(records, written.set_result)
        if error := await written:
            raise error


def on_disk(path: Path, do: Callable[[Desk], Awaitable[object]] | None = None) -> list[Put]:
    """What a store has there at its start; then it does something, and is closed."""

    async def run() -> list[Put]:
        desk = Desk(path)
        try:
            if do is not None:
                await do(desk)
        finally:
            await desk.store.close()
        return desk.rows

    return asyncio.run(run())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "queues.sqlite3"


# ---------------------------------------------------------------------------------------------------- the plain way


def test_what_is_confirmed_is_there_at_the_next_start(path: Path) -> None:
    first, second = Put(1, "jobs", b"\x00\xff", 0.0), Put(2, "mäil", b"", 17.5)
    assert on_disk(path, lambda desk: desk.write(first, second)) == []
    assert on_disk(path) == [first, second]


def test_what_comes_back_dies_and_ends(path: Path) -> None:
    async def live(desk: Desk) -> None:
        await desk.write(*(Put(number, "jobs", b"x", 0.0) for number in range(1, 6)))
        await desk.write(Changed(1, 12.5, 2, False), Changed(2, 0.0, 6, True), Done(3))
        await desk.write(Changed(4, 1.0, 1, False), Done(4), Changed(2, 0.0, 0, False))

    on_disk(path, live)
    assert on_disk(path) == [Put(1, "jobs", b"x", 12.5, 2), Put(2, "jobs", b"x", 0.0, 0), Put(5, "jobs", b"x", 0.0)]


@pytest.mark.parametrize("count", [1, 7, 8, 9, 600, 1100])
def test_any_number_of_items_is_written_at_once(path: Path, count: int) -> None:
    puts = [Put(number, "jobs", b"%d" % number, 0.0) for number in range(1, count + 1)]
    on_disk(path, lambda desk: desk.write(*puts))
    assert on_disk(path) == puts


def test_what_waits_together_is_one_transaction(path: Path) -> None:
    async def together(desk: Desk) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(1, 1001):
                group.create_task(desk.write(Put(number, "jobs", b"x", 0.0)))
        assert desk.store.counters.records == 1000
        assert desk.store.counters.commits <= 1000

    on_disk(path, together)


def test_who_waits_is_told_in_order(path: Path) -> None:
    async def live(desk: Desk) -> None:
        told: list[int] = []
        for number in range(1, 201):
            desk.store.write([Put(number, "jobs", b"x", 0.0)], lambda error, number=number: told.append(number))
        await desk.write()
        assert told == list(range(1, 201))

    on_disk(path, live)


def test_who_raises_keeps_nobody_else_from_being_told(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def live(desk: Desk) -> None:
        desk.store.write([Put(1, "jobs", b"x", 0.0)], lambda error: int("never"))
        await desk.write(Put(2, "jobs", b"x", 0.0))

    on_disk(path, live)
    assert "ValueError" in caplog.text


def test_close_writes_what_was_handed_over(path: Path) -> None:
    async def live(desk: Desk) -> None:
        for number in range(1, 100):
            desk.store.write([Put(number, "jobs", b"x", 0.0)])

    on_disk(path, live)
    assert len(on_disk(path)) == 99


def test_the_file_is_for_its_user_alone_and_shrinks_at_a_start(path: Path) -> None:
    async def much(desk: Desk) -> None:
        await desk.write(*(Put(number, "jobs", b"x" * 10_000, 0.0) for number in range(1, 500)))
        await desk.write(*(Done(number) for number in range(1, 500)))

    on_disk(path, much)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.stat().st_size > 1_000_000
    on_disk(path)
    assert path.stat().st_size < 100_000


def test_memory_confirms_at_once() -> None:
    told: list[Any] = []
    memory = Memory()
    assert memory.load() == []
    memory.write([Put(1, "jobs", b"x", 0.0)], told.append)
    memory.write([Done(1)])
    assert told == [None]
    asyncio.run(memory.close())


# ---------------------------------------------------------------------------------------------------- broken files


def complaint(path: Path) -> str:
    with pytest.raises(LoadError) as caught:
        on_disk(path)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value).removeprefix(f"{path}: ")


def test_what_is_no_database_says_what_to_do(path: Path) -> None:
    path.write_bytes(b"these are no queues" * 1000)
    words = complaint(path)
    assert "file is not a database. Move it away" in words and '".recover"' in words
    assert path.read_bytes() == b"these are no queues" * 1000


def test_a_damaged_file_says_what_to_do(path: Path) -> None:
    on_disk(path, lambda desk: desk.write(*(Put(number, "jobs", b"x" * 1000, 0.0) for number in range(1, 100))))
    with open(path, "r+b") as file:
        file.seek(4096 * 5)
        file.write(b"\xa5" * 4096 * 10)
    assert "Move it away" in complaint(path)


def test_another_programs_database_is_left_alone(path: Path) -> None:
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE items (name TEXT)")
    other.close()
    before = path.read_bytes()
    assert "it belongs to another program" in complaint(path)
    assert path.read_bytes() == before


def test_a_file_of_a_later_version_is_left_alone(path: Path) -> None:
    on_disk(path)
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA user_version=9")
    other.close()
    assert "it has version 9, of another workermand; this one knows 1" in complaint(path)


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert f"is {tmp_path}/none a directory" in complaint(tmp_path / "none" / "queues.sqlite3")


def test_two_servers_cannot_have_the_same_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOCK", 0.1)

    async def second(desk: Desk) -> None:
        assert "another process has it" in complaint_of(SqliteStore(str(path), asyncio.get_running_loop()))

    def complaint_of(store: SqliteStore) -> str:
        with pytest.raises(LoadError) as caught:
            store.load()
        return str(caught.value)

    on_disk(path, second)


# ---------------------------------------------------------------------------------------------------- its own process


def script(path: Path, text: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PRELUDE + text, str(path)], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    )


PRELUDE = """
import asyncio, json, resource, sys
from workermand.services.channel.items import Changed, Done, Put
from workermand.services.channel.store import SqliteStore

def say(what):
    print(json.dumps(what), flush=True)

async def write(store, *records):
    written = asyncio.get_running_loop().create_future()
    store.write(records, written.set_result)
    return str(await written or "")
"""

FULL = """
async def main():
    troubles = []
    store = SqliteStore(sys.argv[1], asyncio.get_running_loop(), troubles.append)
    store.load()
    await write(store, *(Put(number, "jobs", b"x", 0.0) for number in range(1, 11)))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))  # a disk without a byte left
    done = asyncio.ensure_future(write(store, Done(1), Changed(2, 5.0, 1, False)))
    refused = [await write(store, Put(number, "jobs", b"y", 0.0)) for number in (11, 12)]
    say({"refused": refused, "done": done.done(), "counted": [store.counters.failures > 1, store.counters.refused]})
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    say({"later": [await write(store, Put(13, "jobs", b"z", 0.0)), await done], "troubles": troubles})
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
    store.write([Done(3)])
    await store.close()
    say("closed")

asyncio.run(main())
"""


def test_a_full_disk_refuses_new_items_and_keeps_the_rest_for_later(path: Path) -> None:
    with script(path, FULL) as process:
        lines = [json.loads(line) for line in process.communicate(timeout=60)[0].splitlines()]
    assert process.returncode == 0
    refused, later, closed = lines
    assert all("the server's disk does not take it: " in words for words in refused["refused"])
    assert refused["done"] is False and refused["counted"] == [True, 2]
    assert later["later"] == ["", ""] and closed == "closed"
    assert [bool(words) for words in later["troubles"]] == [True, False]
    rows = {row.number: row for row in on_disk(path)}
    assert sorted(rows) == [2, 3, 4, 5, 6, 7, 8, 9, 10, 13], "3 could not be written: it comes again"
    assert rows[2].attempt == 1 and rows[2].due == 5.0


def test_a_disk_that_is_full_at_the_start_is_named(path: Path) -> None:
    text = """
resource.setrlimit(resource.RLIMIT_FSIZE, (1, -1))
async def main():
    try:
        SqliteStore(sys.argv[1], asyncio.get_running_loop()).load()
    except Exception as error:
        say([type(error).__name__, str(error)])

asyncio.run(main())
"""
    with script(path, text) as process:
        kind, words = json.loads(process.communicate(timeout=60)[0])
    assert kind == "LoadError" and "the disk does not take it" in words


ENDLESS = """
async def main():
    store = SqliteStore(sys.argv[1], asyncio.get_running_loop())
    first = max([row.number for row in store.load()], default=0) + 1
    numbers = iter(range(first, 10**9))

    async def produce():
        for number in numbers:
            await write(store, Put(number, "jobs", b"x" * (number % 3000), 0.0))
            say(["put", number])
            if number % 3 == 0:
                await write(store, Done(number))
                say(["done", number])

    await asyncio.gather(*(produce() for _ in range(50)))

asyncio.run(main())
"""


@pytest.mark.soak
def test_kill_9_in_the_middle_loses_nothing_that_was_confirmed(path: Path, full: bool) -> None:
    put: set[int] = set()
    done: set[int] = set()
    for round in range(100 if full else 5):
        with script(path, ENDLESS) as process:
            assert process.stdout is not None
            for _ in range(50 + round * 37 % 400):
                note(process.stdout.readline(), put, done)
            process.send_signal(signal.SIGKILL)
            for line in process.stdout:
                note(line, put, done)
        there = {row.number for row in on_disk(path)}
        assert put - done <= there | {number for number in put if number % 3 == 0}, "confirmed, and gone"
        assert not done & there, "done, and back"
        put &= there
    assert put


def note(line: str, put: set[int], done: set[int]) -> None:
    if line.endswith("\n"):
        what, number = json.loads(line)
        (put if what == "put" else done).add(number)
