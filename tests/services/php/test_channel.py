"""Channel for PHP: a client written in PHP, our server, and Python's client beside it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests.services.php.program import Program, program, run
from workermand.services.channel import Channel
from workermand.services.links.serialize import unserialize
from workermand.testing import RunningServer, running_server

pytestmark = pytest.mark.real

HANDLER = "workermand.services.channel.server"
CONNECT = "$c = new ChannelClient($argv[1]); "
PATIENCE = 60.0


class Service:
    """The server; ``php`` is where PHP's clients go."""

    def __init__(self, server: RunningServer, port: int) -> None:
        self.server = server
        self.php = f"127.0.0.1:{port}"

    @contextlib.asynccontextmanager
    async def python(self) -> AsyncIterator[Channel]:
        channel = await Channel.connect(f"channel://127.0.0.1:{self.server.port}")
        async with channel:
            yield channel


@contextlib.contextmanager
def serving(port: int, **options: Any) -> Iterator[Service]:
    php = {"listen": f"frame://127.0.0.1:{port}", **options.pop("php", {})}
    options = {"php": php, **options}
    with running_server(HANDLER, listen="frame://127.0.0.1:0", reloadable=False, options=options) as server:
        yield Service(server, port)


@pytest.fixture
def service(free_port: Any) -> Iterator[Service]:
    with serving(free_port()) as service:
        yield service


async def told(php: Program) -> Any:
    return await asyncio.to_thread(php.tells)


async def heard(events: asyncio.Queue[Any]) -> Any:
    return await asyncio.wait_for(events.get(), PATIENCE)


# ---------------------------------------------------------------------------------------------------- events


def test_what_php_publishes_is_heard_in_order(service: Service) -> None:
    code = """
        $c->ping();
        for ($i = 0; $i < 500; $i++) { $c->publish('numbers', $i); }
        $c->publish(['rich', 'other'], ['b' => 1, 'a' => [1.5, null, true, "\\xff"], 7 => 'größe']);
        $c->publish(5, 'an event whose name is a number');
        heard();
    """

    async def main() -> None:
        events: asyncio.Queue[Any] = asyncio.Queue()
        async with service.python() as channel:
            await channel.subscribe(
                ["numbers", "rich", "other", "5"], lambda data, event: events.put_nowait((event, data))
            )
            with program(CONNECT + code, service.php) as php:
                assert [await heard(events) for _ in range(500)] == [("numbers", n) for n in range(500)]
                rich = {"b": 1, "a": [1.5, None, True, b"\xff"], 7: "größe"}
                both = [await heard(events) for _ in range(2)]
                assert both == [("rich", rich), ("other", rich)]
                assert list(both[0][1]) == ["b", "a", 7]
                assert await heard(events) == ("5", "an event whose name is a number")
                php.say()
                php.end()

    asyncio.run(main())


def test_what_python_publishes_is_heard_by_php(service: Service) -> None:
    code = """
        $c->on('values', function ($data) { tell(base64_encode(serialize($data))); });
        $c->on(7, function ($data) { tell($data); });
        $c->publish('ready', null);
        $c->run(6);
        $c->unsubscribe('values');
        $c->publish('ready', null);
        $c->run(1);
    """
    values = [None, 1.5, [1, [2]], {"k": {"b": True, 3: "x"}}, b"\xff"]

    async def main() -> None:
        ready: asyncio.Queue[Any] = asyncio.Queue()
        async with service.python() as channel:
            await channel.on("ready", ready.put_nowait)
            with program(CONNECT + code, service.php) as php:
                await heard(ready)
                assert [await channel.publish("values", value) for value in values] == [1] * 5
                assert [unserialize(base64.b64decode((await told(php))[0])) for _ in values] == values
                assert await channel.publish("7", "hello") == 1
                assert await told(php) == ["hello"]
                await heard(ready)
                assert await channel.publish("values", "nobody") == 0
                assert await channel.publish("7", "last") == 1
                assert await asyncio.to_thread(php.end) == [["last"]]

    asyncio.run(main())


def test_php_hears_what_php_publishes_the_sender_too(service: Service) -> None:
    code = "$c->on('e', function ($data) { tell($data); }); $c->publish('e', ['from' => 'me']); $c->run(1);"
    assert run(CONNECT + code, service.php) == [[{"from": "me"}]]


def test_publish_loop_takes_turns(service: Service) -> None:
    code = "$c->on('job', function ($data) { tell($data); }); $c->publish('ready', null); $c->run(3);"
    sending = """
        $c->on('end', 'tell');
        for ($i = 0; $i < 6; $i++) { $c->publish('job', $i, true); }
        $c->publish('end', 'end');
        $c->run(1);
    """

    async def main() -> None:
        ready: asyncio.Queue[Any] = asyncio.Queue()
        async with service.python() as channel:
            await channel.on("ready", ready.put_nowait)
            with program(CONNECT + code, service.php) as one, program(CONNECT + code, service.php) as other:
                await heard(ready)
                await heard(ready)
                await asyncio.to_thread(run, CONNECT + sending, service.php)
                shares = [await asyncio.to_thread(php.end) for php in (one, other)]
                assert sorted(n for share in shares for [n] in share) == list(range(6))
                assert [len(share) for share in shares] == [3, 3]

    asyncio.run(main())


def test_what_php_may_not_is_refused_and_the_rest_heard(service: Service) -> None:
    code = """
        $c->publish('e', new ArrayObject([1]));
        $c->publish(['$worker.chat', 'e'], 'good');
        $c->on('room.*', 'tell');
        $c->on('end', 'tell');
        $c->publish('end', 'end');
        $c->run(1);
    """

    async def main() -> None:
        events: asyncio.Queue[Any] = asyncio.Queue()
        async with service.python() as channel:
            await channel.on("e", events.put_nowait)
            assert await asyncio.to_thread(run, CONNECT + code, service.php) == [["end"]]
            assert await heard(events) == "good"

    asyncio.run(main())
    for words in (
        "an object: only scalars",
        r"\$worker.chat: names that begin",
        r"room\.\*: PHP clients have no patterns",
    ):
        service.server.wait_for(f"PHP client .*{words}")


# ---------------------------------------------------------------------------------------------------- queues


def test_what_php_enqueues_python_works_off(service: Service) -> None:
    code = "for ($i = 0; $i < 200; $i++) { $c->enqueue(['jobs', 'copies'], ['n' => $i]); } heard();"

    async def main() -> None:
        jobs: asyncio.Queue[Any] = asyncio.Queue()
        async with service.python() as channel:
            await channel.watch("jobs", jobs.put_nowait)
            with program(CONNECT + code, service.php) as php:
                assert [await heard(jobs) for _ in range(200)] == [{"n": n} for n in range(200)]
                await channel.watch("copies", jobs.put_nowait)
                assert [await heard(jobs) for _ in range(200)] == [{"n": n} for n in range(200)]
                php.say()
                php.end()

    asyncio.run(main())


def test_what_python_enqueues_php_works_off_each_item_once(service: Service) -> None:
    code = """
        $c->watch(['a', 'b'], function ($data) use ($c) { tell($data); $c->publish('done', $data); });
        try { $c->run(1000); } catch (RuntimeException $e) { }
    """

    async def main() -> None:
        done: asyncio.Queue[Any] = asyncio.Queue()
        async with service.python() as channel:
            await channel.on("done", done.put_nowait)
            with program(CONNECT + code, service.php), program(CONNECT + code, service.php):
                for n in range(100):
                    await channel.enqueue("a", {"a": n})
                    await channel.enqueue("b", {"b": n})
                items = [await heard(done) for _ in range(200)]
                for queue in "ab":
                    assert sorted(item[queue] for item in items if queue in item) == list(range(100))
            assert await channel.reserve("a") is None
            assert await channel.reserve("b") is None

    asyncio.run(main())


def test_an_item_of_a_php_consumer_that_dies_comes_back(service: Service) -> None:
    code = "$c->watch('jobs', function ($data) { tell($data); heard(); });  $c->run(1);"

    async def main() -> None:
        async with service.python() as channel:
            await channel.enqueue("jobs", "one")
            await channel.enqueue("jobs", "two")
            with program(CONNECT + code, service.php) as php:
                assert await told(php) == ["one"]
            jobs: asyncio.Queue[Any] = asyncio.Queue()
            await channel.watch("jobs", jobs.put_nowait)
            assert {await heard(jobs), await heard(jobs)} == {"one", "two"}

    asyncio.run(main())


def test_an_item_that_php_keeps_too_long_goes_to_another(free_port: Any) -> None:
    code = "$c->watch('jobs', function ($data) { tell($data); heard(); });  $c->run(1);"

    async def main(service: Service) -> None:
        async with service.python() as channel:
            await channel.enqueue("jobs", "one")
            with program(CONNECT + code, service.php) as php:
                assert await told(php) == ["one"]
                job = await channel.reserve("jobs", wait=PATIENCE)
                assert job is not None and (job.data, job.attempt) == ("one", 2)
                await job.acknowledge()
                php.say()
                await asyncio.to_thread(php.end)
            assert await channel.reserve("jobs") is None

    with serving(free_port(), php={"deadline": 0.5}) as service:
        asyncio.run(main(service))


def test_without_auto_reserve_an_item_is_called_for(service: Service) -> None:
    code = """
        $c->watch('jobs', function ($data) { tell($data); }, false);
        $c->reserve();
        $c->run(1);
        heard();
        $c->reserve();
        $c->run(1);
        $c->unwatch('jobs');
        $c->reserve();
        $c->on('end', 'tell');
        $c->publish('end', 'end');
        $c->run(1);
    """

    async def main() -> None:
        async with service.python() as channel:
            for n in range(3):
                await channel.enqueue("jobs", n)
            with program(CONNECT + code, service.php) as php:
                assert await told(php) == [0]
                php.say()
                assert await asyncio.to_thread(php.end) == [[1], ["end"]]
            job = await channel.reserve("jobs")
            assert job is not None and job.data == 2

    asyncio.run(main())
