"""Sessions in files: one for each, named by its id, in a directory that all processes of a worker share.

A file is replaced as a whole (written beside, renamed), so that no reader ever sees half of one and none needs a lock.
Writers read, merge and replace under a lock, one of 256 by the id, which is held for that alone: microseconds. It is
written without fsync: after a power failure a file may be empty or old; an unreadable one counts as no session.

How old a session is stands in its file's mtime, set by our clock. What has expired is removed by ``sweep``, a few files
at a time.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping

import msgspec

from workermand.errors import WorkermandError
from workermand.http.session import Changes, is_id

logger = logging.getLogger(__name__)

LOCKS = ".locks"
NEW = ".new"
PATIENCE = 0.25
"""Seconds for a lock: who holds one for so long has been stopped in the middle."""
SLICE = 100
"""Files that a sweep looks at in one go: less than a millisecond."""
_raw = msgspec.msgpack.Decoder(dict[str, msgspec.Raw])
_whole = msgspec.msgpack.Decoder(dict[str, object])


class StoreFailed(WorkermandError):
    """A store, of files or another, cannot be read or written now. The message is for the log: it may name paths and
    hosts."""


class Found(msgspec.Struct, frozen=True):
    """What a store has of a session."""

    values: dict[str, bytes]
    """Key -> encoded."""
    age: float
    """Seconds since it was written."""


class FileStore:
    """Process: the child; thread: any. Its methods block, for the time that a file of the page cache takes."""

    def __init__(self, directory: str, clock: Callable[[], float] = time.time) -> None:
        """``directory`` is made when there is something to be stored."""
        self.directory = directory
        self.unreadable = 0
        """Files that were no sessions."""
        self._clock = clock

    def load(self, id: str, lifetime: float) -> Found | None:
        """The session of this id, unless it is older than ``lifetime`` seconds. Raises StoreFailed."""
        try:
            fd = os.open(self._path(id), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._failed("read", error) from error
        with open(fd, "rb") as file:
            age = self._clock() - os.fstat(fd).st_mtime
            if age >= lifetime:
                return None
            data = file.read()
        try:
            _whole.decode(data)
            return Found({key: bytes(value) for key, value in _raw.decode(data).items()}, age)
        except (msgspec.MsgspecError, UnicodeDecodeError, ValueError) as error:
            self.unreadable += 1
            logger.warning("a session in %s cannot be read and counts as none: %s", self.directory, error)
            return None

    def save(self, changes: Changes, lifetime: float) -> bool:
        """False: the session is no more, and nothing was written. Raises StoreFailed."""
        self._path(changes.id)
        try:
            with self._locked(changes.stored_as):
                return self._save(changes, lifetime)
        except OSError as error:
            raise self._failed("write", error) from error

    def _save(self, changes: Changes, lifetime: float) -> bool:
        found = None if changes.is_new else self.load(changes.stored_as, lifetime)
        if found is None and not changes.is_new:
            return False
        if not changes.is_ended:
            self._write(changes.id, changes.apply(found.values if found is not None else {}))
        if changes.is_ended or changes.former:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path(changes.stored_as))
        return True

    def sweep(self, lifetime: float) -> Iterator[int]:
        """Removes what has expired: a slice of files at each step, which gives how many were removed."""
        removed = looked_at = 0
        try:
            with os.scandir(self.directory) as entries:
                for entry in entries:
                    removed += self._sweep_one(entry.name, lifetime)
                    looked_at += 1
                    if looked_at % SLICE == 0:
                        yield removed
                        removed = 0
        except FileNotFoundError:  # there has not been a session yet
            pass
        except OSError as error:
            raise self._failed("remove", error) from error
        yield removed

    def _sweep_one(self, name: str, lifetime: float) -> bool:
        id = name.removesuffix(NEW)
        path = os.path.join(self.directory, name)
        try:
            if not is_id(id) or not self._is_expired(path, lifetime):
                return False
            with self._locked(id):
                if not self._is_expired(path, lifetime):
                    return False
                os.unlink(path)
        except FileNotFoundError:
            return False
        return True

    def _is_expired(self, path: str, lifetime: float) -> bool:
        return self._clock() - os.lstat(path).st_mtime >= lifetime

    def _write(self, id: str, values: Mapping[str, bytes]) -> None:
        """Under the lock, so that nobody else writes to the file beside."""
        path = self._path(id)
        now = self._clock()
        data = msgspec.msgpack.encode({key: msgspec.Raw(value) for key, value in values.items()})
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with open(os.open(path + NEW, flags, 0o600), "wb") as file:
                file.write(data)
                file.flush()
                os.utime(file.fileno(), (now, now))
            os.rename(path + NEW, path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(path + NEW)
            raise

    @contextlib.contextmanager
    def _locked(self, id: str) -> Iterator[None]:
        self._path(id)
        try:
            fd = self._open_lock(id)
        except FileNotFoundError:
            os.makedirs(self.directory, 0o700, exist_ok=True)
            os.makedirs(os.path.join(self.directory, LOCKS), 0o700, exist_ok=True)
            fd = self._open_lock(id)
        try:
            _lock(fd)
            yield
        finally:
            os.close(fd)

    def _open_lock(self, id: str) -> int:
        path = os.path.join(self.directory, LOCKS, id[:2])
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)

    def _path(self, id: str) -> str:
        """Raises ValueError for what is no id: it gets no nearer to the disk."""
        if not is_id(id):
            raise ValueError("no id of a session")
        return os.path.join(self.directory, id)

    def _failed(self, verb: str, error: OSError) -> StoreFailed:
        return StoreFailed(f"cannot {verb} sessions in {self.directory}: {error.strerror or error}")


def _lock(fd: int) -> None:
    """Raises BlockingIOError when it cannot be had in time."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.0002)
