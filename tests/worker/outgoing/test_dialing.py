"""Happy Eyeballs, with real sockets on loopback and a name server that answers in any order."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import pytest

from tests.worker.outgoing.conftest import ClientScene, echo, playing
from tests.worker.outgoing.nameserver import AAAA, A, NameServer
from workermand.errors import ConnectError
from workermand.worker.outgoing import dialing
from workermand.worker.outgoing.names import Names

V4, V6 = socket.AF_INET, socket.AF_INET6


def dial(scene: ClientScene, server: NameServer, host: str = "a.test") -> Any:
    """The peer's name of the socket that won."""

    async def play() -> Any:
        names = await scene.names_of(server)
        async with playing(echo) as port:
            sock = await dialing.dial(scene.loop, names, host, port, lambda _sock: None)
            with sock:
                return sock.getpeername()[0]

    return scene.run(play())


def test_both_families(scene: ClientScene) -> None:
    server = NameServer()
    server.zone = {("a.test", A): ["127.0.0.1"], ("a.test", AAAA): []}
    assert dial(scene, server) == "127.0.0.1"


def test_ipv6_that_nobody_answers_for(scene: ClientScene) -> None:
    """IPv4 waits for it 50 ms, and then no longer."""
    server = NameServer()
    server.zone = {("a.test", A): ["127.0.0.1"]}
    assert dial(scene, server) == "127.0.0.1"


def test_the_next_address_is_tried_when_one_refuses(scene: ClientScene) -> None:
    server = NameServer()
    server.zone = {("a.test", A): ["127.0.0.2", "127.0.0.3", "127.0.0.1"], ("a.test", AAAA): []}
    assert dial(scene, server) == "127.0.0.1"


def test_the_next_address_is_tried_when_one_is_silent(scene: ClientScene) -> None:
    """A backlog that is full takes nobody, and refuses nobody."""
    server = NameServer()

    async def play() -> None:
        names = await scene.names_of(server)
        async with playing(echo) as port:
            with socket.socket() as full, socket.socket() as first:
                full.bind(("127.0.0.2", port))
                full.listen(0)
                first.connect(full.getsockname())
                found = [(V4, ("127.0.0.2", port)), (V4, ("127.0.0.1", port))]
                names.look_up = lambda *_: answer(found)  # type: ignore[method-assign]
                sock = await dialing.dial(scene.loop, names, "a.test", port, lambda _sock: None)
                assert sock.getpeername()[0] == "127.0.0.1"
                sock.close()

    scene.run(play())


async def answer(found: list[Any]) -> list[Any]:
    return found


def test_a_late_family_is_not_lost(scene: ClientScene) -> None:
    """IPv6 is answered at once, and refuses; IPv4 comes when that is over."""
    server = NameServer()
    server.zone = {("a.test", A): ["127.0.0.1"], ("a.test", AAAA): ["::1"]}
    server.late = {("a.test", A): 0.2}
    assert dial(scene, server) == "127.0.0.1"


def test_all_that_was_tried_is_told(scene: ClientScene, free_port: Callable[[], int]) -> None:
    server = NameServer()
    server.zone = {("a.test", A): ["127.0.0.2", "127.0.0.3"], ("a.test", AAAA): []}
    port = free_port()

    async def play() -> None:
        names = await scene.names_of(server)
        with pytest.raises(ConnectError) as caught:
            await dialing.dial(scene.loop, names, "a.test", port, lambda _sock: None)
        words = str(caught.value)
        assert f"127.0.0.2:{port}: Connection refused" in words and f"127.0.0.3:{port}: Connection refused" in words

    scene.run(play())


def test_who_gives_up_leaves_no_socket(scene: ClientScene) -> None:
    server = NameServer()

    async def play() -> None:
        names = await scene.names_of(server)
        with socket.socket() as full, socket.socket() as first:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            first.connect(full.getsockname())
            port = full.getsockname()[1]
            made: list[socket.socket] = []
            server.zone = {("a.test", A): ["127.0.0.1"], ("a.test", AAAA): []}
            task = asyncio.ensure_future(dialing.dial(scene.loop, names, "a.test", port, made.append))
            while not made:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert [sock.fileno() for sock in made] == [-1]

    scene.run(play())


def test_no_descriptors(scene: ClientScene, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_socket(*_: Any) -> socket.socket:
        raise OSError(24, "Too many open files")

    async def play() -> None:
        monkeypatch.setattr(dialing.socket, "socket", no_socket)
        with pytest.raises(ConnectError, match="Too many open files"):
            await dialing.dial(scene.loop, Names(scene.loop), "127.0.0.1", 1, lambda _sock: None)

    scene.run(play())


def test_families_take_turns() -> None:
    four = [(V4, ("a", 1)), (V4, ("b", 1)), (V4, ("c", 1))]
    six = [(V6, ("d", 1))]
    assert dialing._interleaved(four, six) == [six[0], *four]  # type: ignore[arg-type]
