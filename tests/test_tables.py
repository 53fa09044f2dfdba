from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from msgspec import Meta

from workermand import tables
from workermand.errors import ConfigError
from workermand.spec import Bytes, Count, Seconds, Spec
from workermand.tables import Place


class Inner(Spec, frozen=True, kw_only=True):
    size: Bytes = 1
    depth: Count = 2


class Outer(Spec, frozen=True, kw_only=True):
    wait: Seconds = 3.0
    inner: Inner = Inner()


HINTS: dict[str, Any] = {
    "flag": bool,
    "count": Annotated[int, Meta(ge=1)] | Literal["auto"],
    "port": Annotated[int, Meta(ge=1, le=9)],
    "level": Literal["low", "high"],
    "name": str | None,
    "names": str | list[str],
    "mode": Annotated[str, Meta(pattern="^[0-7]+$", description="octal digits")],
    "env": dict[str, str],
    "options": dict[str, Any],
    "wait": Seconds,
    "outer": Outer,
}
HERE = Place("x.toml") / "worker" / "echo"


def test_places_are_written_as_operators_know_them() -> None:
    assert str(Place("x.toml")) == "x.toml"
    assert str(HERE / "count") == "x.toml: worker.echo.count"


@pytest.mark.parametrize(
    ("table", "result"),
    [
        ({}, {}),
        (
            {"count": 3, "flag": True, "level": "low", "name": "n"},
            {"count": 3, "flag": True, "level": "low", "name": "n"},
        ),
        ({"count": "auto", "names": "a"}, {"count": "auto", "names": "a"}),
        ({"names": ["a", "b"]}, {"names": ["a", "b"]}),
        ({"wait": "1m30s"}, {"wait": 90.0}),
        ({"wait": 7}, {"wait": 7.0}),
        ({"env": {"A": "1"}, "options": {"deep": {"er": [1]}}}, {"env": {"A": "1"}, "options": {"deep": {"er": [1]}}}),
        ({"options": {"deep": {"er": "\0"}}}, {"options": {"deep": {"er": "\0"}}}),
        ({"outer": {"inner": {"size": "1KiB"}}}, {"outer": Outer(inner=Inner(size=1024))}),
    ],
)
def test_values_become_what_their_annotation_wants(table: dict[str, Any], result: dict[str, Any]) -> None:
    assert tables.fields(HERE, table, HINTS) == result


DURATION = 'a duration such as "30s" or "1m30s", or a number of seconds, from 0 to 2000000'


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ({"count": "three"}, 'count: found "three", expected an integer of 1 or more, or "auto"'),
        ({"count": 0}, 'count: found 0, expected an integer of 1 or more, or "auto"'),
        ({"count": 1.0}, "count: found 1.0, expected an integer"),
        ({"count": True}, "count: found true, expected an integer"),
        ({"port": 10}, "port: found 10, expected an integer, from 1 to 9"),
        ({"flag": "yes"}, 'flag: found "yes", expected true or false'),
        ({"flag": 0}, "flag: found 0, expected true or false"),
        ({"level": "mid"}, 'level: found "mid", expected "low" or "high"'),
        ({"name": 7}, "name: found 7, expected a string"),
        ({"name": {}}, "name: found a table, expected a string"),
        ({"names": ["a", 7]}, "names: found ['a', 7], expected a string, or a list of strings"),
        ({"mode": "8"}, 'mode: found "8", expected octal digits'),
        ({"env": {"A": 1}}, "env.A: found 1, expected a string"),
        ({"env": 1}, "env: found 1, expected a table"),
        ({"options": []}, "options: found [], expected a table"),
        ({"wait": "soon"}, f'wait: found "soon", expected {DURATION}'),
        ({"wait": -1}, f"wait: found -1, expected {DURATION}"),
        ({"wait": "30d"}, f'wait: found "30d", expected {DURATION}'),
        ({"wait": float("inf")}, f"wait: found inf, expected {DURATION}"),
        ({"wait": float("nan")}, f"wait: found nan, expected {DURATION}"),
        ({"outer": 7}, "outer: found 7, expected a table"),
        ({"outer": {"inner": {"size": "1XB"}}}, 'outer.inner.size: found "1XB", expected a size such as "64KiB"'),
        ({"outer": {"inner": {"size": -1}}}, "or a number of bytes"),
        ({"outer": {"inner": {"depth": -1}}}, "outer.inner.depth: found -1, expected an integer of 0 or more"),
        ({"name": ["x" * 100]}, "x..., expected a string"),
        ({"name": "a\0"}, "name: found a NUL character; leave it out"),
        ({"names": ["a", "\0"]}, "names: found a NUL character"),
        ({"env": {"A": "\0"}}, "env.A: found a NUL character"),
        ("text", 'x.toml: worker.echo: found "text", expected a table'),
    ],
)
def test_complaints_say_what_was_found_and_what_is_allowed(table: Any, complaint: str) -> None:
    with pytest.raises(ConfigError) as refused:
        tables.fields(HERE, table, HINTS)
    assert complaint in str(refused.value)
    assert str(refused.value).startswith("x.toml: worker.echo")


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ({"cuont": 1}, 'x.toml: worker.echo.cuont: unknown key; did you mean "count"?'),
        ({"outer": {"wiat": 1}}, 'x.toml: worker.echo.outer.wiat: unknown key; did you mean "wait"?'),
        ({"waits": 1}, 'worker.echo.waits: unknown key; did you mean "wait"?'),
        ({"iner": 1}, 'worker.echo.iner: unknown key; did you mean "outer.inner"?'),
        ({"outer": {"inner": {"xyz": 1}}}, "outer.inner.xyz: unknown key; there are depth, size"),
    ],
)
def test_the_nearest_right_key_is_named(table: Any, complaint: str) -> None:
    with pytest.raises(ConfigError) as refused:
        tables.fields(HERE, table, HINTS)
    assert complaint in str(refused.value)
