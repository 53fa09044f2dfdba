"""A PHP client as the server sees it: what it says in our wire, and what becomes of the frames that it is sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workermand import WorkermandError
from workermand.services.channel import wire
from workermand.services.channel.php import DEADLINE, RETRIES, RETRY_DELAY, PhpClient, Translator
from workermand.services.links import wire as links
from workermand.services.links.serialize import serialize, unserialize


class Loop:
    def __init__(self) -> None:
        self.soon: list[Callable[[], object]] = []

    def call_soon(self, function: Callable[..., object], *arguments: Any) -> None:
        self.soon.append(lambda: function(*arguments))


class Scene:
    """One client: the server is this, and its connection too."""

    def __init__(self, translator: Translator | None = None) -> None:
        self.heard: list[Any] = []
        """What the client has said to the server."""
        self.told: list[Any] = []
        """What PHP has got."""
        self.complaints: list[str] = []
        self.loop = Loop()
        self.worker: Any = self
        self.room = True
        self.client = PhpClient(self, translator or Translator(), self.complaints.append, DEADLINE, self)  # type: ignore[arg-type]

    def obey(self, client: Any, message: Any) -> None:
        assert client is self.client
        op, number, *rest = message
        assert number == op
        self.heard.append((op, *rest))

    def is_full(self, client: Any) -> None:
        self.heard.append("full")

    def is_drained(self, client: Any) -> None:
        self.heard.append("drained")

    def gone(self, client: Any) -> None:
        self.heard.append("gone")

    def send(self, data: bytes, raw: bool) -> bool:
        assert raw
        while data and self.room:
            length = int.from_bytes(data[:4], "big")
            self.told.append(unserialize(data[4:length]))
            data = data[length:]
        return self.room

    def say(self, type: str, channels: Any = (), **rest: Any) -> list[Any]:
        """Through PHP's format. What the server has heard of it."""
        self.heard.clear()
        self.client.hear(unserialize(serialize({"type": type, "channels": channels, **rest})))
        return list(self.heard)

    def item(self, queue: str, id: str, data: Any = 1) -> Any:
        return self.client.send(links.body([wire.ITEM, 0, queue, id, 1, wire.pack_envelope(data)]))


@pytest.fixture
def scene() -> Scene:
    return Scene()


def opened(queue: str) -> Any:
    return (wire.WATCH, queue, 1, DEADLINE, RETRIES, RETRY_DELAY)


# ---------------------------------------------------------------------------------------------------- events


@pytest.mark.parametrize(
    ("type", "channels", "heard"),
    [
        ("subscribe", ["a", "b"], (wire.SUBSCRIBE, ["a", "b"])),
        ("subscribe", "a", (wire.SUBSCRIBE, ["a"])),
        ("subscribe", 7, (wire.SUBSCRIBE, ["7"])),
        ("subscribe", {3: "a", 1: 7}, (wire.SUBSCRIBE, ["a", "7"])),
        ("subscribe", ["a", "a"], (wire.SUBSCRIBE, ["a"])),
        ("unsubscribe", ["a"], (wire.UNSUBSCRIBE, ["a"])),
        ("publish", ["a"], (wire.PUBLISH, ["a"], wire.pack_envelope({"x": [1, b"\xff"]}), False)),
        ("publishLoop", ["a"], (wire.PUBLISH, ["a"], wire.pack_envelope({"x": [1, b"\xff"]}), True)),
        ("enqueue", ["a", "b"], (wire.ENQUEUE, ["a", "b"], wire.pack_envelope({"x": [1, b"\xff"]}), 0.0)),
    ],
)
def test_what_it_says(scene: Scene, type: str, channels: Any, heard: Any) -> None:
    assert scene.say(type, channels, data={"x": [1, b"\xff"]}) == [heard]


def test_no_data_is_null(scene: Scene) -> None:
    assert scene.say("publish", ["a"]) == [(wire.PUBLISH, ["a"], wire.pack_envelope(None), False)]


def test_nothing_is_said_of_no_names(scene: Scene) -> None:
    assert scene.say("publish", []) == scene.say("subscribe") == []


def test_the_keys_of_an_array_keep_their_order(scene: Scene) -> None:
    [(_, _, envelope, _)] = scene.say("publish", ["a"], data={"b": 1, "a": 2, 5: 3})
    assert list(wire.unpack_envelope(envelope).data) == ["b", "a", 5]


def test_an_event_is_told(scene: Scene) -> None:
    frames = wire.event_frame("a", wire.pack_envelope([1])) + wire.event_frame("7", wire.pack_envelope("x", "$r", 5))
    assert scene.client.send(frames, raw=True) is True
    assert scene.told == [
        {"type": "event", "channel": "a", "data": [1]},
        {"type": "event", "channel": "7", "data": "x"},
    ]


def test_what_is_sent_to_many_is_translated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    translator = Translator()
    scenes = [Scene(translator) for _ in range(3)]
    frame, other = (wire.event_frame("a", wire.pack_envelope(data)) for data in (1, 2))
    seen = [translator(frame) for scene in scenes if scene.client.send(frame, raw=True)]
    assert len(seen) == 3 and all(translated is seen[0] for translated in seen)
    assert all(scene.told == [{"type": "event", "channel": "a", "data": 1}] for scene in scenes)
    scenes[0].client.send(other, raw=True)
    assert scenes[0].told[-1]["data"] == 2


def test_what_php_cannot_have_is_left_out_and_said(scene: Scene) -> None:
    frames = [wire.event_frame("a", wire.pack_envelope(data)) for data in (2**64 - 1, 1)]
    assert scene.client.send(b"".join(frames), raw=True) is True
    assert scene.client.send(frames[0], raw=True) is True
    assert [message["data"] for message in scene.told] == [1]
    assert scene.complaints == ["an event of a: an integer that needs more than PHP's 64 bits"] * 2


@pytest.mark.parametrize("envelope", [b"", b"\xc1", b"\x91\xa1\xff", b"\x91\x81\x80\x01", b"\x80", b"\x91" * 5000])
def test_what_is_no_envelope_hurts_nobody(scene: Scene, envelope: bytes) -> None:
    good = wire.event_frame("a", wire.pack_envelope(1))
    assert scene.client.send(wire.event_frame("a", envelope) + good, raw=True) is True
    assert [message["data"] for message in scene.told] == [1]
    assert len(scene.complaints) == 1 and scene.complaints[0].startswith("an event of a: ")


def test_a_slow_one_is_told_of_as_any_client(scene: Scene) -> None:
    scene.room = False
    assert scene.client.send(wire.event_frame("a", wire.pack_envelope(1)), raw=True) is False
    scene.client.full()
    scene.client.drained()
    scene.client.gone()
    assert scene.heard == ["full", "drained", "gone"]


def test_answers_are_kept_from_it_and_refusals_logged(scene: Scene) -> None:
    for message in ([links.OK, wire.SUBSCRIBE, None], [wire.CONFIRMED, 16, [1]], [wire.DROPPED, 0, 7]):
        assert scene.client.send(links.body(message)) is True
        assert scene.client.send(links.pack(message), raw=True) is True
    scene.client.send(links.body([links.FAIL, wire.ENQUEUE, "the queues are full"]))
    assert (scene.told, scene.complaints) == ([], ["enqueue: the queues are full"])


# ---------------------------------------------------------------------------------------------------- queues


def test_a_watch_opens_with_the_reserve_behind_it(scene: Scene) -> None:
    assert scene.say("watch", ["a", "b"]) == []
    assert scene.say("reserve") == [opened("a"), opened("b")]
    assert scene.say("reserve") == []


def test_reserve_after_a_callback_acknowledges_the_oldest_item(scene: Scene) -> None:
    scene.say("watch", ["a", "b"])
    scene.say("reserve")
    assert scene.item("a", "1", {"k": "v"}) is True
    scene.item("b", "2")
    assert scene.told[0] == {"type": "queue", "channel": "a", "data": {"k": "v"}}
    assert scene.say("reserve") == [(wire.ACKNOWLEDGE, "a", "1")]
    scene.item("a", "3")
    assert scene.say("reserve") == [(wire.ACKNOWLEDGE, "b", "2")]
    assert scene.say("reserve") == [(wire.ACKNOWLEDGE, "a", "3")]
    assert scene.say("reserve") == []


def test_the_reserve_of_a_second_watch_acknowledges_nothing(scene: Scene) -> None:
    scene.say("watch", "a")
    scene.say("reserve")
    scene.item("a", "1")
    scene.say("watch", "b")
    assert scene.say("reserve") == [opened("b")]
    assert scene.say("reserve") == [(wire.ACKNOWLEDGE, "a", "1")]


def test_a_watch_that_is_not_followed_by_its_reserve_opens_with_the_next(scene: Scene) -> None:
    scene.say("watch", "a")
    scene.say("reserve")
    scene.item("a", "1")
    scene.say("watch", "b")
    scene.say("publish", "x")
    assert scene.say("reserve") == [(wire.ACKNOWLEDGE, "a", "1"), opened("b")]


def test_unwatch(scene: Scene) -> None:
    scene.say("watch", ["a", "b"])
    assert scene.say("unwatch", "b") == []
    assert scene.say("reserve") == [opened("a")]
    scene.item("a", "1")
    assert scene.say("unwatch", ["a", "never"]) == [(wire.UNWATCH, "a")]
    assert scene.say("reserve") == [(wire.ACKNOWLEDGE, "a", "1")]
    scene.say("watch", "a")
    assert scene.say("reserve") == [opened("a")]


def test_an_item_that_it_did_not_take_is_not_in_its_hands(scene: Scene) -> None:
    scene.say("watch", "a")
    scene.say("reserve")
    scene.room = False
    assert scene.item("a", "1") is False
    assert scene.say("reserve") == []


def test_an_item_that_php_cannot_have_goes_to_the_dead(scene: Scene) -> None:
    scene.say("watch", "a")
    scene.say("reserve")
    scene.heard.clear()
    assert scene.item("a", "1", 2**64 - 1) is True
    assert (scene.heard, scene.told) == ([], [])
    scene.loop.soon.pop()()
    assert scene.heard == [(wire.REFUSE, "a", "1", None, True)]
    assert scene.complaints == ["an item of a: an integer that needs more than PHP's 64 bits"]
    assert scene.say("reserve") == []


# ---------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"type": "flood"}, 'type "flood"'),
        ({"channels": ["a"]}, "required field `type`"),
        ({"type": 5}, "Expected `str`"),
        ([1], "Expected `object`"),
        (None, "Expected `object`"),
        ({"type": "publish", "channels": [""]}, "publish: a name has 1 to 255 bytes, this one 0"),
        ({"type": "publish", "channels": ["x" * 256]}, "this one 256"),
        ({"type": "publish", "channels": ["a\n"]}, "control character"),
        ({"type": "publish", "channels": [1.5]}, "not float"),
        ({"type": "publish", "channels": [True]}, "not bool"),
        ({"type": "publish", "channels": [[]]}, "not list"),
        ({"type": "publish", "channels": b"\xff"}, "not bytes"),
        ({"type": "publish", "channels": ["$worker.chat"]}, r"\$worker.chat: names that begin with"),
        ({"type": "watch", "channels": ["$x"]}, "watch: "),
        ({"type": "subscribe", "channels": ["room.*"]}, r"subscribe: room\.\*: PHP clients have no patterns"),
        ({"type": "publish", "channels": list(range(20_000))}, "more than 10000 names"),
    ],
)
def test_what_is_refused(scene: Scene, message: Any, words: str) -> None:
    with pytest.raises(WorkermandError, match=words):
        scene.client.hear(message)


def test_the_good_names_are_heard_beside_the_bad_ones(scene: Scene) -> None:
    with pytest.raises(WorkermandError, match="PHP clients have no patterns"):
        scene.say("subscribe", ["a", "b*", 7])
    assert scene.heard == [(wire.SUBSCRIBE, ["a", "7"])]


words = st.sampled_from(["type", "channels", "data", "subscribe", "watch", "publish", "enqueue", "unwatch", "reserve"])
scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | words | st.text() | st.binary()
keys = words | st.integers(-(2**63), 2**63 - 1) | st.binary(max_size=3)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4))


@given(values | st.fixed_dictionaries({"type": words | values, "channels": values}, optional={"data": values}))
def test_any_message_is_taken_or_refused_in_words(message: Any) -> None:
    scene = Scene()
    try:
        scene.client.hear(message)
    except WorkermandError:
        pass
