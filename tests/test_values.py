from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workermand import values


@pytest.mark.parametrize(
    ("text", "number"),
    [("30s", 30), ("500ms", 0.5), ("1m30s", 90), ("1.5h", 5400), ("2d", 172800), ("7", 7), (" 1m 5s ", 65),
     ("", None), ("s", None), ("30 sec", None), ("-1s", None), ("1s x", None)],
)  # fmt: skip
def test_seconds(text: str, number: float | None) -> None:
    assert values.seconds(text) == number


@pytest.mark.parametrize(
    ("text", "number"),
    [("64KiB", 65536), ("10MiB", 10485760), ("1G", 2**30), ("1KB", 1000), ("100", 100), ("1.5KiB", 1536), ("7 B", 7),
     ("", None), ("KiB", None), ("1XB", None), ("-1", None)],
)  # fmt: skip
def test_size(text: str, number: int | None) -> None:
    assert values.size(text) == number


def test_references(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("pa$$word\n")
    value = {"a": ["${env:HOME}/x", "$$5", 7], "b": "${env:NONE:-dflt}${env:EMPTY:-}", "c": f"${{file:{secret}}}"}
    assert values.interpolate(value, {"HOME": "/h", "EMPTY": ""}) == {
        "a": ["/h/x", "$5", 7],
        "b": "dflt",
        "c": "pa$$word",
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("${env:NONE}", "the variable NONE is not set; set it, or write ${env:NONE:-default}"),
        ("${file:/nowhere}", "No such file"),
        ("costs $5", "write $$ for a dollar sign"),
        ("${HOME}", "write $$ for a dollar sign"),
    ],
)
def test_a_reference_that_leads_nowhere_is_explained(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        values.interpolate(text, {})


@given(st.text())
def test_a_doubled_dollar_sign_keeps_every_text(text: str) -> None:
    assert values.interpolate(text.replace("$", "$$"), {}) == text
