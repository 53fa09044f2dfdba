"""A static web server: ``handler = "workermand.services.webserver"`` on an http listener. Workerman: WebServer.

What it serves stands in its options: Settings, below. paths.py finds and opens the file, the runtime sends it, with
ranges and conditions; here is which root a host has, what is answered when there is no file, and who waits for a disk.
That is a thread, never the loop, and it is asked only for what the kernel does not know by heart.
"""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import inspect
import os
from http import HTTPStatus
from typing import Annotated, Any, Final

import msgspec

from workermand import Connection, ConnectionStatus, Request, Response, Worker
from workermand.services import headers, options, paths
from workermand.services.paths import Found, Moved, Refused, Wanted

stream_body = True
"""For the application that a fallback names: files want no bodies."""

ALLOWED: Final = "GET, HEAD, OPTIONS"
PATIENCE: Final = 30.0
"""Seconds that a disk has to find a file."""
DEFAULT: Final = "*"
"""The host of all that have no root of their own; "default" will do."""
HOOKS: Final = ("on_worker_start", "on_worker_stop")


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The keys of ``options``."""

    root: str = ""
    """Where the files lie, for every host that has no root of its own: "/srv/www", or "package:directory" for files
    beside code."""
    roots: dict[str, str] = {}
    """By host: {"example.com" = "/srv/www"}; "*" is as good as root."""
    index: list[str] = msgspec.field(default_factory=lambda: ["index.html"])
    """What stands for a directory: the first that is there."""
    fallback: str = ""
    """When there is no such file: another below the root ("index.html"), or an application ("project.asgi:app")."""
    hooks: str = ""
    """A module with on_worker_start and on_worker_stop of your own."""
    error_pages: dict[Annotated[int, msgspec.Meta(ge=400, le=599)], str] = {}
    """By status: files below the root."""
    mime: dict[str, str] = {}
    cache_control: str | dict[str, str] = ""
    """See headers.rules()."""
    precompressed: bool = False
    """app.js.gz, .zst or .br in place of app.js, for clients that take it."""


def on_worker_check(worker: Worker) -> None:
    """Likewise, for `workermand check`."""
    Website(worker, options.read(worker, Settings))


async def on_worker_start(worker: Worker) -> None:
    """Raises LoadError for options that cannot be."""
    worker.website = website = Website(worker, options.read(worker, Settings))
    await website.start()


async def on_message(connection: Connection, request: Request) -> None:
    await connection.worker.website.serve(connection, request)


async def on_worker_stop(worker: Worker) -> None:
    await worker.website.stop()


class Website:
    """Process: the child; thread: the one that runs the loop."""

    def __init__(self, worker: Worker, settings: Settings) -> None:
        self._worker = worker
        complaint = functools.partial(options.complaint, worker)
        self._roots = _roots(settings, complaint)
        self._index = settings.index
        self._application: Any = None
        """The bridge to an ASGI application."""
        self._fallback: Wanted | None = None
        if settings.fallback and ":" not in settings.fallback:
            self._fallback = _page(settings.fallback, "fallback", complaint)
        elif settings.fallback:
            self._application = options.imported(worker, "fallback", "workermand.services.asgi").Bridge(
                settings.fallback
            )
        self._hooks = options.imported(worker, "hooks", settings.hooks) if settings.hooks else None
        if self._hooks is not None and not any(hasattr(self._hooks, name) for name in HOOKS):
            raise complaint("hooks", f"{settings.hooks} has neither {' nor '.join(HOOKS)}")
        self._error_pages = {
            status: _page(name, f"error_pages.{status}", complaint) for status, name in settings.error_pages.items()
        }
        self._precompressed = settings.precompressed
        try:
            self._headers = headers.rules(settings.mime, settings.cache_control)
        except ValueError as error:
            raise complaint("", str(error)) from None

    async def start(self) -> None:
        """The hooks first: what they raise ends the start."""
        await self._call_hook("on_worker_start")
        if self._application is not None:
            await self._application.start(self._worker)

    async def stop(self) -> None:
        """The hooks last."""
        try:
            if self._application is not None:
                await self._application.stop()
        finally:
            await self._call_hook("on_worker_stop")

    async def _call_hook(self, name: str) -> None:
        result = getattr(self._hooks, name, lambda worker: None)(self._worker)
        if inspect.isawaitable(result):
            await result

    # ------------------------------------------------------------------ a request

    async def serve(self, connection: Connection, request: Request) -> None:
        root = self._roots.get(_host_of(request), self._roots.get(DEFAULT, ""))
        try:
            response = await self._answer(root, request)
        except Moved as moved:
            query = f"?{request.query_string}" if request.query_string else ""
            response = Response.redirect(moved.location + query, 301)
        except Refused as refused:
            if self._application is not None and refused.status in (404, 405, 421):
                await self._application.serve(connection, request)
                return
            response = await self._complain(root, refused.status)
        facts = response.file.facts if response.file is not None else None
        try:
            if connection.status is ConnectionStatus.ESTABLISHED:
                connection.send(response)
        finally:  # whoever sends a file takes it out of the Response
            if facts is not None and response.file is not None and response.file.facts is not None:
                os.close(facts.fd)

    async def _answer(self, root: str, request: Request) -> Response:
        if request.method == "OPTIONS" and (self._application is None or request.path == "*"):
            return Response(204, {"Allow": ALLOWED})
        if request.method not in ("GET", "HEAD"):
            raise Refused(405, "files are read")
        if not root:
            raise Refused(421, "no root for this host")
        wanted = paths.read(request.path)
        try:
            found = await self._open(root, wanted)
        except Refused as refused:
            if self._fallback is None or refused.status != 404:
                raise
            found = await self._open(root, self._fallback)
        response = await self._compressed(root, found, request) if self._precompressed else None
        if response is None:
            response = Response().with_open_file(found.fd, found.names[-1])
        if self._precompressed:
            response.with_header("Vary", "Accept-Encoding")
        self._headers.put_on(response, found.names)
        return response

    async def _compressed(self, root: str, found: Found, request: Request) -> Response | None:
        """The file's neighbour that this client takes, if there is one."""
        *above, name = found.names
        for encoding, suffix in headers.encodings(request.header("accept-encoding", "")):
            try:
                neighbour = await self._open(root, Wanted((*above, name + suffix)))
            except (Refused, Moved):
                continue
            os.close(found.fd)
            # Content-Type by the name of what is in it, which is no file of its own.
            return Response(headers={"Content-Encoding": encoding}).with_open_file(neighbour.fd, name)
        return None

    async def _complain(self, root: str, status: int) -> Response:
        response = Response(status, {"Content-Type": "text/plain; charset=utf-8"})
        response.with_body(f"{status} {HTTPStatus(status).phrase}\n")
        page = self._error_pages.get(status)
        if root and page is not None:
            try:
                found = await self._open(root, page)
            except (Refused, Moved):
                pass
            else:
                response.without_header("Content-Type").with_open_file(found.fd, found.names[-1])
        return response.with_header("Allow", ALLOWED) if status == 405 else response

    async def _open(self, root: str, wanted: Wanted) -> Found:
        try:
            return paths.open_below(root, wanted, self._index, cached=True)
        except BlockingIOError:
            pass
        opening = self._worker.loop.run_in_executor(None, paths.open_below, root, wanted, self._index)
        done, _ = await asyncio.wait({opening}, timeout=PATIENCE)
        if not done:
            opening.add_done_callback(_close)
            raise Refused(503, "the disk does not answer")
        return opening.result()


def _close(opening: asyncio.Future[Found]) -> None:
    """It has come too late."""
    if not opening.cancelled() and opening.exception() is None:
        os.close(opening.result().fd)


def _host_of(request: Request) -> str:
    return request.host(without_port=True).lower().rstrip(".")


# ---------------------------------------------------------------------------------------------------- the settings


def _roots(settings: Settings, complaint: options.Complaint) -> dict[str, str]:
    """By host, in lower case."""
    named = {f"roots.{host}": (host, root) for host, root in settings.roots.items()}
    if settings.root:
        named["root"] = (DEFAULT, settings.root)
    if not named:
        raise complaint("root", 'missing: the directory with the files, or roots = {"example.com" = "/srv/www"}')
    roots: dict[str, str] = {}
    for key, (host, root) in named.items():
        host = DEFAULT if host == "default" else host.lower().rstrip(".")
        if host in roots:
            raise complaint(key, "this host has a root already")
        if not os.path.isabs(root):
            root = _beside(root, key, complaint)
        if not os.path.isdir(root):
            raise complaint(key, f'"{root}" is no directory that can be reached')
        roots[host] = root
    return roots


def _beside(root: str, key: str, complaint: options.Complaint) -> str:
    """ "apps.chat:web" is the directory web of the package apps.chat."""
    package, colon, directory = root.partition(":")
    if not (package and colon and directory):
        raise complaint(key, f'"{root}" is relative: write the whole path, or "package:directory"')
    try:
        found = importlib.util.find_spec(package)
    except (ModuleNotFoundError, ValueError):
        found = None
    if found is None or not found.submodule_search_locations:
        raise complaint(key, f"no package {package} on the app_path")
    return os.path.join(found.submodule_search_locations[0], directory)


def _page(name: str, key: str, complaint: options.Complaint) -> Wanted:
    names = tuple(name.strip("/").split("/"))
    if not all(names) or {".", ".."} & set(names):
        raise complaint(key, f'"{name}" is no file below the root')
    return Wanted(names)
