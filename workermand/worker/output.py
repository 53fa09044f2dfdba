"""print() and stray writes to sys.stderr in a child: at once, each line with worker and pid, on descriptors 1 and 2.

The child tags its lines itself and writes them to what it has inherited: terminal, journal or log.stdout_file. There is
no pipe to the master that could fill. Lines are always whole, so that those of different processes do not mix: what is
flushed unfinished ends there. What C code or a subprocess writes to 1 and 2 goes there untouched.
"""

from __future__ import annotations

import io
import os
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from workermand import log

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

LONGEST = 64 * 1024
"""Bytes of an unfinished line that are held back."""


def install() -> Callable[[], None]:
    """Replaces sys.stdout and sys.stderr. Returns what writes out unfinished lines, to be called once a second."""
    handler = log.installed()
    shape = handler.shape if handler is not None else log.Text()
    stdout = Lines("<stdout>", 1, lambda text: shape.line(text, "stdout"))
    stderr = Lines("<stderr>", 2, lambda text: shape.line(text, "stderr"))
    sys.stdout, sys.stderr = text_over(stdout), text_over(stderr)

    def flush() -> None:
        stdout.flush()
        stderr.flush()

    return flush


def text_over(lines: Lines) -> io.TextIOWrapper:
    """What print() writes to. It keeps nothing back itself; text from the network may hold what UTF-8 cannot encode."""
    return io.TextIOWrapper(lines, encoding="utf-8", errors="backslashreplace", write_through=True)


class Lines(io.RawIOBase):
    """A descriptor whose lines are dressed one by one. A line goes out when it is complete, flushed or too long."""

    def __init__(self, name: str, fd: int, dress: Callable[[str], str]) -> None:
        self.name = name
        self._outlet = log.Outlet(fd)
        self._dress = dress
        self._line = bytearray()
        self._cut = False
        """flush() has ended the last line: its own newline, when it comes, is one too many."""
        # Handlers print from executor threads too, and from a signal handler in the middle of a print.
        self._lock = threading.RLock()

    def write(self, data: ReadableBuffer, /) -> int:
        piece = bytes(data)
        with self._lock:
            *complete, rest = (bytes(self._line) + piece).split(b"\n")
            if self._cut and complete and not complete[0]:
                del complete[0]
            self._cut = self._cut and not piece
            self._line[:] = rest
            self._emit(complete)
            if len(rest) > LONGEST:
                self.flush()
        return len(piece)

    def flush(self) -> None:
        with self._lock:
            if self._line:
                self._emit([bytes(self._line)])
                self._line.clear()
                self._cut = True

    def _emit(self, lines: list[bytes]) -> None:
        if lines:
            dressed = (self._dress(line.decode("utf-8", "surrogateescape")) for line in lines)
            self._outlet.write("".join(f"{line}\n" for line in dressed).encode("utf-8", "surrogateescape"))

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._outlet.fd

    def isatty(self) -> bool:
        return os.isatty(self._outlet.fd)
