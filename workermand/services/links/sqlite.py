"""The database of a service in worker.state_dir: opened by one process at a time, made or checked, with words for what
is the matter. Blocks.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from typing import NamedTuple

from workermand import LoadError


class Kind(NamedTuple):
    """What a service keeps in its file."""

    application: int
    """PRAGMA application_id."""
    version: int
    """PRAGMA user_version."""
    schema: tuple[str, ...]
    """Statements."""
    server: str
    """Whose it is, for complaints: "channel server"."""
    nothing: str
    """What it begins with when the file is moved away: "empty queues"."""


def connect(path: str, kind: Kind, lock: float = 5.0) -> sqlite3.Connection:
    """In autocommit, for one thread at a time; what is committed is safe (synchronous=FULL). ``lock``: seconds that
    another process may still have it. Raises LoadError, with words()."""
    db = None
    try:
        db = sqlite3.connect(path, timeout=lock, isolation_level=None, check_same_thread=False, cached_statements=64)
        _prepare(db, kind)
        os.chmod(path, 0o600)
    except (sqlite3.Error, OSError) as error:
        if db is not None:
            db.close()
        raise LoadError(words(path, kind, error)) from None
    return db


def _prepare(db: sqlite3.Connection, kind: Kind) -> None:
    """Makes it ours, or finds that it is, and whole. Nothing of another program's is touched."""
    # Exclusive before WAL: no second process ever writes to it, and the index of the WAL is in our memory.
    db.execute("PRAGMA locking_mode=EXCLUSIVE").fetchall()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    is_new = not (version or application or tables)
    if not is_new and application != kind.application:
        raise sqlite3.DatabaseError("it belongs to another program")
    if not is_new and version != kind.version:
        raise sqlite3.DatabaseError(f"it has version {version}, of another workermand; this one knows {kind.version}")
    for pragma in ("auto_vacuum=INCREMENTAL", "journal_mode=WAL", "synchronous=FULL", "wal_autocheckpoint=4000"):
        db.execute(f"PRAGMA {pragma}").fetchall()
    if is_new:
        for statement in (
            "BEGIN EXCLUSIVE",
            *kind.schema,
            f"PRAGMA user_version={kind.version}",
            f"PRAGMA application_id={kind.application}",
            "COMMIT",
        ):
            db.execute(statement)
    (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise sqlite3.DatabaseError(verdict)
    # Gives back what is free. execute() would stop behind the first page: it is a step for each, without a row.
    db.executescript("PRAGMA incremental_vacuum")


def words(path: str, kind: Kind, error: Exception) -> str:
    """What is the matter, and what to do."""
    if isinstance(error, OSError):
        return f"{path}: {os.strerror(error.errno or errno.EIO)}"
    said = str(error)
    code = getattr(error, "sqlite_errorcode", None)
    if code is not None and code & 0xFF == sqlite3.SQLITE_BUSY:
        return f"{path}: another process has it: is a second {kind.server} running with this state_dir?"
    if code is not None and code & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        return f"{path}: the disk does not take it: {said}"
    if code is not None and code & 0xFF in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
        return f"{path}: {said}: is {os.path.dirname(path) or '.'} a directory that this process may write to?"
    return (
        f"{path}: it cannot be read: {said}. Move it away (with its -wal) and the server begins with {kind.nothing}; "
        f'`sqlite3 {path} ".recover" | sqlite3 new.sqlite3` saves what can be saved'
    )
