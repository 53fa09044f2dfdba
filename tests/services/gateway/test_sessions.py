"""sessions: written, read, patched, merged."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workermand.services.gateway import sessions
from workermand.services.gateway.sessions import CODECS, PACKED, PHP, Codec, Patch, SessionError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=3),
    lambda inner: st.dictionaries(st.text("xyz", min_size=1, max_size=2), inner, max_size=3),
    max_leaves=5,
)
SESSIONS = st.dictionaries(st.sampled_from(["a", "b", "c"]), VALUES, max_size=3)


@given(SESSIONS)
def test_what_is_written_is_read(session: dict[str, Any]) -> None:
    assert PACKED.decode(PACKED.encode(session)) == session


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_both_kinds(codec: Codec) -> None:
    session = {"name": "Zoë", "n": 7, "list": [1, 2], "inner": {"x": None, "y": 1.5, "z": True}}
    assert codec.decode(codec.encode(session)) == session
    assert codec.encode({}) == b""
    assert codec.decode(b"") == {}
    with pytest.raises(SessionError, match="no session"):
        codec.decode(b"\xc1 what is this?")
    with pytest.raises(SessionError, match="a session"):
        codec.encode({"a": object()})
    with pytest.raises(SessionError, match=r"limit"):
        codec.encode({"a": "x" * sessions.LIMIT})


def test_php_has_one_kind_of_array() -> None:
    assert PHP.decode(b"a:2:{i:0;i:5;i:1;i:6;}") == {0: 5, 1: 6}
    assert PHP.decode(b"a:0:{}") == {}
    with pytest.raises(SessionError, match="an array, not int"):
        PHP.decode(b"i:7;")


@given(SESSIONS, SESSIONS)
def test_a_difference_applied_gives_the_other(before: dict[str, Any], after: dict[str, Any]) -> None:
    patch = sessions.difference(before, after)
    assert (patch is None) is (before == after)
    if patch is not None:
        sessions.apply(before, patch)
        assert before == after


def test_patches_of_different_keys_do_not_undo_each_other() -> None:
    session: dict[str, Any] = {"a": 1, "b": 2}
    sessions.apply(session, Patch({"a": 5}, []))
    sessions.apply(session, Patch({}, ["b"]))
    sessions.apply(session, Patch({"c": 3}, ["nothing"]))
    assert session == {"a": 5, "c": 3}


CASES: list[tuple[dict[Any, Any], dict[Any, Any], dict[Any, Any]]] = [
    ({"a": 1}, {"b": 2}, {"a": 1, "b": 2}),
    ({"a": {"x": 1, "y": 2}}, {"a": {"y": 3}}, {"a": {"x": 1, "y": 3}}),
    ({"a": {"x": 1}}, {"a": 7}, {"a": 7}),
    ({"a": [1, 2, 3]}, {"a": [9]}, {"a": [9, 2, 3]}),
    ({"a": [1]}, {"a": [2, 3]}, {"a": [2, 3]}),
]


@pytest.mark.parametrize(("former", "update", "expected"), CASES)
def test_merging(former: dict[Any, Any], update: dict[Any, Any], expected: dict[Any, Any]) -> None:
    assert sessions.merge(former, update) == expected


@pytest.mark.real
@pytest.mark.parametrize(("former", "update"), [case[:2] for case in CASES])
def test_merging_is_phps(former: dict[Any, Any], update: dict[Any, Any]) -> None:
    code = "echo serialize(array_replace_recursive(unserialize($argv[1]), unserialize($argv[2])));"
    arguments = [PHP.encode(former), PHP.encode(update)]
    done = subprocess.run(["php", "-r", code, "--", *arguments], capture_output=True, check=True)
    assert done.stdout == PHP.encode(sessions.merge(former, update))
