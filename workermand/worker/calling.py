"""Callbacks other than on_message: how they are called, and what becomes of what they raise. Functions on Wire."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from workermand.errors import CloseReason, ConnectionLost
from workermand.worker import intake
from workermand.worker.status import ESTABLISHED

if TYPE_CHECKING:
    from workermand.worker.connection import Connection
    from workermand.worker.wire import Wire


def call(wire: Wire, name: str, connection: Connection, *args: object) -> None:
    """Runs the callback ``name``, if there is one."""
    callback = getattr(connection.callbacks, name)
    if callback is None:
        return
    try:
        result = callback(connection, *args)
    except BaseException as error:
        wire.failed(name, error, connection)
        return
    if name in connection.callbacks.asynchronous:
        # Not through the inbox: the on_message at work there may be waiting for just this callback.
        task = asyncio.Task(_beside(wire, name, connection, result), loop=wire.worker.loop)
        wire.asides = wire.asides or set()
        wire.asides.add(task)
        task.add_done_callback(wire.asides.discard)


async def _beside(wire: Wire, name: str, connection: Connection, coroutine: Coroutine[Any, Any, Any]) -> None:
    try:
        await coroutine
    except BaseException as error:
        wire.failed(name, error, connection)


def failed(wire: Wire, where: str, error: BaseException, connection: Connection) -> None:
    """A handler's exception ends its connection, and nothing else; unless it has an error_handler, or the exception
    only says that the peer was wrong, or is gone."""
    is_over = wire.status is not ESTABLISHED or wire.feed is intake.ignore
    if is_over and isinstance(error, ConnectionLost):
        wire.close(CloseReason.PEER_CLOSED)
        return
    if (answer := wire.protocol.answer_to(error)) is not None:
        if wire.status is ESTABLISHED:
            connection.send(answer)
        return
    wire.worker.failed(where, connection, error)
    try:
        if connection.error_handler is not None:
            connection.error_handler(error)
            return
    except BaseException as another:
        wire.worker.failed("error_handler", connection, another)
    wire.close(CloseReason.HANDLER_ERROR)
