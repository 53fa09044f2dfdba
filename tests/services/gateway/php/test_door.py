"""door: who is let in. The rest: test_visitors.py."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from workermand import Connection, LoadError, Worker
from workermand.services.gateway.php.door import Allowed, Door

WORKER = cast(Worker, SimpleNamespace(name="gateway"))


class Stranger:
    """A connection."""

    def __init__(self, ip: str) -> None:
        self.ip = ip
        self.closed = False

    def get_remote_ip(self) -> str:
        return self.ip

    def get_remote_address(self) -> str:
        return f"{self.ip}:5"

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize(
    ("ip", "admitted"),
    [("127.0.0.1", True), ("::1", True), ("", True), ("10.1.2.3", False), ("fd00::1", False)],
)
def test_networks(ip: str, admitted: bool) -> None:
    door, stranger = Door(WORKER, Allowed()), Stranger(ip)
    assert door.admits(cast(Connection, stranger)) is admitted
    assert stranger.closed is not admitted
    assert door.refused == (not admitted)


def test_keys(caplog: pytest.LogCaptureFixture) -> None:
    door = Door(WORKER, Allowed(secret_key="swordfish"))
    assert door.is_locked
    stranger: Any = Stranger("127.0.0.1")
    assert door.fits(stranger, "swordfish")
    for number, key in enumerate(("", "wrong", "swordfis\u00e9"), 1):
        assert not door.fits(stranger, key)
        assert door.refused == number
    assert stranger.closed
    assert "has another secret_key" in caplog.text
    assert "swordfish" not in caplog.text


def test_what_is_no_network() -> None:
    with pytest.raises(LoadError, match=r"options\.php\.allow: 'home'"):
        Door(WORKER, Allowed(allow=["home"]))
