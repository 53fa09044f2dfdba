"""Directories and users: what a configuration needs of the machine, and what is made there."""

from __future__ import annotations

import grp
import os
import pwd
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from workermand.errors import ConfigError
from workermand.spec import ServerSpec, WorkerSpec


def run_dir(name: str, explicit: str | None, environ: Mapping[str, str]) -> str:
    """An explicit one as it stands; else the first place that is ours, with the name appended."""
    return _place(name, explicit, next(_run_bases(environ)))


def state_dir(name: str, explicit: str | None, environ: Mapping[str, str]) -> str:
    if base := environ.get("STATE_DIRECTORY"):
        return _place(name, explicit, base.split(":")[0])
    if os.geteuid() == 0:
        return _place(name, explicit, "/var/lib/workermand")
    home = environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return _place(name, explicit, os.path.join(home, "workermand"))


def default_run_dirs(environ: Mapping[str, str] | None = None) -> list[str]:
    """Where a daemon's run_dir may be, for workermanctl without -c: every named directory below the usual bases."""
    found: list[str] = []
    for base in (*_run_bases(os.environ if environ is None else environ), "/run/workermand"):
        if os.path.isdir(base):
            found += (os.path.join(base, name) for name in sorted(os.listdir(base)))
    return list(dict.fromkeys(found))


def _run_bases(environ: Mapping[str, str]) -> Iterator[str]:
    if base := environ.get("RUNTIME_DIRECTORY"):
        yield base.split(":")[0]
    if os.geteuid() == 0 or os.access("/run/workermand", os.W_OK):
        yield "/run/workermand"
    if base := environ.get("XDG_RUNTIME_DIR"):
        yield os.path.join(base, "workermand")
    yield os.path.join(tempfile.gettempdir(), f"workermand-{os.geteuid()}")


def _place(name: str, explicit: str | None, base: str) -> str:
    return os.path.abspath(explicit) if explicit else os.path.join(os.path.abspath(base), name)


# ---------------------------------------------------------------------- making


def make_directories(spec: ServerSpec) -> None:
    """run_dir, state_dir, and state_dir/WORKER (0700, the worker's user's). Raises ConfigError."""
    _make(spec.run_dir, "server.run_dir")
    _make(spec.state_dir, "server.state_dir")
    for worker in spec.workers.values():
        own = os.path.join(spec.state_dir, worker.name)
        _make(own, "server.state_dir", mode=0o700)
        if worker.user and os.geteuid() == 0:
            user = pwd.getpwnam(worker.user)
            os.chown(own, user.pw_uid, user.pw_gid)


def _make(path: str, key: str, mode: int = 0o755) -> None:
    private = os.path.join(tempfile.gettempdir(), f"workermand-{os.geteuid()}")
    try:
        if path.startswith(private + os.sep):
            _make_private(private, key)
        os.makedirs(path, mode=mode, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(13, "it is not writable")
    except OSError as error:
        raise ConfigError(
            key, f"cannot make or write {path}: {error.strerror}", "make room, or name another directory"
        ) from error


def _make_private(path: str, key: str) -> None:
    """Under /tmp anybody may have been there first."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        info = os.lstat(path)
        if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid() or info.st_mode & 0o077:
            raise ConfigError(
                key, f"{path} is not a private directory of ours", "remove it, or set [server] run_dir"
            ) from None


# ---------------------------------------------------------------------- users


def check_group(where: str, group: str | None) -> str | None:
    if group is not None:
        try:
            grp.getgrnam(group)
        except KeyError:
            raise ConfigError(where, f'there is no group "{group}"', f"groupadd --system {group}") from None
    return group


def check_users(where: str, spec: WorkerSpec) -> None:
    for key in ("user", "unix_user"):
        if (name := getattr(spec, key)) is not None:
            try:
                pwd.getpwnam(name)
            except KeyError:
                raise ConfigError(
                    f"{where}.{key}", f'there is no user "{name}"', f"useradd --system {name}, or comment it out"
                ) from None
    for key in ("group", "unix_group"):
        check_group(f"{where}.{key}", getattr(spec, key))
    me = pwd.getpwuid(os.geteuid()).pw_name
    if os.geteuid() != 0 and spec.user not in (None, me):
        raise ConfigError(
            f"{where}.user",
            f'only root can run a worker as "{spec.user}"',
            f'start as root, comment it out, or write "{me}"',
        )


def verify_users(spec: ServerSpec) -> list[ConfigError]:
    """Before the fork: can each worker's user read the interpreter and the handlers? Names what is closed."""
    if os.geteuid() != 0:
        return []
    return [problem for worker in spec.workers.values() if worker.user for problem in _unreadable(spec, worker)]


def _unreadable(spec: ServerSpec, worker: WorkerSpec) -> Iterator[ConfigError]:
    assert worker.user is not None
    user = pwd.getpwnam(worker.user)
    gid = grp.getgrnam(worker.group).gr_gid if worker.group else user.pw_gid
    groups = {gid, *os.getgrouplist(worker.user, gid)}
    for wanted in (sys.prefix, *spec.app_path):
        if closed := _closed_directory(Path(wanted), user.pw_uid, groups):
            yield ConfigError(
                f"worker.{worker.name}.user",
                f"{worker.user} cannot read {wanted}: {closed} is closed to it",
                f"chmod o+rx {closed}, or move it",
            )


def _closed_directory(path: Path, uid: int, gids: set[int]) -> Path | None:
    if uid == 0:
        return None
    for directory in (*reversed(path.parents), path):
        try:
            info = directory.stat()
        except OSError:
            return directory
        shift = 6 if info.st_uid == uid else 3 if info.st_gid in gids else 0
        wanted = 5 if directory == path else 1
        if (info.st_mode >> shift) & wanted != wanted:
            return directory
    return None
