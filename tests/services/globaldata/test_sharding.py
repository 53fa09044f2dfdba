"""sharding.Shards: everybody finds the same server, and few keys move."""

from __future__ import annotations

import collections

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workermand.services.globaldata.sharding import Shards

KEYS = [f"user.{number}" for number in range(3000)]
NAMES = st.lists(st.text(min_size=1), min_size=1, max_size=6, unique=True)


@given(NAMES, st.text(), st.randoms())
def test_the_order_of_the_servers_does_not_matter(names: list[str], key: str, random: object) -> None:
    other = list(names)
    random.shuffle(other)  # type: ignore[attr-defined]
    assert names[Shards(names).of(key)] == other[Shards(other).of(key)]


@given(NAMES, st.text(min_size=1), st.lists(st.text(), max_size=20))
def test_a_new_server_takes_keys_and_moves_no_others(names: list[str], new: str, keys: list[str]) -> None:
    if new in names:
        return
    before, after = Shards(names), Shards([*names, new])
    for key in keys:
        assert after.of(key) in (before.of(key), len(names))


def test_shares_are_about_even() -> None:
    shards = Shards(["a:2207", "b:2207", "c:2207"])
    counts = collections.Counter(shards.of(key) for key in KEYS)
    assert all(900 < counts[place] < 1100 for place in range(3)), counts


def test_a_key_stays_where_it_was() -> None:
    """Other releases must find it, too."""
    shards = Shards(["a:2207", "b:2207", "c:2207"])
    assert [shards.of(key) for key in ("counter", "user.1", "user.2", "ü", "")] == [1, 0, 2, 0, 2]


def test_split() -> None:
    shards = Shards(["a", "b"])
    shares = shards.split(KEYS)
    assert sorted(key for keys in shares.values() for key in keys) == sorted(KEYS)
    assert all(shards.of(key) == place for place, keys in shares.items() for key in keys)


@pytest.mark.parametrize("names", [[], ["a", "a"]])
def test_names_that_cannot_be(names: list[str]) -> None:
    with pytest.raises(ValueError, match="server"):
        Shards(names)
