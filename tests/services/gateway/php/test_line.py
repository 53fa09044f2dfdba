"""line: one connection to a gateway in PHP, which is played here byte for byte."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvloop

from tests.services.gateway.php.test_visitors import pack
from workermand.services.gateway import ids, wire
from workermand.services.gateway.php.commands import PhpCommands
from workermand.services.gateway.php.line import Line
from workermand.services.gateway.wire import Package
from workermand.services.links.address import Address
from workermand.services.links.errors import ServiceError, Unauthorized, Unreachable

HELLO = pack(202, b'{"secret_key":"swordfish"}')
ALIVE = pack(203)
YES = wire.answer(None)
COMMANDS = PhpCommands(ids.php_prefix("127.0.0.1", 2900))
A = "7f0000010b5400000001"


class Gateway:
    """One in PHP, and who has come to it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    async def hears(self, expected: bytes) -> None:
        assert await self._reader.readexactly(len(expected)) == expected

    async def is_left(self) -> None:
        """In good order, or with a reset: destroy() has no time for more."""
        with contextlib.suppress(ConnectionResetError):
            assert await self._reader.read() == b""

    def says(self, *said: bytes) -> None:
        self.writer.write(b"".join(said))


class Ours:
    """A line, and what has come of it."""

    def __init__(self, address: Address, **options: Any) -> None:
        self.events: list[Package] = []
        self.applied: list[int] = []
        self.ended: asyncio.Queue[str] = asyncio.Queue()
        self.line = Line(
            address,
            "gateway in PHP",
            on_event=self._event,
            on_end=lambda line, why: self.ended.put_nowait(why),
            **{"timeout": 30.0, "send_buffer": 1_000_000, "package": 1_000_000, **options},
        )

    def _event(self, line: Line, package: Package) -> None:
        self.events.append(package)
        self.applied.append(line.applied)

    def ask(self, name: str, *arguments: Any, stamp: int = 0) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def done(result: Any, error: ServiceError | None) -> None:
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        self.line.ask(COMMANDS.ask(name, arguments), done, stamp)
        return future


def play(
    ours: Callable[[Ours], Awaitable[None]], gateway: Callable[[Gateway], Awaitable[None]], **options: Any
) -> None:
    """The two parts of a piece."""

    async def both() -> None:
        guests: asyncio.Queue[Gateway] = asyncio.Queue()
        server = await asyncio.start_server(lambda *streams: guests.put_nowait(Gateway(*streams)), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]

        async def theirs() -> None:
            guest = await guests.get()
            await gateway(guest)
            guest.writer.close()

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(theirs())
                await ours(Ours(Address("127.0.0.1", port, ""), **options))
        finally:
            server.close()

    async def bounded() -> None:
        async with asyncio.timeout(60):
            await both()

    uvloop.run(bounded())


def test_answers_and_events_are_one_stream() -> None:
    event = pack(3, b"hello", b"a:0:{}", 1)

    async def ours(one: Ours) -> None:
        await one.line.open("swordfish")
        change = one.ask("set_session", [A], {"x": 1}, stamp=5)
        online = one.ask("are_online", [A])
        assert await change == 1
        assert await online == []
        await one.line.leave(30)
        assert one.applied == [0, 5]
        assert [package.body for package in one.events] == [b"hello", b"hello"]
        assert one.ended.get_nowait() == "closed by peer"

    async def gateway(guest: Gateway) -> None:
        await guest.hears(HELLO + ALIVE)
        guest.says(YES)
        await guest.hears(pack(204, b"", b'a:1:{s:1:"x";i:1;}', 1) + pack(11, b"", b"", 1))
        guest.says(event, wire.answer(1), pack(201), event)
        await guest.hears(pack(11, b"", b"", 1))
        guest.says(wire.answer(0))
        await guest.is_left()

    play(ours, gateway)


def test_without_a_key_nothing_is_said_of_it_and_the_last_events_are_read() -> None:
    async def ours(one: Ours) -> None:
        await one.line.open("")
        answered = one.ask("count")
        await one.line.idle()
        assert answered.result() == 7
        await one.line.leave(30)
        assert [package.command for package in one.events] == [1, 3, 4]

    async def gateway(guest: Gateway) -> None:
        await guest.hears(ALIVE)
        guest.says(YES)
        await guest.hears(pack(24))
        guest.says(wire.answer(7), pack(1, b"", b"", 2))
        await guest.is_left()
        guest.says(pack(3, b"x" * 500_000, b"", 2), pack(4, b"", b"", 2))

    play(ours, gateway)


def test_a_gateway_that_closes_at_once_has_another_key() -> None:
    async def ours(one: Ours) -> None:
        with pytest.raises(Unauthorized, match=r"closed the connection at once: is options\.php\.secret_key"):
            await one.line.open("swordfish")
        assert one.ended.empty()

    async def gateway(guest: Gateway) -> None:
        await guest.hears(HELLO + ALIVE)

    play(ours, gateway)


def test_one_that_says_nothing() -> None:
    async def ours(one: Ours) -> None:
        with pytest.raises(Unreachable, match=r"no answer within 0\.2 s"):
            await one.line.open("")

    async def gateway(guest: Gateway) -> None:
        await guest.hears(ALIVE)
        await guest.is_left()

    play(ours, gateway, timeout=0.2)


def test_nobody_there() -> None:
    async def ours() -> None:
        with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1"):
            await Ours(Address("127.0.0.1", 1, "")).line.open("")

    uvloop.run(ours())


@pytest.mark.parametrize(
    "said",
    [
        b"\0\0\0\0\x03",
        b"\xff\xff\xff\xff\x03" + b"x" * 24,
        b"\x7f\xff\xff\xffa",
        b"\0\0\0\x1c\x03" + b"\xff" * 23,
        wire.answer(1) + wire.answer(1),
        wire.answer([1]),
        wire.answer("GET / HTTP/1.1") * 2,
    ],
)
def test_bad_bytes_end_it(said: bytes) -> None:
    async def ours(one: Ours) -> None:
        await one.line.open("")
        asked = one.ask("count")
        assert await one.ended.get()
        if not said.startswith(wire.answer(1)):
            with pytest.raises(ServiceError):
                await asked
        later = one.ask("count")
        with pytest.raises(Unreachable, match="closed"):
            await later

    async def gateway(guest: Gateway) -> None:
        await guest.hears(ALIVE)
        guest.says(YES)
        await guest.hears(pack(24))
        guest.says(said)
        await guest.is_left()

    play(ours, gateway)


def test_an_answer_that_cannot_be_read_is_only_its_own_trouble() -> None:
    async def ours(one: Ours) -> None:
        await one.line.open("")
        with pytest.raises(ServiceError, match="an object"):
            await one.ask("get_sessions", [A])
        assert await one.ask("get_sessions", [A]) == {A: {"x": 1}}
        one.line.close()
        assert await one.ended.get() == "closed"

    async def gateway(guest: Gateway) -> None:
        await guest.hears(ALIVE)
        guest.says(YES)
        for session in (b'a:1:{s:1:"x";O:8:"stdClass":0:{}}', b'a:1:{s:1:"x";i:1;}'):
            await guest.hears(pack(203, b"", b"", 1))
            guest.says(len(session).to_bytes(4) + session)
        await guest.is_left()

    play(ours, gateway)


def test_what_was_asked_of_one_that_breaks() -> None:
    async def ours(one: Ours) -> None:
        await one.line.open("")
        asked = one.ask("count")
        with pytest.raises(Unreachable, match="may or may not have been done"):
            await asked
        await one.line.idle()
        await one.line.leave(30)

    async def gateway(guest: Gateway) -> None:
        await guest.hears(ALIVE)
        guest.says(YES)
        await guest.hears(pack(24))

    play(ours, gateway)


def test_a_gateway_that_does_not_hang_up_is_not_waited_for_any_longer() -> None:
    is_over = asyncio.Event()

    async def ours(one: Ours) -> None:
        await one.line.open("")
        await one.line.leave(0.1)
        assert await one.ended.get() == "closed"
        is_over.set()

    async def gateway(guest: Gateway) -> None:
        await guest.hears(ALIVE)
        guest.says(YES)
        await is_over.wait()

    play(ours, gateway)
