"""The schema against files that the daemon takes, and files that it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import tomli

from tests.test_config import EVERY_KEY
from workermand import schema
from workermand.spec import Limits, Timeouts

VALIDATOR = jsonschema.Draft7Validator(json.loads(schema.text()))


def test_it_is_a_schema() -> None:
    jsonschema.Draft7Validator.check_schema(json.loads(schema.text()))


def test_the_shipped_file_is_valid() -> None:
    VALIDATOR.validate(tomli.loads((Path(__file__).parents[1] / "config" / "workers.toml").read_text()))


def test_every_key_is_known() -> None:
    VALIDATOR.validate(tomli.loads(EVERY_KEY))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[worker.a]\nhandler = 'a'\nlisten = ['tcp://127.0.0.1:1']\nunix_mode = '600'",
        "[worker.a]\nhandler = 'a'\ntimeouts = {stop = '1m30s', idle = 5, start = '500ms', busy = '7'}",
        "[worker.a]\nhandler = 'a'\nlimits = {package = '64KiB', memory = 7, send_buffer = '1.5 M'}",
        "[worker.a]\nhandler = 'a'\ntimeouts = {stop = '${env:STOP:-5s}'}\ncount = '${env:COUNT:-auto}'",
        "[defaults]\nuser = 'nobody'\n[server]\ninclude = 'x/*.toml'\nlog = {level = '${env:LEVEL}'}",
        "[defaults]\nhandler = 'a'\n[worker.a]",
        "[worker.a]\nhandler = 'a'\ntls = {cert = 'c', password = '${env:P}', sni = {a = {cert = 'b'}}}",
        "[worker.a]\nhandler = 'a'\noptions = {any = [1, {thing = 2.5}]}",
    ],
)
def test_valid(text: str) -> None:
    VALIDATOR.validate(tomli.loads(text))


@pytest.mark.parametrize(
    "text",
    [
        "[worker.a]\ncount = 1",
        "[worker.a]\nhandler = 'a'\ncuont = 1",
        "[worker.a]\nhandler = 'a'\ntls = {sni = {a = {crt = 'b'}}}",
        "[worker.a]\nhandler = 'a'\nname = 'a'",
        "[worker.a]\nhandler = 'a'\ncount = 'three'",
        "[worker.a]\nhandler = 'a'\ncount = 0",
        "[worker.a]\nhandler = 'a'\ncount = true",
        "[worker.a]\nhandler = 'a'\nlisten = [1]",
        "[worker.a]\nhandler = 'a'\nunix_mode = 600",
        "[worker.a]\nhandler = 'a'\nunix_mode = '0668'",
        "[worker.a]\nhandler = 'a'\nenv = {A = 1}",
        "[worker.a]\nhandler = 'a'\ntimeouts = {stop = 'soon'}",
        "[worker.a]\nhandler = 'a'\ntimeouts = {stop = ''}",
        "[worker.a]\nhandler = 'a'\ntimeouts = {stop = -1}",
        "[worker.a]\nhandler = 'a'\nlimits = {package = '1XB'}",
        "[worker.a]\nhandler = 'a'\nlimits = {inbox = {mesages = 1}}",
        "[server]\nappath = []",
        "[server]\nlog = {level = 'loud'}",
        "[protocols]\na = 1",
        "[defaults]\ncuont = 1",
        "[wroker]\na = 1",
    ],
)
def test_invalid(text: str) -> None:
    assert not VALIDATOR.is_valid(tomli.loads(text))


def test_it_tells_the_defaults() -> None:
    def properties(table: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = table["properties"]
        return found

    worker = properties(schema.schema()["definitions"]["worker"])
    assert (worker["count"]["default"], worker["unix_mode"]["default"], worker["reloadable"]["default"]) == (
        1,
        "0660",
        True,
    )
    assert properties(worker["limits"])["package"]["default"] == Limits().package
    assert properties(worker["timeouts"])["stop"]["default"] == Timeouts().stop
    assert "default" not in worker["user"] and "default" not in worker["handler"]
