"""Log lines of both programs: one handler on the root logger, on stderr or on a file opened O_APPEND.

Three shapes: in the journal a ``<priority>`` before each line and no time (the journal has its own), elsewhere text
with a time, or one JSON object a line. Every line names its worker and process, also what print() writes in a child
(worker/output.py takes its lines from here). A log that cannot be written must never stop the program: Outlet gives up
on a full disk, a closed pipe or a stopped terminal, and counts what it lost. The master calls setup() at start and at
each reload; a child inherits the handler and says with identify() who it is.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import logging
import os
import select
import time
from collections.abc import Mapping
from typing import Any, Literal

from workermand.errors import ConfigError
from workermand.spec import LogSpec

STDERR = 2
PATIENCE = 1.0
"""Seconds to wait, once, for a reader that has stopped reading; what follows is dropped until it reads again."""
PIECE = select.PIPE_BUF
"""A pipe or terminal that polls writable takes this much at once, and does not mix it with what others write."""

PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.NOTSET, 7))
"""syslog's numbers, see sd-daemon(3)."""

Stream = Literal["stdout", "stderr"]


class Outlet:
    """Writes whole pieces to a descriptor that others share, without ever blocking for long.

    The descriptor is left in blocking mode: O_NONBLOCK belongs to the open file, which the user's shell shares too.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._lost = 0

    def write(self, data: bytes) -> None:
        """Never raises for what is wrong with the descriptor."""
        if self._lost:
            note = f"[{self._lost} bytes of output were lost here]\n".encode()
            if not self._write(note, 0):
                self._lost += len(data)
                return
            self._lost = 0
        rest = data
        deadline = time.monotonic() + PATIENCE
        while rest:
            cut = len(rest) if len(rest) <= PIECE else rest.rfind(b"\n", 0, PIECE) + 1 or PIECE
            written = self._write(rest[:cut], max(0.0, deadline - time.monotonic()))
            if not written:
                self._lost = len(rest)
                return
            rest = rest[written:]

    def _write(self, piece: bytes, patience: float) -> int:
        """Bytes written; 0 when it cannot be."""
        try:
            poll = select.poll()
            poll.register(self.fd, select.POLLOUT)
            return os.write(self.fd, piece) if poll.poll(patience * 1000) else 0
        except OSError:
            return 0


class Shape(logging.Formatter):
    """The base: what a line says, whatever it looks like. ``worker`` is the process's own, "echo#0", or ""."""

    worker = ""

    def line(self, text: str, stream: Stream) -> str:
        """One line that a handler printed."""
        return f"{self._tag(self.worker, os.getpid())}{text}"

    def _tag(self, worker: str, pid: int | None) -> str:
        return f"[{worker} {pid}] " if worker else ""

    def _message(self, record: logging.LogRecord) -> str:
        """Message and traceback. A record may name whom it speaks of: extra={"worker": ..., "pid": ...}."""
        worker, pid = self._origin(record)
        return self._tag(worker, pid) + super().format(record)

    def _origin(self, record: logging.LogRecord) -> tuple[str, int | None]:
        return getattr(record, "worker", self.worker), getattr(record, "pid", record.process)


class Text(Shape):
    """2026-11-21 05:19:03.123 warning [echo#0 4711] what happened"""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        return f"{moment}.{int(record.msecs):03d} {record.levelname.lower():<7} {self._message(record)}"


class Journal(Shape):
    """<4>[echo#0 4711] what happened"""

    def format(self, record: logging.LogRecord) -> str:
        number = next(number for level, number in PRIORITIES if record.levelno >= level)
        # The journal takes every line as an entry: one of a traceback without a number would be an "info".
        return "\n".join(f"<{number}>{line}" for line in self._message(record).split("\n"))


class Json(Shape):
    """{"time": "...", "level": "warning", "worker": "echo#0", "pid": 4711, "message": "what happened"}"""

    def format(self, record: logging.LogRecord) -> str:
        worker, pid = self._origin(record)
        fields = {"level": record.levelname.lower(), "logger": record.name, "worker": worker, "pid": pid}
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return self._dump(record.created, fields, record.getMessage())

    def line(self, text: str, stream: Stream) -> str:
        fields = {"level": "info", "stream": stream, "worker": self.worker, "pid": os.getpid()}
        return self._dump(time.time(), fields, text)

    @staticmethod
    def _dump(created: float, fields: Mapping[str, Any], message: str) -> str:
        moment = datetime.datetime.fromtimestamp(created).astimezone().isoformat(timespec="milliseconds")
        return json.dumps({"time": moment, **fields, "message": message})


class Handler(logging.Handler):
    """Writes each record in one piece, to the log file or to stderr."""

    def __init__(self, spec: LogSpec) -> None:
        super().__init__()
        self.outlet = Outlet(STDERR if spec.file is None else open_append(spec.file, "server.log.file"))
        self.shape = _shape(spec)
        self.setFormatter(self.shape)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception:
            self.handleError(record)  # says on stderr which call has the wrong arguments
        else:
            self.outlet.write(line.encode("utf-8", "backslashreplace") + b"\n")

    def adopt(self, fd: int) -> None:
        """Writes to ``fd`` from now on; the number given is closed."""
        if self.outlet.fd == STDERR:
            self.outlet.fd = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
        else:
            os.dup2(fd, self.outlet.fd, inheritable=False)
        os.close(fd)

    def close(self) -> None:
        if self.outlet.fd != STDERR:
            with contextlib.suppress(OSError):
                os.close(self.outlet.fd)
        super().close()


def setup(spec: LogSpec) -> Handler:
    """Logs by ``spec`` from now on, in place of an earlier setup(). Raises ConfigError; all stays as it was then."""
    handler = Handler(spec)
    former = installed()
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(spec.level.upper())
    if former is not None:
        root.removeHandler(former)
        former.close()
    return handler


def installed() -> Handler | None:
    """The handler of this process, or None before setup()."""
    return next((handler for handler in logging.getLogger().handlers if isinstance(handler, Handler)), None)


def identify(worker: str) -> None:
    """Says who this process is: "echo#0" in every line. Called in a child."""
    if (handler := installed()) is not None:
        handler.shape.worker = worker


def adopt(fd: int) -> None:
    """Takes over a descriptor that the master has opened anew."""
    if (handler := installed()) is not None:
        handler.adopt(fd)


def descriptor() -> int | None:
    """The log file's, which a child must keep; None when the log is stderr."""
    handler = installed()
    return None if handler is None or handler.outlet.fd == STDERR else handler.outlet.fd


def in_journal() -> bool:
    """Whether stderr is the journal: $JOURNAL_STREAM is inherited by those too whose stderr is another."""
    try:
        status = os.fstat(STDERR)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def open_append(path: str, key: str) -> int:
    """Opens a log file; ``key`` names the setting in the ConfigError."""
    try:
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise ConfigError(key, f"{path} cannot be written: {error.strerror}", "name another file, or none") from error


def _shape(spec: LogSpec) -> Shape:
    if spec.format == "json":
        return Json()
    return Journal() if spec.format == "auto" and spec.file is None and in_journal() else Text()
