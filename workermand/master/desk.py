"""The desk: what the master answers when it is asked something, over the control socket, by a child, or by SIGUSR2.

Reads are answered from memory after a short Gathering; what changes something becomes an Operation in the master's
queue, and its answer is given when the rollout is over.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workermand.errors import ControlError
from workermand.link import Connections, Server, ServerAnswer, Status
from workermand.master import status
from workermand.master.child import Child
from workermand.master.control import Request
from workermand.master.status import Gathering
from workermand.report import plain, status_tables
from workermand.spec import MOST_PROCESSES

if TYPE_CHECKING:
    from workermand.master.master import Master

log = logging.getLogger(__name__)

NO_SUCH_WORKER = 4


class Desk:
    """Process: the master."""

    def __init__(self, master: Master) -> None:
        self._master = master
        self._gatherings: list[Gathering] = []

    # ------------------------------------------------------------------ gatherings

    def hear(self, child: Child, answer: Status | Connections) -> None:
        for gathering in self._gatherings:
            gathering.hear(child, answer)

    def next_deadline(self) -> float | None:
        return min((gathering.deadline for gathering in self._gatherings), default=None)

    def finish(self, now: float) -> None:
        """Ends the gatherings that are complete or out of time."""
        over = [gathering for gathering in self._gatherings if gathering.over(now)]
        self._gatherings = [gathering for gathering in self._gatherings if gathering not in over]
        for gathering in over:
            gathering.done(gathering)

    def _gather(self, what: str, done: Callable[[Gathering], None]) -> None:
        self._gatherings.append(Gathering.ask(what, self._master.crew.children(), done))

    def _document(self, gathering: Gathering, *, uss: bool = False) -> dict[str, Any]:
        master = self._master
        return status.document(
            master.describe(), master.crew.slots(), master.crew.exits.rows(), gathering.waiting, uss=uss
        )

    # ------------------------------------------------------------------ who asks

    def serve(self, request: Request) -> None:
        """A request from the control socket. Never raises: what is wrong with it is its answer."""
        try:
            verb = VERBS[request.verb]
        except KeyError:
            request.fail(f"unknown verb {request.verb!r}; there are {', '.join(VERBS)}", 2)
            return
        try:
            verb(self, request)
        except ControlError as error:
            request.fail(str(error), error.code)

    def serve_child(self, child: Child, message: Server) -> None:
        if message.verb == "status":
            self._gather(
                "status", lambda gathering: child.tell(ServerAnswer(message.request, self._document(gathering)))
            )
            return
        log.info("%s asks for a %s of the server", child, message.verb)
        if message.verb == "stop":
            self._master.stop("drain")
        else:
            self._master.changes.ask("reload")
        child.tell(ServerAnswer(message.request, {}))

    def dump(self) -> None:
        """SIGUSR2: the status table into run_dir/status.txt, and a line into the log."""
        self._gather("status", self._write)

    def _write(self, gathering: Gathering) -> None:
        document = self._document(gathering)
        path = Path(self._master.spec.run_dir, "status.txt")
        text = "\n\n".join(plain(table) for table in status_tables(document)) + "\n"
        try:
            write_aside(path, text)
        except OSError as error:
            log.error("cannot write %s: %s", path, error.strerror)
            return
        processes = document["processes"]
        log.info(
            "status: %d processes, %d connections, %d requests; written to %s",
            len(processes), sum(p["connections"] for p in processes), sum(p["total_request"] for p in processes), path,
        )  # fmt: skip

    # ------------------------------------------------------------------ verbs

    def _status(self, request: Request) -> None:
        uss = bool(request.args.get("uss"))
        self._gather("status", lambda gathering: request.reply(self._document(gathering, uss=uss)))

    def _connections(self, request: Request) -> None:
        self._gather("connections", lambda gathering: request.reply(status.connections(gathering)))

    def _ping(self, request: Request) -> None:
        request.reply({"version": status.VERSION, "pong": True, "pid": os.getpid()})

    def _version(self, request: Request) -> None:
        server = status.document(self._master.describe(), (), [], set())["server"]
        request.reply({"version": status.VERSION, **{key: server[key] for key in ("name", "pid", "python", "uvloop")},
                       "workermand": server["version"]})  # fmt: skip

    def _reload(self, request: Request) -> None:
        if request.args.get("wait", True):
            self._master.changes.ask("reload", request=request)
        else:
            self._master.changes.ask("reload")
            request.reply({"what": "reload", "queued": True})

    def _stop(self, request: Request) -> None:
        self._master.stop("fast" if request.args.get("now") else "drain", request)

    def _restart(self, request: Request) -> None:
        name = request.args.get("name")
        if name is not None:
            self._check(name)
        self._master.changes.ask("restart", name, request=request)

    def _scale(self, request: Request) -> None:
        name, count = request.args.get("name"), request.args.get("count")
        self._check(name)
        if type(count) is not int or not 1 <= count <= MOST_PROCESSES:
            raise ControlError(f"scale: {count!r} is not a number of processes from 1 to {MOST_PROCESSES}", 2)
        self._master.changes.ask("scale", name, count, request=request)

    def _check(self, name: object) -> None:
        if not isinstance(name, str) or name not in self._master.spec.workers:
            raise ControlError(f"no worker {name!r}; there are {', '.join(self._master.spec.workers)}", NO_SUCH_WORKER)


VERBS: dict[str, Callable[[Desk, Request], None]] = {
    "status": Desk._status,
    "connections": Desk._connections,
    "reload": Desk._reload,
    "stop": Desk._stop,
    "restart": Desk._restart,
    "scale": Desk._scale,
    "version": Desk._version,
    "ping": Desk._ping,
}


def write_aside(path: Path, text: str) -> None:
    """0640, complete or not at all: a reader never sees half a table, and no planted link is followed."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.unlink(missing_ok=True)
    try:
        with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640), "w") as file:
            os.fchmod(file.fileno(), 0o640)
            file.write(text)
        aside.replace(path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise
