"""Names: what users may give, and the words for what they may not."""

from __future__ import annotations

import pytest

from workermand.services.channel import names


def test_good_ones() -> None:
    assert names.any_of("room.*") == ["room.*"]
    assert names.any_of(["a", "b*"]) == ["a", "b*"] and names.any_of([]) == []
    assert names.plain(iter(["a", "b"])) == ["a", "b"]
    assert names.one("a b") == "a b"
    assert names.own("group", "tea") == "$group.tea"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "1 to 255 bytes"),
        ("a\n", "control character"),
        ("$group.tea", "the channel's own"),
        ("a*", "stands in patterns"),
        ([], "no name"),
        ([7], "not int"),
    ],
)
def test_bad_ones(name: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        names.plain(name)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "words"), [("x" * 250, "group: a name has"), ("a*", r"without a \*")])
def test_bad_ones_of_ours(name: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        names.own("group", name)
