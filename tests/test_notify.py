"""What arrives at a socket that plays systemd."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from workermand.notify import Notify


@pytest.fixture
def systemd(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    path = short_dir / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(path))
        sock.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        yield sock


def test_what_is_said(systemd: socket.socket) -> None:
    notify = Notify(os.environ)
    notify.ready()
    notify.reloading()
    notify.status("2/2 children, läuft")
    notify.status("2/2 children, läuft")
    notify.extend(1.5)
    notify.watchdog()
    notify.stopping()
    notify.close()
    heard = [systemd.recv(4096).decode() for _ in range(6)]
    assert heard[0] == "READY=1"
    assert heard[1].startswith("RELOADING=1\nMONOTONIC_USEC=")
    assert heard[2] == "STATUS=2/2 children, l?uft", "said once, in a form that the library cannot drop"
    assert heard[3:] == ["EXTEND_TIMEOUT_USEC=1500000", "WATCHDOG=1", "STOPPING=1"]


def test_children_are_not_mistaken_for_the_daemon(systemd: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "4000000")
    monkeypatch.setenv("WATCHDOG_PID", "1")
    notify = Notify(os.environ)
    assert notify.watchdog_interval == 2.0
    notify.close()
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} & os.environ.keys()


def test_without_systemd_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify = Notify(os.environ)
    notify.ready()
    assert notify.watchdog_interval == 0
