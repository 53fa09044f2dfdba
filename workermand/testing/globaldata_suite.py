"""The conformance suite of GlobalData's engines: each check shows one promise of an engine on a real server; see
channels.py for how it is run."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NamedTuple

import msgspec

from workermand.services.globaldata.engine import Engine, Entry, GlobalDataError, Promise
from workermand.services.globaldata.wire import pack_value
from workermand.testing.probes import fresh, soon, until

Make = Callable[[], Engine]


class Check(NamedTuple):
    """One check, and the promises without which it means nothing."""

    run: Callable[[Make], Awaitable[None]]
    needs: frozenset[Promise]

    @property
    def name(self) -> str:
        return self.run.__name__

    async def __call__(self, make: Make) -> None:
        await self.run(make)


CHECKS: list[Check] = []


def check(*needs: Promise) -> Callable[[Callable[[Make], Awaitable[None]]], Callable[[Make], Awaitable[None]]]:
    """Adds it to CHECKS."""

    def add(run: Callable[[Make], Awaitable[None]]) -> Callable[[Make], Awaitable[None]]:
        CHECKS.append(Check(run, frozenset(needs)))
        return run

    return add


class Watcher:
    """A client that writes down what its engine tells."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.changes: asyncio.Queue[tuple[str, bytes | None, int]] = asyncio.Queue()
        self.lost = asyncio.Event()
        self.regained = asyncio.Event()

    def on_change(self, key: str, value: bytes | None, version: int) -> None:
        self.changes.put_nowait((key, value, version))

    def on_lost(self) -> None:
        self.lost.set()

    def on_regained(self) -> None:
        self.regained.set()

    async def sees(self, key: str, value: bytes | None) -> None:
        """Sooner or later; others may come before."""
        while (await soon(f"{key} is {value!r}", self.changes.get()))[:2] != (key, value):
            pass


@contextlib.asynccontextmanager
async def clients(make: Make, count: int) -> AsyncIterator[list[Watcher]]:
    """``count`` of them, started, and closed at the end."""
    watchers = [Watcher(make()) for _ in range(count)]
    async with contextlib.AsyncExitStack() as stack:
        for watcher in watchers:
            await watcher.engine.start(watcher)
            stack.push_async_callback(watcher.engine.close)
        yield watchers


def value_of(entry: Entry | None) -> bytes | None:
    return None if entry is None else entry.value


# ---------------------------------------------------------------------------------------------------- the verbs


@check()
async def set_get_exists_delete(make: Make) -> None:
    key, one, two = fresh("key"), pack_value(1), pack_value("two")
    async with clients(make, 2) as (first, second):
        assert await first.engine.get(key) is None
        assert await first.engine.exists(key) is False
        assert await first.engine.delete(key) is False
        await first.engine.set(key, one)
        assert value_of(await second.engine.get(key)) == one
        await second.engine.set(key, two)
        assert value_of(await first.engine.get(key)) == two
        assert await first.engine.exists(key) is True
        assert await first.engine.delete(key, one) is False
        assert await first.engine.delete(key, two) is True
        assert await second.engine.exists(key) is False
        assert await second.engine.get(key) is None


@check()
async def calls_take_effect_in_order_without_await(make: Make) -> None:
    key = fresh("key")
    async with clients(make, 1) as (client,):
        for number in range(50):
            client.engine.set(key, pack_value(number))
        client.engine.increment(key, 1)
        assert value_of(await client.engine.get(key)) == pack_value(50)
        client.engine.delete(key)
        assert await client.engine.exists(key) is False


@check()
async def keys_are_any_text(make: Make) -> None:
    root = fresh("key")
    names = [f"{root}{name}" for name in ("", ".", "..a", " ü*", "*", "?[x]\\", "/=%", ">", ".x.*.y", "$")]
    async with clients(make, 1) as (client,):
        for name in names:
            await client.engine.set(name, pack_value(name))
        for name in names:
            assert value_of(await client.engine.get(name)) == pack_value(name)
        assert await client.engine.keys(root) == sorted(names)
        assert await client.engine.keys(f"{root}*") == [f"{root}*"]
        assert await client.engine.keys(f"{root}.") == sorted(name for name in names if name[len(root) :][:1] == ".")
        for name in names:
            assert await client.engine.delete(name) is True
        assert await client.engine.keys(root) == []


@check()
async def large_and_empty_values(make: Make) -> None:
    key = fresh("key")
    async with clients(make, 1) as (client,):
        for value in (pack_value(None), pack_value(b""), pack_value(bytes(range(256)) * 2000)):
            await client.engine.set(key, value)
            assert value_of(await client.engine.get(key)) == value
        await client.engine.delete(key)


@check()
async def add_is_the_first_ones(make: Make) -> None:
    key = fresh("key")
    async with clients(make, 3) as members:
        found = await asyncio.gather(
            *(member.engine.add(key, pack_value(number)) for number, member in enumerate(members))
        )
        winner = next(number for number, version in enumerate(found) if version)
        assert [bool(version) for version in found].count(True) == 1
        assert value_of(await members[0].engine.get(key)) == pack_value(winner)
        await members[0].engine.delete(key)
        assert await members[1].engine.add(key, pack_value("again"))


@check()
async def cas_compares_what_is_there(make: Make) -> None:
    key, old, new = fresh("key"), pack_value({"a": 1, "b": [2]}), pack_value("new")
    async with clients(make, 1) as (client,):
        assert not await client.engine.cas(key, old, new)
        await client.engine.set(key, old)
        assert not await client.engine.cas(key, new, new)
        assert await client.engine.cas(key, old, new)
        assert value_of(await client.engine.get(key)) == new


@check()
async def of_many_that_cas_one_wins(make: Make) -> None:
    key, rounds = fresh("key"), 20
    async with clients(make, 4) as members:
        await members[0].engine.set(key, pack_value(0))
        for number in range(rounds):
            old = pack_value(number)
            won = await asyncio.gather(*(member.engine.cas(key, old, pack_value(number + 1)) for member in members))
            assert sum(map(bool, won)) == 1
        assert value_of(await members[0].engine.get(key)) == pack_value(rounds)


@check()
async def no_increment_is_lost(make: Make) -> None:
    key, count = fresh("key"), 50
    async with clients(make, 4) as members:
        assert await members[0].engine.increment(key, 1) is None
        await members[0].engine.set(key, pack_value(0))
        calls = [member.engine.increment(key, 1) for _ in range(count) for member in members]
        found = await asyncio.gather(*calls)
        assert sorted(map(int, map(float, found))) == list(range(1, 4 * count + 1))  # type: ignore[arg-type]
        assert value_of(await members[0].engine.get(key)) == pack_value(4 * count)


@check()
async def increment_counts_as_python_does(make: Make) -> None:
    key = fresh("key")
    cases: list[tuple[int | float, int | float]] = [
        (5, -7), (-1, 1), (127, 1), (255, 1), (65535, 1), (2**32 - 1, 1), (-33, 1), (-(2**31), -1), (0.5, 1), (1, 0.25),
        (1.0, 1), (2**53, 1), (2**53 + 1, 2), (2**63, 2**62), (-(2**63), 1), (2**52, 2**52), (3, 2**60), (0, 2**64 - 1),
    ]  # fmt: skip
    async with clients(make, 1) as (client,):
        for number, step in cases:
            await client.engine.set(key, pack_value(number))
            found = await client.engine.increment(key, step)
            assert (found, type(found)) == (number + step, type(number + step))
            stored = value_of(await client.engine.get(key))
            assert stored == pack_value(number + step), f"{number} + {step} is stored as {stored!r}"


@check()
async def increment_of_no_number_is_refused(make: Make) -> None:
    key = fresh("key")
    async with clients(make, 1) as (client,):
        for value in ("text", None, True, [1], b"1"):
            await client.engine.set(key, pack_value(value))
            with contextlib.suppress(GlobalDataError):
                await client.engine.increment(key, 1)
                raise AssertionError(f"{value!r} was incremented")
            assert value_of(await client.engine.get(key)) == pack_value(value)
        await client.engine.set(key, pack_value(2**64 - 1))
        with contextlib.suppress(GlobalDataError):
            await client.engine.increment(key, 1)
            raise AssertionError("more than 64 bits")


@check()
async def many_at_once(make: Make) -> None:
    root = fresh("key")
    values = {f"{root}.{number}": pack_value(number) for number in range(100)}
    async with clients(make, 2) as (first, second):
        await first.engine.set_many(values)
        found = await second.engine.get_many([*values, f"{root}.missing"])
        assert {key: entry.value for key, entry in found.items()} == values
        assert await second.engine.get_many([]) == {}
        await second.engine.set_many({})
        for key in values:
            first.engine.delete(key)


@check(Promise.ATOMIC_MANY)
async def many_are_one_step(make: Make) -> None:
    keys = [fresh("key") for _ in range(5)]
    async with clients(make, 2) as (writer, reader):
        for number in range(100):
            writer.engine.set_many(dict.fromkeys(keys, pack_value(number)))
            found = await reader.engine.get_many(keys)
            assert len({entry.value for entry in found.values()}) <= 1, found


@check(Promise.VERSIONS)
async def versions_grow(make: Make) -> None:
    key, value = fresh("key"), pack_value("x")
    async with clients(make, 1) as (client,):
        engine = client.engine
        versions = [await engine.set(key, value), await engine.set(key, value)]
        entry = await engine.get(key)
        assert entry == Entry(value, versions[-1])
        versions.append(await engine.cas(key, value, pack_value(1)))
        await engine.increment(key, 1)
        await engine.delete(key)
        assert not await engine.cas_version(key, versions[-1], value)
        versions.append(await engine.add(key, value))
        await engine.delete(key)
        versions.append(await engine.cas_version(key, 0, value))
        assert not await engine.cas_version(key, 0, value)
        assert not await engine.cas_version(key, versions[-2], value)
        versions.append(await engine.cas_version(key, versions[-1], pack_value("y")))
        found = await engine.get_many([key])
        assert found == {key: Entry(pack_value("y"), versions[-1])}
        assert all(one < other for one, other in itertools.pairwise(versions)), versions
        assert versions[0] > 0


# ---------------------------------------------------------------------------------------------------- ttl


@check(Promise.TTL)
async def what_has_ended_is_not_there(make: Make) -> None:
    key, value = fresh("key"), pack_value("x")
    async with clients(make, 2) as (first, second):
        await first.engine.set(key, value, 0.5)
        assert value_of(await second.engine.get(key)) == value
        await until("it ends", lambda: _not(second.engine.exists(key)))
        assert await second.engine.get(key) is None
        assert await second.engine.ttl(key) is None
        assert key not in await second.engine.keys(key)
        assert await second.engine.get_many([key]) == {}
        assert await second.engine.increment(key, 1) is None
        assert await second.engine.delete(key) is False
        assert await second.engine.expire(key, 5.0) is False
        assert not await second.engine.cas(key, value, value)
        assert await second.engine.add(key, value, 60.0)


@check(Promise.TTL)
async def a_ttl_is_kept_and_changed(make: Make) -> None:
    key, value = fresh("key"), pack_value(1)
    async with clients(make, 1) as (client,):
        engine = client.engine
        assert await engine.ttl(key) is None
        await engine.set(key, value, 60.0)
        assert 50 < (await engine.ttl(key) or 0) <= 60.5
        await engine.increment(key, 1)
        await engine.cas(key, pack_value(2), value)
        await engine.cas_version(key, (await engine.get(key) or Entry(b"", 0)).version, value)
        assert 50 < (await engine.ttl(key) or 0) <= 60.5
        assert await engine.expire(key, 600.0) is True
        assert 500 < (await engine.ttl(key) or 0) <= 600.5
        assert await engine.expire(key, 5.0, pack_value("else")) is False
        assert await engine.expire(key, 300.0, value) is True
        assert 200 < (await engine.ttl(key) or 0) <= 300.5
        assert await engine.expire(key, None) is True
        assert await engine.ttl(key) == math.inf
        await engine.set(key, value, 60.0)
        await engine.set(key, value)
        assert await engine.ttl(key) == math.inf
        assert await engine.expire(key, 0) is True
        assert await engine.exists(key) is False


async def _not(answer: Awaitable[bool]) -> bool:
    return not await answer


# ---------------------------------------------------------------------------------------------------- watching


@check(Promise.WATCH)
async def a_watch_begins_with_what_is_there(make: Make) -> None:
    key, missing = fresh("key"), fresh("key")
    async with clients(make, 2) as (writer, watcher):
        await writer.engine.set(key, pack_value("before"))
        await watcher.engine.watch(key)
        assert watcher.changes.get_nowait()[:2] == (key, pack_value("before"))
        await watcher.engine.watch(missing)
        while not watcher.changes.empty():  # that there is none may be said, or not
            assert watcher.changes.get_nowait()[:2] == (missing, None)
        await writer.engine.set(missing, pack_value("now"))
        await watcher.sees(missing, pack_value("now"))


@check(Promise.WATCH)
async def a_watch_sees_the_last_change_of_every_kind(make: Make) -> None:
    key = fresh("key")
    async with clients(make, 2) as (writer, watcher):
        await watcher.engine.watch(key)
        for number in range(100):
            writer.engine.set(key, pack_value(number))
        await watcher.sees(key, pack_value(99))
        await writer.engine.increment(key, 1)
        await watcher.sees(key, pack_value(100))
        await writer.engine.cas(key, pack_value(100), pack_value("cas"))
        await watcher.sees(key, pack_value("cas"))
        await writer.engine.delete(key)
        await watcher.sees(key, None)
        await writer.engine.add(key, pack_value("back"))
        await watcher.sees(key, pack_value("back"))


@check(Promise.WATCH)
async def versions_of_changes_grow(make: Make) -> None:
    key = fresh("key")
    async with clients(make, 3) as (first, second, watcher):
        await watcher.engine.watch(key)
        for number in range(100):
            first.engine.set(key, pack_value(number))
            second.engine.set(key, pack_value(-number))
        await first.engine.get(key)
        await second.engine.get(key)
        await first.engine.set(key, pack_value("end"))
        versions = []
        while (change := await soon("a change", watcher.changes.get()))[1] != pack_value("end"):
            versions.append(change[2])
        assert versions == sorted(versions)


@check(Promise.WATCH)
async def who_unwatches_is_told_nothing(make: Make) -> None:
    key, other = fresh("key"), fresh("key")
    async with clients(make, 1) as (client,):
        await client.engine.watch(key)
        await client.engine.watch(other)
        await client.engine.unwatch(key)
        await client.engine.set(key, pack_value(1))
        await client.engine.set(other, pack_value(2))
        while (change := await soon("a change", client.changes.get()))[1] is None:
            pass  # that there is none may be said, or not
        assert change[:2] == (other, pack_value(2))


@check(Promise.WATCH, Promise.TTL, Promise.EXPIRED)
async def a_watch_sees_the_end(make: Make) -> None:
    key = fresh("key")
    async with clients(make, 2) as (writer, watcher):
        await writer.engine.set(key, pack_value(1), 0.3)
        await watcher.engine.watch(key)
        await watcher.sees(key, pack_value(1))
        await watcher.sees(key, None)
        await writer.engine.set(key, pack_value(2))
        await watcher.sees(key, pack_value(2))
        await writer.engine.expire(key, 0.2)
        await watcher.sees(key, None)


# ---------------------------------------------------------------------------------------------------- together


@check(Promise.TTL)
async def a_lock_is_one_holders(make: Make) -> None:
    """What lock() is made of: add with a ttl, and expire and delete of one's own token."""
    key, mine, other = fresh("lock"), pack_value("mine"), pack_value("other")
    async with clients(make, 2) as (first, second):
        assert await first.engine.add(key, mine, 60.0)
        assert not await second.engine.add(key, other, 60.0)
        assert await second.engine.delete(key, other) is False
        assert await second.engine.expire(key, 60.0, other) is False
        assert await first.engine.expire(key, 60.0, mine) is True
        assert await first.engine.delete(key, mine) is True
        assert await second.engine.add(key, other, 0.2)
        await until("it ends", lambda: first.engine.add(key, mine, 60.0))


@check()
async def values_are_opaque(make: Make) -> None:
    key = fresh("key")
    async with clients(make, 1) as (client,):
        for value in (msgspec.Raw(b"\xc1"), b"", b"\r\n\x00", b"+OK"):
            await client.engine.set(key, bytes(value))
            assert value_of(await client.engine.get(key)) == bytes(value)
