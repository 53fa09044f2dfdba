"""Directories and users. What only root can do is tried when root runs the tests; the rest is told another uid."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from workermand import places
from workermand.errors import ConfigError
from workermand.spec import ServerSpec, WorkerSpec

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives directories away and drops users")


def server(run_dir: Path, state_dir: Path, app_path: tuple[str, ...] = (), **worker: Any) -> ServerSpec:
    workers = {"echo": WorkerSpec(name="echo", handler="apps.echo", **worker)}
    return ServerSpec(name="t", app_path=app_path, run_dir=str(run_dir), state_dir=str(state_dir), workers=workers)


@pytest.fixture
def become(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Lets the code believe that another user runs it."""
    return lambda uid: monkeypatch.setattr(os, "geteuid", lambda: uid)


@pytest.fixture
def writable(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Lets it believe that these directories, and no others, can be written."""
    return lambda *paths: monkeypatch.setattr(os, "access", lambda path, mode: path in paths)


@pytest.fixture
def private(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """What would be /tmp/workermand-UID."""
    path = tmp_path / f"workermand-{os.geteuid()}"
    monkeypatch.setattr(places, "_private", lambda: str(path))
    return path


# ---------------------------------------------------------------------------------------------------- where


@pytest.mark.parametrize(
    ("uid", "environ", "expected"),
    [
        (0, {"RUNTIME_DIRECTORY": "/run/x"}, "/run/x/t"),
        (0, {"RUNTIME_DIRECTORY": "/run/x:/run/y"}, "/run/x/t"),
        (0, {"XDG_RUNTIME_DIR": "/run/user/0"}, "/run/workermand/t"),
        (1234, {"RUNTIME_DIRECTORY": "/run/x", "XDG_RUNTIME_DIR": "/run/user/1234"}, "/run/x/t"),
        (1234, {"XDG_RUNTIME_DIR": "/run/user/1234"}, "/run/user/1234/workermand/t"),
        (1234, {"XDG_RUNTIME_DIR": "/run/user/0"}, "/tmp/workermand-1234/t"),
        (1234, {"TMPDIR": "/var/tmp"}, "/tmp/workermand-1234/t"),
    ],
)
def test_run_dir(
    uid: int, environ: dict[str, str], expected: str, become: Callable[..., None], writable: Callable[..., None]
) -> None:
    become(uid)
    writable("/run/user/1234")
    assert places.run_dir("t", None, environ) == expected
    assert places.run_dir("t", "/run/mine", environ) == "/run/mine"


@pytest.mark.parametrize(
    ("uid", "environ", "expected"),
    [
        (0, {"STATE_DIRECTORY": "/var/x:/var/y"}, "/var/x/t"),
        (0, {"HOME": "/root"}, "/var/lib/workermand/t"),
        (1234, {"XDG_STATE_HOME": "/home/me/state", "HOME": "/home/me"}, "/home/me/state/workermand/t"),
        (1234, {"HOME": "/home/me"}, "/home/me/.local/state/workermand/t"),
        (1234, {"HOME": "/nonexistent"}, "/tmp/workermand-1234-state/t"),
        (1234, {}, "/tmp/workermand-1234-state/t"),
    ],
)
def test_state_dir(
    uid: int, environ: dict[str, str], expected: str, become: Callable[..., None], writable: Callable[..., None]
) -> None:
    become(uid)
    writable("/home/me")
    assert places.state_dir("t", None, environ) == expected
    assert places.state_dir("t", "/var/mine", environ) == "/var/mine"


def test_a_system_directory_that_was_opened_to_a_user_is_taken(
    become: Callable[..., None], writable: Callable[..., None]
) -> None:
    become(1234)
    writable("/run/workermand", "/var/lib/workermand")
    assert places.run_dir("t", None, {}) == "/run/workermand/t"
    assert places.state_dir("t", None, {}) == "/var/lib/workermand/t"


def test_every_run_dir_that_is_there_is_a_candidate_in_the_order_of_preference(
    tmp_path: Path, private: Path, monkeypatch: pytest.MonkeyPatch, become: Callable[[int], None]
) -> None:
    monkeypatch.setattr(places, "SYSTEM_RUN", str(tmp_path / "system"))
    for path in ("system/b", "service/workers", "service/chat", "user/workermand/c", f"{private.name}/d"):
        (tmp_path / path).mkdir(parents=True)
    private.chmod(0o700)
    environ = {"RUNTIME_DIRECTORY": str(tmp_path / "service"), "XDG_RUNTIME_DIR": str(tmp_path / "user")}
    names = [Path(path).name for path in places.default_run_dirs(environ)]
    assert names == ["chat", "workers", "b", "c", "d"]
    become(1234)
    private.rename(tmp_path / "elsewhere")
    names = [Path(path).name for path in places.default_run_dirs(environ)]
    assert names == ["chat", "workers", "b", "c"], "the system's daemon goes before a user's own for everybody"
    assert places.default_run_dirs({"RUNTIME_DIRECTORY": str(tmp_path / "none")})


def test_a_socket_in_a_directory_that_somebody_else_has_put_under_tmp_is_no_candidate(
    private: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "SYSTEM_RUN", str(private / "none"))
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    (private / "trap").mkdir(parents=True)
    private.chmod(0o777)
    assert places.default_run_dirs() == []
    private.chmod(0o700)
    assert places.default_run_dirs() == [str(private / "trap")]


# ---------------------------------------------------------------------------------------------------- locate

ENVIRON = {"RUNTIME_DIRECTORY": "/run/rt", "NAME": "env"}


@pytest.mark.parametrize(
    ("text", "name", "run_dir"),
    [
        ("[worker.echo]\nhandler = 'a'\n", "chat", "/run/rt/chat"),
        ("[server]\nname = 'x'\n", "x", "/run/rt/x"),
        ("[server]\nname = '${env:NAME}'\nrun_dir = '/run/${env:NAME}'\n", "env", "/run/env"),
        ("[server]\nrun_dir = 'here'\n[worker.x]\nnonsense = 1\n", "chat", "HERE/here"),
        ("[server]\nname = 7\nrun_dir = []\nlog = '$'\n", "chat", "/run/rt/chat"),
        ("server = 7\n", "chat", "/run/rt/chat"),
        # no TOML any more
        ("[server]\nname = 'x' # ours\nrun_dir = 'here'\nbroken\n[worker.echo\n", "x", "HERE/here"),
        ("a = = b\n  [server]\n  name = 'x'\n[worker.echo]\nname = 'y'\n", "x", "/run/rt/x"),
        ("[[[", "chat", "/run/rt/chat"),
        ("[server]\nname = 'x'\na = " + "[" * 5000, "x", "/run/rt/x"),
        ("\ufeff[server]\nname = 'x'\n", "x", "/run/rt/x"),
        ("\udcff = '", "chat", "/run/rt/chat"),
    ],
)
def test_a_daemon_is_found_whatever_has_become_of_its_file(tmp_path: Path, text: str, name: str, run_dir: str) -> None:
    file = tmp_path / "chat.toml"
    file.write_text(text, errors="surrogateescape")
    assert places.locate(str(file), ENVIRON) == (name, run_dir.replace("HERE", str(tmp_path)))


def test_what_locate_cannot_do_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"x\.toml: cannot be read: No such file"):
        places.locate(str(tmp_path / "x.toml"))
    (tmp_path / "x.toml").write_text("[server]\nname = '${env:NONE}'\n")
    with pytest.raises(ConfigError, match=r"x.toml: server: \$\{env:NONE\}: the variable is not set"):
        places.locate(str(tmp_path / "x.toml"), ENVIRON)


# ---------------------------------------------------------------------------------------------------- making


def test_directories_are_made(tmp_path: Path) -> None:
    spec = server(tmp_path / "run" / "deep", tmp_path / "state")
    places.make_directories(spec)
    places.make_directories(spec)
    assert (tmp_path / "run" / "deep").is_dir()
    assert stat.S_IMODE((tmp_path / "state" / "echo").stat().st_mode) == 0o700


@as_root
def test_a_workers_state_is_its_users_own(tmp_path: Path) -> None:
    own = tmp_path / "state" / "echo"
    nobody, daemon = pwd.getpwnam("nobody"), grp.getgrnam("daemon")
    for worker, owner in (
        ({"user": "nobody"}, (nobody.pw_uid, nobody.pw_gid)),
        ({"user": "nobody", "group": "daemon"}, (nobody.pw_uid, daemon.gr_gid)),
        ({"group": "daemon"}, (0, daemon.gr_gid)),
        ({}, (0, 0)),
    ):
        places.make_directories(server(tmp_path / "run", tmp_path / "state", **worker))
        assert (own.stat().st_uid, own.stat().st_gid) == owner


def test_a_directory_that_cannot_be_made_is_named_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError) as refused:
        places.make_directories(server(tmp_path / "file" / "run", tmp_path))
    assert str(refused.value) == (
        f"server.run_dir: cannot make or write {tmp_path}/file/run: Not a directory; set server.run_dir to another"
    )


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "No space left on device; make room, or set server.run_dir to another"),
        (errno.EROFS, "Read-only file system; mount it writable, or set server.run_dir to another"),
    ],
)
def test_a_full_and_a_read_only_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "makedirs", fail)
    with pytest.raises(ConfigError, match=words):
        places.make_directories(server(tmp_path / "run", tmp_path))


def test_a_directory_that_cannot_be_written(tmp_path: Path, writable: Callable[..., None]) -> None:
    writable()
    with pytest.raises(ConfigError, match=r"cannot make or write .*: Permission denied; make it writable, or set"):
        places.make_directories(server(tmp_path / "run", tmp_path))


def test_the_private_directory_is_ours_alone(private: Path, tmp_path: Path) -> None:
    spec = server(private / "t", tmp_path / f"{private.name}-state" / "t")
    places.make_directories(spec)
    places.make_directories(spec)
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / f"{private.name}-state").stat().st_mode) == 0o700


@pytest.fixture(params=["open", "symlink", "file", "foreign"])
def trap(request: pytest.FixtureRequest, private: Path, tmp_path: Path) -> Path:
    """What somebody else may have put where our private directory would be."""
    if request.param == "symlink":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        private.symlink_to(tmp_path / "elsewhere")
    elif request.param == "file":
        private.write_text("")
    else:
        private.mkdir()
        private.chmod(0o770 if request.param == "open" else 0o700)
    if request.param == "foreign":
        if os.geteuid() != 0:
            pytest.skip("only root can give a directory away")
        os.chown(private, 65534, 65534)
    return private


def test_what_somebody_else_has_put_there_is_refused(trap: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"is not a private directory of this user; remove it, or set server\.run_dir"
    ):
        places.make_directories(server(trap / "t", tmp_path))


# ---------------------------------------------------------------------------------------------------- users


def worker(**settings: Any) -> WorkerSpec:
    return WorkerSpec(name="echo", handler="a", **settings)


@pytest.mark.parametrize("key", ["user", "unix_user"])
def test_users(key: str, become: Callable[[int], None]) -> None:
    become(0)
    places.check_users("x", worker(**{key: "nobody"}))
    with pytest.raises(
        ConfigError, match=rf'^x.{key}: there is no user "no-such"; make it \(useradd --system no-such\)'
    ):
        places.check_users("x", worker(**{key: "no-such"}))
    become(pwd.getpwnam("nobody").pw_uid)
    places.check_users("x", worker(**{key: "nobody"}))
    with pytest.raises(ConfigError, match=f'^x.{key}: only root can use another user, "daemon"; start as root, or'):
        places.check_users("x", worker(**{key: "daemon"}))


@pytest.mark.parametrize("key", ["group", "unix_group"])
def test_groups(key: str, become: Callable[[int], None], monkeypatch: pytest.MonkeyPatch) -> None:
    become(0)
    places.check_users("x", worker(**{key: "daemon"}))
    with pytest.raises(
        ConfigError, match=rf'^x.{key}: there is no group "no-such"; make it \(groupadd --system no-such\)'
    ):
        places.check_users("x", worker(**{key: "no-such"}))
    become(1234)
    monkeypatch.setattr(os, "getgroups", lambda: [grp.getgrnam("daemon").gr_gid])
    places.check_users("x", worker(**{key: "daemon"}))
    with pytest.raises(ConfigError, match=f'^x.{key}: only root can use a group that is not its own, "mail"; start as'):
        places.check_users("x", worker(**{key: "mail"}))


def test_a_user_without_a_name_can_run_workers(become: Callable[[int], None]) -> None:
    become(987_654)
    places.check_users("x", worker())


@pytest.fixture
def open_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter of the tests may be where only their user gets."""
    monkeypatch.setattr(sys, "prefix", "/usr")
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    monkeypatch.setattr(places, "__file__", "/usr/bin/places.py")


@pytest.fixture
def apps(tmp_path: Path) -> Path:
    """A directory that everybody can read, in others that everybody can pass."""
    path = tmp_path / "srv" / "apps"
    path.mkdir(parents=True)
    for directory in (path, *path.parents):
        if (
            directory.is_relative_to("/tmp/")
            and directory != Path("/tmp")
            and os.stat(directory).st_uid == os.geteuid()
        ):
            directory.chmod(0o755)
    return path


def problems(*app_path: Path, **settings: Any) -> list[str]:
    spec = server(Path("/r"), Path("/s"), tuple(map(str, app_path)), **settings)
    return [str(problem) for problem in places.verify_users(spec)]


@as_root
@pytest.mark.usefixtures("open_prefix")
def test_what_the_workers_user_can_read_is_no_problem(apps: Path) -> None:
    assert problems(apps, user="nobody") == []
    apps.parent.chmod(0o711)
    assert problems(apps, user="nobody") == []
    apps.parent.chmod(0o700)
    assert problems(apps) == problems(apps, user="root") == []


@as_root
@pytest.mark.usefixtures("open_prefix")
def test_the_closed_directory_is_named_with_the_remedy(apps: Path) -> None:
    apps.parent.chmod(0o700)
    (problem,) = problems(apps, user="nobody")
    assert problem == (
        f"worker.echo.user: nobody cannot read {apps}: {apps.parent} is closed to it, or not there; "
        f"chmod o+rx {apps.parent}, or move what is in it"
    )
    apps.parent.chmod(0o755)
    apps.chmod(0o711)
    assert f"{apps} is closed to it" in problems(apps, user="nobody")[0]
    assert "missing is closed to it, or not there" in problems(apps / "missing", user="nobody")[0]


@as_root
@pytest.mark.usefixtures("open_prefix")
def test_owner_and_group_count_before_the_rest(apps: Path) -> None:
    nobody, daemon = pwd.getpwnam("nobody"), grp.getgrnam("daemon")
    apps.chmod(0o750)
    os.chown(apps, nobody.pw_uid, 0)
    assert problems(apps, user="nobody") == []
    os.chown(apps, 0, daemon.gr_gid)
    assert problems(apps, user="nobody", group="daemon") == []
    assert problems(apps, user="nobody") != []
    apps.chmod(0o705)
    assert problems(apps, user="nobody", group="daemon") != []


@as_root
@pytest.mark.usefixtures("open_prefix")
def test_both_ways_of_a_symlink_count(apps: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(apps)
    assert problems(tmp_path / "link", user="nobody") == []
    apps.parent.chmod(0o700)
    assert f"{apps.parent} is closed to it" in problems(tmp_path / "link", user="nobody")[0]


@as_root
@pytest.mark.usefixtures("open_prefix")
def test_an_access_list_is_believed(apps: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apps.chmod(0o700)
    monkeypatch.setattr(os, "listxattr", lambda path: ["system.posix_acl_access"] if Path(path) == apps else [])
    assert problems(apps, user="nobody") == []


@as_root
def test_the_interpreter_must_be_readable_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "venv").mkdir(mode=0o700)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "venv"))
    assert any(f"nobody cannot read {tmp_path}/venv: " in problem for problem in problems(user="nobody"))


def test_without_root_there_is_nothing_to_verify(become: Callable[[int], None]) -> None:
    become(1234)
    assert problems(Path("/nowhere"), user="nobody") == []
