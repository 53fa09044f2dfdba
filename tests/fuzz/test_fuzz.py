"""The harnesses: what they have found stays found, and a minute of looking for more. `make fuzz` looks for longer."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

import pytest

from tests.fuzz import harness

SECONDS = {"http": 20, "websocket": 16, "handshake": 8, "forms": 8, "custom": 8}


def test_a_minute_is_shared_out() -> None:
    assert list(SECONDS) == harness.NAMES
    assert sum(SECONDS.values()) == 60


@pytest.mark.parametrize("name", harness.NAMES)
def test_seeds_and_what_was_found(name: str) -> None:
    module = importlib.import_module(f"tests.fuzz.{name}")
    found = sorted((harness.FOUND / name).glob("*"))
    for data in [*module.SEEDS, *(path.read_bytes() for path in found)]:
        module.check(data)
        for size in range(0, len(data), 7):
            module.check(data[:size])


@pytest.mark.real
@pytest.mark.xdist_group("fuzz")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", harness.NAMES)
def test_a_while_of_fuzzing_finds_nothing(name: str, tmp_path: Path) -> None:
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris is not there: it has no wheel for this Python or this processor")
    run = harness.run(name, SECONDS[name], tmp_path)
    assert run.ok, run.output
    print(run.summary)
