"""The status document: what `workermanctl status --json` prints, the status table shows and server_status() returns.

Made from the master's memory. A Gathering asks the children for fresh figures first and waits ANSWER_TIME, no more: a
blocked child is shown busy, with its last figures and their age. The shape is versioned and documented in
docs/control.md.
"""

from __future__ import annotations

import contextlib
import enum
import importlib.metadata
import itertools
import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import psutil

from workermand import __version__
from workermand.link import Ask, ConnectionRow, Connections, Status
from workermand.master.child import Child, Phase
from workermand.master.slots import Slot
from workermand.spec import ServerSpec, WorkerSpec

VERSION = 1
ANSWER_TIME = 0.1
"""Seconds that children have to answer."""
_numbers = itertools.count(1)


class State(enum.Enum):
    """Of the daemon; people are also told "reloading" and "degraded"."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"


@dataclass(eq=False)
class Gathering:
    """One question to the children, until all have answered or the time is up; then ``done(self)``."""

    done: Callable[[Gathering], None]
    waiting: set[Child]
    deadline: float = 0.0
    asked: int = field(default_factory=lambda: next(_numbers))
    connections: dict[Child, list[ConnectionRow]] = field(default_factory=dict)

    @classmethod
    def ask(cls, what: str, children: Iterable[Child], done: Callable[[Gathering], None]) -> Gathering:
        gathering = cls(done, {child for child in children if child.phase in (Phase.RUNNING, Phase.STOPPING)})
        gathering.deadline = time.monotonic() + ANSWER_TIME
        for child in gathering.waiting:
            child.tell(Ask(gathering.asked, "connections" if what == "connections" else "status"))
        return gathering

    def hear(self, child: Child, answer: Status | Connections) -> None:
        if answer.asked == self.asked:
            self.waiting.discard(child)
            if isinstance(answer, Connections):
                self.connections[child] = answer.rows

    def over(self, now: float) -> bool:
        return now >= self.deadline or not any(child.phase is not Phase.GONE for child in self.waiting)


@dataclass(slots=True)
class Server:
    """What the document says of the daemon as a whole."""

    spec: ServerSpec
    generation: int
    state: str
    note: str
    started: float
    """Unix time."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """Worker -> what the operator should know of it."""


def document(
    server: Server, slots: Iterable[Slot], exits: list[dict[str, Any]], busy: set[Child], *, uss: bool = False
) -> dict[str, Any]:
    rows = list(slots)
    return {
        "version": VERSION,
        "server": _server(server),
        "workers": [
            _worker(spec, [s for s in rows if s.worker == name], server.notes.get(name, ""))
            for name, spec in server.spec.workers.items()
        ],
        "processes": [_process(slot, child, child in busy, uss=uss) for slot in rows for child in slot.children()],
        "exits": exits,
    }


def connections(gathering: Gathering) -> dict[str, Any]:
    return {
        "version": VERSION,
        "connections": [
            {"worker": child.worker.name, "pid": child.pid, **msgspec.to_builtins(row)}
            for child, rows in gathering.connections.items()
            for row in rows
        ],
        "busy": sorted(child.pid for child in gathering.waiting if child.phase is not Phase.GONE),
    }


def _server(server: Server) -> dict[str, Any]:
    return {
        "name": server.spec.name,
        "version": __version__,
        "pid": os.getpid(),
        "file": server.spec.file,
        "run_dir": server.spec.run_dir,
        "started": server.started,
        "uptime": round(time.time() - server.started, 3),
        "load": [round(load, 2) for load in os.getloadavg()],
        "generation": server.generation,
        "state": server.state,
        "note": server.note,
        "python": platform.python_version(),
        "uvloop": importlib.metadata.version("uvloop"),
        "memory": psutil.Process().memory_info().rss,
    }


def _worker(spec: WorkerSpec, slots: list[Slot], note: str) -> dict[str, Any]:
    children = [child for slot in slots for child in slot.children()]
    running = sum(slot.serving for slot in slots)
    return {
        "name": spec.name,
        "listen": [listen.uri for listen in spec.listen],
        "handler": spec.handler,
        "user": spec.user,
        "count": spec.count,
        "running": running,
        "state": _worker_state(spec, slots, running),
        "reloadable": spec.reloadable,
        "connections": sum(child.status.connections for child in children),
        "total_request": sum(child.status.total_request for child in children),
        "send_fail": sum(child.status.send_fail for child in children),
        "note": "; ".join(filter(None, [_worker_note(slots), note])),
    }


def _worker_state(spec: WorkerSpec, slots: list[Slot], running: int) -> str:
    if running >= spec.count:
        return "ok"
    if any(slot.crashes and slot.current is None for slot in slots):
        return "backoff"
    if any(child.phase is Phase.STARTING for slot in slots for child in slot.children()):
        return "starting"
    return "degraded"


def _worker_note(slots: list[Slot]) -> str:
    now = time.monotonic()
    waits = [slot for slot in slots if slot.current is None and slot.next_start is not None and slot.crashes]
    crashes = [
        f"{slot} crashed {slot.crashes} times, next start in {max(0.0, (slot.next_start or now) - now):.0f} s"
        for slot in waits
    ]
    said = [f"{child}: {child.status.note}" for slot in slots for child in slot.children() if child.status.note]
    return "; ".join(crashes + said)


def _process(slot: Slot, child: Child, busy: bool, *, uss: bool) -> dict[str, Any]:
    now = time.monotonic()
    figures = child.status
    state = "busy" if busy else "idle" if child.phase is Phase.RUNNING else child.phase.value
    return {
        "worker": slot.worker,
        "id": slot.index,
        "pid": child.pid,
        "state": state,
        "connections": figures.connections,
        "outgoing": figures.outgoing,
        "total_request": figures.total_request,
        "qps": round(child.qps, 1),
        "send_fail": figures.send_fail,
        "exceptions": figures.exceptions,
        "accepted": figures.accepted,
        "timers": figures.timers,
        "listening": ", ".join(listen.uri for listen in child.worker.listen),
        "uptime": round(now - child.started, 3),
        "generation": child.generation,
        "age": round(now - child.heard, 3),
        "loop_lag": figures.loop_lag,
        "paused": figures.paused,
        "closed": figures.closed,
        "figures": figures.figures,
        **_memory(child.pid, uss=uss),
    }


def _memory(pid: int, *, uss: bool) -> dict[str, int]:
    """Bytes. USS is what would be freed by the process's end: slower to find out, and not for another user to see."""
    with contextlib.suppress(psutil.Error, OSError):
        process = psutil.Process(pid)
        if uss:
            full = process.memory_full_info()
            return {"memory": full.rss, "uss": full.uss}
        return {"memory": process.memory_info().rss}
    return {"memory": 0}
