"""How children end, in words, and how often: the exit table. Never a raw wait status."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workermand.errors import ExitCode
from workermand.master.child import Child, Phase

MEANINGS: dict[int, str] = {
    ExitCode.LOAD_FAILED: "load failed",
    ExitCode.PRIVILEGES: "privileges",
    ExitCode.CONFIG: "configuration",
    ExitCode.CRASHED: "uncaught exception",
}
WORDS_KEPT = 8192
"""Characters of last words kept for each row: a traceback's end, where its reason stands."""


@dataclass(slots=True)
class Tally:
    count: int = 0
    last: float = 0.0
    words: str = ""


class Exits:
    """(worker, reason) -> how often, when last, and the last words."""

    def __init__(self) -> None:
        self._tallies: dict[tuple[str, str], Tally] = {}
        self._oom = OomCounter()

    def record(self, child: Child) -> str:
        """Counts the end of a child that has been reaped, while its phase still says how; returns the reason."""
        reason = reason_of(child, self._oom.has_risen)
        tally = self._tallies.setdefault((child.worker.name, reason), Tally())
        tally.count += 1
        tally.last = time.time()
        tally.words = child.words.text[-WORDS_KEPT:]
        return reason

    def rows(self) -> list[dict[str, Any]]:
        """The "exits" of the status document."""
        return [
            {"worker": worker, "reason": reason, "count": t.count, "last": t.last, "words": t.words}
            for (worker, reason), t in self._tallies.items()
        ]


def reason_of(child: Child, out_of_memory: Callable[[], bool]) -> str:
    """ "exit 0", "exit 250 (uncaught exception)", "SIGKILL (stop deadline)", "import failed", "requests limit" ..."""
    status = child.wait_status or 0
    if os.WIFSIGNALED(status):
        name = signal_name(os.WTERMSIG(status))
        if child.phase is Phase.KILLED:
            return f"{name} ({child.why})"
        return "SIGKILL (out of memory)" if name == "SIGKILL" and out_of_memory() else name
    code = os.waitstatus_to_exitcode(status)
    if code and child.words.reason and child.words.reason != MEANINGS[ExitCode.CRASHED]:
        return child.words.reason
    if code == 0:
        return child.recycle or "exit 0"
    return f"exit {code} ({MEANINGS[code]})" if code in MEANINGS else f"exit {code}"


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class OomCounter:
    """The cgroup's count of processes killed for memory, v2 or v1; it tells an OOM kill from any other SIGKILL. Asked
    at those alone: whoever else ends meanwhile must not use the rise up."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._path = next(_oom_files(root), None)
        self._seen = self._read()

    def has_risen(self) -> bool:
        before, self._seen = self._seen, self._read()
        return self._seen > before

    def _read(self) -> int:
        if self._path is None:
            return 0
        with contextlib.suppress(OSError, ValueError):
            for line in self._path.read_text().splitlines():
                key, _, value = line.partition(" ")
                if key == "oom_kill":
                    return int(value)
        return 0


def _oom_files(root: Path) -> Iterator[Path]:
    groups = root / "sys/fs/cgroup"
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _number, controllers, path = line.split(":", 2)
            if not controllers:
                candidate = groups / path.lstrip("/") / "memory.events"
            elif "memory" in controllers.split(","):
                candidate = groups / "memory" / path.lstrip("/") / "memory.oom_control"
            else:
                continue
            if candidate.exists():
                yield candidate
