"""Users and groups, taken on by real children; most of it only root can do."""

from __future__ import annotations

import os
import pwd
import signal

import pytest

from tests.worker.conftest import Spawn
from workermand.errors import ExitCode
from workermand.link import Words

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can take on another user")
WHO = """
import ctypes, os
def on_worker_start(worker):
    signum = ctypes.c_int()
    ctypes.CDLL(None).prctl(2, ctypes.byref(signum))
    print("death:", signum.value, "umask:", os.umask(0o22))
    print(os.getresuid(), os.getresgid(), sorted(os.getgroups()), os.environ["HOME"], os.environ["USER"])
print("imported as", os.geteuid())
"""


@pytest.mark.real
@as_root
def test_another_user_is_taken_on_before_the_handler_is_imported(spawn: Spawn) -> None:
    nobody = pwd.getpwnam("nobody")
    child = spawn.ready(WHO, user="nobody")
    child.stop()
    uid, gid = nobody.pw_uid, nobody.pw_gid
    groups = sorted(os.getgrouplist("nobody", gid))
    assert child.lines() == [
        f"imported as {uid}",
        f"death: {int(signal.SIGTERM)} umask: 18",
        f"{(uid,) * 3} {(gid,) * 3} {groups} {nobody.pw_dir} nobody",
    ]


@pytest.mark.real
@as_root
def test_a_group_besides_the_users_own(spawn: Spawn) -> None:
    child = spawn.ready(WHO, user="nobody", group="daemon")
    child.stop()
    assert "(1, 1, 1)" in child.lines()[2]


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"user": "no-such-user"}, 'no user "no-such-user"'), ({"group": "no-such-group"}, 'no group "no-such-group"')],
)
def test_a_user_that_cannot_be_taken_on_is_fatal(spawn: Spawn, settings: dict[str, str], words: str) -> None:
    child = spawn("print('imported')", **settings)
    said = child.hear(Words)
    assert said.reason == "privileges" and words in said.text
    assert child.wait() == ExitCode.PRIVILEGES
    assert child.output() == "", "nothing of the user's was imported"


@pytest.mark.real
@as_root
def test_without_root_only_what_is_may_be_asked_for(spawn: Spawn) -> None:
    code = """
from workermand.worker import privileges
def attempt(*names):
    try:
        privileges.take_on(*names)
        print(names, "taken")
    except PermissionError as error:
        print(names, error)
attempt("nobody", None)
attempt("nobody", "nogroup")
attempt(None, None)
attempt("root", None)
attempt(None, "root")
"""
    child = spawn.ready(code, user="nobody", group="nogroup")
    child.stop()
    assert child.lines() == [
        "('nobody', None) taken",
        "('nobody', 'nogroup') taken",
        "(None, None) taken",
        "('root', None) user \"root\" cannot be taken on: only root can",
        "(None, 'root') group \"root\" cannot be taken on: only root can",
    ]


@pytest.mark.real
@as_root
def test_a_user_that_could_come_back_is_refused(spawn: Spawn) -> None:
    """What the kernel is asked and what it says may differ: simulated by a saved user id that stayed."""
    code = """
import os
from workermand.worker import privileges
nobody = privileges._account("nobody")
os.setgroups([nobody.pw_gid])
os.setresgid(*[nobody.pw_gid] * 3)
os.setresuid(nobody.pw_uid, nobody.pw_uid, 0)
try:
    privileges._verify(nobody.pw_uid, nobody.pw_gid, [nobody.pw_gid])
except PermissionError as error:
    print(error)
"""
    child = spawn.ready(code)
    child.stop()
    assert "the kernel did not take on user" in child.lines()[0]
