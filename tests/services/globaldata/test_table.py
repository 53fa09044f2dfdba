"""table.Table: against a model that is a plain dict, and verb by verb where words matter."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from workermand.services.globaldata import table as module
from workermand.services.globaldata.engine import Entry, GlobalDataError
from workermand.services.globaldata.table import OVERHEAD, Change, Limits, Table

pack = msgspec.msgpack.encode
KEYS = st.sampled_from(["a", "ab", "b", "ü", "a.b"])
NUMBERS = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False)
VALUES = st.one_of(NUMBERS, st.none(), st.text(max_size=5), st.booleans()).map(pack)
TTLS = st.none() | st.floats(0.5, 20)


class AgainstADict(RuleBasedStateMachine):
    """The model: key -> (value, version, end)."""

    def __init__(self) -> None:
        super().__init__()
        self.table = Table()
        self.model: dict[str, tuple[bytes, int, float]] = {}
        self.now = 1000.0
        self.last = 0

    def took(self, version: int) -> int:
        assert version > self.last
        self.last = version
        return version

    def put(self, key: str, value: bytes, version: int, end: float | None = None) -> None:
        self.model[key] = (value, self.took(version), self.model[key][2] if end is None else end)

    def end(self, ttl: float | None) -> float:
        return math.inf if ttl is None else self.now + ttl

    @rule(seconds=st.floats(0, 5), due=st.booleans())
    def time_passes(self, seconds: float, due: bool) -> None:
        self.now += seconds
        self.model = {key: entry for key, entry in self.model.items() if entry[2] > self.now}
        if due:
            ends = [end for _value, _version, end in self.model.values() if end < math.inf]
            assert self.table.expire_due(self.now) == min(ends, default=None)
            assert len(self.table) == len(self.model)

    @rule(key=KEYS, value=VALUES, ttl=TTLS)
    def set(self, key: str, value: bytes, ttl: float | None) -> None:
        self.put(key, value, self.table.set(key, value, ttl, self.now), self.end(ttl))

    @rule(pairs=st.lists(st.tuples(KEYS, VALUES), max_size=4), ttl=TTLS)
    def set_many(self, pairs: list[tuple[str, bytes]], ttl: float | None) -> None:
        self.table.set_many(pairs, ttl, self.now)
        for key, value in dict(pairs).items():
            entry = self.table.get(key, self.now)
            assert entry is not None
            self.put(key, value, entry.version, self.end(ttl))

    @rule(key=KEYS, value=VALUES, ttl=TTLS)
    def add(self, key: str, value: bytes, ttl: float | None) -> None:
        version = self.table.add(key, value, ttl, self.now)
        assert bool(version) == (key not in self.model)
        if version:
            self.put(key, value, version, self.end(ttl))

    @rule(key=KEYS, guess=VALUES, right=st.booleans(), new=VALUES)
    def cas(self, key: str, guess: bytes, right: bool, new: bytes) -> None:
        held = self.model.get(key, (None, 0, 0.0))[0]
        old = held if right and held is not None else guess
        version = self.table.cas(key, old, new, self.now)
        assert bool(version) == (held == old)
        if version:
            self.put(key, new, version)

    @rule(key=KEYS, off=st.sampled_from([0, 0, 1, -1]), new=VALUES)
    def cas_version(self, key: str, off: int, new: bytes) -> None:
        held = self.model.get(key, (b"", 0, math.inf))
        version = self.table.cas_version(key, held[1] + off, new, self.now)
        assert bool(version) == (off == 0)
        if version:
            self.put(key, new, version, held[2])

    @rule(key=KEYS, step=NUMBERS)
    def increment(self, key: str, step: int | float) -> None:
        number: Any = msgspec.msgpack.decode(self.model[key][0]) if key in self.model else None
        try:
            got = self.table.increment(key, step, self.now)
        except GlobalDataError:
            too_large = type(number) is int and isinstance(step, int) and not -(2**63) <= number + step < 2**64
            assert too_large or type(number) not in (int, float)
            return
        if key not in self.model:
            assert got is None
            return
        entry = self.table.get(key, self.now)
        assert entry is not None and pack(got) == pack(number + step) == entry.value
        self.put(key, entry.value, entry.version)

    @rule(key=KEYS, guess=st.none() | VALUES, right=st.booleans())
    def delete(self, key: str, guess: bytes | None, right: bool) -> None:
        old = self.model[key][0] if right and key in self.model else guess
        assert self.table.delete(key, old, self.now) == (key in self.model and old in (None, self.model[key][0]))
        if key in self.model and old in (None, self.model[key][0]):
            del self.model[key]
            self.took(self.table.version)

    @rule(key=KEYS, ttl=TTLS | st.sampled_from([0.0, -1.0]), guess=st.none() | VALUES)
    def expire(self, key: str, ttl: float | None, guess: bytes | None) -> None:
        expected = key in self.model and guess in (None, self.model[key][0])
        assert self.table.expire(key, ttl, guess, self.now) == expected
        if expected and ttl is not None and ttl <= 0:
            del self.model[key]
        elif expected:
            self.model[key] = (*self.model[key][:2], self.end(ttl))

    @rule(key=KEYS, prefix=st.sampled_from(["", "a", "a.", "ü", "x"]))
    def look(self, key: str, prefix: str) -> None:
        value, version, end = self.model.get(key, (b"", 0, 0.0))
        assert self.table.get(key, self.now) == (Entry(value, version) if version else None)
        assert self.table.exists(key, self.now) == bool(version)
        assert self.table.ttl(key, self.now) == (end - self.now if version else None)
        assert self.table.keys(prefix, "", self.now) == sorted(key for key in self.model if key.startswith(prefix))
        assert self.table.get_many([key, "missing"], self.now) == [self.table.get(key, self.now), None]

    @invariant()
    def it_counts_bytes(self) -> None:
        held = self.table._variables.items()
        assert self.table.bytes == sum(OVERHEAD + len(key.encode()) + len(each.value) for key, each in held)

    @invariant()
    def changes_make_the_same_table(self) -> None:
        """A store that follows the changes has what the table has."""
        follower = Table()
        state: dict[str, Change] = {}
        for change in self.table.changes:
            state[change.key] = change
        for change in state.values():
            if change.value is not None:
                follower.load(change.key, change.value, change.version, change.ends)
        for key in follower.keys("", "", self.now) + self.table.keys("", "", self.now):
            assert follower.get(key, self.now) == self.table.get(key, self.now)
            assert follower.ttl(key, self.now) == self.table.ttl(key, self.now)


TestAgainstADict = AgainstADict.TestCase


@pytest.mark.parametrize("held", [None, True, "1", [1], 2.5j])
def test_increment_of_what_is_no_number(held: Any) -> None:
    table = Table()
    table.set("a", b"\xc1" if isinstance(held, complex) else pack(held), None, 0)
    with pytest.raises(GlobalDataError, match="a holds no number"):
        table.increment("a", 1, 0)


def test_increment_beyond_64_bits_changes_nothing() -> None:
    table = Table()
    table.set("a", pack(2**64 - 1), None, 0)
    with pytest.raises(GlobalDataError, match="64 bits"):
        table.increment("a", 1, 0)
    assert table.increment("a", -1, 0) == 2**64 - 2


def test_limits() -> None:
    table = Table(Limits(key=4, value=10, keys=3, total=3 * OVERHEAD + 20))
    for key in ("", "12345", "üüü"):
        with pytest.raises(GlobalDataError, match=r"options\.limits\.key"):
            table.set(key, b"", None, 0)
    with pytest.raises(GlobalDataError, match=r"options\.limits\.value"):
        table.set("a", bytes(11), None, 0)
    table.set_many([("a", b"1"), ("b", b""), ("c", b"")], None, 0)
    with pytest.raises(GlobalDataError, match=r"options\.limits\.keys"):
        table.add("d", b"", None, 0)
    table.set("a", bytes(10), None, 0)
    with pytest.raises(GlobalDataError, match=r"options\.limits\.total"):
        table.set_many([("b", bytes(4)), ("c", bytes(4))], None, 0)
    assert table.get("b", 0) == Entry(b"", 2), "all of them, or none"
    with pytest.raises(GlobalDataError, match=r"options\.limits\.total"):
        table.cas("b", b"", bytes(8), 0)
    table.set("a", b"", None, 0)
    assert table.cas("b", b"", bytes(8), 0)
    assert table.delete("c", None, 0) and table.add("d", b"", None, 0)


def test_a_table_over_its_limits_can_be_emptied() -> None:
    """What the store had may exceed limits that are lower now."""
    table = Table(Limits(total=OVERHEAD, keys=1))
    table.load("a", bytes(900), 7, math.inf)
    table.load("b", bytes(900), 9, math.inf)
    assert table.set("a", bytes(800), None, 0) == 10
    assert table.delete("b", None, 0)


@pytest.mark.parametrize("ttl", [0, -1, math.nan])
def test_a_ttl_that_is_none(ttl: float) -> None:
    table = Table()
    for verb in (table.set, table.add):
        with pytest.raises(GlobalDataError, match="more than 0"):
            verb("a", b"", ttl, 0)
    assert not len(table)


def test_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE", 1000)
    table = Table()
    names = [f"key{number:03}" for number in range(300)]
    table.set_many([(name, bytes(100)) for name in names], None, 0)
    got: list[str] = []
    while page := table.keys("key", got[-1] if got else "", 0):
        assert len(page) < 100
        got += page
    assert got == names
    assert 1 < len(table.get_many(names, 0)) < 10
    table.set("large", bytes(5000), None, 0)
    assert len(table.get_many(["large", "large"], 0)) == 1


def test_ends_that_are_called_off_do_not_pile_up() -> None:
    table = Table()
    for number in range(10_000):
        table.set("a", b"", 100 + number, 0)
    assert len(table._ends) < 2000
    assert table.expire_due(0) == 100 + 9999


def test_set_puts_the_ttl_and_cas_leaves_it() -> None:
    table = Table()
    table.set("a", pack(1), 10, 0)
    table.cas("a", pack(1), pack(2), 0)
    table.increment("a", 1, 0)
    assert table.ttl("a", 4) == 6
    table.set("a", pack(1), None, 4)
    assert table.ttl("a", 4) == math.inf
