"""events: lanes and sessions, with a gate that notes what it is told. With real ones: test_business.py."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from workermand import Worker
from workermand.services.gateway import messages, sessions
from workermand.services.gateway.events import CurrentApi, Dispatcher, Gateway
from workermand.services.gateway.inner import Gate
from workermand.services.gateway.messages import Place
from workermand.services.gateway.sessions import Patch
from workermand.services.links import wire
from workermand.services.links.later import Later


class Fake:
    """A gate, and the mesh that reports its changes."""

    def __init__(self) -> None:
        self.place = Place("tcp://127.0.0.1:1", "0" * 8)
        self.uri = self.place.uri
        self.codec = sessions.PACKED
        self.link = SimpleNamespace(up=True, send=self.sent)
        self.done: list[str] = []
        self.changes: list[tuple[int, str, Any, Later[Any]]] = []
        self.failures: list[BaseException] = []
        self.dispatcher: Dispatcher

    def sent(self, frame: bytes) -> bool:
        op, _number, ids = wire.unpack(frame[wire.HEAD :])
        assert op == messages.DONE
        self.done += ids
        return True

    def change(self, command: str, arguments: tuple[Any, ...]) -> Later[Any]:
        later: Later[Any] = Later(command)
        stamp = len(self.changes) + 1
        self.changes.append((stamp, command, arguments, later))
        self.dispatcher.changed(cast(Gate, self), stamp, command, arguments, later)
        return later

    def save(self, client_id: str, patch: Patch, session: dict[Any, Any]) -> None:
        Gate.save(cast(Gate, self), client_id, patch, session)

    def event(self, kind: int, id: str, body: Any = None, session: Any = None, applied: int = 0) -> None:
        encoded = sessions.PACKED.encode(session or {})
        message = [messages.EVENT, 0, kind, id, body, encoded, applied, ["192.0.2.1", 5, 7]]
        self.dispatcher.take(cast(Gate, self), message)

    def message(self, id: str, body: Any, session: Any = None, applied: int = 0) -> None:
        self.event(messages.ON_MESSAGE, id, body, session, applied)


def made(**callbacks: Any) -> Fake:
    fake = Fake()
    worker = SimpleNamespace(
        loop=asyncio.get_running_loop(), failed=lambda where, connection, error: fake.failures.append(error)
    )
    fake.dispatcher = Dispatcher(cast(Worker, worker), callbacks)
    return fake


def test_one_clients_events_wait_for_each_other_and_those_of_others_do_not() -> None:
    async def play() -> None:
        gates = {"slow": asyncio.Event(), "quick": asyncio.Event()}
        order: list[tuple[str, str]] = []

        async def on_message(id: str, body: str) -> None:
            await gates[id].wait()
            order.append((id, body))

        fake = made(on_message=on_message)
        for body in "12":
            fake.message("slow", body)
            fake.message("quick", body)
        gates["quick"].set()
        for _ in range(20):
            await asyncio.sleep(0)
        assert order == [("quick", "1"), ("quick", "2")]
        gates["slow"].set()
        await fake.dispatcher.idle()
        assert order[2:] == [("slow", "1"), ("slow", "2")]
        assert fake.done == ["quick", "quick", "slow", "slow"]

    asyncio.run(play())


def test_a_session_is_what_came_and_what_the_gateway_had_not_applied() -> None:
    async def play() -> None:
        seen: list[dict[str, Any]] = []

        def on_message(id: str, body: str) -> None:
            Gateway.session[body] = True
            seen.append(dict(Gateway.session))

        fake = made(on_message=on_message)
        fake.message("a", "1", {"x": 0})
        # Sent before the change above had reached the gateway:
        fake.message("a", "2", {"x": 0})
        # behind it, and behind something that another one has set;
        fake.message("a", "3", {"x": 5, "1": True}, applied=1)
        assert seen == [{"x": 0, "1": True}, {"x": 0, "1": True, "2": True}, {"x": 5, "1": True, "2": True, "3": True}]
        assert [change[2] for change in fake.changes] == [(["a"], {key: True}, []) for key in "123"]
        for change in fake.changes:
            change[3].fulfil(1)
        await asyncio.sleep(0)
        # all is applied and answered: the event says it all.
        fake.message("a", "4", {"y": 1}, applied=3)
        assert seen[3] == {"y": 1, "4": True}

    asyncio.run(play())


def test_changes_that_failed_are_no_longer_laid_over() -> None:
    async def play() -> None:
        seen: list[Any] = []

        def on_message(id: str, body: str) -> None:
            seen.append(dict(Gateway.session))
            Gateway.session["n"] = body

        fake = made(on_message=on_message)
        fake.message("a", "1")
        fake.changes[0][3].fail(ConnectionError("of ours"))
        await asyncio.sleep(0)
        fake.message("a", "2")
        assert seen == [{}, {}]

    asyncio.run(play())


def test_what_is_inside_of_a_session_is_looked_at_too() -> None:
    async def play() -> None:
        def on_message(id: str, body: str) -> None:
            Gateway.session["list"].append(body)

        fake = made(on_message=on_message)
        fake.message("a", "1", {"list": []})
        fake.message("a", "2", {"list": []})
        assert [change[2][1] for change in fake.changes] == [{"list": ["1"]}, {"list": ["1", "2"]}]

    asyncio.run(play())


def test_who_only_reads_saves_nothing() -> None:
    async def play() -> None:
        def on_message(id: str, body: str) -> None:
            assert Gateway.session["x"] == 1
            assert Gateway.origin == ("192.0.2.1", 5, 7, "tcp://127.0.0.1:1")

        fake = made(on_message=on_message, on_close=lambda id: Gateway.session.clear())
        fake.message("a", "1", {"x": 1})
        fake.event(messages.ON_CLOSE, "a", None, {"x": 1})
        assert (fake.changes, fake.failures) == ([], [])

    asyncio.run(play())


def test_exceptions_are_reported_and_end_their_event() -> None:
    async def play() -> None:
        async def on_message(id: str, body: str) -> None:
            Gateway.session["lost"] = True
            raise SystemExit(body)

        def on_connect(id: str) -> None:
            raise ValueError(id)

        fake = made(on_message=on_message, on_connect=on_connect)
        fake.event(messages.ON_CONNECT, "a")
        fake.message("a", "1")
        fake.event(messages.ON_WEBSOCKET_CONNECT, "a", None)
        fake.event(messages.ON_MESSAGE, "b", "nobody cares", None)
        fake.dispatcher.take(cast(Gate, fake), [messages.EVENT, 0, 3])
        await fake.dispatcher.idle()
        assert [type(error).__name__ for error in fake.failures][:2] == ["ValueError", "ValueError"]
        assert {type(error) for error in fake.failures[2:]} == {SystemExit}
        assert fake.changes == []
        assert sorted(fake.done) == ["a", "a", "a", "b"]

    asyncio.run(play())


def test_a_gateway_that_goes_takes_what_has_not_begun() -> None:
    async def play() -> None:
        go = asyncio.Event()
        handled: list[str] = []

        async def on_message(id: str, body: str) -> None:
            await go.wait()
            handled.append(body)

        fake = made(on_message=on_message)
        for body in "123":
            fake.message("a", body)
        fake.link.up = False
        fake.dispatcher.lost(cast(Gate, fake))
        go.set()
        await fake.dispatcher.idle()
        assert handled == ["1"]
        assert fake.done == []

    asyncio.run(play())


def test_a_gateway_that_comes_back_has_forgotten_what_is_at_work() -> None:
    """It is told of the end of events that it has sent over this link, and of no other: it counts them."""

    async def play() -> None:
        go = asyncio.Event()
        seen: list[Any] = []

        async def on_message(id: str, body: str) -> None:
            if body == "1":
                await fake.change("update_session", ([id], {"n": 1}))
                await go.wait()
            seen.append((body, Gateway.session.get("n")))

        fake = made(on_message=on_message)
        fake.message("a", "1")
        for _ in range(3):
            await asyncio.sleep(0)
        fake.changes[0][-1].fulfil(1)
        fake.link.up = False
        fake.dispatcher.lost(cast(Gate, fake))
        fake.link.up = True
        fake.message("a", "2", {"n": 5})
        go.set()
        await fake.dispatcher.idle()
        assert seen == [("1", 1), ("2", 5)]
        assert fake.done == ["a"]

    asyncio.run(play())


def test_outside_of_business_workers() -> None:
    api = CurrentApi()
    with pytest.raises(RuntimeError, match="elsewhere there is GatewayClient"):
        api.is_online("x")
    with pytest.raises(RuntimeError, match="only within on_connect"):
        _ = api.session
