"""From the path of a request to an open file beneath a root, or to a refusal: no request, no answer, no loop in it.

Two steps. ``read`` takes the path once, strictly: what two readers could take for two different files (a second
encoding, an encoded slash, a backslash, bytes that are no UTF-8) is refused, not mended. ``open_below`` then lets the
kernel hold to the root what is left: openat2 with RESOLVE_BENEATH opens the file and refuses in the same step whatever
leads out, a symlink as well, so that nothing can be exchanged between a check and the opening.

RESOLVE_CACHED makes the kernel say BlockingIOError where it would have to ask a disk. So a loop may open what is known
without waiting for anything, and leave the rest to a thread. A kernel without openat2 (before 5.6; some sandboxes) has
every file opened by the thread, its real path compared with the root's first: who may write below the root could then
exchange a directory for a symlink in between.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import stat
import struct
from collections.abc import Sequence
from typing import Final
from urllib.parse import quote, unquote_to_bytes

import msgspec

Names = tuple[str, ...]

_SAFE: Final = "!$&'()*+,-.:;=@_~"
"""What a segment of a path may hold as it is (RFC 3986 3.3)."""
_BROKEN_ENCODING = re.compile(r"%(?![0-9A-Fa-f]{2})")
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f/\\]")
"""In a name: a second slash, the slash of other systems, what no terminal would show."""


class Refused(Exception):
    """There is no file for this request: ``status`` is 400 for a path that no client of good will sends, 403 for what
    may not be had, 404 for what is not there, 503 when the disk is to be asked later."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Moved(Exception):
    """It is a directory, and its slash is missing: ``location`` has it."""

    def __init__(self, location: str) -> None:
        super().__init__(location)
        self.location = location


class Wanted(msgspec.Struct, frozen=True):
    """What a path names below a root: ("docs", "page.html")."""

    names: Names
    slash: bool = False
    """Behind the last name: a directory."""


class Found(msgspec.Struct, frozen=True):
    """An open file, and where it lies below the root. Who gets it closes ``fd``, or hands it on."""

    fd: int
    names: Names


# ---------------------------------------------------------------------------------------------------- the path


def read(path: str) -> Wanted:
    """A path as the request line has it, percent-encoded. Slashes in a row are one. Raises Refused."""
    if not path.startswith("/"):
        raise Refused(400, "no path")
    if _BROKEN_ENCODING.search(path):
        raise Refused(400, "broken percent-encoding")
    names = tuple(_name(segment) for segment in path.split("/") if segment)
    if any(name.startswith(".") for name in names[names[:1] == (".well-known",) :]):  # RFC 8615
        raise Refused(404, "hidden")
    return Wanted(names, path.endswith("/"))


def _name(segment: str) -> str:
    """Decoded once."""
    try:
        name = unquote_to_bytes(segment.encode("latin-1")).decode()
    except UnicodeError:
        raise Refused(400, "no UTF-8") from None
    if name in (".", "..") or _FORBIDDEN.search(name):
        raise Refused(400, "a name that is none")
    return name


def path_of(names: Names) -> str:
    """Percent-encoded, with one slash in front whatever the client sent: two would make the first name a host."""
    return "".join(f"/{quote(name, safe=_SAFE)}" for name in names)


# ---------------------------------------------------------------------------------------------------- the file


def open_below(root: str, wanted: Wanted, index: Sequence[str] = (), *, cached: bool = False) -> Found:
    """The file itself; of a directory the first of ``index`` that is there. ``root`` may be a symlink, and is followed
    each time: a deployment turns it to the next version.

    Raises Refused, Moved, and, when ``cached``, BlockingIOError instead of waiting for a disk; other errors of the
    kernel (EMFILE, EIO) as OSError.
    """
    try:
        top = _open(_AT_FDCWD, root, os.O_PATH | os.O_DIRECTORY, cached=cached)
        try:
            return _find(top, wanted, index, cached)
        finally:
            os.close(top)
    except OSError as error:
        if status := _STATUS.get(error.errno or 0):
            raise Refused(status, os.strerror(error.errno or 0)) from None
        if isinstance(error, BlockingIOError) and not cached:
            raise Refused(503, "renames without end") from None
        raise


def _find(top: int, wanted: Wanted, index: Sequence[str], cached: bool) -> Found:
    fd = _open(top, "/".join(wanted.names) or ".", _READ, beneath=True, cached=cached)
    kind = os.fstat(fd).st_mode
    if stat.S_ISREG(kind) and not wanted.slash:
        return Found(fd, wanted.names)
    os.close(fd)
    if stat.S_ISREG(kind):
        raise Refused(404, "no directory")
    if not stat.S_ISDIR(kind):
        raise Refused(403, "no regular file")
    if not wanted.slash:
        raise Moved(path_of(wanted.names) + "/")
    for name in index:
        try:
            return _find(top, Wanted((*wanted.names, name)), (), cached)
        except (FileNotFoundError, Moved):
            continue
    raise Refused(404, "a directory without an index")


_STATUS: Final = {
    errno.ENOENT: 404,
    errno.ENOTDIR: 404,
    errno.ENAMETOOLONG: 404,
    errno.ELOOP: 404,
    errno.EACCES: 403,
    errno.EPERM: 403,
    errno.ENXIO: 403,  # a socket
    errno.EXDEV: 403,  # it leads out of the root
}

# ---------------------------------------------------------------------------------------------------- the kernel

_READ: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
"""Not waiting for the other end of a pipe that lies there."""
_OPENAT2: Final = 437
"""The number of the call on every machine; Alpha alone has another."""
_AT_FDCWD: Final = -100
_NO_MAGICLINKS, _BENEATH, _CACHED = 0x02, 0x08, 0x20
TRIES: Final = 64
"""The kernel wants another when somebody renames, anywhere, while it follows a "..": that of a symlink, here."""

_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long
_syscall.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t)


def _open(directory: int, path: str, flags: int, *, beneath: bool = False, cached: bool = False) -> int:
    if not _IS_THERE:
        if cached:
            raise BlockingIOError(errno.EAGAIN, "only a thread may wait")
        return _open_compared(directory, path, flags) if beneath else os.open(path, flags)
    resolve = _BENEATH | _NO_MAGICLINKS if beneath else 0
    if cached:
        try:
            return _openat2(directory, path, flags, resolve | _CACHED)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            raise BlockingIOError(errno.EAGAIN, "a kernel before 5.12") from None
    for _ in range(TRIES - 1):
        try:
            return _openat2(directory, path, flags, resolve)
        except BlockingIOError:
            continue
    return _openat2(directory, path, flags, resolve)


def _openat2(directory: int, path: str, flags: int, resolve: int) -> int:
    how = struct.pack("QQQ", flags | os.O_CLOEXEC, 0, resolve)  # struct open_how
    fd: int = _syscall(_OPENAT2, directory, os.fsencode(path), how, len(how))
    if fd < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return fd


def _open_compared(directory: int, path: str, flags: int) -> int:
    """Without openat2."""
    top = os.readlink(f"/proc/self/fd/{directory}")
    real = os.path.realpath(os.path.join(top, path), strict=True)
    if os.path.commonpath([top, real]) != top:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
    return os.open(real, flags | os.O_NOFOLLOW)


def _is_there() -> bool:
    try:
        os.close(_openat2(_AT_FDCWD, "/", os.O_PATH, 0))
    except OSError:
        return False
    return True


_IS_THERE: Final = _is_there()
