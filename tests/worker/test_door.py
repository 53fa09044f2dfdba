"""When a door is open, whatever it leads to; listeners and datagrams have tests of their own."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.worker.scene import Scene, scene
from workermand.spec import ListenSpec
from workermand.worker.door import Door

__all__ = ["scene"]


class Letterbox(Door):
    """Datagrams are the simplest that can come."""

    held = False

    @property
    def _is_held(self) -> bool:
        return self.held

    def _prepared(self, sock: socket.socket) -> socket.socket:
        sock.setblocking(False)
        return sock

    def _readable(self, sock: socket.socket) -> None:
        self.letters = [*getattr(self, "letters", []), sock.recv(100)]

    def came(self) -> list[bytes]:
        return getattr(self, "letters", [])


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(type=socket.SOCK_DGRAM)
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def door(scene: Scene, pair: tuple[socket.socket, socket.socket]) -> Letterbox:
    made = Letterbox(scene.worker, ListenSpec(uri="test://", transport="udp", protocol="raw"))
    made.add_sockets([pair[0]])
    return made


def test_it_opens_with_the_start_and_shuts_in_a_pause(
    scene: Scene, door: Letterbox, pair: tuple[socket.socket, socket.socket]
) -> None:
    _, theirs = pair
    theirs.send(b"1")
    scene.turn()
    assert door.came() == [] and not door.paused
    door.start()
    scene.until(lambda: door.came() == [b"1"])
    door.pause()
    theirs.send(b"2")
    scene.turn()
    assert door.came() == [b"1"] and door.paused
    door.resume()
    scene.until(lambda: door.came() == [b"1", b"2"])


def test_something_else_may_hold_it(scene: Scene, door: Letterbox, pair: tuple[socket.socket, socket.socket]) -> None:
    door.held = True
    door.start()
    pair[1].send(b"1")
    scene.turn()
    assert door.came() == [] and door.paused
    door.held = False
    door.regulate()
    scene.until(lambda: door.came() == [b"1"])


def test_a_stop_is_for_good(scene: Scene, door: Letterbox, pair: tuple[socket.socket, socket.socket]) -> None:
    door.start()
    door.stop()
    door.start()
    door.resume()
    pair[1].send(b"1")
    scene.turn()
    assert door.came() == [] and not door.paused


def test_sockets_that_are_added_are_watched_at_once(
    scene: Scene, door: Letterbox, pair: tuple[socket.socket, socket.socket]
) -> None:
    door.start()
    more, theirs = socket.socketpair(type=socket.SOCK_DGRAM)
    with more, theirs:
        door.add_sockets([more])
        theirs.send(b"here")
        scene.until(lambda: door.came() == [b"here"])
        door.stop()
