"""Topics against a model that looks at everything, and what they must not cost."""

from __future__ import annotations

import fnmatch
import itertools

import hypothesis.strategies as st
import pytest
from hypothesis import given
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from workermand.services.channel.topics import REMEMBERED, Topics, is_pattern, matcher

NAMES = st.text("ab.", min_size=1, max_size=5)
PATTERNS = st.text("ab.*", min_size=1, max_size=6)
SUBSCRIBERS = st.integers(0, 3)


@given(PATTERNS, st.text("ab.\n", max_size=9))
def test_a_star_is_that_of_fnmatch(pattern: str, event: str) -> None:
    assert bool(matcher(pattern).fullmatch(event)) == fnmatch.fnmatchcase(event, pattern)


@pytest.mark.parametrize(
    ("pattern", "event", "matches"),
    [
        ("room.*", "room.1", True),
        ("room.*", "room.1.private", True),
        ("room.*", "room.", True),
        ("room.*", "room", False),
        ("*", "anything", True),
        ("a[b]?", "a[b]?", True),
        ("a[b]*", "ab", False),
        ("a.b*", "axb", False),
    ],
)
def test_there_are_no_other_signs(pattern: str, event: str, matches: bool) -> None:
    assert bool(matcher(pattern).fullmatch(event)) is matches


def test_many_stars_do_not_blow_up() -> None:
    assert not matcher("*a" * 100 + "*b*c").fullmatch("a" * 255)


class Model(RuleBasedStateMachine):
    """Every subscription in one set."""

    def __init__(self) -> None:
        super().__init__()
        self.topics: Topics[int] = Topics()
        self.model: set[tuple[int, str]] = set()

    @rule(subscriber=SUBSCRIBERS, name=NAMES | PATTERNS)
    def subscribe(self, subscriber: int, name: str) -> None:
        assert self.topics.subscribe(subscriber, name) is ((subscriber, name) not in self.model)
        self.model.add((subscriber, name))

    @rule(subscriber=SUBSCRIBERS, name=NAMES | PATTERNS)
    def unsubscribe(self, subscriber: int, name: str) -> None:
        assert self.topics.unsubscribe(subscriber, name) is ((subscriber, name) in self.model)
        self.model.discard((subscriber, name))

    @rule(subscriber=SUBSCRIBERS)
    def gone(self, subscriber: int) -> None:
        self.topics.gone(subscriber)
        self.model = {entry for entry in self.model if entry[0] != subscriber}

    @rule(event=NAMES)
    def publish(self, event: str) -> None:
        found = self.topics.matching(event)
        assert len(found) == len(set(found))
        assert set(found) == {who for who, name in self.model if fnmatch.fnmatchcase(event, name)}
        assert sorted(self.topics.in_turn(event)) == sorted(found)

    @invariant()
    def counts(self) -> None:
        assert len(self.topics) == len(self.model)
        for subscriber in range(4):
            assert self.topics.names(subscriber) == {name for who, name in self.model if who == subscriber}


TestModel = Model.TestCase


def test_one_after_the_other() -> None:
    topics: Topics[str] = Topics()
    for who in "abc":
        topics.subscribe(who, "job")
    topics.subscribe("d", "j*")
    topics.subscribe("b", "other")
    firsts = []
    for _ in range(8):
        firsts.append(next(topics.in_turn("job")))
        next(topics.in_turn("other"))
    assert firsts == ["a", "b", "c", "d"] * 2
    assert list(topics.in_turn("nothing")) == []


def test_one_that_goes_leaves_the_others_their_turns() -> None:
    topics: Topics[str] = Topics()
    for who in "abc":
        topics.subscribe(who, "job")
    assert next(topics.in_turn("job")) == "a"
    topics.gone("c")
    assert [next(topics.in_turn("job")) for _ in range(3)] == ["b", "a", "b"]


def test_an_exact_name_is_found_without_a_look_at_patterns_of_other_beginnings() -> None:
    topics: Topics[int] = Topics()
    held = []
    for number in range(100):
        topics.subscribe(number, f"user.{number:03}.*")
    for pattern in itertools.chain.from_iterable(patterns.values() for patterns in topics._patterns.values()):
        matches = pattern.matches
        pattern.matches = lambda event, matches=matches: (held.append(event), matches(event))[1]  # type: ignore[misc]
    assert topics.matching("user.007.mail") == (7,)
    assert held == ["user.007.mail"]
    assert topics.matching("user.007.mail") is topics.matching("user.007.mail")


def test_what_is_remembered_has_a_limit() -> None:
    topics: Topics[int] = Topics()
    topics.subscribe(1, "*")
    for number in range(REMEMBERED + 10):
        assert list(topics.in_turn(str(number))) == [1]
    assert len(topics._found) <= REMEMBERED
    assert len(topics._turns) <= REMEMBERED


def test_a_pattern_is_told_by_its_star() -> None:
    assert is_pattern("room.*") and not is_pattern("room.?")
