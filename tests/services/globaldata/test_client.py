"""client.GlobalData: the verbs, watches, and URLs."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import signal
from typing import Any

import pytest
import uvloop

from tests.services.globaldata.conftest import children, connected, serving
from tests.services.servers import nats_server, redis_server
from workermand import ConfigError
from workermand.services.globaldata import Change, GlobalData, GlobalDataError, Promise
from workermand.services.globaldata.embedded import Embedded
from workermand.services.links.errors import Unreachable, Unsupported
from workermand.testing import running_server


def played(play: Any, *arguments: Any, **keys: Any) -> None:
    with serving(**keys) as (_server, url):
        uvloop.run(play(url, *arguments))


def test_verbs() -> None:
    async def play(url: str) -> None:
        async with connected(url) as data:
            assert await data.get("a") is None and await data.get("a", 7) == 7
            assert await data.get_versioned("a") is None and await data.ttl("a") is None
            assert await data.add("a", {"b": [1, b"\0", None]}) and not await data.add("a", 1)
            assert await data.get("a") == {"b": [1, b"\0", None]} and await data.exists("a")
            assert await data.cas("a", {"b": (1, b"\0", None)}, 5) and not await data.cas("a", 5.0, 6)
            assert await data.increment("a") == 6 and await data.increment("a", -0.5) == 5.5
            assert await data.increment("b") is None
            value, version = await data.get_versioned("a") or (None, 0)
            assert value == 5.5 and await data.cas_version("a", version, 1)
            assert not await data.cas_version("a", version, 2) and not await data.cas_version("a", 0, 2)
            assert await data.cas_version("new", 0, 1)
            await data.set_many({"b": 2, "c": None}, ttl=100)
            assert await data.get_many(["c", "x", "b", "c"]) == {"c": None, "b": 2}
            assert await data.get("c", 7) is None and await data.exists("c"), "None is a value"
            assert await data.keys() == ["a", "b", "c", "new"] and await data.keys("n") == ["new"]
            assert 90 < (await data.ttl("c") or 0) <= 100 and await data.expire("c", None)
            assert await data.ttl("c") == math.inf and not await data.expire("x", 5)
            assert await data.delete("a") and not await data.delete("a")
            with pytest.raises(GlobalDataError, match="increment c: increment: c holds no number"):
                await data.increment("c")

    played(play)


def test_what_cannot_be_said() -> None:
    async def play(url: str) -> None:
        async with connected(url) as data:
            wrong: Any = 5
            for call in (
                lambda: data.get(wrong),
                lambda: data.set("a", object()),
                lambda: data.increment("a", wrong > 1),
            ):
                with pytest.raises(TypeError):
                    call()
            for key in ("", "$lock.a"):
                with pytest.raises(ValueError, match="key"):
                    data.set(key, 1)

    played(play)


def test_nobody_needs_to_wait(caplog: pytest.LogCaptureFixture) -> None:
    """In order; and an error is logged."""

    async def play(url: str) -> None:
        async with connected(url) as data:
            data.set("a", 0)
            for _ in range(100):
                data.increment("a")
            data.delete("b")
            data.set("text", "x")
            data.increment("text")
            assert await data.get("a") == 100
            await asyncio.sleep(0)

    with caplog.at_level(logging.ERROR):
        played(play)
    assert "increment text failed, and nobody waited for it: increment text: increment: text holds no" in caplog.text


def test_watch() -> None:
    async def play(url: str) -> None:
        async with connected(url) as data, connected(url) as other:
            changes: asyncio.Queue[Change] = asyncio.Queue()
            await other.set("a", 1)
            await data.watch("a", changes.put_nowait)
            first = await changes.get()
            assert (first.key, first.value, first.gone) == ("a", 1, False)
            for number in range(100):
                other.set("a", number)
            while (change := await changes.get()).value != 99:
                assert change.version > first.version
                first = change
            await other.delete("a")
            assert (await changes.get()).gone
            await other.delete("a")
            await data.set("a", None)
            last = await changes.get()
            assert last.value is None and not last.gone, "own changes, too"
            replaced: asyncio.Queue[Change] = asyncio.Queue()
            await data.watch("a", replaced.put_nowait)
            assert (await replaced.get()).version == last.version
            await data.unwatch("a")
            await data.unwatch("a")
            await other.set("a", 5)
            await data.get("a")
            assert replaced.empty() and changes.empty()

    played(play)


def test_a_callback_that_raises_is_logged_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    async def play(url: str) -> None:
        async with connected(url) as data:
            called = asyncio.Event()

            def callback(change: Change) -> None:
                called.set()
                raise KeyError(change.value)

            await data.watch("a", callback)
            await data.set("a", "oops")
            await called.wait()
            assert data.exceptions == 1

    with caplog.at_level(logging.ERROR):
        played(play)
    assert "exception in the callback that watches a" in caplog.text and "oops" in caplog.text


def test_the_server_goes_and_comes_back() -> None:
    async def play(url: str, child: int) -> None:
        async with connected(url) as data:
            states: asyncio.Queue[str] = asyncio.Queue()
            changes: asyncio.Queue[Change] = asyncio.Queue()
            data.on_lost = lambda: states.put_nowait("lost")
            data.on_regained = lambda: states.put_nowait("regained")
            await data.watch("a", changes.put_nowait)
            await data.watch("same", changes.put_nowait)
            await data.set_many({"a": 1, "same": 1})
            assert {(await changes.get()).key for _ in range(2)} == {"a", "same"}
            os.kill(child, signal.SIGKILL)
            assert await states.get() == "lost"
            waits = data.set("a", 2)
            assert await states.get() == "regained"
            await waits
            assert (await changes.get()).value == 2, "and of what is as it was, nothing"
            assert changes.empty()

    with serving(options={"persist": True}) as (server, url):
        (child,) = children(server)
        uvloop.run(play(url, child))


def test_calls_have_a_deadline() -> None:
    async def play(url: str, child: int) -> None:
        async with connected(url, timeout=2.0) as data:
            await data.set("a", 1)
            os.kill(child, signal.SIGSTOP)
            try:
                for asked in (data.get("a"), data.set("a", 2)):
                    with pytest.raises(TimeoutError, match=r"no answer within [\d.]+ s"):
                        await asked
            finally:
                os.kill(child, signal.SIGCONT)

    with serving() as (server, url):
        (child,) = children(server)
        uvloop.run(play(url, child))


def test_promises() -> None:
    async def play(url: str) -> None:
        async with connected(url, require=["versions", Promise.WATCH]) as data:
            assert Promise.PERSISTENCE not in data.promises
            data._engine.promises = frozenset()
            with pytest.raises(Unsupported, match="does not promise ttl"):
                data.set("a", 1, ttl=5)
            await data.set("a", 1)
        with pytest.raises(ConfigError, match="does not promise: persistence"):
            await GlobalData.connect(url, require=["persistence"])
        with pytest.raises(ConfigError, match="there are versions, ttl"):
            await GlobalData.connect(url, require=["eternity"])

    played(play)


@pytest.mark.parametrize("url", ["channel://a", "globaldata://a:b", "globaldata://", "http://a"])
def test_urls_that_cannot_be(url: str) -> None:
    async def play() -> None:
        with pytest.raises(ConfigError):
            await GlobalData.connect(url)

    asyncio.run(play())


def test_an_engine_whose_package_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "workermand.services.globaldata.redis", None)

    async def play() -> None:
        with pytest.raises(ConfigError, match=r'pip install "workermand\[redis\]"'):
            await GlobalData.connect("redis://127.0.0.1:1")

    asyncio.run(play())


@pytest.mark.real
@pytest.mark.parametrize("make", [redis_server, nats_server])
def test_the_same_over_other_servers(make: Any) -> None:
    async def play(url: str) -> None:
        async with connected(url, require=["versions", "watch"]) as data, connected(url) as other:
            changes: asyncio.Queue[Change] = asyncio.Queue()
            await data.watch("a", changes.put_nowait)
            await other.set("a", {"b": 1})
            assert (await changes.get()).value == {"b": 1}
            assert await data.cas("a", {"b": 1}, 5) and await other.increment("a") == 6
            inside: list[int] = []

            async def enter(number: int) -> None:
                async with (data, other)[number % 2].lock("report", ttl=30, wait=30):
                    inside.append(number)
                    await asyncio.sleep(0.002)
                    assert inside == [number]
                    inside.clear()

            await asyncio.gather(*map(enter, range(8)))
            assert await data.keys() == ["a"]
            await other.delete("a")
            while not (await changes.get()).gone:
                pass
        with pytest.raises(ConfigError, match="no secret"):
            await GlobalData.connect(url, secret="swordfish")

    with make() as server:
        uvloop.run(play(server.url))


def test_what_it_holds_is_of_somebody_else() -> None:
    """An engine's value that is no MessagePack."""

    async def play(url: str) -> None:
        async with connected(url) as data:
            assert isinstance(data._engine, Embedded)
            await data._engine.set("a", b"\xc1")
            with pytest.raises(GlobalDataError, match="no MessagePack"):
                await data.get("a")
            await data.watch("a", lambda change: None)

    played(play)


def test_closing_fails_what_waits() -> None:
    async def play(url: str, child: int) -> None:
        data = await GlobalData.connect(url)
        os.kill(child, signal.SIGSTOP)
        try:
            waits = [data.get("a"), data.set("a", 1)]
            await data.close()
            for each in waits:
                with pytest.raises(Unreachable):
                    await each
        finally:
            os.kill(child, signal.SIGCONT)

    with serving() as (server, url):
        (child,) = children(server)
        uvloop.run(play(url, child))


# ---------------------------------------------------------------------------------------------------- in a daemon

DAEMON = """
[worker.globaldata]
listen = "unix://globaldata.sock"
protocol = "frame"
handler = "workermand.services.globaldata.server"
reloadable = false
options = { secret = "swordfish" }

[worker.main]
listen = "text://127.0.0.1:0"
handler = "handler"
count = 4
"""
HANDLER = """
from workermand.services.globaldata import GlobalData

async def on_worker_start(worker):
    worker.data = await GlobalData.connect()
    await worker.data.add("hits", 0)

async def on_message(connection, line):
    connection.send(str(await connection.worker.data.increment("hits")))
"""


def test_the_server_of_this_daemon_is_found() -> None:
    """All four processes count with one variable."""
    with running_server(DAEMON, files={"handler.py": HANDLER}) as server:
        clients = [server.connect("main") for _ in range(20)]
        numbers = []
        for client in clients:
            with client, client.makefile("rb") as answers:
                client.sendall(b"a\nb\n")
                numbers += [int(answers.readline()), int(answers.readline())]
        assert sorted(numbers) == list(range(1, 41))
