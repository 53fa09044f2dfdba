"""Where uploads go: a file by a name that a stranger chose, and never outside the directory. Used by both uploads."""

import os
import tempfile
from pathlib import Path

LONGEST = 255
"""Bytes of a file's name, in every usual file system."""


def store(directory: str, name: str, content: bytes) -> Path:
    """Writes the file and returns its path; one of the same name is replaced, and nobody ever sees half of one.

    Of a path only the last part counts. Raises ValueError for a name that leaves nothing usable.
    """
    path = Path(directory, safe(name))
    written, temporary = tempfile.mkstemp(prefix=".upload-", dir=directory)
    try:
        with open(written, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return path


def safe(name: str) -> str:
    """The last part of a path, of any system's; no hidden file, no control character."""
    last = name.replace("\\", "/").rpartition("/")[2].strip().lstrip(".")
    if not last or not last.isprintable() or len(last.encode()) > LONGEST:
        raise ValueError(f"{name[:80]!a} is not a name for a file")
    return last
