"""The hub: who gets what in one turn, what it is confirmed with, and what a slow one misses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from workermand import ConnectionStatus
from workermand.protocols.frame import Frame
from workermand.services.channel import wire
from workermand.services.channel.hub import Hub
from workermand.services.links import wire as links


class Client:
    """As much of a connection as a hub sees; what is written is taken apart again."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.status = ConnectionStatus.ESTABLISHED
        self.slow = False
        self.writes = 0
        self.got: list[list[Any]] = []
        self.destroyed = False

    def __repr__(self) -> str:
        return self.name

    def send(self, data: bytes, raw: bool = False) -> bool:
        assert raw
        if self.slow or self.status is not ConnectionStatus.ESTABLISHED:
            return False
        self.writes += 1
        self.got += map(links.unpack, Frame().feed(data))
        return True

    def get_remote_address(self) -> str:
        return self.name

    def destroy(self) -> None:
        self.destroyed = True
        self.status = ConnectionStatus.CLOSED

    def take(self) -> list[list[Any]]:
        got, self.got = self.got, []
        return got


class Scene:
    def __init__(self, slow: Any = "drop") -> None:
        self._turn: list[Callable[[], None]] = []
        self.hub: Any = Hub(self._turn.append, slow)

    def end_turn(self) -> None:
        while self._turn:
            self._turn.pop(0)()


def event(name: str, envelope: bytes) -> list[Any]:
    return [wire.EVENT, 0, name, envelope]


def test_one_write_a_turn_for_each() -> None:
    scene, publisher, readers = Scene(), Client(), [Client(str(number)) for number in range(3)]
    for reader in readers:
        assert scene.hub.subscribe(reader, ["a", "b.*"]) == ""
    for number, name in enumerate(["a", "a", "b.1", "nobody", "a"], 1):
        scene.hub.publish(publisher, number, [name], b"%d" % number)
    assert publisher.got == readers[0].got == []
    scene.end_turn()
    for reader in readers:
        assert reader.writes == 1
        assert reader.got == [event("a", b"1"), event("a", b"2"), event("b.1", b"3"), event("a", b"5")]
    assert publisher.got == [[wire.CONFIRMED, 5, [3, 3, 3, 0, 3]]] and publisher.writes == 1
    assert scene.hub.counters.published == 5 and scene.hub.counters.delivered == 12
    scene.end_turn()
    assert publisher.writes == 1


def test_whoever_comes_later_gets_what_is_later() -> None:
    scene, early, late = Scene(), Client(), Client()
    scene.hub.subscribe(early, ["a"])
    scene.hub.publish(early, 1, ["a"], b"1")
    scene.hub.subscribe(late, ["*"])
    scene.hub.publish(None, 0, ["a"], b"2")
    scene.end_turn()
    assert early.got == [event("a", b"1"), event("a", b"2"), [wire.CONFIRMED, 1, [1]]]
    assert late.got == [event("a", b"2")]


def test_a_slow_one_misses_and_is_told() -> None:
    scene, publisher, slow, quick = Scene(), Client(), Client("slow"), Client()
    for reader in (slow, quick):
        scene.hub.subscribe(reader, ["a", "b"])
    slow.slow = True
    scene.hub.publish(publisher, 1, ["a", "b"], b"1")
    scene.hub.publish(publisher, 2, ["a"], b"2")
    scene.end_turn()
    scene.hub.publish(publisher, 3, ["b"], b"3")
    scene.end_turn()
    assert publisher.got == [[wire.CONFIRMED, 2, [2, 1]], [wire.CONFIRMED, 3, [1]]]
    assert len(quick.got) == 4 and scene.hub.counters.dropped == 4
    slow.slow = False
    scene.hub.is_drained(slow)
    assert slow.take() == [[wire.DROPPED, 0, 4]]
    scene.hub.is_drained(slow)
    scene.hub.publish(publisher, 4, ["b"], b"4")
    scene.end_turn()
    assert slow.take() == [event("b", b"4")]


def test_by_the_other_policy_it_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    scene, slow = Scene("close"), Client("192.0.2.1:5")
    scene.hub.subscribe(slow, ["a"])
    slow.slow = True
    scene.hub.publish(None, 0, ["a"], b"1")
    scene.end_turn()
    assert slow.destroyed and scene.hub.counters.closed == 1
    assert "192.0.2.1:5 does not read: closed" in caplog.text


def test_a_confirmation_waits_for_a_publisher_that_does_not_read() -> None:
    scene, publisher = Scene(), Client()
    publisher.slow = True
    for number in (1, 2):
        scene.hub.publish(publisher, number, ["a"], b"")
        scene.end_turn()
    publisher.slow = False
    scene.hub.publish(publisher, 3, ["a"], b"")
    scene.end_turn()
    assert publisher.take() == [[wire.CONFIRMED, 3, [0, 0, 0]]]
    publisher.slow = True
    scene.hub.publish(publisher, 4, ["a"], b"")
    scene.end_turn()
    publisher.slow = False
    scene.hub.is_drained(publisher)
    assert publisher.take() == [[wire.CONFIRMED, 4, [0]]]


def test_one_of_many_passes_by_who_is_full() -> None:
    scene, one, two = Scene(), Client(), Client()
    for reader in (one, two):
        scene.hub.subscribe(reader, ["a"])
    scene.hub.is_full(one)
    for number in range(4):
        scene.hub.publish(None, 0, ["a"], b"%d" % number, True)
    scene.end_turn()
    assert one.got == [] and len(two.got) == 4
    scene.hub.is_drained(one)
    scene.hub.publish(None, 0, ["a"], b"", True)
    scene.hub.publish(None, 0, ["a"], b"", True)
    scene.end_turn()
    assert len(one.got) == 1


def test_who_is_gone_leaves_nothing() -> None:
    scene, client, publisher = Scene(), Client(), Client()
    scene.hub.subscribe(client, ["a"])
    client.slow = True
    scene.hub.publish(publisher, 1, ["a"], b"")
    scene.hub.publish(client, 1, ["x"], b"")
    scene.hub.is_full(client)
    scene.end_turn()
    scene.hub.publish(publisher, 2, ["a"], b"")
    client.status = ConnectionStatus.CLOSED
    scene.hub.gone(client)
    scene.end_turn()
    assert publisher.take() == [[wire.CONFIRMED, 1, [0]], [wire.CONFIRMED, 2, [0]]]
    assert scene.hub.counters.dropped == 1
    assert not (scene.hub._missed or scene.hub._owed or scene.hub._full or len(scene.hub.topics))


def test_all_names_or_none() -> None:
    scene, client = Scene(), Client()
    assert "control character" in scene.hub.subscribe(client, ["good", "a\n"])
    assert "more than 2 subscriptions" in scene.hub.subscribe(client, ["a", "b", "c"], 2)
    assert len(scene.hub.topics) == 0
    assert scene.hub.subscribe(client, ["a", "b"], 2) == scene.hub.subscribe(client, ["a", "b"], 2) == ""
    assert "more than 2" in scene.hub.subscribe(client, ["c"], 2)
    scene.hub.unsubscribe(client, ["a", "never"])
    assert scene.hub.subscribe(client, ["c"], 2) == ""


NAMES = st.sampled_from(["a", "b", "ab"])


@given(
    st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["a", "b", "ab", "a*", "*"]))),
    st.lists(st.tuples(st.integers(0, 1), st.lists(NAMES, min_size=1, max_size=2), st.booleans())),
)
def test_order_and_counts(subscriptions: Any, published: Any) -> None:
    """Whatever is published in whichever turns: everybody gets each publisher's in order, and counts are true."""
    scene, readers, publishers = Scene(), [Client() for _ in range(3)], [Client("p0"), Client("p1")]
    for who, name in subscriptions:
        scene.hub.subscribe(readers[who], [name])
    for number, (who, names, ends) in enumerate(published):
        scene.hub.publish(publishers[who], number, names, b"%d %d" % (who, number))
        if ends:
            scene.end_turn()
    scene.end_turn()
    for reader in readers:
        for who in range(2):
            numbers = [int(got[3].split()[1]) for got in reader.got if int(got[3].split()[0]) == who]
            assert numbers == sorted(numbers)
    counted = sum(sum(counts) for publisher in publishers for _op, _number, counts in publisher.got)
    assert counted == sum(len(reader.got) for reader in readers) == scene.hub.counters.delivered
