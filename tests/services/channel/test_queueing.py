"""Queues over the wire: a real server of nothing else, and clients that see every message."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.services.channel.queue_client import Client, pid_of, serving
from workermand.services.channel import wire
from workermand.services.links.errors import ServiceError
from workermand.testing import RunningServer

Join = Callable[[RunningServer], Client]


@pytest.fixture
def join() -> Iterator[Join]:
    """A new client."""
    with contextlib.ExitStack() as stack:

        def join(server: RunningServer) -> Client:
            client = Client(server)
            stack.callback(client.close)
            return client

        yield join


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    """One for all that need no other: each test has queues of its own."""
    with serving(limits={"package": "2MiB"}) as server:
        yield server


@pytest.fixture
def queue(request: pytest.FixtureRequest) -> str:
    return str(request.node.name)


# ---------------------------------------------------------------------------------------------------- the plain way


def test_an_item_goes_from_one_client_to_another(server: RunningServer, join: Join, queue: str) -> None:
    producer, consumer = join(server), join(server)
    consumer.watch(queue)
    producer.enqueue(queue, envelope=b"\x00 whatever")
    item = consumer.item()
    assert (item[0], item[2], item[3]) == (queue, 1, b"\x00 whatever")
    assert not producer.acknowledge(item)
    assert consumer.acknowledge(item)
    assert not consumer.acknowledge(item)


def test_a_consumer_that_goes_leaves_its_item_to_another(server: RunningServer, join: Join, queue: str) -> None:
    first, second = join(server), join(server)
    first.watch(queue)
    second.enqueue(queue)
    item = first.item()
    second.watch(queue)
    first.close()
    assert second.item() == (queue, item[1], 2, b"data")


def test_a_deadline_that_passes_gives_the_item_away(server: RunningServer, join: Join, queue: str) -> None:
    first, second = join(server), join(server)
    first.watch(queue, deadline=0.05)
    second.enqueue(queue)
    item = first.item()
    second.watch(queue)
    assert second.item()[1:3] == (item[1], 2)
    assert not first.acknowledge(item)


def test_a_refused_item_comes_back_and_dies_in_the_end(server: RunningServer, join: Join, queue: str) -> None:
    client = join(server)
    client.watch(queue, retries=2, retry_delay=0.01)
    client.enqueue(queue)
    for attempt in (1, 2, 3):
        item = client.item()
        assert item[2] == attempt
        assert client.refuse(item, 0.02 if attempt == 2 else None)
    assert client.ask(wire.DEAD, queue, 10) == [list(item)]
    assert client.ask(wire.REPLAY, queue, ["0", "x", "9" * 30]) == 0
    assert client.ask(wire.REPLAY, queue, [item[1]]) == 1
    again = client.item()
    assert again[:3] == (queue, item[1], 1)
    assert client.refuse(again, dead=True)
    assert client.ask(wire.REPLAY, queue, None) == 1


def test_a_delayed_item_comes_later_than_one_that_is_not(server: RunningServer, join: Join, queue: str) -> None:
    client = join(server)
    client.enqueue(queue, envelope=b"later", delay=0.1)
    client.enqueue(queue, envelope=b"now")
    client.watch(queue, credit=2)
    assert [client.item()[3], client.item()[3]] == [b"now", b"later"]


def test_reservations(server: RunningServer, join: Join, queue: str) -> None:
    client = join(server)
    assert client.ask(wire.RESERVE, queue, 60.0, 0.0) is None
    assert client.ask(wire.RESERVE, queue, 60.0, 0.01) is None
    waiting = client.send(wire.RESERVE, queue, 60.0, 60.0)
    join(server).enqueue(queue)
    item = client.answer_to(waiting)
    assert (item[0], item[2], item[3]) == (queue, 1, b"data")
    assert client.acknowledge(item)


def test_unwatch(server: RunningServer, join: Join, queue: str) -> None:
    client = join(server)
    client.watch(queue)
    assert client.ask(wire.UNWATCH, queue) is None
    client.enqueue(queue)
    item = client.ask(wire.RESERVE, queue, 60.0, 0.0)
    assert item and not client.items


def test_dead_letters_come_as_far_as_they_fit(server: RunningServer, join: Join, queue: str) -> None:
    client = join(server)
    client.watch(queue)
    for size in (1_500_000, 600_000, 600_000):
        client.enqueue(queue, envelope=b"x" * size)
        client.refuse(client.item(), dead=True)
    letters = client.ask(wire.DEAD, queue, 100)
    assert [len(letter[3]) for letter in letters] == [1_500_000], "one at least"
    assert client.ask(wire.REPLAY, queue, [letters[0][1]]) == 1
    assert len(client.ask(wire.DEAD, queue, 100)) == 1


# ---------------------------------------------------------------------------------------------------- what is refused

ENDLESS = float("inf")


@pytest.mark.parametrize(
    ("op", "rest", "words"),
    [
        (wire.ENQUEUE, ([], b"", 0.0), "an item goes to 1 to 1000 queues, not 0"),
        (wire.ENQUEUE, (["a"] * 1001, b"", 0.0), "an item goes to 1 to 1000 queues, not 1001"),
        (wire.ENQUEUE, (["a\n"], b"", 0.0), "has a control character"),
        (wire.ENQUEUE, (["a"], b"", -1.0), "delay is 0 to 31622400 seconds, not -1"),
        (wire.ENQUEUE, (["a"], b"", float("nan")), "delay is 0 to 31622400 seconds, not nan"),
        (wire.ENQUEUE, (["a"], b"x" * (2 * 1024 * 1024 - 30), 0.0), "is over the server's limits.package"),
        (wire.WATCH, ("", 1, 60.0, 5, 1.0), "a name has 1 to 255 bytes"),
        (wire.WATCH, ("a", 0, 60.0, 5, 1.0), "credit is 1 to 100000, not 0"),
        (wire.WATCH, ("a", 1, 0.0, 5, 1.0), "deadline is more than 0 and up to 31622400 seconds, not 0"),
        (wire.WATCH, ("a", 1, ENDLESS, 5, 1.0), "deadline is more than 0 and up to 31622400 seconds, not inf"),
        (wire.WATCH, ("a", 1, 60.0, -1, 1.0), "retries is 0 to 1000000, not -1"),
        (wire.WATCH, ("a", 1, 60.0, 5, -1.0), "retry_delay is 0 to"),
        (wire.RESERVE, ("a\x00", 60.0, 0.0), "has a control character"),
        (wire.RESERVE, ("a", 60.0, ENDLESS), "wait is 0 to"),
        (wire.RESERVE, ("a", -1.0, 0.0), "deadline is more than 0"),
        (wire.REFUSE, ("a", "1", -1.0, False), "delay is 0 to"),
    ],
)
def test_what_cannot_be_is_refused_in_words(
    server: RunningServer, join: Join, op: int, rest: tuple[Any, ...], words: str
) -> None:
    client = join(server)
    with pytest.raises(ServiceError) as caught:
        client.ask(op, *rest)
    assert words in str(caught.value)
    assert client.ask(wire.UNWATCH, "a") is None, "it goes on"


def test_too_many_reservations_are_refused(server: RunningServer, join: Join, queue: str) -> None:
    client = join(server)
    for _ in range(1000):
        client.send(wire.RESERVE, queue, 60.0, 60.0)
    with pytest.raises(ServiceError, match="1000 reservations of a client may wait at once"):
        client.ask(wire.RESERVE, queue, 60.0, 60.0)
    join(server).enqueue(queue)
    assert client.answer_to(1)[0] == queue


def test_too_many_watches_are_refused(server: RunningServer, join: Join, queue: str) -> None:
    client = join(server)
    for n in range(10_000):
        client.send(wire.WATCH, f"{queue}{n}", 1, 60.0, 5, 1.0)
    with pytest.raises(ServiceError, match="a client watches 10000 queues at most"):
        client.watch(queue)
    client.watch(f"{queue}0", credit=2)


def test_a_full_queue_refuses_and_says_so(join: Join) -> None:
    with serving(options={"limits": {"items": 2}}) as server:
        client = join(server)
        client.enqueue("a", "b")
        with pytest.raises(ServiceError, match="the queues are full: 2 items"):
            client.enqueue("a")


# ---------------------------------------------------------------------------------------------------- who does not read


def test_nothing_is_dropped_for_one_who_does_not_read_for_a_while(join: Join) -> None:
    with serving(limits={"send_buffer": "64KiB"}) as server:
        producer, consumer = join(server), join(server)
        consumer.watch("jobs", credit=200)
        for n in range(200):
            producer.enqueue("jobs", envelope=b"%d " % n + b"x" * 50_000)
        assert [int(consumer.item()[3].split()[0]) for _ in range(200)] == list(range(200))


def test_much_credit_and_large_items_are_no_reason_to_close(join: Join) -> None:
    with serving(limits={"send_buffer": "64KiB"}, options={"owed": 100_000}) as server:
        producer, consumer = join(server), join(server)
        for n in range(200):
            producer.enqueue("jobs", envelope=b"%d " % n + b"x" * 50_000)
        consumer.watch("jobs", credit=200)
        assert [int(consumer.item()[3].split()[0]) for _ in range(200)] == list(range(200))
        for n in range(200):
            producer.enqueue("more", envelope=b"%d " % n + b"x" * 50_000)
        asked = [consumer.send(wire.RESERVE, "more", 60.0, 0.0) for _ in range(200)]
        assert [int(consumer.answer_to(number)[3].split()[0]) for number in asked] == list(range(200))


def test_one_who_reads_no_answers_is_closed_and_others_get_its_items(join: Join) -> None:
    with serving(limits={"send_buffer": "64KiB"}, options={"owed": 1_000_000}) as server:
        deaf, other = join(server), join(server)
        deaf.watch("jobs", credit=2)
        other.enqueue("jobs", envelope=b"x" * 500_000)
        deaf.refuse(deaf.item(), dead=True)
        other.enqueue("jobs")
        deaf.item()
        for _ in range(30):
            deaf.send(wire.DEAD, "jobs", 1)
        server.wait_for("does not read: closed, with 1000000 bytes of answers")
        other.watch("jobs")
        assert other.item()[2:] == (2, b"data")


# ---------------------------------------------------------------------------------------------------- over crashes


def test_what_was_confirmed_survives_kill_9_with_its_attempts_and_delays(join: Join) -> None:
    with serving(options={"persist": True}) as server:
        client = join(server)
        client.enqueue("jobs", envelope=b"back")
        client.watch("jobs")
        item = client.item()
        client.refuse(item, 0.0)
        held = client.item()
        assert held[2] == 2
        client.enqueue("jobs", envelope=b"done")
        client.enqueue("dead", envelope=b"dead")
        client.watch("dead")
        client.refuse(client.item(), dead=True)
        client.enqueue("later", envelope=b"later", delay=3600.0)
        client.enqueue("soon", envelope=b"soon", delay=0.2)
        with contextlib.closing(join(server)) as other:
            other.watch("jobs")
            assert other.acknowledge(other.item())
        os.kill(pid_of(server), signal.SIGKILL)
        server.wait_for("items are in the queues from before")
        client = join(server)
        client.watch("jobs", credit=9)
        assert client.item() == ("jobs", item[1], 2, b"back"), "the attempt that nobody ended does not count"
        assert not client.acknowledge(("jobs", "1", 1, b""))
        client.watch("soon")
        assert client.item()[3] == b"soon"
        assert client.ask(wire.RESERVE, "later", 60.0, 0.0) is None
        assert client.ask(wire.DEAD, "dead", 9)[0][3] == b"dead"
        client.enqueue("jobs")
        assert int(client.item()[1]) > int(item[1]), "numbers are never used again"


def test_a_broken_file_keeps_the_server_from_starting_and_says_what_to_do(join: Join) -> None:
    with serving(options={"persist": True}) as server:
        join(server).enqueue("jobs")
        (file,) = server.directory.rglob("queues.sqlite3")
        file.write_bytes(b"broken" * 1000)
        file.with_name(file.name + "-wal").write_bytes(b"")
        os.kill(pid_of(server), signal.SIGKILL)
        assert "Move it away" in server.wait_for(r"queues.sqlite3: it cannot be read: .*")[0]
