"""apps.heartbeat: the silent are closed, the others stay."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

from apps import heartbeat
from workermand.testing import running_server


def test_a_sweep_closes_who_is_silent_for_more_than_25_seconds() -> None:
    closed: list[str] = []

    def guest(name: str, ago: float) -> Any:
        return SimpleNamespace(context=time.monotonic() - ago, close=lambda words: closed.append(f"{name}: {words}"))

    worker: Any = SimpleNamespace(options={}, connections={1: guest("old", 26), 2: guest("new", 5)})
    heartbeat.sweep(worker)
    assert closed == ["old: silent for too long"]


def test_who_is_silent_is_closed() -> None:
    options = {"silence": 0.5, "sweep": 0.1}
    with running_server("apps.heartbeat", options=options) as server, server.connect() as client:
        client.sendall(b"hello\n")
        assert client.makefile("r").read() == "hello\nsilent for too long\n"
