"""The asking side of outboxes: order, Registers that are away, letters of several."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import hypothesis.strategies as st
import uvloop

from tests.conftest import wait_until
from tests.services.gateway.conftest import Client, cluster, register_of
from tests.services.gateway.test_gateway import id_of, pids
from workermand.services.gateway import BlockingGatewayClient, Delivery, GatewayClient, messages, plans
from workermand.services.gateway.outbox.posting import Outboxes, Poster
from workermand.services.gateway.plans import Plan, Posted
from workermand.services.links.errors import ServiceError, Unreachable
from workermand.services.links.later import Later
from workermand.testing import RunningServer, running_server

KEPT = Delivery(0, 0, 0, kept=1)


class Counter:
    """Where letters are put, by hand."""

    def __init__(self, up: bool = True) -> None:
        self.up = up
        self.asked: list[tuple[list[Any], Later[Any]]] = []
        self.queue: asyncio.Queue[tuple[list[Any], Later[Any]]] = asyncio.Queue()
        """The same."""

    def request(self, op: int, *rest: Any, timeout: float | None = None) -> Later[Any]:
        later: Later[Any] = Later("request")
        self.asked.append(([op, *rest], later))
        self.queue.put_nowait(self.asked[-1])
        return later


def outboxes(*ways: Counter) -> Outboxes:
    found = Outboxes()
    for way in ways:
        found.add(way, ways)
    return found


async def settled() -> None:
    """Whatever is scheduled has run."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_the_first_that_is_up_and_takes_it_keeps_it() -> None:
    async def play() -> None:
        down, full, good = Counter(up=False), Counter(), Counter()
        boxes = outboxes(down, full, good)
        kept = boxes.put(["7"], "x", False)
        full.asked[0][1].fail(ServiceError("the disk"))
        await settled()
        assert good.asked[0][0] == [messages.PUT, ["7"], "x", False]
        good.asked[0][1].fulfil(1)
        assert await kept == 1
        assert not down.asked
        lost = boxes.put(["7"], "y", False)
        full.asked[1][1].fail(ServiceError("the disk"))
        await settled()
        good.asked[1][1].fail(Unreachable("gone"))
        await settled()
        down.asked[0][1].fail(Unreachable("still"))
        assert await lost == 0

    asyncio.run(play())


def test_letters_of_several_outboxes_come_in_the_order_of_time() -> None:
    async def play() -> None:
        one, two, silent, down = Counter(), Counter(), Counter(), Counter(up=False)
        taking = asyncio.ensure_future(outboxes(one, two, silent, down).take("7"))
        await settled()
        one.asked[0][1].fulfil([[[1, 10.0, "a", False], [2, 30.0, "c", False]], False])
        two.asked[0][1].fulfil(
            [[[1, 20.0, "b", False], [2, 40.0, "later than what one has not said yet", False]], True]
        )
        silent.asked[0][1].fail(ServiceError("no answer"))
        taken = await taking
        assert [(letter.message, way) for letter, way in taken] == [("a", one), ("b", two), ("c", one)]
        done = asyncio.ensure_future(outboxes(one, two).acknowledge(taken))
        await settled()
        assert one.asked[1][0] == [messages.ACKNOWLEDGE, [1, 2]]
        one.asked[1][1].fulfil(2)
        await settled()
        assert two.asked[1][0] == [messages.ACKNOWLEDGE, [1]]
        two.asked[1][1].fulfil(1)
        await done

    asyncio.run(play())


SENDS = st.lists(st.lists(st.sampled_from("abc"), min_size=1, unique=True), min_size=1, max_size=12)


@hypothesis.given(SENDS, st.randoms(use_true_random=False))
@hypothesis.settings(deadline=None)
def test_letters_are_put_in_the_order_of_the_calls(sends: list[list[str]], chance: Any) -> None:
    """Whichever gateway answers first, and however slow the outbox is."""

    async def play() -> None:
        way = Counter()
        poster = Poster(outboxes(way))
        gateways: list[tuple[Plan[Posted], Later[Posted]]] = []

        def run(plan: Plan[Posted]) -> Later[Posted]:
            later: Later[Posted] = Later("gateways")
            gateways.append((plan, later))
            return later

        expected: dict[str, list[str]] = {}
        sent = []
        for number, uids in enumerate(sends):
            sent.append(poster.post(plans.send_to_uid(uids, str(number), False), run))
            for uid in uids:
                expected.setdefault(uid, []).append(str(number))
            if chance.random() < 0.5:
                answer_some(gateways, chance)
            await settled()
        put = 0
        while gateways or put < len(way.asked):
            if gateways:
                answer_some(gateways, chance)
            if put < len(way.asked) and chance.random() < 0.7:
                way.asked[put][1].fulfil(len(way.asked[put][0][1]))
                put += 1
            await settled()
        assert [await one for one in sent] == [Delivery(0, 0, 0, kept=len(uids)) for uids in sends]
        found: dict[str, list[str]] = {}
        for (_op, uids, message, _raw), _later in way.asked:
            for uid in uids:
                found.setdefault(uid, []).append(message)
        assert found == expected
        await poster.idle()

    asyncio.run(play())


def answer_some(gateways: list[tuple[Plan[Posted], Later[Posted]]], chance: Any) -> None:
    """Nobody is there, any of the gateways says."""
    plan, later = gateways.pop(chance.randrange(len(gateways)))
    later.fulfil(plan.combine([]))


def test_what_gateways_say_is_told_apart_by_uid() -> None:
    plan = plans.posting(plans.send_to_uid(["a", "b", "c"], "x", False), ["a", "b", "c"])
    assert plan.combine([[1, 1, ["a"]], plans.LOST, [2, 0, ["a", "c"]]]) == Posted(Delivery(3, 1, 1), ["b"])


# ---------------------------------------------------------------------------------------------------- real ones


@contextlib.contextmanager
def register(**outbox: Any) -> Iterator[RunningServer]:
    """One more."""
    options = {"outbox": outbox}
    handler = "workermand.services.gateway.register"
    with running_server(handler, listen="frame://127.0.0.1:0", options=options, reloadable=False) as server:
        yield server


def uri(server: RunningServer) -> str:
    return f"register://{server.address[0]}:{server.port}"


def on_blocking(registers: list[str], do: Callable[[BlockingGatewayClient], Any]) -> Any:
    with BlockingGatewayClient(registers) as gateway:
        return do(gateway)


def test_two_registers_keep_letters() -> None:
    """One is lost meanwhile, with what it has; the other one takes over, and all comes when it is back."""
    with register() as one, register() as two:
        registers = [uri(one), uri(two)]
        options = {"register": registers, "inner_ping": 0.2}
        with cluster(gateway=options, worker=options) as server, Client(server) as client:
            id = id_of(client)
            assert on_blocking(registers, lambda gateway: gateway.send_to_uid(7, "1")) == KEPT
            assert on_blocking(registers[1:], lambda gateway: gateway.send_to_uid(7, "2")) == KEPT
            assert on_blocking(registers, lambda gateway: gateway.send_to_uid(7, "3")) == KEPT
            assert on_blocking(registers, lambda gateway: gateway.bind_uid(id, 7)) is True
            assert [client.hear() for _ in range(3)] == ["1", "2", "3"]


def test_kill_9_of_the_register_loses_nothing_that_was_kept() -> None:
    async def push(server: RunningServer, id: str) -> list[str]:
        """What was kept."""
        kept: list[str] = []
        async with GatewayClient(register_of(server), ping=0.2) as gateway:
            for round in range(3):
                sent = [(f"{round} {number}", gateway.send_to_uid(7, f"{round} {number}")) for number in range(100)]
                if round == 1:
                    await sent[10][1]
                    os.kill(pids(server, "register")[0], signal.SIGKILL)
                kept += [message for message, one in sent if (await one).kept]
            assert await gateway.bind_uid(id, 7) is True
        return kept

    with cluster(register={"outbox": {}}, gateway={"inner_ping": 0.2}) as server, Client(server) as client:
        kept = uvloop.run(push(server, id_of(client)))
        assert len(kept) > 100
        heard: list[str] = []
        while not heard or heard[-1] != kept[-1]:
            heard.append(client.hear())
        assert set(kept) <= set(heard)


def test_without_an_outbox_nothing_is_kept() -> None:
    with cluster() as server, Client(server) as client:
        id_of(client)
        with BlockingGatewayClient(register_of(server)) as gateway:
            assert gateway.send_to_uid(7, "x") == Delivery(0, 0, 0)
        wait_until("its status is plain", lambda: "letters waiting" not in str(server.status()))
