"""routing: one client's events in order, whatever becomes of business workers. Against a model, and case by case."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from workermand.services.gateway import messages
from workermand.services.gateway.routing import WAITING, WINDOW, Mate, Router, Stream, at_random, least_connections
from workermand.services.gateway.table import Client

KEYS = st.sampled_from(["one", "two", "three"])
IDS = st.sampled_from(["a", "b", "c"])


class Connection:
    """Of a client."""

    def __init__(self) -> None:
        self.is_read = True

    def pause_recv(self) -> None:
        self.is_read = False

    def resume_recv(self) -> None:
        self.is_read = True


class Worker(Mate):
    """A business worker that notes what it gets."""

    def __init__(self, key: str, acknowledges: bool = True) -> None:
        self.key = key
        self.streams = {}
        self.leaving = False
        self.acknowledges = acknowledges
        self.is_full = False
        self.got: list[tuple[str, int, Any]] = []

    def send(self, stream: Stream, kind: int, body: Any) -> bool:
        if self.is_full:
            return False
        self.got.append((stream.client.id, kind, body))
        return True


def enter(router: Router, id: str = "a") -> Stream:
    return router.enter(Client(id, Connection()), None)


class AgainstAModel(RuleBasedStateMachine):
    """Events are numbered for each client; a worker handles them when the machine says so. With redelivery nothing may
    be missing or out of order, and one client is never with two workers at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.router = Router(least_connections, redeliver=True)
        self.streams = {id: enter(self.router, id) for id in "abc"}
        self.put: dict[str, int] = dict.fromkeys("abc", 0)
        self.handled: dict[str, list[int]] = {id: [] for id in "abc"}
        self.alive: list[Worker] = []

    def unhandled(self, id: str) -> list[Worker]:
        return [worker for worker in self.alive if any(entry[0] == id for entry in worker.got)]

    @rule(id=IDS)
    def message(self, id: str) -> None:
        self.put[id] += 1
        self.router.put(self.streams[id], messages.ON_MESSAGE, self.put[id])

    @rule(key=KEYS)
    def begins(self, key: str) -> None:
        former = self.router.mates.get(key)
        if former is not None and former in self.alive:
            self.alive.remove(former)  # type: ignore[arg-type]
        worker = Worker(key)
        self.alive.append(worker)
        self.router.add(worker)

    @rule(data=st.data())
    def handles(self, data: st.DataObject) -> None:
        if busy := [worker for worker in self.alive if worker.got]:
            worker = data.draw(st.sampled_from(busy))
            id, _kind, number = worker.got.pop(0)
            self.handled[id].append(number)
            self.router.done(worker, [id])

    @rule(data=st.data())
    def leaves(self, data: st.DataObject) -> None:
        if self.alive:
            self.router.leave(data.draw(st.sampled_from(self.alive)))

    @rule(data=st.data())
    def dies(self, data: st.DataObject) -> None:
        if self.alive:
            worker = data.draw(st.sampled_from(self.alive))
            self.alive.remove(worker)
            self.router.remove(worker)

    @rule(data=st.data())
    def fills(self, data: st.DataObject) -> None:
        if self.alive:
            data.draw(st.sampled_from(self.alive)).is_full = True

    @rule(data=st.data())
    def drains(self, data: st.DataObject) -> None:
        if self.alive:
            worker = data.draw(st.sampled_from(self.alive))
            worker.is_full = False
            self.router.drained(worker)

    @invariant()
    def nobody_is_overtaken(self) -> None:
        for id in "abc":
            assert len(self.unhandled(id)) <= 1
            assert self.handled[id] == list(range(1, len(self.handled[id]) + 1))

    def teardown(self) -> None:
        """In the end one worker handles all that is left, and what of all clients is the last."""
        streams = list(self.router.streams.values())
        for worker in self.alive:
            self.router.remove(worker)
        self.alive.clear()
        last = Worker("last")
        self.router.add(last)
        while last.got:
            id, _kind, number = last.got.pop(0)
            self.handled[id].append(number)
            self.router.done(last, [id])
        assert {id: len(numbers) for id, numbers in self.handled.items()} == self.put
        self.nobody_is_overtaken()
        assert all(one.client.connection.is_read for one in streams)
        for one in streams:
            self.router.close(one)
        while last.got:
            self.router.done(last, [last.got.pop(0)[0]])
        assert not self.router.streams and not last.streams


TestAgainstAModel = AgainstAModel.TestCase


def test_a_client_that_is_ahead_is_not_read() -> None:
    router, worker = Router(least_connections), Worker("one")
    client = enter(router)
    router.add(worker)
    for number in range(WINDOW + WAITING):
        router.put(client, messages.ON_MESSAGE, str(number))
        assert client.client.connection.is_read is (number < WINDOW + WAITING - 1)
    assert len(worker.got) == WINDOW
    router.done(worker, ["a"] * (WAITING - 1))
    assert not client.client.connection.is_read
    router.done(worker, ["a"])
    assert client.client.connection.is_read
    assert [body for _id, _kind, body in worker.got] == [str(number) for number in range(WINDOW + WAITING)]


def test_without_redelivery_what_it_had_is_lost_and_counted() -> None:
    router, first, second = Router(least_connections), Worker("one"), Worker("two")
    client = enter(router)
    router.add(first)
    for number in range(WINDOW + 1):
        router.put(client, messages.ON_MESSAGE, number)
    router.remove(first)
    assert router.lost == WINDOW
    router.add(second)
    assert second.got == [("a", messages.ON_MESSAGE, WINDOW)]


def test_the_last_event_ends_it() -> None:
    router, worker = Router(least_connections), Worker("one")
    client = enter(router)
    router.add(worker)
    router.put(client, messages.ON_CONNECT)
    router.close(client)
    assert [kind for _id, kind, _body in worker.got] == [messages.ON_CONNECT, messages.ON_CLOSE]
    assert list(worker.streams) == [client]
    router.done(worker, ["a", "a"])
    assert not worker.streams and not router.streams


def test_php_workers_say_nothing_of_what_they_did() -> None:
    router, worker = Router(least_connections), Worker("one", acknowledges=False)
    client = enter(router)
    router.add(worker)
    for number in range(3 * WINDOW):
        router.put(client, messages.ON_MESSAGE, number)
    assert len(worker.got) == 3 * WINDOW
    router.close(client)
    assert not worker.streams and not router.streams


def test_clients_that_nobody_knew() -> None:
    router = Router(least_connections)
    client = enter(router)
    router.put(client, messages.ON_CONNECT)
    router.close(client)
    assert router.dropped == 1 and not router.streams
    assert list(router.homeless) == []
    worker = Worker("one")
    router.add(worker)
    assert worker.got == []


def test_a_client_that_somebody_knew_is_ended_when_somebody_comes() -> None:
    router, first, second = Router(least_connections), Worker("one"), Worker("two")
    client = enter(router)
    router.add(first)
    router.put(client, messages.ON_CONNECT)
    router.remove(first)
    router.close(client)
    router.add(second)
    assert second.got == [("a", messages.ON_CLOSE, None)]


def test_who_is_chosen() -> None:
    router, one, two = Router(least_connections), Worker("one"), Worker("two")
    router.add(one)
    router.add(two)
    clients = [enter(router, id) for id in "abcd"]
    for client in clients:
        router.put(client, messages.ON_CONNECT)
    assert len(one.streams) == len(two.streams) == 2
    assert at_random([one], clients[0], 1, None) is one


def test_a_choice_for_each_event_waits_for_the_one_before() -> None:
    chosen = ["one"]
    router = Router(
        lambda mates, client, kind, body: next(mate for mate in mates if mate.key == chosen[0]), every_time=True
    )
    one, two, client = Worker("one"), Worker("two"), enter(router)
    router.add(one)
    router.add(two)
    router.put(client, messages.ON_MESSAGE, 1)
    chosen[0] = "two"
    router.put(client, messages.ON_MESSAGE, 2)
    assert (len(one.got), len(two.got)) == (1, 0)
    router.done(one, ["a"])
    assert two.got == [("a", messages.ON_MESSAGE, 2)]


def test_a_process_that_comes_back_takes_the_place_of_its_former_self() -> None:
    router, former, again = Router(least_connections), Worker("one"), Worker("one")
    router.add(former)
    client = enter(router)
    router.put(client, messages.ON_MESSAGE, 1)
    router.add(again)
    assert router.lost == 1
    router.put(client, messages.ON_MESSAGE, 2)
    assert again.got == [("a", messages.ON_MESSAGE, 2)]
