"""The engine over a link: what happens while the server is away, and when it is back."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from typing import Any

import pytest

from tests.services.channel.conftest import connected, play, serving
from workermand.services.channel import Channel
from workermand.services.links.errors import Dropped, ServiceError, Unreachable
from workermand.testing import RunningServer


def process_of(server: RunningServer) -> int:
    """The server's own process, not the master."""
    (process,) = server.status()["processes"]
    return int(process["pid"])


class Watched:
    """What a channel has told of its connection."""

    def __init__(self, channel: Channel) -> None:
        self.lost, self.regained = asyncio.Event(), asyncio.Event()
        self.dropped: list[tuple[str, int]] = []
        channel.on_lost, channel.on_regained = self.lost.set, self.regained.set
        channel.on_dropped = lambda what, count: self.dropped.append((what, count))

    async def break_it(self, server: RunningServer) -> None:
        """Stops the server, so that it stays away, and waits until that is noticed."""
        self.regained.clear()
        self.pid = process_of(server)
        os.kill(self.pid, signal.SIGKILL)
        await self.lost.wait()
        self.lost.clear()


def test_everything_is_subscribed_again_and_what_waited_comes_in_order() -> None:
    async def scene() -> None:
        async with connected(server) as subscriber, connected(server) as publisher:
            heard: list[int] = []
            watched = Watched(subscriber), Watched(publisher)
            await subscriber.on("kept.*", heard.append)
            for number in range(2500):  # more than fit one message when they are subscribed again
                subscriber.on(f"many.{number}", lambda data: "many")
            await subscriber.on("asked", lambda data: len(heard))
            for round in range(3):
                await asyncio.gather(*(one.break_it(server) for one in watched[:1]))
                await watched[1].lost.wait()
                watched[1].lost.clear()
                late = subscriber.on(f"late.{round}", lambda data: "late")
                waiting = [publisher.publish("kept.x", round * 10 + number) for number in range(10)]
                await watched[0].regained.wait()
                await late
                await asyncio.gather(*waiting)
                assert await publisher.request(f"late.{round}") == "late"
                assert await publisher.request(f"many.{2499 - round}") == "many"
                await publisher.publish("kept.x", round * 10 + 9)
                watched[1].regained.clear()
            assert await publisher.request("asked") > 0
            ordered = list(dict.fromkeys(heard))
            assert ordered == sorted(ordered)
            assert not watched[0].dropped and not watched[1].dropped

    with serving() as server:
        play(scene)


def test_what_was_under_way_may_not_have_arrived() -> None:
    async def scene() -> None:
        async with connected(server) as channel:
            watched = Watched(channel)
            pid = process_of(server)
            os.kill(pid, signal.SIGSTOP)
            under_way = [channel.publish("x", number) for number in range(3)]
            subscribing = channel.on("y", lambda data: "y")
            os.kill(pid, signal.SIGKILL)
            for later in under_way:
                with pytest.raises(Unreachable, match="may not have arrived"):
                    await later
            await subscribing
            await watched.regained.wait()
            assert await channel.request("y") == "y"

    with serving() as server:
        play(scene)


def test_what_waits_has_a_limit(free_port: Any) -> None:
    async def scene() -> None:
        async with connected(server, buffer=1000, item_buffer=2000) as channel:
            watched = Watched(channel)
            pid = process_of(server)
            os.kill(server.pid, signal.SIGSTOP)  # nobody starts another
            os.kill(pid, signal.SIGKILL)
            await watched.lost.wait()
            waiting = [channel.publish("x", b"x" * 400) for _ in range(4)]
            items = [channel.enqueue("x", b"x" * 900) for _ in range(4)]
            for later in (*waiting[2:], *items[2:]):
                with pytest.raises(Dropped, match="is the limit"):
                    await later
            assert [what.split(":")[0] for what, _count in watched.dropped] == ["events"] * 2 + ["items"] * 2
            assert channel.dropped == 4 and not waiting[1].done() and not items[1].done()  # type: ignore[attr-defined]
            os.kill(server.pid, signal.SIGCONT)
            await watched.regained.wait()
            assert await asyncio.gather(*waiting[:2]) == [0, 0]
            for later in items[:2]:
                later.cancel()  # type: ignore[attr-defined]

    with serving() as server:
        play(scene)


def test_what_nobody_waits_for_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        async with connected(server, buffer=10) as channel:
            watched = Watched(channel)
            pid = process_of(server)
            os.kill(server.pid, signal.SIGSTOP)
            os.kill(pid, signal.SIGKILL)
            await watched.lost.wait()
            channel.publish("too much", b"x" * 400)
            os.kill(server.pid, signal.SIGCONT)

    with caplog.at_level(logging.ERROR), serving() as server:
        play(scene)
    assert "publish to too much failed, and nobody waited for it: events: 0 bytes wait" in caplog.text


def test_more_than_the_send_buffer_waits_its_turn() -> None:
    """A burst far over what a socket takes at once: nothing is lost, nothing overtakes."""

    async def scene() -> None:
        async with connected(server, buffer=200 << 20) as publisher, connected(server) as subscriber:
            heard: list[int] = []
            await subscriber.on("burst", lambda data: heard.append(data[0]))
            burst = [publisher.publish("burst", [number, b"x" * 50_000]) for number in range(500)]
            counts = await asyncio.gather(*burst)
            assert counts == [1] * 500
            await subscriber.on("end", lambda data: None)
            await publisher.request("end")
            assert heard == list(range(500))

    with serving(limits={"send_buffer": "64MiB"}) as server:
        play(scene)


def test_an_error_of_the_server_is_one_of_the_channel() -> None:
    assert issubclass(Unreachable, ServiceError)
