"""The child's end of the link, over a real pair: nothing that matters is lost, nothing blocks."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from typing import Any

import pytest
import uvloop

from workermand.link import Adopt, Link, LinkClosed, Listen, Listening, Message, Recycle, Status, Words
from workermand.worker.orders import Orders


class Ends:
    """The master's end to be used as it is, the child's behind Orders."""

    def __init__(self) -> None:
        self.loop = uvloop.new_event_loop()
        self.master, self.child = Link.pair()
        self.obeyed: list[tuple[Message, list[int]]] = []
        self.orphaned = 0
        self.orders = Orders(self.loop, self.child, self.obey, self.orphan)
        self.orders.start()

    def obey(self, message: Message, fds: list[int]) -> None:
        self.obeyed.append((message, fds))

    def orphan(self) -> None:
        self.orphaned += 1

    def run(self, condition: Any) -> None:
        async def until() -> None:
            while not condition():  # noqa: ASYNC110 -- what comes is counted elsewhere
                await asyncio.sleep(0.001)

        self.loop.run_until_complete(asyncio.wait_for(until(), 20))

    def fill(self) -> int:
        """Makes the link full; how many messages fitted."""
        count = 0
        while self.child.send(Status(total_request=1)):
            count += 1
        return count


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    yield made
    made.loop.close()
    made.master.close()
    made.child.close()


def test_what_the_master_says_is_obeyed_in_order_with_its_descriptors(ends: Ends) -> None:
    reader, writer = os.pipe()
    ends.master.send(Adopt("text://a"), [reader])
    ends.master.send(Adopt("text://b"))
    ends.run(lambda: len(ends.obeyed) == 2)
    (first, fds), (second, none) = ends.obeyed
    assert (first, second, none) == (Adopt("text://a"), Adopt("text://b"), [])
    os.write(writer, b"x")
    assert os.read(fds[0], 1) == b"x"
    for fd in (reader, writer, *fds):
        os.close(fd)


def test_what_must_arrive_waits_for_a_full_link_in_order(ends: Ends) -> None:
    filled = ends.fill()
    wanted: list[Message] = [Words("reason", str(number)) for number in range(3 * filled)]
    for message in wanted:
        ends.orders.send(message)
    got: list[Message] = []

    def all_here() -> bool:
        got.extend(message for message, _fds in ends.master.receive())
        return len(got) == filled + len(wanted)

    ends.run(all_here)
    assert got[filled:] == wanted


def test_a_status_is_dropped_by_a_full_link_and_overtakes_nothing(ends: Ends) -> None:
    filled = ends.fill()
    ends.orders.push(Status(total_request=7))
    ends.orders.send(Recycle("memory limit"))
    ends.orders.push(Status(total_request=8))
    got: list[Message] = []

    def recycled() -> bool:
        got.extend(message for message, _fds in ends.master.receive())
        return Recycle("memory limit") in got

    ends.run(recycled)
    assert len(got) == filled + 1
    ends.orders.push(Status(total_request=9))
    assert ends.master.receive() == [(Status(total_request=9), [])]


def test_questions_find_their_answers(ends: Ends) -> None:
    answers: list[tuple[str, str]] = []
    for uri in ("text://a", "text://b"):
        ends.orders.ask(
            lambda number, uri=uri: Listen(number, uri),  # type: ignore[misc]
            lambda answer, _fds, uri=uri: answers.append((uri, answer.error)),  # type: ignore[misc]
        )
    asked = [message for message, _fds in ends.master.receive()]
    for message in reversed(asked):
        assert isinstance(message, Listen)
        ends.master.send(Listening(message.request, message.uri, error=f"no {message.uri}"))
    ends.run(lambda: len(answers) == 2)
    assert answers == [("text://b", "no text://b"), ("text://a", "no text://a")]


def test_the_masters_death_is_told_once_and_later_words_are_forgotten(ends: Ends) -> None:
    ends.master.close()
    ends.run(lambda: ends.orphaned)
    ends.orders.send(Recycle("x"))
    ends.orders.push(Status())
    ends.orders.deliver()
    ends.loop.run_until_complete(asyncio.sleep(0.01))
    assert ends.orphaned == 1


def test_last_words_are_delivered_without_a_loop(ends: Ends) -> None:
    ends.fill()
    ends.orders.send(Words("uncaught exception", "last"))
    ends.master.receive()
    ends.orders.deliver()
    assert [message for message, _fds in ends.master.receive()][-1] == Words("uncaught exception", "last")


def test_nobody_waits_for_ever_for_a_master_that_does_not_read(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workermand.worker.orders.LAST_CHANCE", 0.01)
    ends.fill()
    ends.orders.send(Words("uncaught exception", "last"))
    ends.orders.deliver()
    ends.child.close()
    assert all(isinstance(message, Status) for message, _fds in ends.master.receive())
    with pytest.raises(LinkClosed):
        ends.master.receive()
