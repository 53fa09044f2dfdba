"""Every listener of this process: those of its TOML table, and those that worker.listen() adds while it runs.

The sockets are the master's: they come by inheritance, or over the link when a handler asks for an address; here they
meet their protocol and their callbacks. Nothing accepts before start(), after on_worker_start has returned, and nothing
does after stop().
"""

from __future__ import annotations

import asyncio
import enum
import socket
from collections.abc import Iterator

from workermand import address
from workermand.errors import ConfigError, ControlError
from workermand.link import Listen, Unlisten
from workermand.protocols import registry
from workermand.spec import ListenSpec, ServerSpec
from workermand.worker import handlers, web
from workermand.worker.datagram import DatagramListener
from workermand.worker.handlers import Handlers
from workermand.worker.listener import Listener
from workermand.worker.orders import Answer, Orders, close_all
from workermand.worker.worker import Worker

AnyListener = Listener | DatagramListener


class State(enum.Enum):
    WAITING = "waiting"
    ACCEPTING = "accepting"
    STOPPED = "stopped"


class Listeners:
    """Process: the child; thread: the one that runs the loop."""

    def __init__(self, server: ServerSpec, worker: Worker, orders: Orders, loop: asyncio.AbstractEventLoop) -> None:
        self._server = server
        self._worker = worker
        self._orders = orders
        self._loop = loop
        self._state = State.WAITING
        self._listeners: list[AnyListener] = []
        self._extra: dict[str, AnyListener | asyncio.Future[None]] = {}
        """What listen() has asked for, by URI; the future of the request until the master has answered."""

    def __iter__(self) -> Iterator[AnyListener]:
        return iter(self._listeners)

    @property
    def paused(self) -> bool:
        return any(listener.paused for listener in self._listeners)

    @property
    def pending(self) -> int:
        """Connections that are accepted but not yet among worker.connections."""
        return sum(listener.pending for listener in self._listeners)

    def add(self, listen: ListenSpec, socks: list[socket.socket], callbacks: Handlers | None = None) -> AnyListener:
        """Raises LoadError when there is no such protocol."""
        kind = DatagramListener if listen.transport == "udp" else Listener
        factory = registry.resolve(listen.protocol, self._server.protocols)
        made = web.serve(factory, self._worker, callbacks or self._worker.handlers)
        listener = kind(self._worker, listen, socks, made, callbacks)
        self._listeners.append(listener)
        if self._state is State.ACCEPTING:
            listener.start()
        return listener

    def start(self) -> None:
        self._state = State.ACCEPTING
        for listener in self._listeners:
            listener.start()

    def stop(self) -> None:
        """For good; our copies of the sockets are closed."""
        self._state = State.STOPPED
        for listener in self._listeners:
            listener.stop()

    def hang_up(self) -> None:
        """Handshakes that are under way come to nothing."""
        for listener in self._listeners:
            listener.hang_up()

    def adopt(self, uri: str, fds: list[int]) -> None:
        """More sockets of an address: the master has no other child for them."""
        for listener in self._listeners:
            if listener.spec.uri == uri and self._state is not State.STOPPED:
                listener.add_sockets([socket.socket(fileno=fd) for fd in fds])
                return
        close_all(fds)

    # ------------------------------------------------------------------ at run time

    def listen(self, uri: str, handler: object) -> asyncio.Future[None]:
        """See Worker.listen."""
        result: asyncio.Future[None] = self._loop.create_future()
        try:
            listen, callbacks = self._understand(uri, handler)
        except Exception as error:
            result.set_exception(error)
            return result
        self._extra[uri] = result

        def answered(answer: Answer, fds: list[int]) -> None:
            refusal = answer.error or self._refusal(uri, result)
            if refusal:
                close_all(fds)
                if self._extra.get(uri) is result:
                    del self._extra[uri]
                _settle(result, ControlError(refusal))
            else:
                self._extra[uri] = self.add(listen, [socket.socket(fileno=fd) for fd in fds], callbacks)
                _settle(result)

        self._orders.ask(lambda request: Listen(request, uri), answered)
        return result

    def unlisten(self, uri: str) -> asyncio.Future[None]:
        """See Worker.unlisten."""
        result: asyncio.Future[None] = self._loop.create_future()
        if uri not in self._extra:
            _settle(result, ControlError(f"listen() has not opened {uri}"))
            return result
        listener = self._extra.pop(uri)
        if not isinstance(listener, asyncio.Future):
            self._listeners.remove(listener)
            listener.stop()
        self._orders.send(Unlisten(uri))
        _settle(result)
        return result

    def _refusal(self, uri: str, result: asyncio.Future[None]) -> str:
        """Why a socket that has come is of no use any more."""
        if self._extra.get(uri) is not result:
            return f"{uri} was unlistened before it was open"
        return "this process is stopping" if self._state is State.STOPPED else ""

    def _understand(self, uri: str, handler: object) -> tuple[ListenSpec, Handlers | None]:
        """Everything that can be wrong without asking the master."""
        server = self._server
        schemes = tuple(server.protocols)
        listen = address.parse(uri, run_dir=server.run_dir, worker_name=self._worker.name, schemes=schemes)
        registry.resolve(listen.protocol, server.protocols)
        if listen.tls and self._worker.keyring is None:
            where = f"worker.{self._worker.name}: listen()"
            raise ConfigError(where, f'"{uri}" needs a certificate', "set `tls` of this worker in the TOML")
        if listen.transport == "tcp" and self._worker.proxy_protocol and not self._worker.trusted_proxies:
            where = f"worker.{self._worker.name}: listen()"
            raise ConfigError(where, f'"{uri}" needs to know its proxies', "set `trusted_proxies` of this worker")
        if uri in self._extra or any(listener.spec.uri == uri for listener in self._listeners):
            raise ControlError(f"this process listens on {uri} already")
        if handler is None:
            return listen, None
        return listen, handlers.load(handler) if isinstance(handler, str) else Handlers(handler)


def _settle(result: asyncio.Future[None], error: Exception | None = None) -> None:
    """Whoever waited may have gone."""
    if result.done():
        return
    if error is None:
        result.set_result(None)
    else:
        result.set_exception(error)
