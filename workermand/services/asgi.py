"""A web framework beside the push service: any ASGI 3 application, or a WSGI one, on an http listener.

    handler = "workermand.services.asgi"
    options = {app = "project.asgi:application"}

The application's lifespan is that of the process: it starts before anything is accepted, and ends when all clients have
gone. One task serves a request, one a WebSocket. ``Bridge`` is for other services that hand requests on.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
from collections.abc import Callable
from typing import Any, Literal

import msgspec
from a2wsgi import WSGIMiddleware

from workermand import Connection, LoadError, Request, Worker
from workermand.services import options
from workermand.services.conversation import Conversation
from workermand.services.exchange import Exchange
from workermand.services.lifespan import Lifespan
from workermand.services.scope import Application, http_scope, websocket_scope

stream_body = True

GRACE = 0.2
"""Seconds that tasks of the application have at the end, when all clients have gone."""

Mode = Literal["auto", "on", "off"]
Interface = Literal["auto", "asgi", "wsgi"]


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``options`` in the TOML file."""

    app: str
    """"module:name" of the application."""
    root_path: str = ""
    """Where a proxy has mounted it: "/shop"."""
    lifespan: Mode = "auto"
    """"on": an application without one does not start; "off": it is not asked."""
    interface: Interface = "auto"
    threads: int = 10
    """Of a WSGI application: how many requests of a process it serves at a time."""


class Bridge:
    """One application in one process. ``app``: the application, or "module:name" of it. Process: the child; thread: the
    one that runs the loop; a WSGI application has threads of its own."""

    def __init__(
        self,
        app: str | Application | Callable[..., Any],
        *,
        root_path: str = "",
        lifespan: Mode = "auto",
        interface: Interface = "auto",
        threads: int = 10,
    ) -> None:
        self._app = app
        self._root_path = root_path.rstrip("/")
        self._mode: Mode = lifespan
        self._interface: Interface = interface
        self._threads = threads
        self._lifespan: Lifespan | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._state: dict[str, Any] = {}

    async def start(self, worker: Worker) -> None:
        """Imports the application and waits for its startup. Raises LoadError when it has failed."""
        self._worker = worker
        app = _imported(self._app) if isinstance(self._app, str) else self._app
        self._application = _as_asgi(app, self._interface, self._threads)
        if self._mode != "off":
            self._lifespan = Lifespan(self._application, self._state, must=self._mode == "on")
            await self._lifespan.start()

    async def stop(self) -> None:
        """Ends what is still at work for clients that have gone, then the application. What its shutdown says that has
        gone wrong is raised as RuntimeError."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=GRACE)
        for task in self._tasks:
            task.cancel()
        if self._lifespan is not None:
            await self._lifespan.stop()

    async def serve(self, connection: Connection, request: Request) -> None:
        """Answers the request, which must be the oldest of its connection that has no answer. Raises what the
        application raises: that is on_message's to raise, so that it is logged and the client gets a 500."""
        scope = http_scope(request, self._root_path, self._state)
        exchange = Exchange(connection, request)
        await exchange.run(self._task(self._application(scope, exchange.receive, exchange.send)))

    async def connect(self, connection: Connection, request: Request) -> None:
        """For on_websocket_connect: returns when the application has accepted or refused."""
        scope = websocket_scope(request, self._root_path, self._state)
        conversation = connection.context = Conversation(connection)
        self._task(conversation.run(self._application(scope, conversation.receive, conversation.send)))
        await conversation.decide()

    def _task(self, work: Any) -> asyncio.Task[Any]:
        """A task of its own for each request, so that what it sets in its context stays there."""
        task = self._worker.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _imported(name: str) -> Any:
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise LoadError(f'"{name}" names no application: write "module:name"')
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name == error.name or module_name.startswith(error.name + ".")):
            raise
        raise LoadError(f'application "{name}": no module named {error.name} on the app_path') from None
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise LoadError(f'application "{name}": there is no {part} in {module_name}')
        found = getattr(found, part)
    return found


def _as_asgi(app: Any, interface: Interface, threads: int) -> Application:
    if not callable(app):
        raise LoadError(f"the application is a {type(app).__name__}, which cannot be called")
    if interface == "wsgi" or (interface == "auto" and _is_wsgi(app)):
        return WSGIMiddleware(app, workers=threads)  # type: ignore[return-value]
    return app  # type: ignore[no-any-return]


def _is_wsgi(app: Any) -> bool:
    """WSGI is called with two arguments, ASGI 3 with three."""
    call = app if inspect.isroutine(app) or inspect.isclass(app) else type(app).__call__
    if inspect.iscoroutinefunction(call):
        return False
    try:
        inspect.signature(app).bind(None, None)
    except (TypeError, ValueError):
        return False
    return True


# ---------------------------------------------------------------------------------------------------- the handler

_bridge: Bridge
"""A process has one."""


def on_worker_check(worker: Worker) -> None:
    """Raises LoadError for options that cannot be."""
    options.read(worker, Settings)


async def on_worker_start(worker: Worker) -> None:
    global _bridge
    settings = options.read(worker, Settings)
    _bridge = Bridge(**msgspec.structs.asdict(settings))
    await _bridge.start(worker)


async def on_worker_stop(worker: Worker) -> None:
    await _bridge.stop()


async def on_message(connection: Connection, message: Any) -> None:
    if isinstance(message, Request):
        await _bridge.serve(connection, message)
    else:
        await connection.context.put(message)


async def on_websocket_connect(connection: Connection, request: Request) -> None:
    await _bridge.connect(connection, request)


def on_websocket_connected(connection: Connection, request: Request) -> None:
    connection.context.opened()


def on_websocket_close(connection: Connection, code: int, reason: str) -> None:
    connection.context.end(code, reason)


def on_close(connection: Connection) -> None:
    if isinstance(connection.context, Conversation):
        connection.context.lost()
