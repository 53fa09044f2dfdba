"""BlockingChannel: threads and scripts against a real server, with subscribers that have a loop."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from tests.services.channel.conftest import connected, play, serving, url_of
from workermand import ConfigError
from workermand.services.channel import ChannelError
from workermand.services.channel.blocking import BlockingChannel
from workermand.services.links.errors import TimedOut, Unauthorized, Unreachable
from workermand.testing import RunningServer


async def in_thread(call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    return await asyncio.to_thread(functools.partial(call, *arguments, **named))


def test_publish_counts(server: RunningServer) -> None:
    async def scene() -> None:
        async with connected(server) as subscriber:
            heard: list[Any] = []
            await subscriber.on("blocking.*", heard.append)
            with BlockingChannel(url_of(server)) as channel:
                assert await in_thread(channel.publish, "blocking.1", {"a": b"b"}) == 1
                assert await in_thread(channel.publish, ["blocking.1", "blocking.2", "other"], 2) == 2
                assert await in_thread(channel.publish, "blocking.1", 3, one=True) == 1
                assert await in_thread(channel.broadcast, "nobody", 3) == 0
                assert await in_thread(channel.send_to_group, "nobody", 3) == 0
                await subscriber.on("behind", lambda data: data)
                assert await in_thread(channel.request, "behind", 4) == 4
            assert heard == [{"a": b"b"}, 2, 2, 3]

    play(scene)


def test_requests(server: RunningServer) -> None:
    async def scene() -> None:
        async with connected(server) as answerer:
            gate = asyncio.Event()

            async def held(data: Any) -> Any:
                await gate.wait()
                return data

            await answerer.on("b.double", lambda data: data * 2)
            await answerer.on("b.broken", lambda data: data["nothing"])
            await answerer.on("b.held", held)
            channel = BlockingChannel(url_of(server))
            assert await in_thread(channel.request, "b.double", 4) == 8
            with pytest.raises(ChannelError, match="KeyError"):
                await in_thread(channel.request, "b.broken", {})
            with pytest.raises(ChannelError, match="nobody has subscribed"):
                await in_thread(channel.request, "b.nobody")
            with pytest.raises(TimedOut, match=r"no answer within 0\.05 s"):
                await in_thread(channel.request, "b.held", "late", timeout=0.05)
            gate.set()  # its answer comes, and is not taken for that of the next
            assert await in_thread(channel.request, "b.held", "in time") == "in time"
            channel.close()
            assert await in_thread(channel.request, "b.double", "x") == "xx"
            channel.close()

    play(scene)


def test_many_threads_share_one(server: RunningServer) -> None:
    async def scene() -> None:
        async with connected(server) as answerer:
            await answerer.on("b.echo", lambda data: data)
            channel = BlockingChannel(url_of(server))
            with concurrent.futures.ThreadPoolExecutor(8) as threads:
                loop = asyncio.get_running_loop()
                calls = [loop.run_in_executor(threads, channel.request, "b.echo", number) for number in range(100)]
                assert await asyncio.gather(*calls) == list(range(100))
            channel.close()

    play(scene)


def test_after_a_restart_of_the_server() -> None:
    with serving() as server:
        with BlockingChannel(url_of(server)) as channel:
            assert channel.publish("x", 1) == 0
            (pid,) = (pid for pid in server.processes() if pid != server.pid)
            os.kill(pid, signal.SIGKILL)
            while True:  # it breaks once, or is seen to be broken
                try:
                    assert channel.publish("x", 1) == 0
                except Unreachable:
                    continue
                break


def test_jobs(server: RunningServer) -> None:
    with BlockingChannel(url_of(server)) as channel, BlockingChannel(url_of(server)) as another:
        assert channel.reserve("b.jobs") is None
        channel.enqueue("b.jobs", {"a": b"b"})
        job = another.reserve("b.jobs", wait=10)
        assert job is not None and (job.data, job.queue, job.attempt) == ({"a": b"b"}, "b.jobs", 1)
        assert channel.reserve("b.jobs") is None
        job.refuse(delay=0)
        job = channel.reserve("b.jobs", wait=10)
        assert job is not None and job.attempt == 2
        job.refuse(dead=True)
        (letter,) = channel.dead_letters("b.jobs")
        assert (letter.id, letter.data) == (job.id, job.data)
        assert channel.replay("b.jobs", [letter.id]) == 1
        job = channel.reserve("b.jobs", wait=10)
        assert job is not None
        another.enqueue("b.jobs", "second", delay=0.01)
        job.acknowledge()
        with pytest.raises(ChannelError, match="not this client's any more"):
            job.acknowledge()
        job = channel.reserve("b.jobs", wait=10)
        assert job is not None and job.data == "second"
        channel.close()
        job = another.reserve("b.jobs", wait=10)
        assert job is not None and job.attempt == 2
        job.acknowledge()
        assert another.replay("b.jobs") == 0


@pytest.mark.parametrize(
    ("url", "words"),
    [("redis://127.0.0.1", "speaks channel:// only"), ("channel://a:1,b:1", "several"), ("channel://", "no address")],
)
def test_urls_that_cannot_be(url: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        BlockingChannel(url)


def test_what_cannot_be_sent(server: RunningServer) -> None:
    with BlockingChannel(url_of(server)) as channel:
        with pytest.raises(ValueError, match="patterns"):
            channel.publish("a*", 1)
        with pytest.raises(TypeError, match="cannot be sent"):
            channel.publish("a", object())
        with pytest.raises(ValueError, match="0 seconds"):
            channel.enqueue("a", 1, delay=-1)


def test_nobody_there_and_a_wrong_secret(free_port: Any) -> None:
    with pytest.raises(Unreachable):
        BlockingChannel(f"channel://127.0.0.1:{free_port()}").publish("x", 1)
    with serving(options={"secret": "right"}) as server:
        with pytest.raises(Unauthorized):
            BlockingChannel(url_of(server), secret="wrong").publish("x", 1)
        with BlockingChannel(url_of(server), secret="right") as channel:
            assert channel.publish("x", 1) == 0
