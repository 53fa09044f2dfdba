"""heartbeat: GatewayWorker's algorithm, look by look."""

from __future__ import annotations

from workermand.services.gateway.heartbeat import HEARD, Pulse, look, period


def play(limit: int, looks: int, speaks: tuple[int, ...] = ()) -> list[str]:
    """What becomes of one client, at each look: "", "ping" or "end". It speaks before the looks of ``speaks``."""
    pulse = Pulse()
    seen = []
    for number in range(looks):
        if number in speaks:
            pulse.count = HEARD
        pinged, ended = look([("a", pulse)], limit)
        seen.append("ping" if pinged else "end" if ended else "")
    return seen


def test_without_a_limit_everybody_silent_is_pinged() -> None:
    assert play(0, 5) == ["", "ping", "ping", "ping", "ping"]
    assert play(0, 5, (0, 1, 2, 3, 4)) == [""] * 5
    assert play(0, 5, (3,)) == ["", "ping", "ping", "", "ping"]


def test_with_a_limit_the_silent_are_ended() -> None:
    # Twice in an interval; interval 2 s and limit 1: ended between 3 and 4 s behind the last word.
    assert play(1, 4) == ["", "", "ping", "end"]
    assert play(2, 6) == ["", "", "ping", "", "ping", "end"]
    assert play(1, 6, (2,)) == ["", "", "", "", "ping", "end"]


def test_periods() -> None:
    assert period(10, 0) == 10
    assert period(10, 3) == 5
