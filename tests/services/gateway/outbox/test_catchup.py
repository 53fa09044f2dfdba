"""Catching up on a real gateway: order, clients that do not read, processes that are killed on the way."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import uvloop

from tests.conftest import wait_until
from tests.services.gateway.conftest import Client, Transport, cluster, register_of
from tests.services.gateway.outbox.test_posting import Counter, settled
from tests.services.gateway.test_gateway import call, handshake, id_of, pids, read_frame
from workermand import ConnectionStatus
from workermand.services.gateway import BlockingGatewayClient, Delivery, GatewayClient, messages, registry, sessions
from workermand.services.gateway.commands import Commands
from workermand.services.gateway.messages import Place
from workermand.services.gateway.outbox.catchup import BEHIND, CatchUp
from workermand.services.gateway.outbox.posting import Outboxes
from workermand.services.gateway.outbox.store import Letter
from workermand.services.gateway.table import Client as Bound
from workermand.services.gateway.table import Table
from workermand.services.links.client import Link
from workermand.services.links.errors import ServiceError
from workermand.testing import RunningServer

KEPT = Delivery(0, 0, 0, kept=1)


@contextlib.asynccontextmanager
async def to_register(server: RunningServer) -> AsyncIterator[tuple[Link, asyncio.Queue[list[Any]]]]:
    heard: asyncio.Queue[list[Any]] = asyncio.Queue()
    (found,) = registry.servers(register_of(server), "")
    link = Link(found.address, messages.REGISTER, on_message=heard.put_nowait)
    await link.open()
    try:
        yield link, heard
    finally:
        await link.close()


def waiting(server: RunningServer) -> int:
    """Letters, as the status has them."""
    (register,) = [process for process in server.status()["processes"] if process["worker"] == "register"]
    return int(register["figures"]["letters waiting"])


def test_nothing_is_overtaken_by_what_is_sent_meanwhile(transport: Transport) -> None:
    """A stream that begins before the uid is bound, and does not pause."""

    async def stream(server: RunningServer, client: Client, id: str) -> None:
        async with GatewayClient(**transport.to(server)) as gateway:
            sent: list[Any] = []
            for number in range(600):
                sent.append(gateway.send_to_uid(7, str(number)))
                if number == 200:
                    await sent[0]
                if number % 5 == 0:
                    await asyncio.sleep(0.001)
                if number == 300:
                    bound = gateway.bind_uid(id, 7)
            assert await bound is True
            deliveries = [await one for one in sent]
            assert all(bool(one) is not bool(one.kept) for one in deliveries)
        heard = [client.hear() for _ in range(600)]
        assert heard == [str(number) for number in range(600)]

    outbox: dict[str, Any] = {"register": {"outbox": {}}}
    with transport.cluster(gateways=2, **outbox) as server, Client(server) as client:
        uvloop.run(stream(server, client, id_of(client)))
        wait_until("all are acknowledged", lambda: waiting(server) == 0)


def test_letters_for_one_that_is_here_are_taken_at_once() -> None:
    """Put by somebody who has heard too late that it is bound."""

    async def play(server: RunningServer) -> None:
        async with to_register(server) as (link, _):
            assert await link.request(messages.OUTBOX) is True
            assert await link.request(messages.PUT, ["7", "9"], "late", False) == 2

    with cluster(register={"outbox": {}}) as server, Client(server) as client:
        call(client, "bind_uid", id_of(client), 7)
        uvloop.run(play(server))
        assert client.hear() == "late"
        wait_until("that one is acknowledged", lambda: waiting(server) == 1)


def test_what_was_taken_and_not_acknowledged_comes_again() -> None:
    """A gateway that dies in between: here it is one by hand, which takes the letters and goes."""

    async def play(server: RunningServer) -> None:
        async with to_register(server) as (link, heard):
            await link.request(messages.ANNOUNCE, Place("tcp://127.0.0.1:1", "00000000"), 60.0)
            with BlockingGatewayClient(register_of(server)) as gateway:
                await asyncio.to_thread(gateway.send_to_uid, 7, "again")
            assert await heard.get() == [messages.KEPT, 0, ["7"]]
            letters, is_all = await link.request(messages.TAKE, "7")
            assert [Letter(*one).message for one in letters] == ["again"]
            assert is_all

    with cluster(register={"outbox": {}}) as server, Client(server) as client:
        id = id_of(client)
        uvloop.run(play(server))
        call(client, "bind_uid", id, 7)
        assert client.hear() == "again"
        wait_until("it is acknowledged", lambda: waiting(server) == 0)


def test_a_gateway_that_is_killed_loses_no_letter(transport: Transport) -> None:
    """Its client does not read, so that not all of them are acknowledged."""
    outbox: dict[str, Any] = {"register": {"outbox": {"bytes": 100_000_000}}}
    with transport.cluster(**outbox) as server:
        with Client(server) as client, BlockingGatewayClient(**transport.to(server)) as gateway:
            id = id_of(client)
            for number in range(100):
                assert gateway.send_to_uid(7, f"{number} " + "x" * 100_000) == KEPT
            assert gateway.bind_uid(id, 7) is True
            wait_until("some are acknowledged, not all", lambda: 0 < waiting(server) < 90)
            (pid,) = pids(server, "gateway")
            os.kill(pid, signal.SIGKILL)
            first = last_of(client)
        with Client(server) as client, BlockingGatewayClient(**transport.to(server)) as gateway:
            id = id_of(client)
            assert gateway.bind_uid(id, 7) is True
            numbers = [int(client.hear().split()[0])]
            assert numbers[0] > 0
            while numbers[-1] < 99:
                numbers.append(int(client.hear().split()[0]))
            assert numbers == list(range(numbers[0], 100))
            assert first >= 0


def last_of(client: Client) -> int:
    """The last whole line of a connection that breaks."""
    last = -1
    with contextlib.suppress(OSError, AssertionError, ValueError):
        while True:
            line = client.hear()
            if len(line) > 100_000:
                last = int(line.split()[0])
    return last


def test_a_client_that_does_not_read_gets_the_rest_when_it_does() -> None:
    """And what is sent meanwhile, behind it."""
    buffer = {"send_to_client_buffer": 50_000}
    with cluster(register={"outbox": {"bytes": 100_000_000}}, gateway=buffer) as server, Client(server) as client:
        id = id_of(client)
        with BlockingGatewayClient(register_of(server)) as gateway:
            for number in range(100):
                assert gateway.send_to_uid(7, f"{number} " + "x" * 100_000) == KEPT
            gateway.bind_uid(id, 7)
            wait_until("it is full", lambda: gateway.send_to_uid(7, "full?").dropped)
            assert gateway.send_to_uid(7, "end") == Delivery(0, 1, 0, kept=1)
            heard = [client.hear().split()[0] for _ in range(100)]
            assert heard == [str(number) for number in range(100)]
            while (line := client.hear()) == "full?":
                pass
            assert line == "end"
            wait_until("nothing waits", lambda: waiting(server) == 0)


def test_raw_binary_and_text_on_websockets() -> None:
    with cluster(listen="websocket://127.0.0.1:0", register={"outbox": {}}) as server:
        with (
            BlockingGatewayClient(register_of(server)) as gateway,
            contextlib.closing(server.connect("gateway")) as sock,
        ):
            assert gateway.send_to_uid(7, "Zoë") == KEPT
            assert gateway.send_to_uid(7, b"\x00\xff") == KEPT
            assert gateway.send_to_uid(7, b"\x81\x03raw", raw=True) == KEPT
            handshake(sock, "/")
            id = read_frame(sock)[1].decode().removeprefix("id ")
            read_frame(sock)
            assert gateway.bind_uid(id, 7) is True
            assert read_frame(sock) == (1, "Zoë".encode())
            assert read_frame(sock) == (2, b"\x00\xff")
            assert read_frame(sock) == (1, b"raw")


def test_one_that_goes_before_the_end_leaves_the_rest() -> None:
    with cluster(register={"outbox": {}}) as server, BlockingGatewayClient(register_of(server)) as gateway:
        with Client(server) as client:
            gateway.bind_uid(id_of(client), 7)
            assert gateway.send_to_uid(7, "here") == Delivery(1, 0, 0)
            assert client.hear() == "here"
        wait_until("it has gone", lambda: not gateway.is_uid_online(7))
        assert gateway.send_to_uid(7, "gone") == KEPT
        with Client(server) as client:
            gateway.bind_uid(id_of(client), 7)
            assert client.hear() == "gone"
            assert gateway.send_to_uid(7, "back") == Delivery(1, 0, 0)
            assert client.hear() == "back"


# ---------------------------------------------------------------------------------------------------- by hand


class Line:
    """A client's connection."""

    status = ConnectionStatus.ESTABLISHED
    protocol = SimpleNamespace(name="text")
    max_send_buffer_size = 100

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def cork(self) -> None:
        pass

    def get_send_buffer_size(self) -> int:
        return 0

    def send(self, message: Any, raw: bool = False) -> bool:
        if message == "refused":
            raise TypeError("not this one")
        self.sent.append(message)
        return True


class Scene:
    """A gateway's parts around it, and an outbox by hand: what it is asked, and to be answered."""

    def __init__(self) -> None:
        self.table = Table(self._changed)
        self.commands = Commands(self.table, sessions.PACKED)
        self.way = Counter()
        outboxes = Outboxes()
        self.catchup = CatchUp(self.table, self.commands, outboxes)
        outboxes.add(self.way, [self.way])
        self.outboxes = outboxes
        self.line = Line()
        self.table.add(Bound("a", self.line))

    def _changed(self, kind: str, key: str, present: bool) -> None:
        (self.catchup.look if present else self.catchup.wake)(key)

    async def asked(self, op: int) -> tuple[list[Any], Any]:
        """The next request, which is this one."""
        (said, *rest), later = await asyncio.wait_for(self.way.queue.get(), 10)
        assert said == op
        return rest, later

    async def take(self, *texts: str) -> None:
        """It is asked for letters, and has these."""
        rest, later = await self.asked(messages.TAKE)
        assert rest == ["7"]
        later.fulfil([[[number, 1.0, text, False] for number, text in enumerate(texts)], True])
        if texts:
            rest, later = await self.asked(messages.ACKNOWLEDGE)
            assert rest == [list(range(len(texts)))]
            later.fulfil(len(texts))


def test_what_is_sent_behind_a_letter_that_is_on_its_way_waits_for_it() -> None:
    async def play() -> None:
        scene = Scene()
        post = scene.catchup.post
        assert post(["7"], "first", False) == (0, 0, [])  # its sender puts it now
        scene.table.bind("a", "7")
        await scene.take()
        assert post(["7"], "second", False) == (1, 0, ["7"])
        assert scene.line.sent == []
        scene.outboxes.hear(["7"])
        await scene.take("first")
        assert scene.line.sent == ["first"]
        await scene.take()
        await scene.take()  # GRACE is over
        await settled()
        assert scene.line.sent == ["first", "second"]
        assert post(["7"], "third", False) == (1, 0, ["7"])
        assert scene.line.sent[2:] == ["third"]

    asyncio.run(play())


def test_what_a_protocol_refuses_does_not_hold_up_the_rest() -> None:
    async def play() -> None:
        scene = Scene()
        scene.table.bind("a", "7")
        await scene.take("1", "refused", "2")
        await scene.take()
        assert scene.line.sent == ["1", "2"]

    asyncio.run(play())


def test_what_waits_goes_to_the_outbox_when_it_is_too_much_or_nobody_is_left() -> None:
    async def play() -> None:
        scene = Scene()
        post = scene.catchup.post
        scene.table.bind("a", "7")
        _, taking = await scene.asked(messages.TAKE)
        large = "x" * (BEHIND // 2)
        assert post(["7"], large, False) == (1, 0, ["7"])
        assert post(["7"], large, False) == (0, 1, [])
        assert (await scene.asked(messages.PUT))[0] == [["7"], large, False]
        assert post(["7"], b"raw", True) == (1, 0, ["7"])
        scene.table.remove("a")
        taking.fulfil([[], True])
        assert (await scene.asked(messages.PUT))[0] == [["7"], b"raw", True]

    asyncio.run(play())


def test_an_outbox_that_is_back_is_asked_for_all_who_are_here() -> None:
    async def play() -> None:
        scene = Scene()
        scene.table.add(Bound("b", Line()))
        scene.table.bind("a", "7")
        scene.table.bind("b", "8")
        for _ in range(2):
            (await scene.asked(messages.TAKE))[1].fulfil([[], True])
        await settled()
        scene.outboxes.add(scene.way, [scene.way])
        rest, later = await scene.asked(messages.LOOK)
        assert rest == [["7", "8"]]
        later.fulfil(["7"])
        await scene.take("back")
        assert scene.line.sent == ["back"]
        await scene.catchup.close()

    asyncio.run(play())


def test_a_letter_that_cannot_be_acknowledged_ends_it() -> None:
    """Or it would come again and again."""

    async def play() -> None:
        scene = Scene()
        scene.table.bind("a", "7")
        (await scene.asked(messages.TAKE))[1].fulfil([[[1, 1.0, "x", False]], True])
        (await scene.asked(messages.ACKNOWLEDGE))[1].fail(ServiceError("gone"))
        await settled()
        assert scene.line.sent == ["x"]
        assert scene.way.queue.empty()
        assert scene.catchup.post(["7"], "y", False) == (1, 0, ["7"])
        assert scene.line.sent == ["x", "y"]

    asyncio.run(play())
