"""The worker's user is taken on before any handler is imported, and for good; and no child outlives its master.

Workerman went on as root when setuid failed. Here whatever cannot be taken on, or can be undone, is a PermissionError,
and the child ends. process.py calls take_on() and then die_with(): the kernel clears PDEATHSIG at every setuid.
"""

from __future__ import annotations

import ctypes
import grp
import os
import pwd
import signal

PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None, use_errno=True)


def take_on(user: str | None, group: str | None) -> None:
    """Becomes ``user`` (with all its groups) and ``group`` (default: the user's). Raises PermissionError."""
    if user is None and group is None:
        return
    account = _account(user)
    gid = account.pw_gid if group is None else _gid(group)
    if os.geteuid() != 0:
        _check_own(account, gid)
        return
    groups = os.getgrouplist(account.pw_name, gid)
    try:
        os.setgroups(groups)
        os.setresgid(gid, gid, gid)
        os.setresuid(account.pw_uid, account.pw_uid, account.pw_uid)
    except OSError as error:
        raise PermissionError(f'user "{account.pw_name}" cannot be taken on: {error.strerror}') from error
    _verify(account.pw_uid, gid, groups)
    # Libraries look into the home directory: root's is closed to us.
    os.environ.update(HOME=account.pw_dir, USER=account.pw_name, LOGNAME=account.pw_name)


def die_with(master_pid: int) -> bool:
    """TERM for us when the master dies, however it does. False when it is dead already."""
    if LIBC.prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0) != 0:
        raise PermissionError(f"prctl(PR_SET_PDEATHSIG): {os.strerror(ctypes.get_errno())}")
    return os.getppid() == master_pid


def _account(user: str | None) -> pwd.struct_passwd:
    try:
        return pwd.getpwuid(os.geteuid()) if user is None else pwd.getpwnam(user)
    except KeyError:
        raise PermissionError(f'no user "{os.geteuid() if user is None else user}" on this machine') from None


def _gid(group: str) -> int:
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise PermissionError(f'no group "{group}" on this machine') from None


def _check_own(account: pwd.struct_passwd, gid: int) -> None:
    """Without root there is nothing to change: what is asked for must be what is."""
    if account.pw_uid != os.geteuid():
        raise PermissionError(f'user "{account.pw_name}" cannot be taken on: only root can')
    if gid not in {os.getegid(), *os.getgroups()}:
        raise PermissionError(f'group "{grp.getgrgid(gid).gr_name}" cannot be taken on: only root can')


def _verify(uid: int, gid: int, groups: list[int]) -> None:
    if os.getresuid() != (uid,) * 3 or os.getresgid() != (gid,) * 3 or set(os.getgroups()) != set(groups):
        raise PermissionError(f"the kernel did not take on user {uid}, group {gid}, groups {sorted(groups)}")
    if uid == 0:
        return
    try:
        os.setuid(0)
    except OSError:
        return
    raise PermissionError(f"user {uid} could become root again")
