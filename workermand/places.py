"""Directories and users: what a configuration needs of the machine, and what is made there.

config.py asks where things lie and whether users exist, the master makes the directories and has the users verified
before it forks, workermanctl asks where a daemon's run_dir may be. Imported by workermanctl: it stays light.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import re
import stat
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli

from workermand import values
from workermand.errors import ConfigError

if TYPE_CHECKING:
    from workermand.spec import ServerSpec, WorkerSpec

SYSTEM_RUN = "/run/workermand"
SYSTEM_STATE = "/var/lib/workermand"
REMEDIES = {
    errno.EACCES: "make it writable, or ",
    errno.EPERM: "make it writable, or ",
    errno.ENOSPC: "make room, or ",
    errno.EDQUOT: "make room, or ",
    errno.EROFS: "mount it writable, or ",
}
"""What to do about a directory that cannot be made, beside naming another one."""

# ---------------------------------------------------------------------- where


def run_dir(name: str, explicit: str | None, environ: Mapping[str, str]) -> str:
    """An explicit one as it stands; else below the first base that is ours, with the name appended."""
    return explicit or os.path.join(next(_run_bases(environ)), name)


def state_dir(name: str, explicit: str | None, environ: Mapping[str, str]) -> str:
    """Likewise."""
    return explicit or os.path.join(next(_state_bases(environ)), name)


def default_run_dirs(environ: Mapping[str, str] | None = None) -> list[str]:
    """Where a daemon may have its run_dir, for workermanctl without -c: the named directories below every base, in the
    order of preference."""
    environ = os.environ if environ is None else environ
    service = filter(None, [environ.get("RUNTIME_DIRECTORY", "").split(":")[0]])
    found = []
    for base in dict.fromkeys((*service, SYSTEM_RUN, *_run_bases(environ))):
        # In a directory under /tmp that is somebody else's, somebody else would answer.
        if os.path.isdir(base) and (base != _private() or _is_private(base)) and os.access(base, os.R_OK):
            found += [os.path.join(base, name) for name in sorted(os.listdir(base))]
    return found


def locate(file: str, environ: Mapping[str, str] | None = None) -> tuple[str, str]:
    """(name, run_dir) of the daemon that runs ``file``, for workermanctl: a daemon whose file is broken by now must be
    reached all the same. Raises ConfigError when the file cannot be read, or when these two lead nowhere."""
    environ = os.environ if environ is None else environ
    path = Path(file).absolute()
    try:
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise ConfigError(file, f"cannot be read: {error.strerror}", "name the daemon's file") from error
    found = {key: value for key, value in _server_table(text).items() if key in ("name", "run_dir")}
    given = {key: value for key, value in found.items() if isinstance(value, str)}
    try:
        given = {key: values.interpolate(value, environ, path.parent) for key, value in given.items()}
    except ValueError as error:
        raise ConfigError(f"{path.name}: server", str(error)) from error
    name = given.get("name", path.stem)
    return name, run_dir(name, below(path.parent, given.get("run_dir")), environ)


def _server_table(text: str) -> dict[str, Any]:
    """[server] of a whole file; of a broken one what its lines say one by one."""
    try:
        table = tomli.loads(text).get("server")
        return table if isinstance(table, dict) else {}
    except (ValueError, RecursionError):
        pass
    section = re.search(r"^\s*\[\s*server\s*\](.*?)(?=^\s*\[|\Z)", text, re.MULTILINE | re.DOTALL)
    found: dict[str, Any] = {}
    for line in section[1].splitlines() if section else ():
        try:
            found |= tomli.loads(line)
        except (ValueError, RecursionError):
            continue
    return found


def below(directory: Path, path: str | None) -> str | None:
    """A path as the file has it, absolute: a relative one is relative to the file's ``directory``. None for ""."""
    return os.path.normpath(directory / path) if path else None


def _run_bases(environ: Mapping[str, str]) -> Iterator[str]:
    if base := environ.get("RUNTIME_DIRECTORY"):
        yield base.split(":")[0]
    if os.geteuid() == 0 or _is_writable(SYSTEM_RUN):
        yield SYSTEM_RUN
    # After `su` it may still be another user's.
    if (base := environ.get("XDG_RUNTIME_DIR", "")) and _is_writable(base):
        yield os.path.join(base, "workermand")
    yield _private()


def _state_bases(environ: Mapping[str, str]) -> Iterator[str]:
    if base := environ.get("STATE_DIRECTORY"):
        yield base.split(":")[0]
    if os.geteuid() == 0 or _is_writable(SYSTEM_STATE):
        yield SYSTEM_STATE
    if base := environ.get("XDG_STATE_HOME"):
        yield os.path.join(base, "workermand")
    # Service users and containers have a home that is not there.
    if (home := environ.get("HOME", "")) and _is_writable(home):
        yield os.path.join(home, ".local", "state", "workermand")
    yield f"{_private()}-state"


def _private() -> str:
    """Under /tmp and not under $TMPDIR: workermanctl, started from elsewhere, must find it."""
    return f"/tmp/workermand-{os.geteuid()}"


def _is_writable(directory: str) -> bool:
    return os.access(directory, os.W_OK | os.X_OK)


# ---------------------------------------------------------------------- making


def make_directories(spec: ServerSpec) -> None:
    """run_dir, state_dir, and state_dir/WORKER (0700, the worker's user's). Raises ConfigError."""
    _make(spec.run_dir, "server.run_dir")
    _make(spec.state_dir, "server.state_dir")
    for worker in spec.workers.values():
        own = os.path.join(spec.state_dir, worker.name)
        _make(own, "server.state_dir", 0o700, _ids(worker) if os.geteuid() == 0 else None)


def _make(path: str, key: str, mode: int = 0o755, owner: tuple[int, int] | None = None) -> None:
    try:
        for private in (_private(), f"{_private()}-state"):
            if Path(private) in Path(path).parents:
                _make_private(private, key)
        os.makedirs(path, mode=mode, exist_ok=True)
        if owner is not None:
            os.chown(path, *owner)
        if not _is_writable(path):
            number = errno.EROFS if os.statvfs(path).f_flag & os.ST_RDONLY else errno.EACCES
            raise OSError(number, os.strerror(number))
    except OSError as error:
        hint = f"{REMEDIES.get(error.errno or 0, '')}set {key} to another"
        raise ConfigError(key, f"cannot make or write {path}: {error.strerror}", hint) from error


def _make_private(path: str, key: str) -> None:
    """Under /tmp anybody may have been there first."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        if not _is_private(path):
            what = f"{path} is not a private directory of this user"
            raise ConfigError(key, what, f"remove it, or set {key}") from None


def _is_private(path: str) -> bool:
    info = os.lstat(path)
    return stat.S_ISDIR(info.st_mode) and info.st_uid == os.geteuid() and not info.st_mode & 0o077


# ---------------------------------------------------------------------- users


def check_users(where: str, spec: WorkerSpec) -> None:
    """Whether the worker's users and groups exist and can be taken on. ``where`` is the worker's place in the file.
    Raises ConfigError."""
    for key in ("user", "unix_user"):
        _check_user(f"{where}.{key}", getattr(spec, key))
    for key in ("group", "unix_group"):
        check_group(f"{where}.{key}", getattr(spec, key))


def _check_user(where: str, name: str | None) -> None:
    if name is None:
        return
    try:
        uid = pwd.getpwnam(name).pw_uid
    except KeyError:
        raise ConfigError(
            where, f'there is no user "{name}"', f"make it (useradd --system {name or 'NAME'}), or comment the line out"
        ) from None
    if os.geteuid() not in (0, uid):
        raise ConfigError(where, f'only root can use another user, "{name}"', "start as root, or comment the line out")


def check_group(where: str, name: str | None) -> None:
    """Likewise for a group: root may use any, everybody else his own. Raises ConfigError."""
    if name is None:
        return
    try:
        gid = grp.getgrnam(name).gr_gid
    except KeyError:
        raise ConfigError(
            where, f'there is no group "{name}"', f"make it (groupadd --system {name}), or comment the line out"
        ) from None
    if os.geteuid() != 0 and gid not in {os.getegid(), *os.getgroups()}:
        raise ConfigError(
            where, f'only root can use a group that is not its own, "{name}"', "start as root, or comment the line out"
        )


def verify_users(spec: ServerSpec) -> list[ConfigError]:
    """Before the fork: can each worker's user read the interpreter, this package and the handlers? Each complaint names
    the directory that is closed."""
    if os.geteuid() != 0:
        return []
    wanted = dict.fromkeys((sys.prefix, sys.base_prefix, os.path.dirname(os.path.abspath(__file__)), *spec.app_path))
    problems = []
    for worker in spec.workers.values():
        uid, gid = _ids(worker)
        if uid == 0:
            continue
        gids = {gid, *os.getgrouplist(str(worker.user), gid)}
        for path in wanted:
            if closed := _closed(Path(path), uid, gids):
                what = f"{worker.user} cannot read {path}: {closed} is closed to it, or not there"
                problems.append(
                    ConfigError(f"worker.{worker.name}.user", what, f"chmod o+rx {closed}, or move what is in it")
                )
    return problems


def _ids(worker: WorkerSpec) -> tuple[int, int]:
    """uid and gid that the worker's processes will have under a root master."""
    if worker.user is None:
        return 0, grp.getgrnam(worker.group).gr_gid if worker.group else 0
    user = pwd.getpwnam(worker.user)
    return user.pw_uid, grp.getgrnam(worker.group).gr_gid if worker.group else user.pw_gid


def _closed(path: Path, uid: int, gids: set[int]) -> Path | None:
    """The first directory on the way that this user cannot pass, or ``path`` itself when it cannot be read; symlinks
    have two ways."""
    for way in dict.fromkeys((path, Path(os.path.realpath(path)))):
        for directory in (*reversed(way.parents), way):
            if not _may(directory, 5 if directory == way else 1, uid, gids):
                return directory
    return None


def _may(directory: Path, bits: int, uid: int, gids: set[int]) -> bool:
    try:
        info = directory.stat()
        if "system.posix_acl_access" in os.listxattr(directory):
            return True  # whom an access list lets in, the mode does not tell
    except OSError:
        return False
    shift = 6 if info.st_uid == uid else 3 if info.st_gid in gids else 0
    return (info.st_mode >> shift) & bits == bits
