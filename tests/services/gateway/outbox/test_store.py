"""Letters on disk: real SQLite, limits, processes that are killed, disks that are full."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest

from tests.conftest import wait_until
from workermand import LoadError
from workermand.services.gateway.outbox import store as module
from workermand.services.gateway.outbox.store import Acknowledge, Desk, Limits, Look, OutboxStore, Put, Take
from workermand.services.links.errors import ServiceError

PLAIN = Limits()


def on_disk(path: Path, do: Callable[[OutboxStore], Awaitable[object]], limits: Limits = PLAIN) -> list[str]:
    """The uids that on_kept() has heard of."""
    heard: list[str] = []

    async def run() -> None:
        store = OutboxStore(str(path), limits, asyncio.get_running_loop(), heard.extend)
        store.open()
        try:
            await do(store)
        finally:
            await store.close()

    asyncio.run(run())
    return heard


async def messages(store: OutboxStore, uid: str) -> list[Any]:
    letters, is_all = await store.take(uid)
    assert is_all
    return [letter.message for letter in letters]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox.sqlite3"


def test_letters_outlive_the_process_in_their_order(path: Path) -> None:
    async def first(store: OutboxStore) -> None:
        assert await store.put(["7", "8", "7"], "Zoë\0", False) == 2
        assert await store.put(["7"], b"\x00\xff", True) == 1

    async def second(store: OutboxStore) -> None:
        assert store.counters.waiting == 3
        letters, is_all = await store.take("7")
        assert is_all
        assert [(letter.message, letter.raw) for letter in letters] == [("Zoë\0", False), (b"\x00\xff", True)]
        assert [letter.at for letter in letters] == sorted(letter.at for letter in letters)
        assert await store.look(["6", "7", "8"]) == ["7", "8"]
        assert await store.acknowledge([letters[0].number]) == 1
        assert await store.acknowledge([letters[0].number, 10**6]) == 0
        assert await messages(store, "7") == [b"\x00\xff"]
        assert await messages(store, "6") == []
        assert (store.counters.waiting, store.counters.delivered) == (2, 1)

    assert sorted(set(on_disk(path, first))) == ["7", "8"]
    on_disk(path, second)


def test_a_number_is_never_used_again(path: Path) -> None:
    """Or who acknowledges late would delete what he has never seen."""
    numbers: list[int] = []

    async def live(store: OutboxStore) -> None:
        await store.put(["7"], "x", False)
        (letter,), _ = await store.take("7")
        numbers.append(letter.number)
        await store.acknowledge([letter.number])

    for _ in range(3):
        on_disk(path, live)
    assert len(set(numbers)) == 3


def test_much_is_taken_page_by_page(path: Path) -> None:
    async def live(store: OutboxStore) -> None:
        await asyncio.gather(*(store.put(["7"], str(number), False) for number in range(600)))
        await store.put(["8"], "x" * module.PAGE_BYTES, False)
        await store.put(["8"], "y", False)
        seen: list[str] = []
        while True:
            letters, is_all = await store.take("7")
            seen += [letter.message for letter in letters]
            await store.acknowledge([letter.number for letter in letters])
            if is_all:
                break
        assert seen == [str(number) for number in range(600)]
        letters, is_all = await store.take("8")
        assert ([letter.message[0] for letter in letters], is_all) == (["x"], False)

    on_disk(path, live)


def test_limits_of_one_uid(path: Path) -> None:
    async def live(store: OutboxStore) -> None:
        for number in range(10):
            await store.put(["7", "8"], str(number), False)
        assert await messages(store, "7") == ["7", "8", "9"]
        await store.put(["8"], "x" * 99, False)
        assert await messages(store, "8") == ["9", "x" * 99]
        with pytest.raises(ServiceError, match="a message of 101 bytes: the outbox takes 100"):
            await store.put(["8"], "x" * 99 + "ë", False)
        assert (store.counters.waiting, store.counters.displaced) == (5, 16)

    on_disk(path, live, Limits(messages=3, bytes=100))


def test_the_limit_of_all(path: Path) -> None:
    async def live(store: OutboxStore) -> None:
        for number in range(10):
            await store.put([str(number)], "x" * 100, False)
        assert await store.look([str(number) for number in range(10)]) == ["5", "6", "7", "8", "9"]
        assert (store.counters.waiting, store.counters.displaced) == (5, 5)

    on_disk(path, live, Limits(total_bytes=1000))


def test_what_is_too_old_is_gone(path: Path) -> None:
    async def put(store: OutboxStore) -> None:
        await store.put(["7"], "old", False)

    async def wait(store: OutboxStore) -> None:
        assert store.counters.waiting == 1
        await asyncio.to_thread(wait_until, "it is gone", lambda: not store.counters.waiting)
        assert await messages(store, "7") == []
        assert store.counters.expired == 1
        await store.put(["7"], "new", False)
        assert await messages(store, "7") == ["new"]

    on_disk(path, put)
    on_disk(path, wait, Limits(age=0.2))


def test_a_clock_that_goes_back_does_not_mix_the_order(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    desk = Desk(str(path), PLAIN)
    for at in (now, now - 1000):
        monkeypatch.setattr(module.time, "time", lambda at=at: at)
        desk.work([Put(["7"], str(at), False)])
    desk.close()
    desk = Desk(str(path), PLAIN)
    ((letters, _),) = desk.work([Take("7")])
    assert [letter.at for letter in letters] == [now, now]
    desk.close()


ASKED = st.one_of(
    st.builds(Put, st.lists(st.sampled_from("abc"), min_size=1, unique=True), st.text(max_size=10), st.booleans()),
    st.builds(Take, st.sampled_from("abc")),
    st.builds(Acknowledge, st.lists(st.integers(1, 30), max_size=5)),
    st.builds(Look, st.just(["a", "b", "c"])),
)


@hypothesis.given(st.lists(st.lists(ASKED, max_size=10), max_size=8))
@hypothesis.settings(
    max_examples=25, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
def test_it_does_as_a_plain_list_would(tmp_path: Path, batches: list[list[Any]]) -> None:
    path = tmp_path / "model.sqlite3"
    path.unlink(missing_ok=True)
    limits = Limits(messages=4, bytes=40)
    desk = Desk(str(path), limits)
    model: deque[tuple[int, str, str]] = deque()
    numbers = iter(range(1, 10**6))
    for batch in batches:
        expected: list[Any] = []
        for kind, asked in batch_runs(batch):
            if kind is Put:
                for put in asked:
                    model.extend((next(numbers), uid, put.message) for uid in put.uids)
                    expected.append(len(put.uids))
                for uid in "abc":
                    trim(model, uid, limits)
            for one in asked:
                if isinstance(one, Take):
                    expected.append([(number, text) for number, uid, text in model if uid == one.uid])
                elif isinstance(one, Acknowledge):
                    gone = [row for row in model if row[0] in one.numbers]
                    expected.append(len(gone))
                    for row in gone:
                        model.remove(row)
                elif isinstance(one, Look):
                    expected.append([uid for uid in one.uids if any(row[1] == uid for row in model)])
        found = desk.work(batch)
        assert [plain(one) for one in found] == expected
    desk.close()
    desk = Desk(str(path), limits)
    assert desk.changes["waiting"] == len(model)
    desk.close()


def batch_runs(batch: list[Any]) -> list[tuple[type, list[Any]]]:
    runs: list[tuple[type, list[Any]]] = []
    for one in batch:
        if runs and runs[-1][0] is type(one):
            runs[-1][1].append(one)
        else:
            runs.append((type(one), [one]))
    return runs


def trim(model: deque[tuple[int, str, str]], uid: str, limits: Limits) -> None:
    while True:
        own = [row for row in model if row[1] == uid]
        if len(own) <= limits.messages and sum(len(row[2].encode()) for row in own) <= limits.bytes:
            return
        model.remove(own[0])


def plain(found: Any) -> Any:
    return [(letter.number, letter.message) for letter in found[0]] if isinstance(found, tuple) else found


def test_what_is_no_database_says_what_to_do(path: Path) -> None:
    path.write_bytes(b"these are no letters" * 1000)
    with pytest.raises(LoadError, match=r"Move it away .* begins with an empty outbox"):
        Desk(str(path), PLAIN)


# ---------------------------------------------------------------------------------------------------- its own process


def script(path: Path, text: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", PRELUDE + text, str(path)], stdout=subprocess.PIPE, text=True)


PRELUDE = """
import asyncio, json, resource, sys
from workermand.services.gateway.outbox.store import Limits, OutboxStore

def say(what):
    print(json.dumps(what), flush=True)

def opened():
    store = OutboxStore(sys.argv[1], Limits(messages=10**6, bytes=10**9), asyncio.get_running_loop())
    store.open()
    return store
"""

FULL = """
async def main():
    store = opened()
    await asyncio.gather(*(store.put(["7"], str(number), False) for number in range(5)))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))  # a disk without a byte left
    said = await asyncio.gather(*(store.put(["7", "8"], "x", False) for _ in range(3)), return_exceptions=True)
    say([str(error) for error in said])
    say([store.counters.waiting, store.counters.refused])
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    await store.put(["7"], "5", False)
    letters, is_all = await store.take("7")
    say([[letter.message for letter in letters], is_all])
    await store.close()

asyncio.run(main())
"""


def test_a_full_disk_refuses_letters_and_nothing_else(path: Path) -> None:
    with script(path, FULL) as process:
        said, counted, taken = [json.loads(line) for line in process.communicate(timeout=60)[0].splitlines()]
    assert process.returncode == 0
    assert all("the outbox's disk does not take it: " in words for words in said)
    assert counted == [5, 6]
    assert taken == [["0", "1", "2", "3", "4", "5"], True]


ENDLESS = """
async def main():
    store = opened()

    async def produce(uid):
        for number in range(10**9):
            await store.put([uid], f"{uid} {number}" + "x" * (number % 3000), False)
            say(["put", uid, number])
            if number % 3 == 2:
                letters, _ = await store.take(uid)
                await store.acknowledge([letters[0].number])
                say(["done", uid, int(letters[0].message.split()[1].rstrip("x"))])

    await asyncio.gather(*(produce(f"{sys.argv[2]}.{number}") for number in range(50)))

asyncio.run(main())
"""


@pytest.mark.soak
def test_kill_9_in_the_middle_loses_nothing_that_was_confirmed(path: Path, full: bool) -> None:
    put: dict[str, list[int]] = {}
    done: dict[str, list[int]] = {}
    for round in range(50 if full else 3):
        with subprocess.Popen(
            [sys.executable, "-c", PRELUDE + ENDLESS, str(path), str(round)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            for _ in range(50 + round * 137 % 400):
                note(process.stdout.readline(), put, done)
            process.send_signal(signal.SIGKILL)
            for line in process.stdout:
                note(line, put, done)
        desk = Desk(str(path), Limits(messages=10**6, bytes=10**9))
        for uid, numbers in put.items():
            ((letters, _),) = desk.work([Take(uid)])
            there = [int(letter.message.split()[1].rstrip("x")) for letter in letters]
            assert there == sorted(there)
            assert not set(done.get(uid, ())) & set(there), "done, and back"
            missing = sorted(set(numbers[: module.PAGE]) - set(there) - set(done.get(uid, ())))
            assert len(missing) <= 1, "confirmed, and gone"  # one may be done without word of it
        desk.close()
    assert put


def note(line: str, put: dict[str, list[int]], done: dict[str, list[int]]) -> None:
    if line.endswith("\n"):
        what, uid, number = json.loads(line)
        (put if what == "put" else done).setdefault(uid, []).append(number)
