"""How a child leaves, step by step: with stand-ins for connections, so that each can be in any state."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import uvloop

from workermand.errors import CloseReason
from workermand.spec import WorkerSpec
from workermand.worker import drain as drain_module
from workermand.worker.drain import Drain
from workermand.worker.worker import Worker

LONG = 1000.0


class Connection:
    """Says what it was told, and ends when the test or an abort() says so."""

    def __init__(self, worker: Worker, *, between: bool = True, moves: str = "") -> None:
        self.worker = worker
        self.number = worker.next_connection_id()
        worker.connections[self.number] = self  # type: ignore[assignment]
        self.between_messages = between
        self.moves = moves
        self.bytes_read = 0
        self.told: list[str] = []

    def wind_down(self) -> None:
        self.told.append("wind down")

    def finish(self, reason: CloseReason) -> None:
        self.told.append(f"finish: {reason}")

    def close_lingering(self, reason: CloseReason) -> None:
        self.told.append(f"close: {reason}")

    def abort(self, reason: CloseReason) -> None:
        self.told.append(f"abort: {reason}")
        self.end(reason)

    def end(self, reason: CloseReason = CloseReason.PEER_CLOSED) -> None:
        if self.number in self.worker.connections:
            self.worker.forget(self.number, reason)


class Doors:
    """What Drain needs of Listeners."""

    def __init__(self, log: list[str]) -> None:
        self.log = log
        self.pending = 0

    def stop(self) -> None:
        self.log.append("listeners stopped")

    def hang_up(self) -> None:
        """No handshakes here."""


class Scene:
    def __init__(self) -> None:
        self.loop = uvloop.new_event_loop()
        self.worker = Worker(WorkerSpec(name="echo", handler="apps.echo"), loop=self.loop)
        self.log: list[str] = []
        self.doors = Doors(self.log)
        self.drain = Drain(self.loop, self.worker, self.doors, self.reload, lambda r: self.log.append(f"left: {r}"))  # type: ignore[arg-type]
        self.reload_time = 0.0

    def reload(self) -> asyncio.Task[None]:
        self.log.append("reload")
        return self.loop.create_task(asyncio.sleep(self.reload_time))

    def until_done(self) -> None:
        self.loop.run_until_complete(asyncio.wait_for(asyncio.shield(self.drain.done), 20))

    def turn(self) -> None:
        self.loop.run_until_complete(asyncio.sleep(0))


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    made.loop.close()


def test_without_connections_it_is_over_at_once(scene: Scene) -> None:
    scene.drain.started()
    assert not scene.drain.is_asked
    scene.drain.begin("drain", LONG, "TERM")
    assert scene.drain.is_asked and scene.drain.done.done()
    assert scene.log == ["listeners stopped", "left: TERM"]


def test_retire_waits_for_connections_to_end_by_themselves(scene: Scene) -> None:
    one, two = Connection(scene.worker), Connection(scene.worker)
    scene.drain.started()
    scene.drain.begin("retire", LONG, "retire")
    one.end()
    assert not scene.drain.done.done()
    two.end()
    assert scene.drain.done.done()
    assert one.told == two.told == []


def test_retire_closes_http_connections_once_they_are_quiet(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain_module, "QUIET", 0.01)
    quiet, talking = (Connection(scene.worker, moves="at once") for _ in range(2))
    scene.drain.started()
    scene.drain.begin("retire", LONG, "retire")
    assert quiet.told == talking.told == ["wind down"]
    talking.bytes_read += 1
    scene.loop.run_until_complete(asyncio.sleep(0.02))
    assert quiet.told == ["wind down", "finish: reloaded"]
    assert talking.told == ["wind down"], "its next answer is its last"


def test_retire_closes_websockets_in_turn(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain_module, "SLICE", 0.01)
    sockets = [Connection(scene.worker, moves="in turn") for _ in range(10)]
    scene.drain.started()
    scene.drain.begin("retire", 0.06, "retire")  # four slices
    told = [sum(map(len, (socket.told for socket in sockets)))]
    while told[-1] < 10:
        scene.loop.run_until_complete(asyncio.sleep(0.005))
        told.append(sum(map(len, (socket.told for socket in sockets))))
    assert told[0] == 3
    assert all(socket.told == ["finish: reloaded"] for socket in sockets)


def test_drain_asks_each_to_finish(scene: Scene) -> None:
    one = Connection(scene.worker)
    scene.drain.started()
    scene.drain.begin("drain", LONG, "stop()")
    assert one.told == ["finish: drained"]
    one.end(CloseReason.DRAINED)
    assert scene.drain.done.done()


def test_fast_closes_all_at_once(scene: Scene) -> None:
    connections = [Connection(scene.worker, between=False) for _ in range(3)]
    scene.drain.started()
    scene.drain.begin("fast", LONG, "fast")
    assert all(connection.told == ["abort: fast stop"] for connection in connections)
    assert scene.drain.done.done()
    assert scene.worker.stats.closed == {CloseReason.STOPPED: 3}


def test_fast_leaves_time_for_a_word(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain_module, "LINGER", 0.01)
    socket = Connection(scene.worker, moves="in turn")
    scene.drain.started()
    scene.drain.begin("fast", LONG, "fast")
    assert socket.told == ["close: fast stop"]
    scene.until_done()
    assert socket.told == ["close: fast stop", "abort: fast stop"]


def test_on_worker_reload_runs_before_the_listeners_close(scene: Scene) -> None:
    scene.drain.started()
    scene.drain.begin("retire", LONG, "retire", reload=True)
    assert scene.log == ["reload"]
    scene.until_done()
    assert scene.log == ["reload", "listeners stopped", "left: retire"]


def test_a_second_stop_only_tightens(scene: Scene) -> None:
    one = Connection(scene.worker)
    scene.drain.started()
    scene.drain.begin("retire", LONG, "retire")
    scene.drain.begin("drain", 2 * LONG, "TERM")
    assert one.told == ["finish: reloaded"]
    assert scene.drain.remaining() < LONG + 1
    scene.drain.begin("retire", LONG / 2, "retire")
    assert one.told == ["finish: reloaded"] * 2, "retire is milder than drain: drain it stays"
    assert scene.drain.remaining() < LONG / 2 + 1
    scene.drain.begin("fast", LONG, "fast")
    assert one.told[-1] == "abort: fast stop"
    assert scene.log == ["listeners stopped", "left: retire"], "once, for the first reason"


def test_at_the_deadline_the_rest_is_closed_with_a_reason(scene: Scene) -> None:
    idle, busy = Connection(scene.worker), Connection(scene.worker, between=False)
    owed = Connection(scene.worker, between=False, moves="at once")
    scene.drain.started()
    scene.drain.begin("retire", 0.01, "retire")
    scene.until_done()
    assert idle.told == ["close: drain deadline", "abort: drain deadline"], "lingering first; it did not end"
    assert busy.told == ["abort: drain deadline"]
    assert owed.told[-2:] == ["close: drain deadline", "abort: drain deadline"], "its client is told"


def test_a_connection_that_cannot_be_ended_holds_nothing_up(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain_module, "LINGER", 0.01)
    stuck = Connection(scene.worker)
    stuck.end = lambda _reason=None: None  # type: ignore[method-assign, assignment, misc]
    scene.drain.started()
    scene.drain.begin("drain", 0.0, "TERM")
    scene.until_done()
    assert scene.worker.connections


def test_one_whose_accept_is_under_way_is_waited_for_and_told_too(scene: Scene) -> None:
    scene.doors.pending = 1
    scene.drain.started()
    scene.drain.begin("drain", LONG, "TERM")
    assert not scene.drain.done.done()
    late = Connection(scene.worker)
    scene.doors.pending = 0

    async def told() -> None:
        while not late.told:  # noqa: ASYNC110 -- a stand-in has no event
            await asyncio.sleep(0.001)

    scene.loop.run_until_complete(asyncio.wait_for(told(), 20))
    assert set(late.told) == {"finish: drained"}
    late.end()
    assert scene.drain.done.done()


def test_the_deadline_comes_while_on_worker_reload_is_at_work(scene: Scene) -> None:
    scene.reload_time = 0.05
    scene.drain.started()
    scene.drain.begin("retire", 0.01, "retire", reload=True)
    scene.until_done()
    scene.loop.run_until_complete(asyncio.sleep(0.06))
    assert scene.log == ["reload", "listeners stopped", "left: retire"]


# ---------------------------------------------------------------------- while on_worker_start is at work


def start(scene: Scene) -> asyncio.Task[Any]:
    task = scene.loop.create_task(asyncio.sleep(LONG))
    scene.drain.starting(task)
    scene.turn()
    return task


def test_a_stop_meanwhile_waits_for_its_end(scene: Scene) -> None:
    task = start(scene)
    scene.drain.begin("drain", LONG, "stop()")
    scene.turn()
    assert not task.cancelled() and scene.log == []
    scene.drain.started()
    assert scene.drain.done.done() and scene.log == ["listeners stopped", "left: stop()"]
    task.cancel()


def test_a_fast_stop_cancels_it(scene: Scene) -> None:
    task = start(scene)
    scene.drain.begin("fast", LONG, "fast")
    scene.turn()
    assert task.cancelled()


def test_the_deadline_cancels_it(scene: Scene) -> None:
    task = start(scene)
    scene.drain.begin("drain", 0.01, "TERM")
    with pytest.raises(asyncio.CancelledError):
        scene.loop.run_until_complete(task)
