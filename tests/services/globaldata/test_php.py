"""What PHP's clients of GlobalData ask for: each verb by the original's rules, and against Python's clients' values."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workermand import WorkermandError
from workermand.services.globaldata import wire
from workermand.services.globaldata.php import PhpClient, Runnable
from workermand.services.globaldata.table import Limits, Table
from workermand.services.links.serialize import serialize, unserialize

GREATEST = 2**63 - 1


class Server:
    """A table and its one PHP client."""

    def __init__(self, **limits: int) -> None:
        self.table = Table(Limits(**limits))
        self.said: list[bytes] = []
        self.client = PhpClient(self, None)  # type: ignore[arg-type]

    def execute(self, request: Runnable) -> Any:
        return request.run(self.table, 0.0)

    def say(self, connection: Any, frame: bytes) -> None:
        assert int.from_bytes(frame[:4], "big") == len(frame)
        self.said.append(frame[4:])

    def ask(self, cmd: str, key: str | int = "k", **rest: Any) -> Any:
        """As a client does: through PHP's format, both ways."""
        self.client.hear(unserialize(serialize({"cmd": cmd, "key": key, **rest})))
        return unserialize(self.said.pop())

    def cas(self, old: Any, new: Any) -> Any:
        return self.ask("cas", md5=hashlib.md5(serialize(old)).hexdigest(), value=new)

    def put(self, value: Any, ttl: float | None = None) -> None:
        """As Python's clients do."""
        self.table.set("k", wire.pack_value(value), ttl, 0.0)

    def get(self) -> Any:
        entry = self.table.get("k", 0.0)
        return "nothing" if entry is None else wire.unpack_value(entry.value)


def test_what_is_set_is_got_and_deleted() -> None:
    server = Server()
    assert server.ask("get") is None
    assert server.ask("set", value={"b": 1, "a": [1.5, None, b"\xff"], 7: "x"}) is True
    assert server.ask("get") == server.get() == {"b": 1, "a": [1.5, None, b"\xff"], 7: "x"}
    assert list(server.ask("get")) == ["b", "a", 7]
    assert server.ask("delete") is True
    assert (server.ask("get"), server.get()) == (None, "nothing")
    assert server.ask("delete") is True


def test_a_key_that_is_an_integer_is_its_digits() -> None:
    server = Server()
    server.ask("set", 7, value="x")
    assert server.ask("get", "7") == "x"


def test_null_is_nothing() -> None:
    server = Server()
    server.ask("set", value=1)
    server.ask("set", value=None)
    assert server.get() == "nothing"
    server.put(None)
    assert server.ask("get") is None
    assert server.ask("increment") is False
    assert server.ask("add", value=5) is True
    assert server.get() == 5


def test_add_changes_nothing_that_is_there() -> None:
    server = Server()
    assert server.ask("add", value=1) is True
    assert server.ask("add", value=2) is False
    assert server.get() == 1


@pytest.mark.parametrize(
    ("held", "step", "result"),
    [
        (1, 1, 2),
        (1, -3, -2),
        (1.5, 1, 2.5),
        (1, 0.5, 1.5),
        ("5", 1, 6),
        (" 5", 1, 6),
        ("-5.5 ", 1, -4.5),
        (".5", 1, 1.5),
        ("5.", 1, 6.0),
        ("1e3", 1, 1001.0),
        ("5 apples", 1, 1),
        ("", 1, 1),
        (".", 1, 1),
        ([1], 2, 2),
        (True, 1, 1),
        (b"\xff", 1, 1),
        (1, "2", 3),
        (GREATEST, 1, float(2**63)),
        (-GREATEST, -10, -float(2**63)),
        (2**64 - 1, 1, float(2**64)),
        ("9" * 30, 1, 1e30),
        (math.inf, 1, math.inf),
    ],
)
def test_increment(held: Any, step: Any, result: Any) -> None:
    server = Server()
    server.put(held, ttl=60.0)
    answer = server.ask("increment", step=step)
    assert (answer, type(answer)) == (result, type(result))
    assert (server.get(), server.table.ttl("k", 0.0)) == (result, 60.0)


def test_increment_of_nothing() -> None:
    server = Server()
    assert server.ask("increment", step=1) is False
    assert server.get() == "nothing"
    server.put(1)
    assert server.ask("increment") == 2


@pytest.mark.parametrize(
    "held", [0, -1.5, 1e25, True, "", "text", b"\xff", [], [1, [2]], {"a": 1, "b": {"c": None}}, {5: "x", 1: "y"}]
)
def test_cas_goes_by_the_old_value(held: Any) -> None:
    server = Server()
    server.ask("set", value=held)
    assert server.cas("another", 1) is False
    assert server.ask("get") == held
    assert server.cas(held, "new") is True
    assert server.get() == "new"


def test_cas_from_nothing_to_nothing() -> None:
    server = Server()
    assert server.cas(None, 1) is True
    assert server.cas(None, 2) is False
    assert server.cas(1, None) is True
    assert server.get() == "nothing"
    server.put(None)
    assert server.cas(None, 3) is True
    assert server.get() == 3


def test_cas_keeps_the_ttl_and_set_ends_it() -> None:
    server = Server()
    server.put(1, ttl=60.0)
    server.cas(1, 2)
    assert server.table.ttl("k", 0.0) == 60.0
    server.ask("set", value=3)
    assert server.table.ttl("k", 0.0) == math.inf


@given(st.dictionaries(st.text() | st.integers(0, GREATEST), st.floats(allow_nan=False) | st.text(), max_size=5))
def test_what_php_has_read_it_can_exchange(value: Any) -> None:
    server = Server()
    server.ask("set", value=value)
    assert server.cas(server.ask("get"), 1) is True


def test_what_php_cannot_have_is_an_error_and_no_wrong_value() -> None:
    server = Server()
    server.put(2**64 - 1)
    with pytest.raises(WorkermandError, match="64 bits"):
        server.ask("get")
    assert server.cas(None, 1) is False
    assert server.get() == 2**64 - 1


@pytest.mark.parametrize("packed", [b"", b"\xc1", b"\xa1\xff", b"\x81\x80\x01", b"\x91" * 5000])
def test_what_is_no_value_is_an_error_and_can_be_overwritten(packed: bytes) -> None:
    server = Server()
    server.table.set("k", packed, None, 0.0)
    for cmd in ("get", "increment"):
        with pytest.raises(WorkermandError):
            server.ask(cmd)
    assert server.cas(None, 1) is False
    assert server.ask("set", value=1) is True
    assert server.get() == 1


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"cmd": "get"}, "bad request: .*`key`"),
        ({"key": "k"}, "bad request: .*`cmd`"),
        ({"cmd": "flush", "key": "k"}, "bad request: Invalid value 'flush'"),
        ({"cmd": "get", "key": None}, "bad request: .*key"),
        ({"cmd": "get", "key": b"\xff"}, "bad request: .*key"),
        ({"cmd": "get", "key": "x" * 1025}, None),
        ({"cmd": "set", "key": "", "value": 1}, "a key of 0 bytes"),
        ({"cmd": "set", "key": "x" * 1025, "value": 1}, "a key of 1025 bytes"),
        ({"cmd": "set", "key": "k", "value": "x" * 2000}, "over the limit of 1000"),
        ({"cmd": "increment", "key": "n", "step": "two"}, 'the step "two" is no number'),
        ({"cmd": "get", "key": "$lock.x"}, r"\$lock.x: keys that begin with"),
        ({"cmd": "delete", "key": "$lock.x"}, "not for PHP clients"),
        ([1], "bad request"),
        ("get", "bad request"),
        (None, "bad request"),
    ],
)
def test_what_is_refused(message: Any, words: str | None) -> None:
    server = Server(value=1000)
    server.table.set("n", wire.pack_value(1), None, 0.0)
    server.table.changes.clear()
    if words is None:
        server.client.hear(message)
        assert server.said == [b"N;"]
    else:
        with pytest.raises(WorkermandError, match=words):
            server.client.hear(message)
        assert not server.said
    assert not server.table.changes


words = st.sampled_from(["cmd", "key", "value", "md5", "step", "get", "set", "add", "cas", "increment", "delete"])
scalars = st.none() | st.booleans() | st.integers(-GREATEST, GREATEST) | st.floats() | words | st.text() | st.binary()
keys = words | st.integers(-GREATEST, GREATEST) | st.binary(max_size=3)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4))


@given(
    st.lists(values | st.fixed_dictionaries({"cmd": words, "key": words}, optional={"value": values, "step": values}))
)
def test_any_message_is_answered_or_refused_in_words(messages: list[Any]) -> None:
    server = Server()
    for message in messages:
        try:
            server.client.hear(message)
        except WorkermandError:
            assert not server.said
        else:
            unserialize(server.said.pop())
