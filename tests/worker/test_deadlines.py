"""Who is closed for taking too long, by a clock that the test advances."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from tests.worker.scene import SPEC, Scene
from tests.worker.test_upgrade import asking, said
from workermand.errors import CloseReason
from workermand.protocols.wsframe import frame
from workermand.spec import Heartbeat, HttpLimits, Limits, Timeouts
from workermand.testing import MemoryTransport
from workermand.worker.connection import Connection
from workermand.worker.deadlines import LOOKS, Deadlines
from workermand.worker.web import UpgradingWeb, Web

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n"
NEVER = Timeouts(idle=0, write_stall=0, header=0, body=0, keepalive=0)


class Watched(Scene):
    """A scene whose clock is ``now``: a second for each ``pass_``."""

    def __init__(self) -> None:
        super().__init__()
        self.deadlines = Deadlines(self.worker)
        self.now = 1000.0

    def settle(self, timeouts: Timeouts = NEVER, **settings: Any) -> None:
        self.worker.apply(msgspec.structs.replace(SPEC, timeouts=timeouts, **settings))

    def pass_(self, seconds: int = 1) -> None:
        for _ in range(seconds):
            self.now += 1
            self.deadlines.sweep(self.now)

    def web(self, sent: bytes = b"") -> tuple[Connection, MemoryTransport]:
        connection, transport = self.connect(Web())
        if sent:
            transport.receive(sent)
        return connection, transport


@pytest.fixture
def scene() -> Iterator[Watched]:
    made = Watched()
    yield made
    made.close()


# ---------------------------------------------------------------------------------------------------- idle


def test_idle_connections_are_closed_and_no_others(scene: Watched) -> None:
    scene.settle(Timeouts(idle=10))
    silent, _ = scene.connect()
    talking, transport = scene.connect()
    for _ in range(12):
        assert silent.close_reason is None or _ > 8
        transport.receive(b"x")
        scene.pass_()
    assert silent.close_reason is CloseReason.IDLE
    assert talking.close_reason is None


def test_an_answer_that_took_long_is_followed_by_a_whole_idle_time(scene: Watched) -> None:
    scene.settle(Timeouts(idle=3))
    done = scene.loop.create_future()

    async def wait(_connection: Connection, _data: Any) -> None:
        await done

    async def play() -> None:
        scene.on(on_message=wait)
        client, transport = scene.connect()
        transport.receive(b"long\n")
        scene.pass_(20)
        assert client.close_reason is None
        done.set_result(None)
        while client.is_waiting_for_handler:  # noqa: ASYNC110 -- the inbox has no event
            await asyncio.sleep(0)
        scene.pass_()
        assert client.close_reason is None
        scene.pass_(4)
        assert client.close_reason is CloseReason.IDLE

    scene.run(play())


def test_without_limits_nobody_is_closed_and_nothing_kept(scene: Watched) -> None:
    scene.settle(NEVER)
    clients = [scene.connect()[0], scene.web()[0], scene.web(GET[:10])[0], scene.web(POST)[0]]
    scene.pass_(1000)
    assert [client.close_reason for client in clients] == [None] * 4
    assert scene.deadlines._heard == {}


def test_a_long_idle_timeout_costs_a_look_now_and_then(scene: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.settle(Timeouts(idle=1000, keepalive=0))
    scene.connect()
    looks = []
    monkeypatch.setattr(Connection, "has_deadlines", property(lambda _connection: bool(looks.append(1))))
    scene.pass_(999)
    assert len(looks) <= 2 * LOOKS


# ---------------------------------------------------------------------------------------------------- not reading


def test_a_client_that_reads_nothing_is_aborted_and_a_slow_one_is_not(scene: Watched) -> None:
    scene.settle(Timeouts(write_stall=5))
    stuck, _ = scene.connect(stalled=True)
    slow, slow_transport = scene.connect(stalled=True)
    for connection in (stuck, slow):
        connection.send("x" * 1000)
    for _ in range(7):
        scene.pass_()
        slow_transport.drain(10)
        slow_transport.stall()
        if stuck.close_reason is None:
            stuck.send("more: only the buffer grows")
    assert stuck.close_reason is CloseReason.WRITE_STALL
    assert slow.close_reason is None


def test_write_stall_may_be_switched_off(scene: Watched) -> None:
    scene.settle(NEVER)
    stuck, _ = scene.connect(stalled=True)
    stuck.send("x")
    scene.pass_(100)
    assert stuck.close_reason is None


# ------------------------------------------------------------------------------------------------ unfinished requests


@pytest.mark.parametrize(("sent", "answer"), [(b"", b""), (GET[:20], b"HTTP/1.1 408 Request Timeout\r\n")])
def test_a_head_that_does_not_come(scene: Watched, sent: bytes, answer: bytes) -> None:
    scene.settle(Timeouts(header=10))
    connection, transport = scene.web(sent)
    scene.pass_(10)
    assert connection.close_reason is None
    scene.pass_(2)
    assert connection.close_reason is CloseReason.HEADER_TIMEOUT
    assert transport.sent[:30] == answer[:30]


def test_a_byte_now_and_then_does_not_help(scene: Watched) -> None:
    scene.settle(Timeouts(header=10))
    connection, transport = scene.web(GET[:20])
    for _ in range(12):
        transport.receive(b"a")
        scene.pass_()
    assert connection.close_reason is CloseReason.HEADER_TIMEOUT


def test_each_request_has_its_own_time(scene: Watched) -> None:
    scene.settle(Timeouts(header=3))
    scene.on(on_message=lambda connection, request: connection.send("ok"))
    connection, transport = scene.web(GET[:20])
    for _ in range(20):
        scene.pass_()
        transport.receive(GET[20:] + GET[:20])
    assert connection.close_reason is None


def test_a_body_slower_than_the_rate(scene: Watched) -> None:
    scene.settle(Timeouts(header=1, body=5), limits=Limits(http=HttpLimits(body_rate=100)))
    slow, slow_transport = scene.web(POST)
    quick, quick_transport = scene.web(POST)
    for _ in range(20):
        if slow.close_reason is None:
            slow_transport.receive(b"x" * 50)
        quick_transport.receive(b"x" * 150)
        scene.pass_()
    assert slow.close_reason is CloseReason.BODY_TIMEOUT
    assert slow_transport.sent.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert quick.close_reason is None
    for _ in range(8):  # it was quick, and has stopped
        scene.pass_()
    assert quick.close_reason is CloseReason.BODY_TIMEOUT


def test_a_body_that_we_do_not_read_is_not_slow(scene: Watched) -> None:
    scene.settle(Timeouts(body=5))
    connection, _transport = scene.web(POST)
    connection.pause_recv()
    scene.pass_(20)
    assert connection.close_reason is None


def test_between_two_requests(scene: Watched) -> None:
    scene.settle(Timeouts(keepalive=10, idle=3))
    scene.on(on_message=lambda connection, request: connection.send("ok"))
    connection, _transport = scene.web(GET)
    scene.pass_(9)
    assert connection.close_reason is None
    scene.pass_(3)
    assert connection.close_reason is CloseReason.IDLE


def test_an_answer_that_is_owed_is_waited_for(scene: Watched) -> None:
    scene.settle(Timeouts(keepalive=10))
    scene.on(on_message=lambda connection, request: None)
    connection, _transport = scene.web(GET)
    scene.pass_(100)
    assert connection.close_reason is None
    connection.send("at last")
    scene.pass_(9)
    assert connection.close_reason is None
    scene.pass_(5)
    assert connection.close_reason is CloseReason.IDLE


# ---------------------------------------------------------------------------------------------------- heartbeat


def test_a_silent_websocket_is_pinged_and_closed_unless_it_answers(scene: Watched) -> None:
    scene.settle(heartbeat=Heartbeat(interval=10, timeout=5))
    (dead, dead_transport), (alive, alive_transport) = [scene.connect(UpgradingWeb()) for _ in range(2)]
    for transport in (dead_transport, alive_transport):
        transport.receive(asking())
    scene.pass_(12)
    for transport in (dead_transport, alive_transport):
        assert transport.sent.endswith(frame(0x89, b""))
    alive_transport.receive(said(b"", 0x8A))
    scene.pass_(6)
    assert dead.close_reason is CloseReason.PING_TIMEOUT
    assert dead_transport.sent.endswith(frame(0x88, b"\x03\xe9ping timeout"))
    assert alive.close_reason is None
    scene.pass_(8)
    assert alive_transport.sent.count(frame(0x89, b"")) == 2


def test_who_talks_is_not_pinged(scene: Watched) -> None:
    scene.settle(heartbeat=Heartbeat(interval=3, timeout=3))
    _connection, transport = scene.connect(UpgradingWeb())
    transport.receive(asking())
    for _ in range(20):
        transport.receive(said("hi"))
        scene.pass_()
    assert frame(0x89, b"") not in transport.sent
