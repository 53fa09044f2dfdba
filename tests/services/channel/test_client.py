"""Channel as users hold it, against a real server."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
from typing import Any

import pytest

from tests.services.channel.conftest import connected, play, serving, url_of
from workermand import ConfigError
from workermand.services.channel import Channel, ChannelError, Promise
from workermand.services.links.errors import TimedOut, Unauthorized, Unreachable
from workermand.testing import RunningServer

VALUES = [None, True, 7, -1.5, "text", b"\x00\xff", [1, [2]], {"a": {"b": b"c"}}]


def test_an_event_comes_to_all_and_to_oneself(server: RunningServer) -> None:
    async def scene() -> None:
        async with connected(server) as one, connected(server) as another:
            heard: asyncio.Queue[Any] = asyncio.Queue()
            await one.on("all", lambda data: heard.put_nowait(("one", data)))
            await another.on("all", lambda data, event: heard.put_nowait((event, data)))
            for value in VALUES:
                assert await one.publish("all", value) == 2
                got = [await heard.get(), await heard.get()]
                assert sorted(got, key=str) == sorted([("one", value), ("all", value)], key=str)
            assert await one.publish(["all", "nobody's", "all"], 1) == 4

    play(scene)


def test_without_await_and_in_order(server: RunningServer) -> None:
    async def scene() -> None:
        async with connected(server) as channel:
            heard: list[int] = []
            done = asyncio.Event()
            channel.on("order.*", heard.append)
            channel.on("end", lambda data: done.set())
            for number in range(3000):
                channel.publish(f"order.{number % 3}", number)
            channel.publish("end", None)
            await done.wait()
            assert heard == list(range(3000))

    play(scene)


def test_a_pattern_and_a_name_are_one_delivery_and_two_callbacks(server: RunningServer) -> None:
    async def scene() -> None:
        async with connected(server) as channel:
            heard: list[str] = []
            await channel.on("both.x", lambda data: heard.append("name"))
            await channel.on("both.*", lambda data: heard.append("pattern"))
            assert await channel.publish("both.x", 1) == 1
            assert await channel.publish("both.y", 1) == 1
            await channel.request("both.x")  # behind them
            assert sorted(heard[:2]) == ["name", "pattern"] and heard[2] == "pattern"

    play(scene)


def test_a_second_callback_replaces_the_first(server: RunningServer) -> None:
    async def scene() -> None:
        async with connected(server) as channel:
            await channel.on("again", lambda data: "first")
            await channel.on("again", lambda data: "second")
            assert await channel.request("again") == "second"

    play(scene)


def test_unsubscribe(server: RunningServer) -> None:
    async def scene() -> None:
        async with connected(server) as channel:
            heard: list[int] = []
            await channel.subscribe(["gone.1", "gone.2"], heard.append)
            await channel.unsubscribe("gone.1")
            await channel.unsubscribe("never had")
            assert await channel.publish(["gone.1", "gone.2"], 5) == 1
            await channel.on("gone.3", lambda data: None)
            await channel.request("gone.3")
            assert heard == [5]

    play(scene)


def test_on_message_gets_what_has_no_callback(server: RunningServer) -> None:
    async def scene() -> None:
        async with connected(server) as channel:
            heard: asyncio.Queue[Any] = asyncio.Queue()
            await channel.subscribe("bare.*")
            await channel.publish("bare.1", 1)
            await channel.on("bare.own", lambda data: "own")
            assert await channel.request("bare.own") == "own"
            assert channel.unheard == 1
            channel.on_message = lambda data, event: heard.put_nowait((event, data))
            channel.publish("bare.2", 2)
            assert await heard.get() == ("bare.2", 2)

    play(scene)


def test_one_of_many_in_turn(server: RunningServer) -> None:
    async def scene() -> None:
        async with connected(server) as one, connected(server) as two, connected(server) as three:
            heard: list[tuple[int, int]] = []
            for which, channel in enumerate((one, two, three)):
                await channel.on("turn", lambda data, which=which: heard.append((which, data)))  # type: ignore[misc]
                await channel.on(f"turn.{which}", lambda data: None)
            for number in range(9):
                assert await one.publish_loop("turn", number) == 1
            for which in range(3):
                await one.request(f"turn.{which}")
            assert sorted(data for _which, data in heard) == list(range(9))
            assert [sum(who == which for who, _data in heard) for which in range(3)] == [3, 3, 3]
            assert await one.publish("turn.nobody", 1, one=True) == 0

    play(scene)


# ---------------------------------------------------------------------------------------------------- requests


def test_request_and_answer(server: RunningServer) -> None:
    async def scene() -> None:
        async with connected(server) as asker, connected(server) as answerer:

            async def slowly(data: Any) -> Any:
                await asyncio.sleep(0)
                return data

            await answerer.on("double", lambda data: data * 2)
            await answerer.on("echo", slowly)
            assert await asker.request("double", 21) == 42
            for value in VALUES:
                assert await asker.request("echo", value) == value
            assert await asyncio.gather(*(asker.request("double", number) for number in range(50))) == [
                number * 2 for number in range(50)
            ]

    play(scene)


def test_requests_that_fail(server: RunningServer, caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        async with connected(server) as channel:

            async def never(data: Any) -> None:
                await asyncio.get_running_loop().create_future()

            await channel.on("broken", lambda data: 1 / data)
            await channel.on("strange", lambda data: object())
            await channel.on("silent", never)
            with pytest.raises(ChannelError, match="ZeroDivisionError"):
                await channel.request("broken", 0)
            with pytest.raises(ChannelError, match="its answer: this cannot be sent"):
                await channel.request("strange")
            with pytest.raises(ChannelError, match="nobody has subscribed"):
                await channel.request("nobody is there")
            with pytest.raises(TimedOut, match=r"silent: no answer within 0\.05 s"):
                await channel.request("silent", timeout=0.05)
            assert channel._answers == {}

    with caplog.at_level(logging.ERROR):
        play(scene)
    assert "the callback of broken" in caplog.text and "ZeroDivisionError" in caplog.text


def test_a_callback_may_exit_and_the_next_one_comes(server: RunningServer, caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        async with connected(server) as channel:

            def leave(data: Any) -> Any:
                if data == "exit":
                    raise SystemExit(3)
                return data

            await channel.on("leave", leave)
            with pytest.raises(ChannelError, match="SystemExit"):
                await channel.request("leave", "exit")
            assert await channel.request("leave", "stay") == "stay"

    play(scene)


# ---------------------------------------------------------------------------------------------------- queues


def test_a_queue_is_worked_on(server: RunningServer, caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        async with connected(server) as producer, connected(server) as consumer:
            done: asyncio.Queue[Any] = asyncio.Queue()
            begun: list[Any] = []

            def work(data: Any, queue: str) -> None:
                begun.append(data)
                done.put_nowait((queue, data))
                if begun == ["fails"]:
                    raise ValueError("once")

            await producer.enqueue("work", "fails")
            await consumer.watch("work", work, retry_delay=0.01)
            await producer.enqueue(["work", "other work"], {"a": b"b"})
            heard = [await done.get() for _ in range(3)]
            assert sorted(heard, key=str) == [("work", "fails"), ("work", "fails"), ("work", {"a": b"b"})]
            await consumer.unwatch("work")
            await consumer.unwatch("work")
            await producer.enqueue("work", "later", delay=0.01)
            job = await consumer.reserve("work", wait=10)
            assert job is not None and (job.data, job.attempt) == ("later", 1)
            await job.refuse()
            assert await consumer.reserve("work") is None
            job = await consumer.reserve("work", wait=10)
            assert job is not None and job.attempt == 2
            await job.acknowledge()
            with pytest.raises(ChannelError, match="not this client's any more"):
                await job.acknowledge()
            assert done.empty()

    play(scene)
    assert "exception in the callback of queue work, item" in caplog.text


def test_async_callbacks_work_at_once_and_dead_letters_come_back(server: RunningServer) -> None:
    async def scene() -> None:
        async with connected(server) as channel:
            at_work: list[int] = []
            full, gate = asyncio.Event(), asyncio.Event()

            async def work(data: int) -> None:
                at_work.append(data)
                if len(at_work) == 3:
                    full.set()
                await gate.wait()
                raise ValueError(data)

            await channel.watch("slow", work, credit=3, retries=0)
            for number in range(4):
                await channel.enqueue("slow", number)
            await full.wait()
            await channel.unwatch("slow")
            gate.set()
            dead: list[Any] = []
            while len(dead) < 3:
                dead = await channel.dead_letters("slow")
            assert sorted(job.data for job in dead) == [0, 1, 2]
            assert await channel.replay("slow", [dead[0].id]) == 1
            assert await channel.replay("slow") == 2
            found = [await channel.reserve("slow", wait=10) for _ in range(4)]
            assert sorted(job.data for job in found if job is not None) == [0, 1, 2, 3]
            for job in found:
                assert job is not None
                await job.acknowledge()

    play(scene)


# ---------------------------------------------------------------------------------------------------- what cannot be


def test_names_and_data_that_cannot_be(server: RunningServer) -> None:
    async def scene() -> None:
        async with connected(server) as channel:
            for call in (channel.publish, channel.enqueue):
                with pytest.raises(ValueError, match=r"a \* stands in patterns"):
                    call("room.*", 1)
                with pytest.raises(ValueError, match="no name is given"):
                    call([], 1)
                with pytest.raises(TypeError, match="cannot be sent"):
                    call("room", object())
            with pytest.raises(ValueError, match="are the channel's own"):
                channel.on("$reply.x", print)
            with pytest.raises(ValueError, match="control character"):
                channel.on("a\0", print)
            with pytest.raises(TypeError, match="called with"):
                channel.on("a", lambda: None)
            with pytest.raises(ValueError, match="0 seconds or more"):
                channel.enqueue("a", 1, delay=-1)
            with pytest.raises(ValueError, match="0 seconds or more"):
                channel.enqueue("a", 1, delay=math.nan)
            with pytest.raises(ValueError, match="credit from 1"):
                channel.watch("a", print, credit=0)
            with pytest.raises(ValueError, match="group: a name has"):
                channel.send_to_group("x" * 255, 1)

    play(scene)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1", 'no engine for "http://"'),
        ("channel://a:1,b:2", "several servers"),
        ("channel://", "is no address"),
        (None, "no worker of this daemon|this is no worker process"),
    ],
)
def test_urls_that_cannot_be(url: str | None, words: str) -> None:
    async def scene() -> None:
        with pytest.raises((ConfigError, RuntimeError), match=words):
            await Channel.connect(url)

    play(scene)


def test_nobody_there(free_port: Any) -> None:
    async def scene() -> None:
        with pytest.raises(Unreachable):
            await Channel.connect(f"channel://127.0.0.1:{free_port()}")

    play(scene)


def test_promises(server: RunningServer) -> None:
    async def scene() -> None:
        async with connected(server, require=["order", Promise.COUNTS]) as channel:
            assert {Promise.ORDER, Promise.PATTERNS, Promise.ONE_OF_MANY, Promise.COUNTS} <= channel.promises
        with pytest.raises(ConfigError, match="does not promise: persistence"):
            await Channel.connect(url_of(server), require=["persistence"])
        with pytest.raises(ConfigError, match='no promise "speed"'):
            await Channel.connect(url_of(server), require=["speed"])

    play(scene)


def test_the_secret() -> None:
    async def scene(server: RunningServer) -> None:
        async with connected(server, secret="a secret") as channel:
            assert await channel.publish("x", 1) == 0
        with pytest.raises(Unauthorized):
            await Channel.connect(url_of(server), secret="another")

    with serving(options={"secret": "a secret"}) as server:
        play(lambda: scene(server))


# ---------------------------------------------------------------------------------------------------- going and coming


def test_after_close(server: RunningServer, caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        channel = await Channel.connect(url_of(server))
        await channel.on("closing", lambda data: None)
        sent = channel.publish("closing", 1)
        await channel.close()
        for later in (sent, channel.publish("closing", 2), channel.enqueue("closing", 3)):
            with pytest.raises(Unreachable):
                await later
        channel.publish("closing", "unawaited")
        gc.collect()

    play(scene)
    assert "publish to closing failed, and nobody waited for it: the channel is closed" in caplog.text
