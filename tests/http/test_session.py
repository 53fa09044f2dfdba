"""Session: what of it has changed, and what becomes of two that were read at once."""

from __future__ import annotations

import datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workermand.http import session as sessions
from workermand.http.session import Changes, Session, is_id, new_id

ID = "0123456789abcdef" * 2


class Keeper:
    def __init__(self) -> None:
        self.told = 0
        self.saved: list[Changes | None] = []

    def changed(self, session: Session) -> None:
        self.told += 1

    def save(self, session: Session) -> str:
        self.saved.append(session.changes())
        return "saved"


def stored(**values: Any) -> dict[str, bytes]:
    return {key: msgspec.msgpack.encode(value) for key, value in values.items()}


def known(**values: Any) -> Session:
    return Session(ID, stored(**values))


def decoded(changes: Changes | None) -> dict[str, Any]:
    assert changes is not None
    return {key: msgspec.msgpack.decode(value) for key, value in changes.values.items()}


# ---------------------------------------------------------------------------------------------------- ids


def test_ids_are_ours_or_nothing() -> None:
    assert is_id(new_id()) and new_id() != new_id()
    for text in ("", "0" * 31, "0" * 33, "A" * 32, "../../../../../../../../etc/pass", ID + "\n", "\u0660" * 32):
        assert not is_id(text)


def test_an_id_that_the_store_does_not_know_is_not_taken() -> None:
    session = Session(ID, None)
    assert session.is_new and session.id != ID and is_id(session.id)
    session["a"] = 1
    changes = session.changes()
    assert changes is not None and changes.is_new and changes.id == session.id


def test_its_text_does_not_show_the_id() -> None:
    assert repr(known(a=1)) == "<Session with a>"
    assert repr(Session()) == "<Session with nothing>"


# ---------------------------------------------------------------------------------------------------- values


def test_reading() -> None:
    session = known(a=1, nothing=None, list=[1, 2])
    assert (session.get("a"), session["a"], session.get("b"), session.get("b", 7)) == (1, 1, None, 7)
    assert (session.has("a"), session.has("nothing"), session.exists("nothing"), session.exists("b")) == (
        True,
        False,
        True,
        False,
    )
    assert session.all() == {"a": 1, "nothing": None, "list": [1, 2]} == dict(session)
    assert len(session) == 3 and "a" in session and list(session) == ["a", "nothing", "list"]
    assert session.changes() is None


def test_changing() -> None:
    session = known(a=1, b=2, c=3, d=4, e=5)
    session.set("f", b"\x00")
    session.put({"g": 7.5, "h": True})
    session.put("i", "ü")
    session.delete("a")
    session.delete("missing")
    assert (session.pull("b"), session.pull("b"), session.pull("b", 9)) == (2, None, 9)
    session.forget("c")
    session.forget(["d", "missing"])
    del session["e"]
    with pytest.raises(KeyError):
        session["e"]
    with pytest.raises(KeyError):
        del session["e"]
    changes = session.changes()
    assert decoded(changes) == {"f": b"\x00", "g": 7.5, "h": True, "i": "ü"} == session.all()
    assert changes is not None and changes.deleted == frozenset("abcde")


def test_what_was_changed_in_place_is_found() -> None:
    session = known(cart=["ham"], user={"name": "ann"}, other=[1])
    session["cart"].append("eggs")
    assert session["user"]["name"] == "ann" and session["other"] == [1]
    assert decoded(session.changes()) == {"cart": ["ham", "eggs"]}
    fresh = Session()
    fresh.setdefault("cart", []).append("ham")
    assert decoded(fresh.changes()) == {"cart": ["ham"]}


def test_times_with_a_zone_come_back_as_they_were() -> None:
    now = datetime.datetime(2026, 11, 21, 10, tzinfo=datetime.UTC)
    session = Session()
    session["now"] = now
    assert decoded(session.changes()) == {"now": now}


@pytest.mark.parametrize(
    ("key", "value"), [("a", object()), ("a", 2**64), ("", 1), (7, 1), ("\udcff", 1), ("a", "\udcff")]
)
def test_what_cannot_be_stored_is_refused_where_it_is_set(key: Any, value: object) -> None:
    session = known(b=2)
    with pytest.raises(TypeError, match="cannot be stored"):
        session[key] = value
    assert session.all() == {"b": 2} and session.changes() is None


def test_its_size_is_bounded() -> None:
    session = Session(ID, stored(a="x"), limit=100)
    with pytest.raises(ValueError, match=r"session\.b: with it the session has 1\d\d bytes, session\.size allows 100"):
        session["b"] = "y" * 100
    session["b"] = "y" * 80
    session["b"] = "z" * 80
    del session["b"]
    session["c"] = ["y" * 80]
    session["c"].append("more than there is room for")
    with pytest.raises(ValueError, match=r"session\.c"):
        session.changes()
    assert sessions.LIMIT == 65536


# ---------------------------------------------------------------------------------------------------- its life


def test_nothing_is_stored_before_there_is_something_to_remember() -> None:
    session = Session()
    session.get("a")
    session.refresh()
    session.flush()
    session["a"] = 1
    del session["a"]
    assert session.changes() is None and session.news(None) is None


def test_an_id_that_was_asked_for_is_kept() -> None:
    session = Session()
    id = session.keep()
    changes = session.changes()
    assert changes == Changes(id, is_new=True)
    assert session.news(changes) == id
    session.saved(Changes(id, is_new=True))
    assert not session.is_new and session.changes() is None and session.keep() == id and session.changes() is None


def test_a_new_one_is_told_once() -> None:
    session = Session()
    session["a"] = 1
    changes = session.changes()
    assert changes is not None and session.news(changes) == session.id
    session.saved(changes)
    session["a"] = 2
    changes = session.changes()
    assert changes is not None and not changes.is_new and session.news(changes) is None


def test_a_refresh_tells_again() -> None:
    session = known(a=1)
    session.refresh()
    changes = session.changes()
    assert changes == Changes(ID) and session.news(changes) == ID
    session.saved(Changes(ID))
    assert session.changes() is None and session.news(None) is None


def test_another_id_for_the_same_content() -> None:
    session = known(a=1)
    first = session.regenerate_id()
    second = session.regenerate_id()
    session["b"] = 2
    changes = session.changes()
    assert changes is not None and len({ID, first, second}) == 3
    assert (changes.id, changes.former, changes.stored_as, changes.is_new) == (second, ID, ID, False)
    assert changes.apply(stored(a=1, c=3)) == stored(a=1, b=2, c=3)
    assert session.news(changes) == second
    session.saved(changes)
    session["b"] = 3
    changes = session.changes()
    assert changes is not None and changes.stored_as == second


def test_an_end() -> None:
    session = known(a=1)
    session.flush()
    changes = session.changes()
    assert changes is not None and changes.is_ended and changes.stored_as == ID
    assert session.news(changes) == ""
    session.saved(changes)
    assert session.is_new and session.changes() is None and session.news(None) is None and not session.all()


def test_what_is_set_after_an_end_begins_another() -> None:
    session = known(a=1)
    session.clear()
    session["b"] = 2
    changes = session.changes()
    assert changes is not None and changes.stored_as == ID != changes.id
    assert changes.apply(stored(a=1, c=3)) == stored(b=2) and changes.is_new
    assert session.news(changes) == changes.id
    session.saved(changes)
    assert session.id == changes.id and not session.is_new


def test_one_that_somebody_else_has_ended_is_not_brought_back() -> None:
    session = known(a=1)
    session["b"] = 2
    changes = session.changes()
    assert changes is not None
    session.saved(changes, is_there=False)
    assert session.is_new and session.id != ID and not session.all() and session.news(None) is None


def test_changes_that_come_while_it_is_saved_are_not_lost() -> None:
    session = known(a=1, b=1)
    session.put({"a": 2, "b": 2})
    changes = session.changes()
    session["a"] = 3
    former = session.regenerate_id()
    assert changes is not None and former != ID
    session.saved(changes)
    again = session.changes()
    assert decoded(again) == {"a": 3} and again is not None and again.stored_as == ID


def test_after_the_answer_no_session_can_begin() -> None:
    session = Session()
    session.is_answered = True
    with pytest.raises(RuntimeError, match="cannot begin any more"):
        session["a"] = 1
    with pytest.raises(RuntimeError, match="cannot begin any more"):
        session.keep()
    with pytest.raises(RuntimeError, match="cannot change any more"):
        session.regenerate_id()
    there = known(a=1)
    there.is_answered = True
    there["a"] = 2
    assert there.keep() == ID and decoded(there.changes()) == {"a": 2}


def test_its_keeper_is_told_once_until_it_asks() -> None:
    keeper = Keeper()
    session = Session(ID, stored(a=[1]), keeper=keeper)
    session["b"] = 1
    session["c"] = 1
    assert keeper.told == 1 and session.is_told
    session.changes()
    assert session["a"] == [1]  # it may be changed in place
    assert keeper.told == 2
    assert session.save() == "saved" and decoded(keeper.saved[0]) == {"b": 1, "c": 1}
    session.dropped()
    assert session.changes() is None
    assert Session().save() is None


# ---------------------------------------------------------------------------------------------------- two at once

KEYS = st.sampled_from("abcd")
STEPS = st.lists(st.tuples(KEYS, st.one_of(st.none(), st.integers(0, 9), st.lists(st.integers(0, 9)))), max_size=6)


def play(session: Session, steps: list[tuple[str, Any]], prefix: str = "") -> None:
    for key, value in steps:
        if value is None:
            session.delete(prefix + key)
        else:
            session[prefix + key] = value


@given(STEPS, STEPS)
def test_one_is_saved_as_it_is(before: list[tuple[str, Any]], steps: list[tuple[str, Any]]) -> None:
    first = Session()
    play(first, before)
    values = changes.apply({}) if (changes := first.changes()) else {}
    second, third = Session(ID, values), Session(ID, values)
    play(second, steps)
    changes = second.changes()
    assert Session(ID, changes.apply(values) if changes else values).all() == second.all()
    if changes is None:
        assert second.all() == third.all()


@given(STEPS, STEPS, st.booleans())
def test_two_with_keys_of_their_own_do_not_disturb_each_other(
    ones: list[tuple[str, Any]], others: list[tuple[str, Any]], is_first: bool
) -> None:
    before = stored(**{owner + key: 0 for owner in "xy" for key in "abcd"})
    one, other = Session(ID, before), Session(ID, before)
    play(one, ones, "x")
    play(other, others, "y")
    values = before
    for each in (one, other) if is_first else (other, one):
        if (changes := each.changes()) is not None:
            values = changes.apply(values)
    merged = Session(ID, values).all()
    assert {key: value for key, value in merged.items() if key[0] == "x"} == {
        key: value for key, value in one.items() if key[0] == "x"
    }
    assert {key: value for key, value in merged.items() if key[0] == "y"} == {
        key: value for key, value in other.items() if key[0] == "y"
    }


def test_what_was_read_before_is_looked_at_again() -> None:
    keeper = Keeper()
    session = Session(ID, stored(a=[1]), keeper=keeper)
    assert session["a"] == [1]
    assert session.changes() is None
    session["a"].append(2)
    assert keeper.told == 2 and decoded(session.changes()) == {"a": [1, 2]}
