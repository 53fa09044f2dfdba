"""wire: every request there and back, what is none, and values as bytes."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workermand.services.globaldata import wire
from workermand.services.globaldata.engine import GlobalDataError
from workermand.services.globaldata.table import Table
from workermand.services.links import wire as links

CASES: list[tuple[list[Any], Any]] = [
    ([wire.SET, 1, "a", b"\x01", None], 1),
    ([wire.SET, 1, "a", b"\x01"], 2),
    ([wire.SET, 1, "a", b"\x01", 10], 3),
    ([wire.GET, 1, "a"], (b"\x01", 3)),
    ([wire.GET, 1, "b"], None),
    ([wire.GET_MANY, 1, ["a", "b"]], [(b"\x01", 3), None]),
    ([wire.ADD, 1, "a", b"\x05", 1.5], 0),
    ([wire.CAS, 1, "a", b"\x01", b"\x02"], 4),
    ([wire.CAS_VERSION, 1, "a", 4, b"\x03"], 5),
    ([wire.INCREMENT, 1, "a", 4], 7),
    ([wire.INCREMENT, 1, "a", 0.5], 7.5),
    ([wire.TTL, 1, "a"], 10.0),
    ([wire.EXPIRE, 1, "a", None], True),
    ([wire.TTL, 1, "a"], math.inf),
    ([wire.EXISTS, 1, "a"], True),
    ([wire.SET_MANY, 1, [["c", b"\x01"], ["d", b"\x02"]], None], None),
    ([wire.KEYS, 1, ""], ["a", "c", "d"]),
    ([wire.KEYS, 1, "", "a"], ["c", "d"]),
    ([wire.WATCH, 1, "c"], (b"\x01", 8)),
    ([wire.WATCH, 1, "missing"], (None, 9)),
    ([wire.UNWATCH, 1, "c"], None),
    ([wire.DELETE, 1, "c", b"no"], False),
    ([wire.DELETE, 1, "c"], True),
]


def test_every_request() -> None:
    table = Table()
    for message, expected in CASES:
        request = wire.read(links.unpack(links.body(message)))
        assert request.number == 1
        assert request.run(table, 0) == expected, message
    assert {message[0] for message, _expected in CASES} == set(range(wire.GET, wire.ABOUT))
    assert isinstance(wire.read([wire.ABOUT, 1]), wire.About)


@pytest.mark.parametrize(
    "message",
    [
        [99, 1], [wire.GET, 1], [wire.GET, 1, 5], [wire.GET, 1, "a", "b"], [wire.SET, 1, "a", "text"],
        [wire.SET, 1, "a"], [wire.SET, 1, "a", b"", "10"],
        [wire.INCREMENT, 1, "a", True], [wire.INCREMENT, 1, "a", "1"],
        [wire.SET_MANY, 1, [["a"]]], [wire.GET_MANY, 1, "ab"], [wire.CHANGED, 0, "a", None, 1],
    ],
)  # fmt: skip
def test_what_is_no_request(message: list[Any]) -> None:
    with pytest.raises(GlobalDataError, match="no request of GlobalData"):
        wire.read(message)


SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary()
)
KEYS = st.integers(-9, 9) | st.text(max_size=3) | st.binary(max_size=3) | st.none()
ANYTHING = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4))


@given(ANYTHING)
def test_values(value: Any) -> None:
    assert wire.unpack_value(wire.pack_value(value)) == value


def reversed_all(value: Any) -> Any:
    """The same, with its dicts in another order."""
    if isinstance(value, dict):
        return {key: reversed_all(value[key]) for key in reversed(value)}
    return [reversed_all(item) for item in value] if isinstance(value, list) else value


@given(ANYTHING)
def test_equal_dicts_are_equal_bytes(value: Any) -> None:
    assert wire.pack_value(reversed_all(value)) == wire.pack_value(value)


def test_what_is_sorted_is_sorted_alike_beside_other_keys() -> None:
    inner = {"b": 1, "a": {3, 1, 2}}
    assert wire.pack_value(inner) in wire.pack_value({1: inner})


def test_cas_of_what_php_has_written() -> None:
    table = Table()
    table.set("a", msgspec.msgpack.encode({"b": 1, "a": 2}), None, 0)
    other = wire.pack_value({"a": 2, "b": 3})
    for old, expected in ((other, 0), (wire.pack_value({"a": 2}), 0), (wire.pack_value({"a": 2, "b": 1}), 2)):
        assert wire.read([wire.CAS, 1, "a", old, b"\x01"]).run(table, 0) == expected
    table.set("a", b"\xc1", None, 0)
    assert wire.read([wire.CAS, 1, "a", b"\x01", b"\x02"]).run(table, 0) == 0


def test_what_is_no_value() -> None:
    with pytest.raises(TypeError, match="object"):
        wire.pack_value(object())
    with pytest.raises(TypeError, match="64 bits"):
        wire.pack_value({"a": 2**64})
    within: list[Any] = []
    within.append(within)
    with pytest.raises(TypeError, match="within itself"):
        wire.pack_value(within)
    with pytest.raises(GlobalDataError, match="no MessagePack"):
        wire.unpack_value(b"\xc1")
