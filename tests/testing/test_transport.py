"""MemoryTransport against the real thing: one script, played on it and on uvloop's, must give the same callbacks."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

from workermand.testing import MemoryTransport


class Recorder(asyncio.Protocol):
    """Notes every callback."""

    def __init__(self, keep_open: bool = False) -> None:
        self.calls: list[Any] = []
        self.keep_open = keep_open
        self.on_data: Callable[[bytes], None] = lambda data: None
        self.transport: Any = None
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.calls.append("made")

    def data_received(self, data: bytes) -> None:
        self.calls.append(data)
        self.on_data(data)

    def eof_received(self) -> bool:
        self.calls.append("eof")
        return self.keep_open

    def pause_writing(self) -> None:
        self.calls.append("pause")

    def resume_writing(self) -> None:
        self.calls.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.calls.append(type(exc) if exc else "lost")
        self.lost.set()


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def transport(recorder: Recorder) -> MemoryTransport:
    transport = MemoryTransport()
    transport.connect(recorder)
    return transport


def test_every_write_call_is_recorded(transport: MemoryTransport) -> None:
    transport.write(b"a")
    transport.write(bytearray(b"b"))
    transport.writelines([b"c", memoryview(b"d")])
    assert transport.writes == [b"a", b"b", b"cd"]
    assert transport.sent == b"abcd"
    with pytest.raises(TypeError, match="bytes-like, not str"):
        transport.write("text")  # type: ignore[arg-type]


def test_with_high_0_pause_means_that_the_kernel_did_not_take_everything(
    transport: MemoryTransport, recorder: Recorder
) -> None:
    transport.set_write_buffer_limits(high=0)
    assert transport.get_write_buffer_limits() == (0, 0)
    transport.write(b"taken")
    assert recorder.calls == ["made"]
    transport.stall()
    transport.write(b"12345")
    transport.write(b"678")
    assert recorder.calls == ["made", "pause"]
    assert transport.get_write_buffer_size() == 8
    transport.drain(6)
    assert transport.sent == b"taken123456"
    assert recorder.calls == ["made", "pause"]
    transport.drain()
    assert recorder.calls == ["made", "pause", "resume"]
    transport.write(b"9")
    assert transport.sent == b"taken123456789"
    assert transport.writes == [b"taken", b"12345", b"678", b"9"]


def test_ordinary_limits_resume_below_low(transport: MemoryTransport, recorder: Recorder) -> None:
    transport.set_write_buffer_limits(high=8, low=2)
    transport.stall()
    transport.write(b"x" * 8)
    assert recorder.calls == ["made"]
    transport.write(b"x")
    assert recorder.calls[1:] == ["pause"]
    transport.drain(6)
    assert recorder.calls[1:] == ["pause"]
    transport.drain(1)
    assert recorder.calls[1:] == ["pause", "resume"]


def test_close_flushes_and_then_ends_but_not_inside_close(transport: MemoryTransport, recorder: Recorder) -> None:
    transport.stall()
    transport.write(b"last words")
    transport.close()
    transport.close()
    assert transport.is_closing()
    transport.write(b"too late")
    transport.settle()
    assert recorder.calls == ["made"]
    transport.drain()
    assert transport.sent == b"last words"
    assert recorder.calls == ["made", "lost"]
    transport.lose()
    assert recorder.calls == ["made", "lost"]


def test_a_close_in_data_received_ends_after_it(transport: MemoryTransport, recorder: Recorder) -> None:
    def close(data: bytes) -> None:
        transport.close()
        assert "lost" not in recorder.calls

    recorder.on_data = close
    transport.receive(b"x")
    assert recorder.calls == ["made", b"x", "lost"]
    transport.receive(b"nobody hears it")
    assert recorder.calls == ["made", b"x", "lost"]


def test_abort_loses_what_is_unsent(transport: MemoryTransport, recorder: Recorder) -> None:
    transport.stall()
    transport.write(b"x")
    transport.abort()
    transport.settle()
    assert recorder.calls == ["made", "lost"]
    assert transport.aborted
    assert not transport.sent


def test_a_broken_connection(transport: MemoryTransport, recorder: Recorder) -> None:
    transport.lose()
    assert recorder.calls == ["made", ConnectionResetError]


def test_write_eof_waits_for_what_is_unsent(transport: MemoryTransport) -> None:
    assert transport.can_write_eof()
    transport.stall()
    transport.write(b"x")
    transport.write_eof()
    transport.write(b"not after the end")
    assert not transport.eof_sent
    transport.drain()
    assert transport.eof_sent
    assert transport.writes == [b"x"]
    assert not transport.is_closing()


@pytest.mark.parametrize("keep_open", [False, True])
def test_eof_closes_unless_it_is_answered_with_true(keep_open: bool) -> None:
    recorder, transport = Recorder(keep_open), MemoryTransport()
    transport.connect(recorder)
    transport.receive_eof()
    assert recorder.calls == ["made", "eof"] + (["lost"] if not keep_open else [])


def test_what_arrives_while_reading_is_paused_waits(transport: MemoryTransport, recorder: Recorder) -> None:
    transport.pause_reading()
    assert not transport.is_reading()
    transport.receive(b"a")
    transport.receive(b"b")
    assert recorder.calls == ["made"]
    recorder.on_data = lambda data: transport.pause_reading()
    transport.resume_reading()
    transport.settle()
    assert recorder.calls == ["made", b"a"]
    transport.resume_reading()
    transport.settle()
    assert recorder.calls == ["made", b"a", b"b"]


def test_extra_info_and_protocol() -> None:
    transport = MemoryTransport(extra={"peername": ("::1", 9, 0, 0), "socket": "a socket"})
    assert transport.get_extra_info("peername") == ("::1", 9, 0, 0)
    assert transport.get_extra_info("sockname") == ("127.0.0.1", 2347)
    assert transport.get_extra_info("socket") == "a socket"
    assert transport.get_extra_info("cipher", "none") == "none"
    first, second = Recorder(), Recorder()
    transport.connect(first)
    transport.set_protocol(second)
    transport.receive(b"x")
    assert transport.get_protocol() is second
    assert (first.calls, second.calls) == (["made"], [b"x"])


def test_with_a_loop_connection_lost_is_the_loops_to_call(recorder: Recorder) -> None:
    async def script() -> None:
        transport = MemoryTransport(loop=asyncio.get_running_loop())
        transport.connect(recorder)
        transport.close()
        transport.settle()
        assert recorder.calls == ["made"]
        await asyncio.sleep(0)
        assert recorder.calls == ["made", "lost"]

    run(script())


def test_uvloop_does_the_same(transport: MemoryTransport, recorder: Recorder) -> None:
    def play(transport: Any) -> None:
        transport.set_write_buffer_limits(high=0)
        transport.write(b"x" * (16 << 20))
        transport.close()
        transport.write(b"ignored")
        transport.abort()

    async def script() -> list[Any]:
        ours, theirs = socket.socketpair()
        with theirs:
            real = Recorder()
            await asyncio.get_running_loop().create_connection(lambda: real, sock=ours)
            play(real.transport)
            assert "lost" not in real.calls
            await real.lost.wait()
            return real.calls

    transport.stall()
    play(transport)
    transport.settle()
    assert recorder.calls == run(script()) == ["made", "pause", "lost"]


def run(script: Any) -> Any:
    loop = uvloop.new_event_loop()
    try:
        return loop.run_until_complete(script)
    finally:
        loop.close()
