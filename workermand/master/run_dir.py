"""What the master holds of the machine: the pid file that makes it the only one of its name, its output descriptors,
its limit of open files.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import resource
from pathlib import Path
from types import TracebackType
from typing import Literal

from workermand import log
from workermand.errors import ConfigError
from workermand.spec import LogSpec, ServerSpec

logger = logging.getLogger(__name__)


class PidFile:
    """run_dir/workermand.pid, locked for as long as the master lives: a lock cannot be stale, a pid can."""

    def __init__(self, spec: ServerSpec) -> None:
        self._name = spec.name
        self._path = Path(spec.run_dir, "workermand.pid")
        self._fd = -1

    def __enter__(self) -> PidFile:
        where = "server.run_dir"
        try:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            raise ConfigError(where, f"cannot write {self._path}: {error.strerror}", "name another") from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.read(self._fd, 32).decode(errors="replace").strip()
            os.close(self._fd)
            raise ConfigError(
                "server.name",
                f'"{self._name}" is running already, pid {pid}, in {self._path.parent}',
                "stop it, or give this one another name, and run_dir if that is set",
            ) from None
        try:
            os.ftruncate(self._fd, 0)
            os.write(self._fd, f"{os.getpid()}\n".encode())
        except OSError as error:
            self.__exit__(None, None, None)
            what = f"cannot write {self._path}: {error.strerror}"
            raise ConfigError(where, what, "make room, or name another") from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        with contextlib.suppress(OSError):
            self._path.unlink()
        os.close(self._fd)


class Outputs:
    """Where log lines and the children's stdout go; opened anew by every reload."""

    def __init__(self) -> None:
        self._spec = LogSpec()
        self._had_terminal = os.isatty(1)

    @property
    def terminal_is_gone(self) -> bool:
        """We were started in a terminal, and it has been closed."""
        return self._had_terminal and not os.isatty(1)

    def open(self, spec: LogSpec) -> None:
        """Raises ConfigError; what was open stays open then."""
        if spec.stdout_file:
            fd = log.open_append(spec.stdout_file, "server.log.stdout_file")
            os.dup2(fd, 1)
            os.dup2(fd, 2)
            os.close(fd)
        log.setup(spec)
        self._spec = spec

    def descriptors(self) -> list[int]:
        """What a child keeps beside 0, 1 and 2."""
        fd = log.descriptor()
        return [] if fd is None else [fd]

    def to_pass(self) -> tuple[list[Literal["log", "stdout"]], list[int]]:
        """For a child that stays: what has been opened anew, and the descriptors."""
        kinds: list[Literal["log", "stdout"]] = []
        fds = []
        if (fd := log.descriptor()) is not None:
            kinds.append("log")
            fds.append(fd)
        if self._spec.stdout_file:
            kinds.append("stdout")
            fds.append(1)
        return kinds, fds


def raise_descriptor_limit() -> None:
    """The soft limit up to the hard one: 1024 descriptors are no server."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
