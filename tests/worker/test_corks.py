"""Corks: what is sent to a connection from elsewhere leaves in one write, in order, when the loop's turn ends."""

from __future__ import annotations

from typing import Any

from tests.worker.scene import Scene, scene
from workermand.protocols.raw import Raw
from workermand.worker.connection import Connection
from workermand.worker.wire import SPILL

__all__ = ["scene"]


def corked(scene: Scene, *words: str) -> tuple[Connection, Any]:
    connection, transport = scene.connect()
    connection.cork()
    for word in words:
        assert connection.send(word) is True
    assert transport.writes == []
    return connection, transport


def test_one_write_when_the_loop_has_turned(scene: Scene) -> None:
    connection, transport = corked(scene, "a", "b")
    connection.cork()
    connection.send("c")
    assert connection.get_send_buffer_size() == 6
    scene.turn()
    assert transport.writes == [b"a\nb\nc\n"] and connection.buffer_is_empty()
    connection.send("d")
    assert transport.writes[1:] == [b"d\n"]


def test_several_connections(scene: Scene) -> None:
    _, first = corked(scene, "a", "b")
    _, second = corked(scene, "c")
    scene.turn()
    assert (first.writes, second.writes) == ([b"a\nb\n"], [b"c\n"])


def test_in_a_turn_of_its_own_it_changes_nothing(scene: Scene) -> None:
    scene.on(on_message=lambda connection, data: [connection.send(data), connection.cork(), connection.send("!")])
    _, transport = scene.connect()
    transport.receive(b"a\n")
    assert transport.writes == [b"a\n!\n"]


def test_what_comes_in_meanwhile_is_answered_behind_it(scene: Scene) -> None:
    scene.on(on_message=lambda connection, data: connection.send(data))
    connection, transport = corked(scene, "a")
    transport.receive(b"b\n")
    assert transport.writes == [b"a\n", b"b\n"]
    connection.cork()
    connection.send("c")
    scene.turn()
    assert transport.writes[2:] == [b"c\n"]


def test_so_it_is_by_an_async_handler(scene: Scene) -> None:
    async def on_message(connection: Connection, data: str) -> None:
        connection.send(data)

    scene.on(on_message=on_message)
    connection, transport = scene.connect()
    transport.receive(b"b\n")
    connection.cork()
    connection.send("a")
    scene.turn()
    assert transport.writes == [b"a\n", b"b\n"]


def test_much_is_written_before(scene: Scene) -> None:
    connection, transport = corked(scene)
    connection.send("x" * SPILL)
    assert transport.writes == [b"x" * SPILL + b"\n"]
    connection.send("y")
    scene.turn()
    assert transport.writes[1:] == [b"y\n"]


def test_closed_behind_it(scene: Scene) -> None:
    connection, transport = corked(scene, "a")
    connection.close("bye")
    assert transport.writes == [b"a\nbye\n"]
    scene.turn()
    connection.cork()
    assert connection.send("b") is False and transport.writes == [b"a\nbye\n"]


def test_lost_meanwhile(scene: Scene) -> None:
    _, transport = corked(scene, "a")
    transport.lose()
    scene.turn()
    assert transport.writes == [] and scene.failures == []


def test_destroyed_meanwhile(scene: Scene) -> None:
    connection, transport = corked(scene, "a")
    connection.destroy()
    scene.turn()
    assert transport.writes == []


def test_the_protocol_swapped_meanwhile(scene: Scene) -> None:
    scene.note("on_message")
    connection, transport = corked(scene, "a")
    connection.protocol = Raw()
    connection.send("b")
    transport.receive(b"one\ntwo")
    assert transport.writes == [b"a\nb"] and scene.log == [b"one\ntwo"]
