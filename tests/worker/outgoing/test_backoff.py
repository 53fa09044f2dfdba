from __future__ import annotations

import pytest

from workermand.errors import ConfigError
from workermand.worker.outgoing.backoff import Backoff


def test_it_doubles_up_to_the_most() -> None:
    backoff = Backoff({"initial": 1, "max": 5, "jitter": 0})
    assert [backoff.next(0) for _ in range(5)] == [1, 2, 4, 5, 5]
    assert backoff.next(4) == 5
    assert [backoff.next(6), backoff.next(1.5)] == [1, 2]


def test_it_never_overflows() -> None:
    backoff = Backoff({"jitter": 0})
    for _ in range(2000):
        backoff.next(0)
    assert backoff.next(0) == 30


def test_chance() -> None:
    delays = [Backoff({"initial": 10, "max": 10}).next(0) for _ in range(200)]
    assert 5 <= min(delays) < 7 < 8 < max(delays) <= 10


@pytest.mark.parametrize("wrong", [{"inital": 1}, {"initial": 0}, {"initial": 2, "max": 1}, {"jitter": 2}])
def test_what_cannot_be_meant(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="auto_reconnect"):
        Backoff(wrong)
