"""A freshly forked child becomes a worker process: run() is called by master.child and never returns.

It makes the process (signals, output, user, loop), imports the handler, hands over to runtime.Runtime, and ends. It is
the only file that exits. probe() does the first half alone, for `workermand check`.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import faulthandler
import logging
import os
import sys
from collections.abc import Callable
from typing import NamedTuple, NoReturn

import setproctitle
import uvloop

from workermand import log
from workermand.errors import ExitCode, LoadError
from workermand.link import Link, LinkClosed, Words
from workermand.protocols import registry
from workermand.spec import ServerSpec, WorkerSpec
from workermand.worker import guard, handlers, importer, output, privileges, signals, timer, tls
from workermand.worker.guard import USERS
from workermand.worker.outgoing import clients
from workermand.worker.outgoing.clients import Clients
from workermand.worker.runtime import Runtime, Sockets
from workermand.worker.timer import Timers
from workermand.worker.worker import Sibling, Worker

logger = logging.getLogger(__name__)

FOR_THE_MASTER = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


def run(
    server: ServerSpec,
    worker: WorkerSpec,
    slot: int,
    listeners: Sockets,
    link: Link,
    *,
    generation: int,
    master_pid: int,
    certificates: int | None = None,
) -> NoReturn:
    """Called in the child with all signals masked and nothing open but what it is to keep. ``certificates``: the
    descriptor of what the master has read for `tls`. Ends the process with an ExitCode."""
    code = ExitCode.CRASHED
    try:
        flush = _become(worker, slot)
        logger.debug("generation %d", generation)
        code = _live(server, worker, slot, listeners, link, flush, master_pid, certificates)
    except BaseException as error:  # a bug of ours: user code is contained by guard
        _say(link, Words("uncaught exception", guard.last_words(error)))
    finally:
        _end(code)


class Probed(NamedTuple):
    """What probe() has found."""

    error: str = ""
    """What is wrong; "": nothing."""
    remarks: tuple[str, ...] = ()
    """Of the handler's on_worker_check."""


def probe(server: ServerSpec, worker: WorkerSpec, files: tls.Files | None = None) -> Probed:
    """Whether this worker's user can import its handler and protocols, and OpenSSL takes what `tls` names (``files``);
    then the handler is asked. Changes the process for good: for a throw-away child."""
    try:
        _take_on(worker)
        _keyring(worker, files)
    except (PermissionError, LoadError) as error:
        return Probed(str(error))
    made, _timers = _make(server, worker, 0)
    try:
        _load(server, worker, made)
        said = made.handlers.on_worker_check(made) if made.handlers.on_worker_check else None
        return Probed(remarks=(said,) if isinstance(said, str) else tuple(map(str, said or ())))
    except USERS as error:
        return Probed(guard.last_words(error))


def set_title(title: str) -> None:
    """What ps shows."""
    setproctitle.setproctitle(title)


def _live(
    server: ServerSpec,
    spec: WorkerSpec,
    slot: int,
    sockets: Sockets,
    link: Link,
    flush: Callable[[], None],
    master_pid: int,
    certificates: int | None,
) -> ExitCode:
    try:
        _take_on(spec)
        if not privileges.die_with(master_pid):
            return ExitCode.FAILED
    except PermissionError as error:
        _say(link, Words("privileges", str(error)))
        return ExitCode.PRIVILEGES
    worker, timers = _make(server, spec, slot)
    try:
        worker.keyring = _keyring(spec, None if certificates is None else tls.receive(certificates))
    except LoadError as error:
        _say(link, Words("certificate refused", str(error)))
        return ExitCode.LOAD_FAILED
    try:
        _load(server, spec, worker)
    except USERS as error:
        _say(link, Words("import failed", guard.last_words(error)))
        return ExitCode.LOAD_FAILED
    runtime = Runtime(server, worker, timers, link, flush)
    signals.catch_term(runtime.terminate, master_pid)
    return runtime.run(sockets)


def _become(worker: WorkerSpec, slot: int) -> Callable[[], None]:
    """Sheds what was the master's: signals, exit functions, environment; puts our name on every line of output."""
    signals.reset()
    # What the master's modules have registered is the master's to run.
    atexit._clear()
    name = f"{worker.name}#{slot}"
    set_title(f"workermand: worker {name}")
    log.identify(name)
    # A blocked child is sent SIGABRT by the master, so that it shows where.
    faulthandler.enable(file=2)
    for variable in FOR_THE_MASTER:
        os.environ.pop(variable, None)
    return output.install()


def _take_on(spec: WorkerSpec) -> None:
    """Raises PermissionError. What the TOML file says of the environment comes last: it may say HOME, too."""
    privileges.take_on(spec.user, spec.group)
    os.environ.update(spec.env)


def _make(server: ServerSpec, spec: WorkerSpec, slot: int) -> tuple[Worker, Timers]:
    """The loop is there, though not running yet, while the handler is imported: modules may ask for it."""
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    state_dir = os.path.join(server.state_dir, spec.name)
    worker = Worker(spec, slot, state_dir=state_dir, loop=loop, siblings=_siblings(server))
    guard.install(loop, worker.failed)
    timers = Timers(loop, worker.failed)
    timer.install(timers)
    clients.install(Clients(worker, server.protocols, server.run_dir))
    return worker, timers


def _siblings(server: ServerSpec) -> tuple[Sibling, ...]:
    """A unix socket by its path: what the file says may be relative to run_dir."""
    return tuple(
        Sibling(
            spec.name,
            spec.handler,
            tuple(f"unix://{listen.path}" if listen.path else listen.uri for listen in spec.listen),
            spec.options,
        )
        for spec in server.workers.values()
    )


def _keyring(spec: WorkerSpec, files: tls.Files | None) -> tls.Keyring | None:
    """Raises LoadError."""
    return None if spec.tls is None or files is None else tls.Keyring(spec.tls, files)


def _load(server: ServerSpec, spec: WorkerSpec, worker: Worker) -> None:
    """Raises LoadError, and whatever the user's modules raise."""
    importer.install(server.app_path)
    worker.handlers = handlers.load(spec.handler)
    worker.sessions.make_store()
    for listen in spec.listen:
        registry.resolve(listen.protocol, server.protocols)


def _say(link: Link, words: Words) -> None:
    with contextlib.suppress(LinkClosed):
        link.send(words)


def _end_pools() -> None:
    """What user code has started with multiprocessing, process pools above all, and has not ended in on_worker_stop:
    Python's own exit function would wait for it, and an idle pool never ends."""
    if (multiprocessing := sys.modules.get("multiprocessing")) is not None:
        for process in multiprocessing.active_children():
            process.terminate()


def _end(code: int) -> NoReturn:
    """os._exit and not sys.exit: below us are the master's frames. What user code has registered with atexit runs:
    its libraries rely on it (temporary files, pools, flushing clients). Threads of executors are not waited for."""
    for last in (_end_pools, atexit._run_exitfuncs, logging.shutdown, sys.stdout.flush, sys.stderr.flush):
        with contextlib.suppress(BaseException):
            last()
    os._exit(code)
