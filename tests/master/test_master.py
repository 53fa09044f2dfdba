"""The master as a whole is under test in tests/system; here is what it answers before the first fork."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest

from workermand.errors import ConfigError, ExitCode
from workermand.master import master as module
from workermand.master.master import SIGNALS, Master
from workermand.master.status import State
from workermand.spec import ListenSpec, ServerSpec, WorkerSpec


def server(place: Path, port: int) -> ServerSpec:
    listen = ListenSpec(uri=f"tcp://127.0.0.1:{port}", transport="tcp", protocol="raw", host="127.0.0.1", port=port)
    worker = WorkerSpec(name="echo", handler="apps.echo", listen=(listen,))
    return ServerSpec(name="t", run_dir=str(place), state_dir=str(place), workers={"echo": worker})


@pytest.fixture(autouse=True)
def _without_a_title(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.setproctitle, "setproctitle", lambda title: None)
    monkeypatch.setattr(module, "raise_descriptor_limit", lambda: None)


def test_an_address_in_use_may_be_free_later(short_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        spec = server(short_dir, other.getsockname()[1])
        assert module.main(spec, lambda: spec) == ExitCode.FAILED
    assert "is in use" in capsys.readouterr().err
    assert not (short_dir / "workermand.pid").exists(), "what was made is gone again"


def test_a_configuration_that_cannot_be_used_is_not_tried_again(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(spec: ServerSpec) -> None:
        raise ConfigError("server.run_dir", "cannot make it")

    monkeypatch.setattr(module, "prepare", refuse)
    spec = server(short_dir, 1)
    assert module.main(spec, lambda: spec) == ExitCode.CONFIG
    assert "workermand: command line: server.run_dir: cannot make it" in capsys.readouterr().err


def test_a_turn_that_fails_is_our_bug_and_not_the_end(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    turns = []

    def turn(master: Master) -> None:
        turns.append(master.state)
        if len(turns) == 1:
            raise KeyError("a bug")
        master.state = State.STOPPING

    monkeypatch.setattr(module, "BREATH", 0)
    monkeypatch.setattr(Master, "_prepare", lambda master, stack: None)
    monkeypatch.setattr(Master, "_first_start", lambda master: None)
    monkeypatch.setattr(Master, "_turn", turn)
    spec = server(short_dir, 1)
    assert module.main(spec, lambda: spec) == ExitCode.OK
    assert len(turns) == 2 and "can't happen" in caplog.text and "a bug" in caplog.text


def test_the_signals() -> None:
    assert set(SIGNALS) == {
        signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2,
    }  # fmt: skip
