"""embedded.Embedded: pieces, pages, and a server that goes and comes back."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import uvloop

from tests.conftest import PATIENCE
from tests.services.globaldata.conftest import children, serving
from workermand.services.globaldata import wire
from workermand.services.globaldata.embedded import Embedded
from workermand.services.globaldata.engine import Engine, Entry, GlobalDataError, Promise
from workermand.services.links.address import Address, parse
from workermand.services.links.errors import Unauthorized, Unreachable
from workermand.testing import globaldata_suite as suite


class Heard:
    """A receiver."""

    def __init__(self) -> None:
        self.changes: asyncio.Queue[tuple[str, bytes | None, int]] = asyncio.Queue()
        self.states: asyncio.Queue[str] = asyncio.Queue()

    def on_change(self, key: str, value: bytes | None, version: int) -> None:
        self.changes.put_nowait((key, value, version))

    def on_lost(self) -> None:
        self.states.put_nowait("lost")

    def on_regained(self) -> None:
        self.states.put_nowait("regained")


@contextlib.asynccontextmanager
async def started(url: str, **options: Any) -> AsyncIterator[tuple[Embedded, Heard]]:
    (address,) = parse(url, wire.SERVICE, wire.PORT)
    engine, heard = Embedded(address, **options), Heard()
    await engine.start(heard)
    try:
        async with asyncio.timeout(2 * PATIENCE):
            yield engine, heard
    finally:
        await engine.close()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving() as (_server, url):
        yield url


@pytest.mark.parametrize("check", suite.CHECKS, ids=lambda check: check.name)
def test_it_keeps_its_promises(check: suite.Check, url: str) -> None:
    async def main() -> None:
        def make() -> Engine:
            return Embedded(*parse(url, wire.SERVICE, wire.PORT))

        async with suite.clients(make, 1) as (client,):
            assert client.engine.promises == set(Promise) - {Promise.PERSISTENCE}
        await check(make)

    uvloop.run(main())


def test_more_than_one_message_has_room_for() -> None:
    async def play(url: str) -> None:
        async with started(url) as (engine, _heard):
            values = {f"large{number}": bytes([number]) * 900_000 for number in range(12)}
            values |= {f"small{number}": b"\x01" for number in range(1000)}
            await engine.set_many(values)
            entries = await engine.get_many([*values, "missing", *values])
            assert {key: entry.value for key, entry in entries.items()} == values
            assert await engine.get_many([]) == {}
            await engine.set_many({})
            names = [f"{number:0900}" for number in range(5000)]  # more than a page of keys
            await engine.set_many(dict.fromkeys(names, b""))
            assert await engine.keys("0") == names
            assert (await engine.get_many(names)).keys() == set(names)

    with serving() as (_server, url):
        uvloop.run(play(url))


def test_it_says_what_was_refused() -> None:
    async def play(url: str) -> None:
        async with started(url) as (engine, _heard):
            await engine.set("a", b"\xa1a")
            with pytest.raises(GlobalDataError, match="increment a: increment: a holds no number"):
                await engine.increment("a", 1)
            for asked in (engine.set_many({"a": b"", "": b""}), engine.add("", b""), engine.set("b", b"", 0.0)):
                with pytest.raises(GlobalDataError):
                    await asked
            assert await engine.get("a") == Entry(b"\xa1a", (await engine.get_many(["a"]))["a"].version)

    with serving() as (_server, url):
        uvloop.run(play(url))


def test_no_server() -> None:
    async def play(url: str) -> None:
        with pytest.raises(Unauthorized, match="asks for a secret"):
            async with started(url):
                pass
        with pytest.raises(Unreachable):
            await Embedded(Address("127.0.0.1", 1, "")).start(Heard())

    with serving(options={"secret": "swordfish"}) as (_server, url):
        uvloop.run(play(url))


def test_while_the_server_is_away() -> None:
    """What reads is asked again, what writes and was on its way fails, what comes later waits."""

    async def play(child: int, url: str) -> None:
        async with started(url) as (engine, heard):
            await engine.set("a", b"\x01")
            await engine.watch("a")
            assert (await heard.changes.get())[1] == b"\x01"
            os.kill(child, signal.SIGSTOP)
            under_way = engine.increment("a", 1)
            reads = [engine.get("a"), engine.get_many(["a"]), engine.keys("a"), engine.exists("a"), engine.ttl("a")]
            await asyncio.sleep(0.01)
            os.kill(child, signal.SIGKILL)
            with pytest.raises(Unreachable, match="may or may not have been done"):
                await under_way
            assert await heard.states.get() == "lost"
            waits = engine.set("b", b"\x02")
            assert await asyncio.gather(*reads) == [None, {}, [], False, None], "it had forgotten all"
            assert await waits
            assert await heard.states.get() == "regained"
            assert (await heard.changes.get())[:2] == ("a", None)
            await engine.set("a", b"\x03")
            assert (await heard.changes.get())[:2] == ("a", b"\x03")
            await engine.unwatch("a")
            await engine.set("a", b"\x04")
            await engine.get("a")
            assert heard.changes.empty()
        with pytest.raises(Unreachable, match="closed"):
            await engine.get("a")
        await engine.unwatch("a")

    with serving() as (server, url):
        (child,) = children(server)
        uvloop.run(play(child, url))


def test_changes_that_were_missed_are_told_on_return() -> None:
    async def play(child: int, url: str) -> None:
        async with started(url) as (engine, heard):
            for key in ("same", "other", "gone"):
                await engine.set(key, b"\x01")
                await engine.watch(key)
            before = {key: version for key, _value, version in [await heard.changes.get() for _ in range(3)]}
            await engine.set_many({"other": b"\x02"})
            assert (await heard.changes.get())[0] == "other"
            os.kill(child, signal.SIGKILL)
            assert await heard.states.get() == "lost"
            assert await heard.states.get() == "regained"
            told = {key: (value, version) for key, value, version in [await heard.changes.get() for _ in range(3)]}
            assert told["same"] == (b"\x01", before["same"]), "the facade leaves that out"
            assert told["other"][0] == b"\x02" and told["gone"][0] == b"\x01"

    with serving(options={"persist": True}) as (server, url):
        (child,) = children(server)
        uvloop.run(play(child, url))
