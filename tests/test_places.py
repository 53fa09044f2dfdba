from __future__ import annotations

import os
import pwd
import stat
from pathlib import Path
from typing import Any

import pytest

from workermand import places
from workermand.errors import ConfigError
from workermand.spec import ServerSpec, WorkerSpec


def server(run_dir: Path, state_dir: Path, **worker: Any) -> ServerSpec:
    workers = {"echo": WorkerSpec(name="echo", handler="apps.echo", **worker)}
    return ServerSpec(name="t", run_dir=str(run_dir), state_dir=str(state_dir), workers=workers)


def test_an_explicit_directory_is_used_as_it_stands() -> None:
    assert places.run_dir("t", "/run/mine", {"RUNTIME_DIRECTORY": "/run/x"}) == "/run/mine"


@pytest.mark.parametrize(
    ("uid", "environ", "expected"),
    [
        (0, {"RUNTIME_DIRECTORY": "/run/x"}, "/run/x/t"),
        (0, {"RUNTIME_DIRECTORY": "/run/x:/run/y"}, "/run/x/t"),
        (0, {}, "/run/workermand/t"),
        (1234, {"XDG_RUNTIME_DIR": "/run/user/1234"}, "/run/user/1234/workermand/t"),
        (1234, {}, "/tmp/workermand-1234/t"),
    ],
)
def test_run_dir(uid: int, environ: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.delenv("TMPDIR", raising=False)
    assert places.run_dir("t", None, environ) == expected


@pytest.mark.parametrize(
    ("uid", "environ", "expected"),
    [
        (0, {"STATE_DIRECTORY": "/var/x"}, "/var/x/t"),
        (0, {}, "/var/lib/workermand/t"),
        (1234, {"XDG_STATE_HOME": "/home/me/state"}, "/home/me/state/workermand/t"),
    ],
)
def test_state_dir(uid: int, environ: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    assert places.state_dir("t", None, environ) == expected


def test_directories_are_made(tmp_path: Path) -> None:
    spec = server(tmp_path / "run" / "deep", tmp_path / "state")
    places.make_directories(spec)
    places.make_directories(spec)
    assert (tmp_path / "run" / "deep").is_dir()
    assert stat.S_IMODE((tmp_path / "state" / "echo").stat().st_mode) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives directories away")
def test_a_workers_state_is_its_users_own(tmp_path: Path) -> None:
    places.make_directories(server(tmp_path / "run", tmp_path / "state", user="nobody"))
    assert (tmp_path / "state" / "echo").stat().st_uid == pwd.getpwnam("nobody").pw_uid


def test_a_place_that_cannot_be_made_is_named_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"server.run_dir: cannot make or write .*file/run.*name another"):
        places.make_directories(server(tmp_path / "file" / "run", tmp_path))


def test_a_foreign_directory_in_tmp_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places.tempfile, "gettempdir", lambda: str(tmp_path))
    private = tmp_path / f"workermand-{os.geteuid()}"
    private.mkdir(mode=0o777)
    private.chmod(0o777)
    with pytest.raises(ConfigError, match="not a private directory of ours"):
        places.make_directories(server(private / "t", tmp_path))
    private.rmdir()
    private.symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="not a private directory of ours"):
        places.make_directories(server(private / "t", tmp_path))
    private.unlink()
    places.make_directories(server(private / "t", tmp_path))
    assert stat.S_IMODE(private.stat().st_mode) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root drops users")
def test_a_directory_that_is_closed_to_the_workers_user_is_named(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    (closed / "apps").mkdir(parents=True)
    tmp_path.chmod(0o755)
    closed.chmod(0o700)
    spec = ServerSpec(
        name="t", run_dir="/r", state_dir="/s", app_path=(str(closed / "apps"),),
        workers={"echo": WorkerSpec(name="echo", handler="a", user="nobody")},
    )  # fmt: skip
    said = [str(problem) for problem in places.verify_users(spec)]
    assert any("nobody cannot read" in line and "is closed to it; chmod" in line for line in said), said


def test_every_named_run_dir_is_a_candidate(tmp_path: Path) -> None:
    for name in ("chat", "workers"):
        (tmp_path / name).mkdir()
    assert places.default_run_dirs({"RUNTIME_DIRECTORY": str(tmp_path)})[:2] == [
        str(tmp_path / "chat"),
        str(tmp_path / "workers"),
    ]
