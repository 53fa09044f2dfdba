"""The callbacks that connections run: those of the handler, shared by all, until one gets its own.

A snapshot: connections keep what was in force when they were accepted, and whether a callback is ``async def`` was
decided when it was taken. Listeners take snapshots, connections replace theirs when a handler assigns to them.
"""

from __future__ import annotations

import operator
from typing import Any

from workermand.worker.handlers import CONNECTION_CALLBACKS, Callback, Handlers, check, is_async

_take = operator.attrgetter(*CONNECTION_CALLBACKS)


class Callbacks:
    """Immutable by convention: many connections have the same."""

    __slots__ = (*CONNECTION_CALLBACKS, "asynchronous")

    on_connect: Callback | None
    on_message: Callback | None
    on_close: Callback | None
    on_error: Callback | None
    on_buffer_full: Callback | None
    on_buffer_drain: Callback | None
    on_websocket_connect: Callback | None
    on_websocket_connected: Callback | None
    on_websocket_ping: Callback | None
    on_websocket_pong: Callback | None
    on_websocket_close: Callback | None
    asynchronous: frozenset[str]
    """The names of those that are ``async def``."""

    def __init__(self, source: Handlers | Callbacks) -> None:
        for name, callback in zip(CONNECTION_CALLBACKS, _take(source), strict=True):
            setattr(self, name, callback)
        self._decide()

    def having(self, name: str, callback: Callback | None) -> Callbacks:
        """The same but for one. Raises LoadError for what cannot be called so."""
        check(name, callback)
        other = Callbacks(self)
        setattr(other, name, callback)
        other._decide()
        return other

    def _decide(self) -> None:
        callbacks = zip(CONNECTION_CALLBACKS, _take(self), strict=True)
        self.asynchronous = frozenset(name for name, callback in callbacks if callback and is_async(callback))


class Source:
    """Gives a listener's new connections their callbacks: one snapshot, until a handler assigns others."""

    __slots__ = ("_handlers", "_snapshot", "_taken")

    def __init__(self, handlers: Handlers) -> None:
        self._handlers = handlers
        self._taken: tuple[Any, ...] = _take(handlers)
        self._snapshot = Callbacks(handlers)

    def now(self) -> Callbacks:
        taken = _take(self._handlers)
        if taken != self._taken:
            self._taken = taken
            self._snapshot = Callbacks(self._handlers)
        return self._snapshot
