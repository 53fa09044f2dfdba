"""Callbacks beside on_message, and what becomes of what they raise."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from tests.worker.scene import Scene
from workermand.errors import CloseReason
from workermand.worker.connection import Connection
from workermand.worker.web import Web


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    made.close()


def test_the_rarer_ones_run_beside_the_handler_that_may_wait_for_them(scene: Scene) -> None:
    scene.limit(send_buffer=10)
    drained = asyncio.Event()

    async def on_message(connection: Connection, data: str) -> None:
        connection.send(data)
        await drained.wait()
        scene.log.append("done")

    async def on_buffer_full(connection: Connection) -> None:
        scene.log.append("full")

    async def on_buffer_drain(connection: Connection) -> None:
        drained.set()
        raise ValueError("drained")

    scene.on(on_message=on_message, on_buffer_full=on_buffer_full, on_buffer_drain=on_buffer_drain)
    connection, transport = scene.connect(stalled=True)
    transport.receive(b"x" * 20 + b"\n")
    scene.turn()
    assert scene.log == ["full"]
    transport.drain()
    scene.turn()
    assert scene.log == ["full", "done"] and scene.failures == [("on_buffer_drain", "ValueError: drained")]
    assert connection.close_reason is CloseReason.HANDLER_ERROR and not connection.wire.asides


def fail(*_: Any) -> None:
    raise ValueError("no")


def test_an_exception_ends_its_connection(scene: Scene) -> None:
    scene.on(on_message=fail)
    connection, transport = scene.connect()
    other, _ = scene.connect()
    transport.receive(b"a\n")
    assert scene.failures == [("on_message", "ValueError: no")]
    assert connection.close_reason is CloseReason.HANDLER_ERROR
    assert other.close_reason is None


def test_an_error_handler_keeps_it_open_unless_it_fails_too(scene: Scene) -> None:
    scene.on(on_message=fail)
    connection, transport = scene.connect()
    connection.error_handler = lambda error: scene.log.append(str(error))
    transport.receive(b"a\n")
    assert (scene.log, connection.close_reason) == (["no"], None)
    connection.error_handler = fail
    transport.receive(b"a\n")
    assert [where for where, _ in scene.failures] == ["on_message", "on_message", "error_handler"]
    assert connection.close_reason is CloseReason.HANDLER_ERROR


def test_what_is_the_clients_fault_is_answered_and_not_counted(scene: Scene) -> None:
    scene.on(on_message=lambda connection, request: connection.send(request.json()))
    connection, transport = scene.connect(Web())
    transport.receive(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{x")
    assert transport.sent.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert (scene.failures, connection.close_reason) == ([], None)
