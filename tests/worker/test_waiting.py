"""Tasks that wait for a connection: drained, gone, cancelled."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.worker.scene import Scene
from workermand.errors import ConnectionLost
from workermand.worker.connection import Connection
from workermand.worker.web import Web
from workermand.worker.wire import SPILL


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    made.close()


def test_a_fast_client_is_not_waited_for(scene: Scene) -> None:
    connection, transport = scene.connect()
    connection.send("x" * SPILL)
    scene.run(connection.drain())
    assert len(transport.sent) == SPILL + 1


def test_little_is_not_waited_for(scene: Scene) -> None:
    connection, _ = scene.connect(stalled=True)
    connection.send("x" * 1000)
    scene.run(connection.drain())


def test_a_slow_client_is_waited_for_until_it_has_taken_all(scene: Scene) -> None:
    connection, transport = scene.connect(stalled=True)
    connection.send("x" * SPILL)
    drained = [scene.loop.create_task(connection.drain()) for _ in range(2)]
    scene.turn()
    transport.drain(SPILL)
    scene.turn()
    assert not any(task.done() for task in drained)
    assert len(scene.worker.waiting) == 2
    transport.drain()
    scene.turn()
    assert all(task.done() for task in drained)
    assert len(scene.worker.waiting) == 0


def test_what_a_turn_has_collected_goes_out_before_the_wait(scene: Scene) -> None:
    async def answer(connection: object, data: str) -> None:
        for _ in range(3):
            scene.worker.connections[1].send("x" * (SPILL // 2))
            await scene.worker.connections[1].drain()
            scene.log.append(len(transport.sent))

    scene.on(on_message=answer)
    _, transport = scene.connect()
    transport.receive(b"go\n")
    scene.turn()
    assert scene.log[-1] >= SPILL


def test_the_end_of_a_connection_ends_the_wait(scene: Scene) -> None:
    connection, transport = scene.connect(stalled=True)
    connection.send("x" * SPILL)
    draining = scene.loop.create_task(connection.drain())
    closing = scene.loop.create_task(connection.wait_gone())
    scene.turn()
    transport.lose()
    scene.turn()
    with pytest.raises(ConnectionLost, match="reset by peer"):
        draining.result()
    assert closing.done()
    scene.run(connection.wait_gone())
    with pytest.raises(ConnectionError):
        scene.run(connection.drain())


def test_who_is_cancelled_leaves_nothing_behind(scene: Scene) -> None:
    connection, transport = scene.connect()
    first, second = [scene.loop.create_task(connection.wait_gone()) for _ in range(2)]
    scene.turn()
    first.cancel()
    scene.turn()
    assert (first.cancelled(), len(scene.worker.waiting)) == (True, 1)
    second.cancel()
    transport.lose()
    scene.turn()
    assert len(scene.worker.waiting) == 0


async def answer_late(connection: Connection, request: object) -> None:
    await connection.wait_gone()
    await connection.wait_gone()
    connection.send("late")


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_client_that_closes_its_half_has_gone_and_may_read(scene: Scene, version: str) -> None:
    scene.on(on_message=answer_late)
    _, transport = scene.connect(Web())
    transport.receive(f"GET / HTTP/{version}\r\nHost: a\r\n\r\n".encode())
    scene.turn()
    assert transport.is_reading()
    assert not transport.sent
    transport.receive_eof()
    scene.turn()
    assert transport.sent.endswith(b"late")
    assert transport.is_closing()
