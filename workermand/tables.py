"""A TOML table held to annotations: every complaint names the file, the key, what was found, what is allowed, and the
nearest right key.

``fields()`` walks a table and the annotations of a struct together, so that a complaint needs no message taken apart:
where a value stands is known when it is converted. config.py says which tables there are, schema.py describes the same
annotations to editors.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from workermand import values
from workermand.errors import ConfigError
from workermand.spec import Spec

Hints = Mapping[str, Any]
"""Key -> annotation."""

UNITS: dict[str, tuple[Callable[[str], float | None], str]] = {
    "seconds": (values.seconds, 'a duration such as "30s" or "1m30s", or a number of seconds'),
    "bytes": (values.size, 'a size such as "64KiB" or "10MiB", or a number of bytes'),
}
NAMES = {str: "a string", bool: "true or false", int: "an integer", float: "a number", list: "a list", dict: "a table"}
LONGEST_SHOWN = 80


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value stands: ``Place("workers.toml") / "worker" / "echo"`` is "workers.toml: worker.echo"."""

    file: str
    key: str = ""

    def __truediv__(self, key: str) -> Place:
        return Place(self.file, f"{self.key}.{key}" if self.key else key)

    def __str__(self) -> str:
        return f"{self.file}: {self.key}" if self.key else self.file


def hints_of(kind: type[Spec]) -> dict[str, Any]:
    return typing.get_type_hints(kind, include_extras=True)


def fields(place: Place, table: object, hints: Hints) -> dict[str, Any]:
    """The values of ``table``, each as its annotation wants it. Raises ConfigError."""
    table = expect_table(place, table)
    check_keys(place, table, hints)
    return {key: _value(place / key, value, hints[key]) for key, value in table.items()}


def expect_table(place: Place, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(str(place), f"found {shown(value)}, expected a table")
    return value


def check_keys(place: Place, table: Mapping[str, Any], hints: Hints) -> None:
    for key in table:
        if key not in hints:
            raise ConfigError(str(place / key), "unknown key", did_you_mean(key, hints))


def did_you_mean(key: str, hints: Hints) -> str:
    """The key that is alike, here or in a table below; else all that there are here."""
    tables = {table: kind for table, hint in hints.items() if (kind := _spec_in(hint))}
    below = [(name, f"{table}.{name}") for table, kind in tables.items() for name in hints_of(kind)]
    # One name may stand in several places: this table goes before those below, and an earlier one before a later one.
    known = {**dict(reversed(below)), **{name: name for name in hints}}
    if near := difflib.get_close_matches(key, known, 1):
        return f'did you mean "{known[near[0]]}"?'
    return f"there are {', '.join(sorted(hints))}"


# ---------------------------------------------------------------------- values


def _value(place: Place, value: object, hint: Any) -> Any:
    if kind := _spec_in(hint):
        return kind(**fields(place, value, hints_of(kind)))
    if typing.get_origin(hint) is dict and isinstance(value, dict):
        return {key: _value(place / key, entry, typing.get_args(hint)[1]) for key, entry in value.items()}
    if hint is not Any and _holds_nul(value):
        raise ConfigError(str(place), "found a NUL character", "leave it out")
    unit = unit_of(hint)
    try:
        return msgspec.convert(UNITS[unit][0](value) if unit and isinstance(value, str) else value, hint, strict=True)
    except msgspec.ValidationError:
        found = "something else" if _is_secret(hint) else shown(value)
        raise ConfigError(str(place), f"found {found}, expected {expected(hint)}") from None


def _holds_nul(value: object) -> bool:
    """No path, address, name or variable may; what handlers are told (Any) may."""
    if isinstance(value, list):
        return any(map(_holds_nul, value))
    return isinstance(value, str) and "\0" in value


def unit_of(hint: Any) -> str | None:
    """ "seconds" or "bytes", from the annotation."""
    return (_meta(hint).extra_json_schema or {}).get("unit")


def _spec_in(hint: Any) -> type[Spec] | None:
    """The table that ``hint`` wants, perhaps beside None; None: it wants a plain value."""
    parts = typing.get_args(hint) if typing.get_origin(hint) is types.UnionType else (hint,)
    return next((part for part in parts if isinstance(part, type) and issubclass(part, Spec)), None)


def _is_secret(hint: Any) -> bool:
    return any((_meta(part).extra_json_schema or {}).get("secret") for part in (hint, *typing.get_args(hint)))


def _meta(hint: Any) -> msgspec.Meta:
    return next((meta for meta in getattr(hint, "__metadata__", ()) if isinstance(meta, msgspec.Meta)), msgspec.Meta())


# ---------------------------------------------------------------------- words


def shown(value: object) -> str:
    """A value of the file as it stood there, near enough."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a table"
    text = f'"{value}"' if isinstance(value, str) else str(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


def expected(hint: Any) -> str:
    """What ``hint`` allows, in words."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return ", or ".join(expected(part) for part in typing.get_args(hint) if part is not type(None))
    if typing.get_origin(hint) is Literal:
        return " or ".join(f'"{word}"' for word in typing.get_args(hint))
    if typing.get_origin(hint) in (list, tuple):
        return "a list of strings"
    meta = _meta(hint)
    if meta.description:
        return meta.description
    unit = unit_of(hint)
    name = UNITS[unit][1] if unit else NAMES[getattr(hint, "__origin__", hint)]
    if meta.le is not None:
        return f"{name}, from {meta.ge} to {meta.le}"
    return name if unit or meta.ge is None else f"{name} of {meta.ge} or more"
