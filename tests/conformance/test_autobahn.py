"""Autobahn's suite, which has a case for each sentence of RFC 6455 and RFC 7692: without the slow ones, which
`make conformance` has."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance import autobahn

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("autobahn"), pytest.mark.timeout(1200)]

CASES = 337
"""In autobahn.QUICK: 247, and 54, and 18 each."""
CLIENT_CASES = 262
"""In autobahn.CLIENT_QUICK: 247, and 12, and 3."""


@pytest.fixture(autouse=True)
def installed() -> None:
    if autobahn.python27() is None:
        pytest.skip("no Python 2.7, for which Autobahn's suite is written: PYTHON27 may name one")
    autobahn.install()


def none_failed(results: dict[str, str], cases: int) -> None:
    assert len(results) == cases
    assert {number: word for number, word in results.items() if word != "OK"} == autobahn.EXPECTED


def test_no_case_fails(tmp_path: Path) -> None:
    none_failed(autobahn.results(autobahn.QUICK, tmp_path), CASES)


def test_no_case_fails_for_a_client(tmp_path: Path) -> None:
    none_failed(autobahn.client_results(autobahn.CLIENT_QUICK, tmp_path), CLIENT_CASES)
