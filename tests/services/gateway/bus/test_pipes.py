"""pipes: what one end makes of what comes, with a bus that notes what is published."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from tests.services.gateway.test_client import until
from workermand.services.gateway.bus import pipes
from workermand.services.gateway.bus.connection import Bus
from workermand.services.gateway.bus.pipes import HEAD, Pipe


class Wire:
    """A bus that carries what two ends say to each other, when it is told to."""

    def __init__(self, piece: int = 1000) -> None:
        self.piece = piece
        self.published: list[tuple[str, bytes, str]] = []
        self.ends: dict[str, End] = {}

    def publish(self, subject: str, data: bytes, reply: str = "") -> None:
        self.published.append((subject, data, reply))

    def carry(self) -> None:
        while self.published:
            subject, data, _reply = self.published.pop(0)
            self.ends[subject].pipe.hear(data, nobody=False)


class End:
    def __init__(self, wire: Wire, own: str, other: str, window: int = 10_000, ping: float = 60.0) -> None:
        self.heard: list[bytes] = []
        self.broken: list[str] = []
        self.drained = 0
        self.pipe = Pipe(
            cast(Bus, wire),
            own,
            other,
            window=window,
            ping=ping,
            on_message=self.heard.append,
            on_broken=self.broken.append,
            on_drain=self._drain,
        )
        wire.ends[own] = self

    def _drain(self) -> None:
        self.drained += 1


def two(**options: int) -> tuple[Wire, End, End]:
    wire = Wire()
    return wire, End(wire, "a", "b", **options), End(wire, "b", "a", **options)


def test_messages_of_any_size_arrive_whole_and_in_order() -> None:
    async def play() -> None:
        wire, a, b = two(window=1_000_000)
        messages = [bytes([size % 256]) * size for size in (0, 1, 990, 991, 992, 1983, 50_000, 3)]
        a.pipe.open()
        for message in messages:
            assert a.pipe.send(message)
        assert all(len(data) <= wire.piece for _subject, data, _reply in wire.published)
        assert {reply for _subject, _data, reply in wire.published} == {"a"}
        wire.carry()
        assert b.heard == messages
        assert (a.broken, b.broken) == ([], [])

    asyncio.run(play())


def test_what_is_on_the_way_is_limited() -> None:
    async def play() -> None:
        wire, a, b = two(window=3000)
        taken = 0
        while a.pipe.send(b"x" * 700):
            taken += 1
        assert (taken, a.pipe.unsent) == (5, 3500)
        wire.carry()
        assert a.drained == 0  # nothing was said about what has been taken
        b.pipe.probe()
        wire.carry()
        assert (a.drained, a.pipe.unsent) == (1, 0)
        assert a.pipe.send(b"more")
        # Much is said at once.
        wire, a, b = two(window=1_000_000)
        a.pipe.send(b"x" * pipes.SAY)
        wire.carry()
        assert a.pipe.unsent < 1000

    asyncio.run(play())


def test_a_message_that_is_missing_breaks_both_ends() -> None:
    async def play() -> None:
        wire, a, b = two()
        for number in range(3):
            a.pipe.send(b"%d" % number)
        del wire.published[1]
        wire.carry()
        assert b.heard == [b"0"]
        assert b.broken == ["message 1 is missing"]
        assert a.broken == ["it has ended the link"]
        assert not a.pipe.send(b"x")

    asyncio.run(play())


@pytest.mark.parametrize("stray", [b"", b"x", b"\xff" * 8, b"\xff" * 100, HEAD.pack(0, 1), HEAD.pack(9, 1), b"GET /"])
def test_strays_are_nothing(stray: bytes) -> None:
    async def play() -> None:
        wire, a, b = two()
        a.pipe.send(b"1")
        wire.carry()
        b.pipe.hear(stray, nobody=False)
        b.pipe.hear(HEAD.pack(pipes.LAST, 0) + b"1 again", nobody=False)
        b.pipe.hear(HEAD.pack(pipes.ALIVE, 2**64 - 1), nobody=False)
        a.pipe.send(b"2")
        wire.carry()
        assert b.heard == [b"1", b"2"]
        assert b.pipe.unsent == 0

    asyncio.run(play())


def test_nobody_and_ends() -> None:
    async def play() -> None:
        wire, a, b = two()
        a.pipe.end()
        wire.carry()
        assert (a.broken, b.broken) == ([], ["it has ended the link"])
        wire, a, b = two()
        a.pipe.hear(b"", nobody=True)
        a.pipe.hear(b"", nobody=True)
        assert a.broken == ["it is gone"]
        b.pipe.end_with("enough")
        assert b.broken == ["enough"]

    asyncio.run(play())


def test_who_is_silent_is_gone_and_who_is_not_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    async def play() -> None:
        wire = Wire()
        alone = End(wire, "a", "b", ping=0.01)
        await until("it is gone", lambda: is_broken(alone))
        assert alone.broken == ["it is silent"]
        wire, a, b = Wire(), *two()[1:]
        a, b = End(wire, "a", "b", ping=0.01), End(wire, "b", "a", ping=0.01)
        for _ in range(20):
            await asyncio.sleep(0.01)
            wire.carry()
        assert (a.broken, b.broken) == ([], [])

    async def is_broken(end: End) -> bool:
        return bool(end.broken)

    monkeypatch.setattr(pipes, "PROBE", 0.05)
    asyncio.run(play())


def test_a_message_that_is_too_large_is_not_sent_and_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    async def play() -> None:
        wire, a, b = two(window=100_000)
        monkeypatch.setattr(pipes, "PACKAGE", 3000)
        assert not a.pipe.send(b"x" * 3001)
        assert a.pipe.send(b"x" * 3000)
        monkeypatch.setattr(pipes, "PACKAGE", 2000)
        wire.carry()
        assert b.broken == ["a message of more than 2000 bytes"]

    asyncio.run(play())
