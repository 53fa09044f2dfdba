"""PHP's format, by examples, by properties, and held to PHP itself."""

from __future__ import annotations

import base64
import math
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.services.php import program
from workermand.services.links.serialize import DEPTH, SIZE, SerializeError, serialize, unserialize

ECHO = Path(__file__).parents[1] / "php" / "echo.php"
GREATEST = 2**63 - 1
EDGES = (GREATEST, GREATEST + 1, -GREATEST - 1, -GREATEST - 2)

EXAMPLES: list[tuple[Any, bytes]] = [
    (None, b"N;"),
    (True, b"b:1;"),
    (False, b"b:0;"),
    (0, b"i:0;"),
    (-7, b"i:-7;"),
    (2**63 - 1, b"i:9223372036854775807;"),
    (-(2**63), b"i:-9223372036854775808;"),
    (0.1, b"d:0.1;"),
    (1.0, b"d:1;"),
    (-0.0, b"d:-0;"),
    (123456.789, b"d:123456.789;"),
    (0.0001, b"d:0.0001;"),
    (0.00001, b"d:1.0E-5;"),
    (1.25e-7, b"d:1.25E-7;"),
    (1e16, b"d:10000000000000000;"),
    (1e17, b"d:1.0E+17;"),
    (1.2345678901234568e17, b"d:1.2345678901234568E+17;"),
    (1e25, b"d:1.0E+25;"),
    (5e-324, b"d:5.0E-324;"),
    (math.inf, b"d:INF;"),
    (-math.inf, b"d:-INF;"),
    ("", b's:0:"";'),
    ("hällo", 's:6:"hällo";'.encode()),
    ('a";b', b's:4:"a";b";'),
    (b"\xff\0", b's:2:"\xff\0";'),
    ([], b"a:0:{}"),
    (["a", ["b"]], b'a:2:{i:0;s:1:"a";i:1;a:1:{i:0;s:1:"b";}}'),
    ({"k": 1, 7: None}, b'a:2:{s:1:"k";i:1;i:7;N;}'),
    ({1: "b", 0: "a"}, b'a:2:{i:1;s:1:"b";i:0;s:1:"a";}'),
    ({b"\xff": 1}, b'a:1:{s:1:"\xff";i:1;}'),
    (
        {"type": "event", "channel": "room", "data": 1},
        b'a:3:{s:4:"type";s:5:"event";s:7:"channel";s:4:"room";s:4:"data";i:1;}',
    ),
]


@pytest.mark.parametrize(("value", "serialized"), EXAMPLES)
def test_examples_both_ways(value: Any, serialized: bytes) -> None:
    assert serialize(value) == serialized
    back = unserialize(serialized)
    assert (back, type(back)) == (value, type(value))
    assert not isinstance(value, dict) or list(back) == list(value)


def test_not_a_number() -> None:
    assert serialize(math.nan) == b"d:NAN;"
    assert math.isnan(unserialize(b"d:NAN;"))


def test_what_becomes_of_what_python_tells_apart() -> None:
    assert serialize((1, 2)) == serialize([1, 2])
    assert serialize(bytearray(b"x")) == serialize(memoryview(b"x")) == serialize("x")
    assert serialize({"7": 1, b"8": 2, b"k": 3}) == serialize({7: 1, 8: 2, "k": 3})
    assert unserialize(b'a:1:{s:1:"7";i:1;}') == {7: 1}
    assert unserialize(b'a:2:{s:1:"0";i:1;s:1:"1";i:2;}') == [1, 2]
    assert serialize({"07": 1, "-0": 2}) == b'a:2:{s:2:"07";i:1;s:2:"-0";i:2;}'
    assert serialize({}) == serialize([])
    assert serialize("\udcff") == b's:1:"\xff";'


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (object(), "not object"),
        ({1, 2}, "not set"),
        (2**63, "64 bits"),
        (-(2**63) - 1, "64 bits"),
        ({2**63: 1}, "64 bits"),
        ({1.5: 1}, "not float"),
        ({True: 1}, "not bool"),
        ({None: 1}, "not NoneType"),
        ({7: 1, "7": 2}, "one key in PHP"),
        ("\ud800", "surrogate"),
    ],
)
def test_what_php_has_not(value: Any, words: str) -> None:
    with pytest.raises(SerializeError, match=words):
        serialize([value])


@pytest.mark.parametrize(
    ("serialized", "words"),
    [
        (b"", "byte 0: the value is cut off"),
        (b'O:8:"stdClass":0:{}', "byte 0: an object: only scalars and arrays"),
        (b'C:11:"ArrayObject":0:{}', "an object"),
        (b'E:7:"Suit:Up";', "an enum"),
        (b'a:1:{i:0;O:8:"stdClass":0:{}}', "byte 9: an object"),
        (b"a:2:{i:0;i:1;i:1;R:2;}", "byte 17: a reference"),
        (b"a:2:{i:0;i:1;i:1;r:2;}", "a reference"),
        (b'S:1:"\\41";', "an escaped string"),
        (b"x:1;", "no value begins here"),
        (b"N", "no value begins here"),
        (b"i:1", 'no ";"'),
        (b"i:;", "no integer"),
        (b"i:1_0;", "no integer"),
        (b"i: 1;", "no integer"),
        (b"i:9223372036854775808;", "byte 2: no integer of 64 bits"),
        (b"i:" + b"9" * 5000 + b";", 'no ";"'),
        (b"b:2;", "byte 2: no boolean"),
        (b"b:;", "byte 2: no boolean"),
        (b"d:;", "byte 2: no float"),
        (b"d:nan;", "no float"),
        (b"d:1e;", "no float"),
        (b"d:1_0;", "no float"),
        (b's:5:"abc";', "byte 10|reaches beyond"),
        (b's:99:"abc";', "byte 2: a length that reaches beyond"),
        (b's:-1:"abc";', "reaches beyond"),
        (b's:2:"abc";', 'expected ";'),
        (b"s:3:abc;", 'expected "'),
        (b"a:1:{}", "no key"),
        (b"a:1:{d:1;i:1;}", "no key"),
        (b"a:1:{N;i:1;}", "no key"),
        (b"a:1:{a:0:{}i:1;}", "no key"),
        (b"a:2000000000:{i:0;N;}", "byte 2: a length that reaches beyond"),
        (b"a:1:i:0;N;}", "expected {"),
        (b"a:1:{i:0;N;", "expected }"),
        (b"a:1:{i:0;", "cut off"),
        (b'a:2:{i:7;N;s:1:"7";N;}', "byte 11: a key that the array has already"),
        (b"N;N;", "byte 2: something stands behind"),
    ],
)
def test_what_is_refused(serialized: bytes, words: str) -> None:
    with pytest.raises(SerializeError, match=words):
        unserialize(serialized)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def test_depth_is_bounded() -> None:
    deepest = serialize(nested(DEPTH))
    assert unserialize(deepest) == nested(DEPTH)
    with pytest.raises(SerializeError, match="too deep"):
        serialize(nested(DEPTH + 1))
    with pytest.raises(SerializeError, match="too deep"):
        unserialize(b"a:1:{i:0;" + deepest + b"}")
    with pytest.raises(SerializeError, match="too deep"):
        unserialize(b"a:1:{i:0;" * 100_000)
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(SerializeError, match="too deep"):
        serialize(loop)


def test_size_is_bounded() -> None:
    text = "x" * 92
    assert unserialize(serialize(text, size=100), size=100) == text
    with pytest.raises(SerializeError, match="101 bytes when serialized: the limit is 100"):
        serialize(text + "x", size=100)
    with pytest.raises(SerializeError, match="101 bytes: the limit is 100"):
        unserialize(serialize(text + "x"), size=100)
    assert len(serialize("x" * SIZE, size=SIZE + 100)) > SIZE


# ---------------------------------------------------------------------------------------------------- properties

keys = st.one_of(st.integers(-(2**63), GREATEST), st.text(max_size=5).filter(lambda key: not key.lstrip("-").isdigit()))
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), GREATEST), st.floats(allow_nan=False), st.text(), st.binary()
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(keys, inner, max_size=5), max_leaves=30
)


def normal(value: Any) -> Any:
    """As PHP keeps it, with the order of its keys."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    if isinstance(value, list):
        return [normal(entry) for entry in value]
    if isinstance(value, dict):
        pairs = [(key, normal(entry)) for key, entry in value.items()]
        is_list = [key for key, _ in pairs] == list(range(len(pairs)))
        return [entry for _, entry in pairs] if is_list else dict(pairs)
    return value


@given(values)
def test_a_value_comes_back(value: Any) -> None:
    serialized = serialize(value)
    assert repr(unserialize(serialized)) == repr(normal(value))
    assert serialize(unserialize(serialized)) == serialized


@given(st.binary(max_size=60) | st.text('aisbdNOR:;{}"0123456789-.E', max_size=60).map(str.encode))
def test_garbage_is_refused_in_words(garbage: bytes) -> None:
    try:
        value = unserialize(garbage)
    except SerializeError:
        return
    assert repr(unserialize(serialize(value))) == repr(value)


@given(values, st.data())
def test_what_is_cut_or_changed_is_refused_in_words_or_another_value(value: Any, data: st.DataObject) -> None:
    serialized = bytearray(serialize(value))
    place = data.draw(st.integers(0, len(serialized) - 1))
    with pytest.raises(SerializeError):
        unserialize(bytes(serialized[:place]))
    serialized[place] = data.draw(st.integers(0, 255))
    try:
        unserialize(bytes(serialized))
    except SerializeError:
        pass


# ---------------------------------------------------------------------------------------------------- PHP itself


class Php:
    """One process of PHP that answers with what it makes of a serialized value."""

    def __init__(self, php: str) -> None:
        self.process = subprocess.Popen(
            [php, "-n", str(ECHO)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )

    def __call__(self, serialized: bytes) -> bytes:
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None and stdout is not None
        stdin.write(base64.b64encode(serialized) + b"\n")
        line = bytearray()
        while not line.endswith(b"\n"):
            line += os.read(stdout.fileno(), 65536)
        return base64.b64decode(line)

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()


@pytest.fixture(scope="module")
def php() -> Iterator[Php]:
    process = Php(program.php())
    yield process
    process.close()


@pytest.mark.real
@pytest.mark.parametrize(("value", "serialized"), [*EXAMPLES, (math.nan, b"d:NAN;")])
def test_php_writes_the_same_bytes(php: Php, value: Any, serialized: bytes) -> None:
    assert php(serialized) == serialized


@pytest.mark.real
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(values)
def test_php_reads_any_value_and_writes_the_same_bytes(php: Php, value: Any) -> None:
    assert php(serialize(value)) == serialize(value)


@pytest.mark.real
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
@given(st.floats() | st.decimals(allow_nan=False, allow_infinity=False, places=6).map(float))
def test_php_writes_floats_with_the_same_digits(php: Php, number: float) -> None:
    assert php(serialize([number])) == serialize([number])


@pytest.mark.real
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.dictionaries(st.sampled_from(["0", "-0", "00", "1", "-1", *map(str, EDGES)]), st.none()))
def test_php_takes_the_same_keys_for_integers(php: Php, value: Any) -> None:
    strings = b"a:%d:{%s}" % (len(value), b"".join(serialize(key) + b"N;" for key in value))
    assert php(strings) == serialize(unserialize(strings)) == serialize(value)
