from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from workermand.errors import ConfigError
from workermand.master.run_dir import PidFile, raise_descriptor_limit
from workermand.spec import ServerSpec


def server(run_dir: Path) -> ServerSpec:
    return ServerSpec(name="chat", run_dir=str(run_dir), state_dir=str(run_dir))


def test_the_pid_file_holds_the_pid_and_goes_with_the_master(tmp_path: Path) -> None:
    with PidFile(server(tmp_path)):
        assert (tmp_path / "workermand.pid").read_text() == f"{os.getpid()}\n"
    assert not (tmp_path / "workermand.pid").exists()


def test_the_same_name_twice_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    with (
        PidFile(server(tmp_path)),
        pytest.raises(ConfigError, match=f'"chat" is running already, pid {os.getpid()}, in '),
    ):
        PidFile(server(tmp_path)).__enter__()


def test_a_pid_file_left_by_a_crash_is_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / "workermand.pid").write_text("1\n")
    with PidFile(server(tmp_path)):
        assert (tmp_path / "workermand.pid").read_text() == f"{os.getpid()}\n"


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^server\.run_dir: cannot write .*: No such file or dir.*; name another$"):
        PidFile(server(tmp_path / "missing")).__enter__()


def test_a_pid_file_that_does_not_fit_is_named_and_gone(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with pytest.raises(ConfigError, match=r"cannot write .*: File too large; make room, or name another"):
            PidFile(server(tmp_path)).__enter__()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_the_descriptor_limit_is_raised_to_the_hard_one() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
    try:
        raise_descriptor_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
