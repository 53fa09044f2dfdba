"""The JSON Schema of the TOML file as an operator writes it, for editors: `workermand schema`.

Made from the structs of spec.py, so that it cannot lag behind them; what the file has in another form (durations as
strings, `listen` as a string or a list) is put in its place. Draft 7 in what it uses: that is what editors read best.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from workermand.spec import LogSpec, ServerSpec, WorkerSpec

DIALECT = "http://json-schema.org/draft-07/schema#"
DURATION = {"type": ["number", "string"], "minimum": 0, "pattern": r"^\s*(\d+(\.\d+)?\s*(ms|s|m|h|d)?\s*)+$|\$\{"}
SIZE = {"type": ["integer", "string"], "minimum": 0, "pattern": r"^\s*\d+(\.\d+)?\s*([KMG](iB|B)?|B)?\s*$|\$\{"}
STRINGS = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
UNITS = {"seconds": DURATION, "bytes": SIZE}


def schema() -> dict[str, Any]:
    _, components = msgspec.json.schema_components(
        [WorkerSpec, LogSpec, ServerSpec], ref_template="#/definitions/{name}"
    )
    definitions = {name: _as_written(definition) for name, definition in components.items() if name != "ListenSpec"}
    worker = definitions.pop("WorkerSpec")
    server = definitions.pop("ServerSpec")
    del worker["properties"]["name"]
    worker["properties"] |= {
        "listen": STRINGS,
        "protocol": {"type": "string"},
        "count": {"anyOf": [{"type": "integer", "minimum": 1}, {"const": "auto"}]},
        "unix_mode": {"type": "string", "pattern": "^0?[0-7]{3}$"},
    }
    definitions["Worker"] = {**worker, "required": ["handler"]}
    definitions["Defaults"] = {**worker, "required": []}
    keys = ("name", "run_dir", "state_dir", "log", "control_group")
    properties = {key: server["properties"][key] for key in keys}
    return {
        "$schema": DIALECT,
        "title": "workermand",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "server": {
                "type": "object",
                "additionalProperties": False,
                "properties": {**properties, "app_path": STRINGS, "include": STRINGS},
            },
            "protocols": {"type": "object", "additionalProperties": {"type": "string", "pattern": ":"}},
            "defaults": {"$ref": "#/definitions/Defaults"},
            "worker": {"type": "object", "additionalProperties": {"$ref": "#/definitions/Worker"}},
        },
        "definitions": definitions,
    }


def text() -> str:
    return json.dumps(schema(), indent=2)


def _as_written(definition: dict[str, Any]) -> dict[str, Any]:
    properties = {
        key: {**UNITS[unit], "default": value["default"]} if (unit := value.get("unit")) else value
        for key, value in definition["properties"].items()
    }
    return {**definition, "properties": properties}
