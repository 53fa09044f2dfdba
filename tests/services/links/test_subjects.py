"""Names as subjects of nats: back again, legal, and covered by their patterns."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workermand.services.channel.topics import matcher
from workermand.services.links import subjects

LEGAL = re.compile(r"[A-Za-z0-9_=-]+(\.[A-Za-z0-9_=-]+)*", re.ASCII)
NAMES = st.text(st.sampled_from("ab.=*>$ ü\U0001f600-_%"), min_size=1) | st.text(min_size=1)


@given(NAMES)
def test_a_name_comes_back(name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        return
    subject = subjects.subject(name)
    assert LEGAL.fullmatch(subject)
    assert subjects.name(subject) == name


@given(st.text("ab.", min_size=1), st.text("ab.*", min_size=1))
def test_a_pattern_is_covered(name: str, pattern: str) -> None:
    covered = subjects.cover(pattern)
    matched = bool(matcher(pattern).fullmatch(name))
    subject = subjects.subject(name)
    root = covered.subject.removesuffix(">")
    found = subject.startswith(root) and len(subject) > len(root) if root != covered.subject else subject == root
    assert found or not matched
    if covered.is_exact:
        assert found == matched


@pytest.mark.parametrize(
    ("pattern", "subject", "is_exact"),
    [
        ("room.1", "room.1", True),
        ("room.*", "room.>", True),
        ("*", ">", True),
        ("room*", ">", False),
        ("a.b*", "a.>", False),
        ("a.*.c", "a.>", False),
        ("a b.*", "a=20b.>", True),
        ("a..*", "a.=.>", True),
    ],
)
def test_what_covers_a_pattern(pattern: str, subject: str, is_exact: bool) -> None:
    assert subjects.cover(pattern) == (subject, is_exact)
