"""locking.Lock: one at a time, whatever becomes of its holder."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from typing import Any

import pytest
import uvloop

from tests.services.globaldata.conftest import children, connected, serving
from workermand.services.globaldata import BlockingGlobalData, GlobalDataError, Lock, locking
from workermand.services.globaldata.engine import Promise
from workermand.services.links.errors import TimedOut, Unsupported


def test_one_at_a_time() -> None:
    """Many tasks of several clients, each of which must find itself alone."""

    async def play(url: str) -> None:
        async with connected(url) as first, connected(url) as second:
            inside: list[int] = []
            versions: list[int] = []

            async def enter(number: int) -> None:
                data = (first, second)[number % 2]
                async with data.lock("report", ttl=30, wait=30) as lock:
                    assert not inside and 0 < lock.remaining <= 30
                    inside.append(number)
                    versions.append(lock.version)
                    await asyncio.sleep(random.random() * 0.004)
                    inside.remove(number)

            await asyncio.gather(*map(enter, range(40)))
            assert len(versions) == 40 and versions == sorted(versions)
            assert await first.keys() == [] and not first._doormen._waiting

    with serving() as (_server, url):
        uvloop.run(play(url))


def test_who_waits_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the release, and by the end of the holder's time; looking again and again is not what does it."""
    monkeypatch.setattr(locking, "LOOK", 1000.0)

    async def play(url: str) -> None:
        async with connected(url) as holder, connected(url) as other:
            async with holder.lock("a", ttl=1000):
                waiting = asyncio.ensure_future(other.lock("a", ttl=5).acquire())
                await asyncio.sleep(0.05)
                assert not waiting.done()
            await waiting
            await holder.lock("b", ttl=0.2).acquire()
            async with other.lock("b", ttl=5):
                pass

    with serving() as (_server, url):
        uvloop.run(play(url))


def test_waiting_has_an_end() -> None:
    async def play(url: str) -> None:
        async with connected(url) as holder, connected(url) as other:
            held = holder.lock("a", ttl=30)
            async with held:
                for wait in (0, 0.05):
                    with pytest.raises(TimedOut, match="lock a: another has held it"):
                        await other.lock("a", ttl=30, wait=wait).acquire()
                with pytest.raises(RuntimeError, match="held already"):
                    await held.acquire()
                waiting = asyncio.ensure_future(other.lock("a", ttl=30, wait=30).acquire())
                await asyncio.sleep(0.02)
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)
            async with held:
                await held.extend()
                await held.extend(60)
                assert held.remaining > 40

    with serving() as (_server, url):
        uvloop.run(play(url))


def test_a_lock_that_is_lost() -> None:
    """Its time is over and another has it: the former holder can neither end nor prolong it, and is told so."""

    async def play(url: str) -> None:
        async with connected(url) as holder, connected(url) as other:
            late, late_too = holder.lock("a", ttl=0.05), holder.lock("b", ttl=0.05)
            await late.acquire()
            await late_too.acquire()
            async with other.lock("a", ttl=30) as another, other.lock("b", ttl=30):
                assert late.remaining == 0
                with pytest.raises(GlobalDataError, match=r"lock a: it is not held any more; its ttl was 0\.05 s"):
                    await late.extend()
                with pytest.raises(GlobalDataError, match="lock b: it is not held any more"):
                    await late_too.release()
                with pytest.raises(TimedOut):
                    await holder.lock("a", ttl=1, wait=0).acquire()
                assert another.remaining > 0
            with pytest.raises(GlobalDataError, match="not held any more"):
                async with holder.lock("c", ttl=0.01):
                    await asyncio.sleep(0.1)
            with pytest.raises(ZeroDivisionError):
                await fail_in(holder.lock("d", ttl=0.01))

    with serving() as (_server, url):
        uvloop.run(play(url))


async def fail_in(lock: Lock) -> None:
    async with lock:
        await asyncio.sleep(0.1)
        raise ZeroDivisionError


def test_blocking_and_not() -> None:
    async def play(url: str) -> None:
        async with connected(url) as data:

            def block() -> int:
                with BlockingGlobalData(url) as blocking, blocking.lock("a", ttl=30) as version:
                    return version

            async with data.lock("a", ttl=30) as lock:
                waiting = asyncio.ensure_future(asyncio.to_thread(block))
                await asyncio.sleep(0.05)
                assert not waiting.done()
            assert await waiting > lock.version

    with serving() as (_server, url):
        uvloop.run(play(url))


def test_a_lock_survives_the_servers_crash() -> None:
    """With persist: its holder still has it, nobody else does; and who waits goes on waiting."""

    async def play(child: int, url: str) -> None:
        async with connected(url) as holder, connected(url) as other:
            async with holder.lock("a", ttl=30) as lock:
                waiting = asyncio.ensure_future(other.lock("a", ttl=30, wait=30).acquire())
                await asyncio.sleep(0.05)
                os.kill(child, signal.SIGKILL)
                await lock.extend()
                with pytest.raises(TimedOut):
                    await holder.lock("a", ttl=1, wait=0).acquire()
                assert not waiting.done()
            await waiting

    with serving(options={"persist": True}) as (server, url):
        (child,) = children(server)
        uvloop.run(play(child, url))


def test_engines_without_ttl() -> None:
    class Poor:
        promises = frozenset(Promise) - {Promise.TTL}

    async def play() -> None:
        engine: Any = Poor()
        with pytest.raises(Unsupported):
            await locking.Lock(engine, locking.Doormen(engine), "a", 1, 0).acquire()
        with pytest.raises(ValueError, match="more than 0"):
            locking.Lock(engine, locking.Doormen(engine), "a", 0, 0)

    asyncio.run(play())
