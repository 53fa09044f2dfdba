from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workermand import values

HERE = Path("/nowhere")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("30s", 30),
        ("500ms", 0.5),
        ("1m30s", 90),
        ("1h 5m 7s", 3907),
        ("1.5h", 5400),
        ("2d", 172_800),
        ("1m500ms", 60.5),
        ("7", 7),
        ("0.25", 0.25),
    ],
)
def test_durations(text: str, number: float) -> None:
    assert values.seconds(text) == number


@pytest.mark.parametrize("text", ["", " ", "s", "30 sec", "-1s", "1s x", "30s1m", "1m1m", "1e3", "soon", "1s\n", "٣s"])
def test_what_is_no_duration(text: str) -> None:
    assert values.seconds(text) is None


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("64KiB", 65_536),
        ("10MiB", 10_485_760),
        ("64K", 65_536),
        ("1G", 2**30),
        ("1TiB", 2**40),
        ("1KB", 1000),
        ("2GB", 2 * 10**9),
        ("100", 100),
        ("100B", 100),
        ("1.5 KiB", 1536),
    ],
)
def test_sizes(text: str, number: int) -> None:
    assert values.size(text) == number


@pytest.mark.parametrize("text", ["", "KiB", "1XB", "-1", "1kib", "1 K B", "1e3", "1KiB\n", "8388608TiB", "9" * 400])
def test_what_is_no_size(text: str) -> None:
    assert values.size(text) is None


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("plain", "plain"),
        ("${env:HOME}/x", "/h/x"),
        ("a${env:NONE:-b}c", "abc"),
        ("${env:NONE:-}", ""),
        ("${env:EMPTY:-dflt}", "dflt"),
        ("${env:EMPTY}", ""),
        ("${env:NONE:-a:-b}", "a:-b"),
        ("$$5 and $${env:HOME}", "$5 and ${env:HOME}"),
        ("${env:DOLLARS}", "${env:HOME}$"),
    ],
)
def test_references(text: str, result: str) -> None:
    environ = {"HOME": "/h", "EMPTY": "", "DOLLARS": "${env:HOME}$"}
    assert values.interpolate(text, environ, HERE) == result


def test_files_are_relative_to_the_directory_and_lose_one_newline(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("pa$$word\n\n")
    assert values.interpolate("<${file:secret}>", {}, tmp_path) == "<pa$$word\n>"
    assert values.interpolate(f"<${{file:{tmp_path}/secret}}>", {}, HERE) == "<pa$$word\n>"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("${env:NONE}", "${env:NONE}: the variable is not set; set it, or write ${env:NONE:-default}"),
        ("${file:missing}", "${file:missing}: No such file or directory"),
        ("${file:binary}", "${file:binary}: 'utf-8' codec can't decode"),
        ("${file:a\0b}", "embedded null"),
        ("costs $5", "a lone $: write $$ for a dollar sign"),
        ("${HOME}", "a lone $"),
        ("${env:HOME", "a lone $"),
        ("$", "a lone $"),
        ("${env:LATIN}", "${env:LATIN}: not UTF-8"),
    ],
)
def test_a_reference_that_leads_nowhere_is_explained(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=re.escape(words)):
        values.interpolate(text, {"LATIN": "caf\udce9"}, tmp_path)


@given(st.text())
def test_a_doubled_dollar_sign_keeps_every_text(text: str) -> None:
    assert values.interpolate(text.replace("$", "$$"), {}, HERE) == text


@given(st.text(), st.text(alphabet=st.characters(exclude_characters="}")))
def test_a_default_is_taken_as_it_stands(before: str, default: str) -> None:
    text = f"{before.replace('$', '$$')}${{env:NONE:-{default}}}"
    assert values.interpolate(text, {}, HERE) == before + default


@given(st.text(alphabet="0123456789.dhmsKMGTiB "))
def test_numbers_come_out_or_nothing(text: str) -> None:
    for number in (values.seconds(text), values.size(text)):
        assert number is None or number >= 0
