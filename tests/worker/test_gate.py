"""How many connections a process takes, on real sockets: who is not admitted waits in the backlog, and is not lost."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PATIENCE
from tests.worker.conftest import Spawn
from tests.worker.scene import Scene, scene
from workermand.errors import CloseReason
from workermand.worker import gate as gate_module
from workermand.worker.gate import Gate
from workermand.worker.listener import Listener

__all__ = ["scene"]


class Crowd:
    """Blocking clients. Connecting needs nobody's accept: the kernel's backlog takes them."""

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []

    def come(self, listener: Listener, count: int = 1, ip: str = "127.0.0.1") -> list[socket.socket]:
        address = ("127.0.0.1", listener.spec.port)
        arrived = [socket.create_connection(address, PATIENCE, (ip, 0)) for _ in range(count)]
        self._sockets += arrived
        return arrived

    def go(self) -> None:
        for sock in self._sockets:
            sock.close()


@pytest.fixture
def crowd() -> Iterator[Crowd]:
    made = Crowd()
    yield made
    made.go()


class Clock:
    """Takes the place of the worker's loop: the same, but the test says what time it is."""

    def __init__(self, scene: Scene) -> None:
        self._loop = scene.loop
        self._now = 0.0
        self.alarm: asyncio.TimerHandle
        scene.worker.loop = self  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    def time(self) -> float:
        return self._now

    def call_at(self, when: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        self.alarm = asyncio.TimerHandle(when, callback, (), self)  # type: ignore[arg-type]
        return self.alarm

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """What a cancelled TimerHandle tells its loop."""

    def goes_to(self, now: float) -> None:
        self._now = now
        assert not self.alarm.cancelled()
        self._loop.call_soon(self.alarm._run)


def connected(scene: Scene) -> int:
    return len(scene.worker.connections)


def test_beyond_the_limit_of_connections_clients_wait_until_one_leaves(scene: Scene, crowd: Crowd) -> None:
    scene.limit(connections=2)
    listener = scene.listen()
    first, *_ = crowd.come(listener, 4)
    scene.until(lambda: connected(scene) == 2)
    scene.turn()
    assert connected(scene) == 2 and listener.paused
    first.close()
    scene.until(lambda: scene.worker.stats.accepted == 3)
    scene.turn()
    assert connected(scene) == 2 and listener.paused


def test_all_listeners_of_a_process_share_the_limit(scene: Scene, crowd: Crowd) -> None:
    scene.limit(connections=1)
    one, other = scene.listen(), scene.listen()
    (client,) = crowd.come(one)
    scene.until(lambda: connected(scene) == 1)
    crowd.come(other)
    scene.until(lambda: one.paused and other.paused)
    client.close()
    scene.until(lambda: scene.worker.stats.accepted == 2)
    assert Gate.of(scene.worker) is Gate.of(scene.worker)


def test_a_limit_that_is_raised_is_noticed_without_anybody_leaving(
    scene: Scene, crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_module, "RETRY", 0.01)
    scene.limit(connections=1)
    listener = scene.listen()
    crowd.come(listener, 2)
    scene.until(lambda: listener.paused)
    scene.limit(connections=0)
    scene.until(lambda: connected(scene) == 2)


def test_no_more_in_a_second_than_the_rate_allows(scene: Scene, crowd: Crowd) -> None:
    clock = Clock(scene)
    scene.limit(accept_rate=3)
    listener = scene.listen()
    crowd.come(listener, 7)
    for second, accepted in ((1, 3), (2, 6)):
        scene.until(lambda: listener.paused)
        scene.turn()
        assert scene.worker.stats.accepted == accepted and clock.alarm.when() == second
        clock.goes_to(second)
    scene.until(lambda: scene.worker.stats.accepted == 7)
    assert not listener.paused


def test_the_rate_is_one_of_all_listeners(scene: Scene, crowd: Crowd) -> None:
    clock = Clock(scene)
    scene.limit(accept_rate=1)
    one, other = scene.listen(), scene.listen()
    crowd.come(one)
    scene.until(lambda: connected(scene) == 1)
    crowd.come(other)
    scene.until(lambda: other.paused)
    clock.goes_to(1)
    scene.until(lambda: connected(scene) == 2)


def test_more_than_one_address_may_have_are_refused_and_counted(scene: Scene, crowd: Crowd) -> None:
    scene.limit(per_ip=2)
    listener = scene.listen()
    first, _second, third = crowd.come(listener, 3)
    scene.until(lambda: scene.worker.stats.closed[CloseReason.REFUSED_PER_IP] == 1)
    assert third.recv(1) == b"" and connected(scene) == 2 and not listener.paused
    first.close()
    scene.until(lambda: connected(scene) == 1)
    crowd.come(listener)
    scene.until(lambda: connected(scene) == 2)
    assert scene.worker.stats.closed[CloseReason.REFUSED_PER_IP] == 1


def test_each_address_is_counted_by_itself_whatever_listener_it_comes_through(scene: Scene, crowd: Crowd) -> None:
    scene.limit(per_ip=1)
    one, other = scene.listen(), scene.listen()
    crowd.come(one)
    scene.until(lambda: connected(scene) == 1)
    (refused,) = crowd.come(other)
    scene.until(lambda: scene.worker.stats.closed[CloseReason.REFUSED_PER_IP] == 1)
    assert refused.recv(1) == b""
    crowd.come(other, ip="127.0.0.2")
    scene.until(lambda: connected(scene) == 2)
    assert scene.worker.stats.closed[CloseReason.REFUSED_PER_IP] == 1


def test_clients_of_a_unix_socket_have_no_address_to_be_counted(scene: Scene, short_dir: Path) -> None:
    scene.limit(per_ip=1)
    listener = scene.listen(path=str(short_dir / "s"))
    clients = [socket.socket(socket.AF_UNIX) for _ in range(3)]
    for client in clients:
        client.connect(listener.spec.path)
    scene.until(lambda: connected(scene) == 3)
    for client in clients:
        client.close()


def test_nobody_is_counted_who_has_left(scene: Scene, crowd: Crowd) -> None:
    scene.limit(per_ip=3)
    listener = scene.listen()
    for _ in range(2):
        clients = crowd.come(listener, 3)
        scene.until(lambda: connected(scene) == 3)
        for client in clients:
            client.close()
        scene.until(lambda: connected(scene) == 0)
    assert not scene.worker.stats.closed[CloseReason.REFUSED_PER_IP]
    assert not Gate.of(scene.worker)._per_ip and not Gate.of(scene.worker)._ips


def test_one_who_resets_while_waiting_is_not_counted_for_ever(scene: Scene, crowd: Crowd) -> None:
    """accept() gives such a client, but its socket can't tell any more whose it was."""
    scene.limit(per_ip=1)
    listener = scene.listen(start=False)
    (hasty,) = crowd.come(listener)
    hasty.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    hasty.close()
    listener.start()
    scene.until(lambda: sum(scene.worker.stats.closed.values()) == 1)
    crowd.come(listener)
    scene.until(lambda: connected(scene) == 1)
    assert not scene.worker.stats.closed[CloseReason.REFUSED_PER_IP]


def test_who_came_before_there_was_a_limit_counts_for_nobody_else(scene: Scene, crowd: Crowd) -> None:
    """A limit that a reload brings holds for those who come from then on."""
    listener = scene.listen()
    (before,) = crowd.come(listener)
    scene.until(lambda: connected(scene) == 1)
    scene.limit(per_ip=1)
    crowd.come(listener)
    scene.until(lambda: connected(scene) == 2)
    before.close()
    scene.until(lambda: connected(scene) == 1)
    (refused,) = crowd.come(listener)
    scene.until(lambda: scene.worker.stats.closed[CloseReason.REFUSED_PER_IP] == 1)
    assert refused.recv(1) == b"" and connected(scene) == 1


def test_the_reserve_of_descriptors_is_not_for_clients(
    scene: Scene, crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One number in the reserve, and from then on it is looked first, whenever somebody leaves."""
    monkeypatch.setattr(gate_module, "RETRY", 3600.0)
    gate = Gate.of(scene.worker)
    gate._reserved = 0
    one, other = scene.listen(), scene.listen()
    first, _, _ = crowd.come(one, 3)
    scene.until(lambda: connected(scene) == 1 and one.paused)
    crowd.come(other)
    scene.until(lambda: other.paused)
    first.close()
    scene.until(lambda: connected(scene) == 0 and one.paused and other.paused)
    assert scene.worker.stats.accepted == 1
    gate._reserved = 1_000_000
    gate._wake()
    scene.until(lambda: connected(scene) == 3)


def test_with_few_descriptors_none_of_many_clients_is_lost(spawn: Spawn) -> None:
    """A real child with 160 descriptors, and 150 clients at once: it has some left all the time."""
    code = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (160, 160))
def on_message(connection, data):
    connection.send(data)
"""
    child = spawn.ready(code, listen="text")
    clients = [child.connect() for _ in range(150)]
    for number, client in enumerate(clients):
        client.sendall(f"{number}\n".encode())
    child.until("a pause", lambda: child.ask().paused)
    assert len(os.listdir(f"/proc/{child.pid}/fd")) <= 160 - gate_module.RESERVE + 2
    for number, client in enumerate(clients):
        assert client.recv(100) == f"{number}\n".encode()
        client.close()
    child.until("all of them", lambda: child.ask().accepted == 150)


def test_the_reserve_is_half_of_what_there_is_at_most(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    for soft, reserved in ((1024, 960), (100, 50)):
        monkeypatch.setattr(resource, "getrlimit", lambda _which, soft=soft: (soft, 4096))
        assert Gate(scene.worker)._reserved == reserved


def test_it_waits_when_accept_finds_no_descriptor(
    scene: Scene, crowd: Crowd, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(gate_module, "RETRY", 0.01)
    listener = scene.listen()

    class Exhausted:
        def accept(self) -> None:
            raise OSError(errno.EMFILE, "Too many open files")

    listener._readable(Exhausted())  # type: ignore[arg-type]
    assert listener.paused and listener.pending == 0 and "Too many open files" in caplog.text
    crowd.come(listener)
    scene.until(lambda: connected(scene) == 1)


def test_the_earliest_reason_to_look_again_counts(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_module, "RETRY", 3600.0)
    one, other = scene.listen(), scene.listen()
    gate = Gate.of(scene.worker)
    gate._wait(one, 0.01)
    gate.run_short(other)
    scene.until(lambda: not (one.paused or other.paused))
    gate.run_short(one)
    gate._wait(other, 0.01)
    scene.until(lambda: not (one.paused or other.paused))


def test_a_listener_that_waits_and_is_paused_stays_paused(scene: Scene, crowd: Crowd) -> None:
    scene.limit(connections=1)
    listener = scene.listen()
    first, _ = crowd.come(listener, 2)
    scene.until(lambda: listener.paused)
    listener.pause()
    first.close()
    scene.until(lambda: connected(scene) == 0)
    scene.turn()
    assert connected(scene) == 0 and listener.paused
    listener.resume()
    scene.until(lambda: connected(scene) == 1)


def test_a_stopped_listener_is_forgotten(scene: Scene, crowd: Crowd) -> None:
    one, other = scene.listen(), scene.listen()
    gate = Gate.of(scene.worker)
    (client,) = crowd.come(other)
    scene.until(lambda: connected(scene) == 1)
    gate.run_short(one)
    one.stop()
    assert not gate.keeps(one) and not one.paused
    client.close()
    scene.until(lambda: connected(scene) == 0)


def test_the_lowest_free_number() -> None:
    """Also of a process without standard input."""
    code = "import os; from workermand.worker import gate; {}; print(gate._lowest_free())"

    def print_with(prepare: str) -> str:
        return subprocess.check_output([sys.executable, "-c", code.format(prepare)], text=True)

    assert print_with("os.close(0)") == "0\n"
    everything = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (9, 9)); [os.dup(1) for _ in range(6)]"
    assert print_with(everything) == "9\n", "none is free"
