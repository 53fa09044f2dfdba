"""The JSON Schema of the TOML file as an operator writes it, for editors: `workermand schema`.

Made from the very annotations that config.py holds a file to, so that it cannot lag behind them. Draft 7: that is what
the TOML plug-ins of editors know. Where a string is expected, one that refers to a variable or a file (${...}) will do.
"""

from __future__ import annotations

import json
import types
import typing
from typing import Any, Literal

import msgspec

from workermand import config, tables, values
from workermand.spec import Spec, WorkerSpec

DIALECT = "http://json-schema.org/draft-07/schema#"
REFERENCE = {"type": "string", "pattern": r"\$\{(env|file):"}
WRITTEN = {
    "seconds": {"type": "string", "pattern": f"^({values.NUMBER}|(?=.){values.DURATION})$"},
    "bytes": {"type": "string", "pattern": f"^{values.SIZE}$"},
}
NEEDS_HANDLER = {
    "if": {"required": ["defaults"], "properties": {"defaults": {"required": ["handler"]}}},
    "else": {"properties": {"worker": {"additionalProperties": {"required": ["handler"]}}}},
}
"""Each worker, unless all have it from [defaults]."""


def text() -> str:
    """The schema as `workermand schema` prints it."""
    return json.dumps(schema(), indent=2)


def schema() -> dict[str, Any]:
    """The schema as a document."""
    worker = {"$ref": "#/definitions/worker"}
    return {
        "$schema": DIALECT,
        "title": "workermand",
        **_table(
            {
                "server": _table(_described(config.SERVER, {})),
                "protocols": {"type": "object", "additionalProperties": {"type": "string"}},
                "defaults": worker,
                "worker": {"type": "object", "additionalProperties": worker},
            }
        ),
        **NEEDS_HANDLER,
        "definitions": {"worker": _table(_described(config.WORKER, _defaults(WorkerSpec) | {"unix_mode": "0660"}))},
    }


def _table(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _described(hints: tables.Hints, defaults: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _of(hint) | ({"default": defaults[key]} if defaults.get(key) is not None else {})
        for key, hint in hints.items()
    }


def _defaults(kind: type[Spec]) -> dict[str, Any]:
    """Of the fields that hold a plain value; a table's keys have theirs."""
    defaults = {field.name: field.default for field in msgspec.structs.fields(kind)}
    return {key: value for key, value in defaults.items() if isinstance(value, bool | int | float | str)}


def _of(hint: Any) -> dict[str, Any]:
    """What one annotation allows; msgspec describes what needs no words of ours."""
    if isinstance(hint, type) and issubclass(hint, Spec):
        return _table(_described(tables.hints_of(hint), _defaults(hint)))
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        parts = [_of(part) for part in typing.get_args(hint) if part is not type(None)]
        return parts[0] if len(parts) == 1 else {"anyOf": parts}
    if typing.get_origin(hint) is dict and (entry := typing.get_args(hint)[1]) is not Any:
        return {"type": "object", "additionalProperties": _of(entry)}
    plain = msgspec.json.schema(hint)
    plain.pop("secret", None)
    unit = plain.pop("unit", None)
    if unit:
        return {"anyOf": [plain, WRITTEN[unit], REFERENCE]}
    narrow = typing.get_origin(hint) is Literal or "pattern" in plain
    return {"anyOf": [plain, REFERENCE]} if narrow else plain
