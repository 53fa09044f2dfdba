"""The schema against files that the daemon takes, and files that it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import tomli

from workermand import schema

VALIDATOR = jsonschema.Draft7Validator(schema.schema())


def test_it_is_a_schema() -> None:
    jsonschema.Draft7Validator.check_schema(json.loads(schema.text()))


def test_the_shipped_file_is_valid() -> None:
    VALIDATOR.validate(tomli.loads((Path(__file__).parents[1] / "config" / "workers.toml").read_text()))


@pytest.mark.parametrize(
    "text",
    [
        "[worker.a]\nhandler = 'a'\ncount = 'auto'\nlisten = ['tcp://127.0.0.1:1']\nunix_mode = '0600'",
        "[worker.a]\nhandler = 'a'\ntimeouts = {stop = '1m30s', idle = 5}\nlimits = {package = '64KiB', memory = 7}",
        "[defaults]\nuser = 'nobody'\n[server]\ninclude = 'x/*.toml'\nlog = {level = 'debug'}",
    ],
)
def test_valid(text: str) -> None:
    VALIDATOR.validate(tomli.loads(text))


@pytest.mark.parametrize(
    "text",
    [
        "[worker.a]\ncount = 1",
        "[worker.a]\nhandler = 'a'\ncuont = 1",
        "[worker.a]\nhandler = 'a'\ncount = 'three'",
        "[worker.a]\nhandler = 'a'\ncount = 0",
        "[worker.a]\nhandler = 'a'\ntimeouts = {stop = 'soon'}",
        "[worker.a]\nhandler = 'a'\nlimits = {package = '1XB'}",
        "[server]\nappath = []",
        "[wroker]\na = 1",
    ],
)
def test_invalid(text: str) -> None:
    assert not VALIDATOR.is_valid(tomli.loads(text))
