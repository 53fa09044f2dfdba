"""apps.clock: a worker without a listener, whose print() is seen."""

from __future__ import annotations

from workermand.testing import running_server


def test_it_ticks_without_a_listener() -> None:
    with running_server("apps.clock", listen=None, options={"every": 0.05}) as server:
        server.wait_for(r"(?s)main: it is \d\d:\d\d:\d\d.*main: it is \d\d:\d\d:\d\d")
