"""One child from on_worker_start to on_worker_stop: puts the parts together and does what the master says.

process.py makes the process (signals, user, loop, handler) and ends it; here it starts, serves and stops, in that
order, to be read in run(). What a Worker asks of its process is answered here too.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import socket
from collections.abc import Callable
from typing import Any, Literal

import msgspec

from workermand import log
from workermand.errors import ControlError, ExitCode, LoadError
from workermand.link import (
    Adopt,
    Ask,
    Connections,
    Draining,
    Link,
    Message,
    Passed,
    Ready,
    Recycle,
    Refresh,
    Server,
    ServerAnswer,
    Stop,
    Words,
)  # fmt: skip
from workermand.spec import ListenSpec, ServerSpec, WorkerSpec
from workermand.worker import guard, tls
from workermand.worker.drain import RELOAD_TIME, Drain
from workermand.worker.guard import USERS
from workermand.worker.janitor import Janitor
from workermand.worker.listening import Listeners
from workermand.worker.orders import Answer, Orders, close_all
from workermand.worker.outgoing import clients
from workermand.worker.timer import Timers
from workermand.worker.worker import Worker

logger = logging.getLogger(__name__)

STOP_TIME = 0.4
"""Seconds that on_worker_stop has at least, even beyond the deadline: the master kills a second after it."""
CANCEL_TIME = 0.1
"""Seconds for the tasks that are still at work when everything else has ended."""
BACKSTOP = 2.0
"""Seconds beyond its deadline after which an orphan is ended, however blocked it is."""

Sockets = list[tuple[ListenSpec, list[socket.socket]]]


class Runtime:
    """Process: the child; thread: the one that runs the loop."""

    def __init__(
        self, server: ServerSpec, worker: Worker, timers: Timers, link: Link, flush: Callable[[], None]
    ) -> None:
        """``flush`` writes out what has been printed without a newline."""
        loop = worker.loop
        self._worker = worker
        self._loop = loop
        self._orders = Orders(loop, link, self._obey, self._orphaned)
        self._listeners = Listeners(server, worker, self._orders, loop)
        self._drain = Drain(loop, worker, self._listeners, self._reload, self._left)
        self._janitor = Janitor(loop, worker, self._listeners, timers, self._orders.push, self._recycle, flush)
        worker.belong_to(self)

    def run(self, sockets: Sockets) -> ExitCode:
        """The whole life. Returns after on_worker_stop, when nothing is left to be done."""
        for listen, socks in sockets:
            self._listeners.add(listen, socks)
        self._orders.start()
        self._janitor.start()
        try:
            failure = self._start()
            if failure is not None:
                return failure
            guard.run_until(self._loop, self._drain.done, self._worker.failed)
            self._stop()
            return ExitCode.OK
        finally:
            self._orders.deliver()

    def _start(self) -> ExitCode | None:
        """on_worker_start, then the listeners. The code to exit with when it comes to nothing."""
        start = self._loop.create_task(self._call("on_worker_start"))
        self._drain.starting(start)
        guard.run_until(self._loop, start, self._worker.failed)
        if start.cancelled() and self._drain.is_asked:
            return ExitCode.OK
        error = asyncio.CancelledError("its task was cancelled") if start.cancelled() else start.result()
        if error is not None:
            self._orders.send(Words("on_worker_start failed", guard.last_words(error)))
            return ExitCode.LOAD_FAILED
        self._drain.started()
        if not self._drain.is_asked:
            self._listeners.start()
            self._orders.send(Ready())
        return None

    def _stop(self) -> None:
        """All clients have gone, or their time has: on_worker_stop, then whatever tasks are left."""
        last = self._bounded("on_worker_stop", max(self._drain.remaining(), STOP_TIME))
        guard.run_until(self._loop, self._loop.create_task(last), self._worker.failed)
        closing = self._loop.create_task(clients.installed("the runtime").close())
        guard.run_until(self._loop, closing, self._worker.failed)
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        if tasks:
            ending = self._loop.create_task(_wait(tasks, CANCEL_TIME))
            guard.run_until(self._loop, ending, self._worker.failed)

    async def _call(self, name: str) -> BaseException | None:
        """One of the on_worker_* callbacks, if there is one; gives what it raised."""
        callback = getattr(self._worker.handlers, name)
        try:
            if callback is not None:
                await guard.call(callback, self._worker)
        except USERS as error:
            return error
        return None

    async def _bounded(self, name: str, seconds: float) -> None:
        """The same within ``seconds``; one that goes on regardless is left behind."""
        task = self._loop.create_task(self._call(name))
        await _wait({task}, seconds)
        if not task.done():
            task.cancel()
            logger.error("%s has not ended after %.1f s: cancelled", name, seconds)
        elif not task.cancelled() and (error := task.result()) is not None:
            self._worker.failed(name, None, error)

    # ------------------------------------------------------------------ what the Worker asks

    def leave(self, reason: str) -> None:
        """This process ends by itself: stop(), or TERM."""
        self._drain.begin("drain", self._worker.timeouts.stop, reason)

    def listen(self, uri: str, handler: object) -> asyncio.Future[None]:
        return self._listeners.listen(uri, handler)

    def unlisten(self, uri: str) -> asyncio.Future[None]:
        return self._listeners.unlisten(uri)

    def ask_server(self, verb: Literal["stop", "reload", "status"]) -> asyncio.Future[dict[str, Any]]:
        result: asyncio.Future[dict[str, Any]] = self._loop.create_future()

        def answered(answer: Answer, _fds: list[int]) -> None:
            if result.done():
                return
            if answer.error or not isinstance(answer, ServerAnswer):
                result.set_exception(ControlError(answer.error))
            else:
                result.set_result(answer.answer or {})

        self._orders.ask(lambda request: Server(request, verb), answered)
        return result

    # ------------------------------------------------------------------ what the master says

    def _orphaned(self) -> None:
        """The master is gone, and nobody else ends us."""
        logger.error("the master is gone: stopping")
        self._arm_backstop()
        self.leave("the master is gone")

    def terminate(self, orphaned: bool) -> None:
        """TERM, in the middle of whatever runs now."""
        if orphaned:
            self._arm_backstop()
        self._loop.call_soon_threadsafe(self.leave, "TERM")

    def _arm_backstop(self) -> None:
        """Ends this process, with a traceback, even if its loop never turns again."""
        faulthandler.dump_traceback_later(self._worker.timeouts.stop + BACKSTOP, exit=True, file=2)

    def _obey(self, message: Message, fds: list[int]) -> None:
        match message:
            case Stop():
                self._drain.begin(message.how, message.deadline, message.how, reload=message.reload)
            case Refresh():
                self._refresh(msgspec.msgpack.decode(message.worker, type=WorkerSpec), message.reopened, fds)
                return
            case Adopt():
                self._listeners.adopt(message.uri, fds)
                return
            case Ask(asked=asked, what="status"):
                self._orders.send(self._janitor.status(asked))
            case Ask(asked=asked):
                everyone = [*self._worker.connections.values(), *self._worker.outgoing.values()]
                rows = [connection.row() for connection in everyone]
                self._orders.send(Connections(asked, rows))
        close_all(fds)

    def _refresh(self, spec: WorkerSpec, kinds: list[Passed], fds: list[int]) -> None:
        """A reload that this process survives. What a handler has set on a connection itself stays as it is."""
        former = self._worker.limits
        self._worker.apply(spec)
        self._janitor.renew_limits()
        for connection in self._worker.connections.values():
            if connection.max_package_size == former.package:
                connection.max_package_size = spec.limits.package
            if connection.max_send_buffer_size == former.send_buffer:
                connection.max_send_buffer_size = spec.limits.send_buffer
        for kind, fd in zip(kinds, fds, strict=True):
            if kind == "log":
                log.adopt(fd)
            elif kind == "certificates":
                self._renew_certificates(spec, fd)
            else:
                os.dup2(fd, 1)
                os.dup2(fd, 2)
                os.close(fd)
        # Nobody waits for it here: it may take as long as a start.
        self._reload(spec.timeouts.start)

    def _renew_certificates(self, spec: WorkerSpec, fd: int) -> None:
        """Handshakes from here on get the new ones; if OpenSSL does not take these, those before them."""
        files = tls.receive(fd)
        if spec.tls is None:
            return
        try:
            self._worker.keyring = tls.Keyring(spec.tls, files)
            self._worker.note = ""
        except LoadError as error:
            self._worker.note = f"the former certificate stays: {error}"
            logger.error("%s", self._worker.note)

    def _reload(self, seconds: float = RELOAD_TIME) -> asyncio.Task[None]:
        return self._loop.create_task(self._bounded("on_worker_reload", seconds))

    def _left(self, reason: str) -> None:
        self._orders.send(Draining(reason))

    def _recycle(self, reason: str) -> None:
        self._orders.send(Recycle(reason))


async def _wait(tasks: set[asyncio.Task[Any]], seconds: float) -> None:
    """Not wait_for(): that waits on for a task that swallows its cancellation."""
    await asyncio.wait(tasks, timeout=seconds)
