"""Servers that are killed and restarted, and consumers that break off, in the middle of the work."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
from collections.abc import Callable

import pytest

from tests.conftest import wait_until
from tests.services.channel.queue_client import Client, pid_of, serving
from workermand.services.channel import wire
from workermand.testing import RunningServer


class Work:
    """Producers that note what was confirmed, consumers that note what they got, each in a thread of its own; both
    come back whenever the server does. A consumer breaks off now and then with items in its hands."""

    def __init__(self, server: RunningServer) -> None:
        self.confirmed: set[int] = set()
        self.found: set[int] = set()
        self.done: set[int] = set()
        """Acknowledged, and told so."""
        self.again: list[int] = []
        """That came although they were done."""
        self._server = server
        self._lock = threading.Lock()
        self._next = 0
        self._producing = threading.Event()
        self._producing.set()
        self._working = threading.Event()
        self._working.set()
        self._threads = [threading.Thread(target=self._produce) for _ in range(3)]
        self._threads += [threading.Thread(target=self._consume, args=(random.Random(n),)) for n in range(3)]
        for thread in self._threads:
            thread.start()

    def _with_clients(self, is_on: threading.Event, use: Callable[[Client], None]) -> None:
        while is_on.is_set():
            with contextlib.suppress(OSError), contextlib.closing(Client(self._server)) as client:
                client.socket.settimeout(10.0)
                use(client)

    def _produce(self) -> None:
        def use(client: Client) -> None:
            while self._producing.is_set():
                with self._lock:
                    number = self._next = self._next + 1
                client.enqueue("jobs", envelope=b"%d" % number)
                self.confirmed.add(number)

        self._with_clients(self._producing, use)

    def _consume(self, chance: random.Random) -> None:
        def use(client: Client) -> None:
            client.watch("jobs", credit=5, retries=1_000_000)
            client.socket.settimeout(1.0)
            while self._working.is_set() and chance.random() > 0.01:
                item = client.item()
                number = int(item[3])
                if number in self.done:
                    self.again.append(number)
                self.found.add(number)
                if chance.random() < 0.1:
                    client.refuse(item)
                elif client.acknowledge(item):
                    self.done.add(number)

        self._with_clients(self._working, use)

    def stop_producing(self) -> None:
        self._producing.clear()
        for thread in self._threads[:3]:
            thread.join()

    def stop(self) -> None:
        self._producing.clear()
        self._working.clear()
        for thread in self._threads:
            thread.join()


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_every_confirmed_item_arrives_whatever_becomes_of_the_server(full: bool) -> None:
    with serving(options={"persist": True}) as server:
        work = Work(server)
        try:
            for round in range(100 if full else 5):
                enough = len(work.confirmed) + random.randint(50, 500)
                wait_until("items are confirmed", lambda enough=enough: len(work.confirmed) >= enough)
                if round % 3 != 2:
                    os.kill(pid_of(server), signal.SIGKILL)
                server.ctl("restart", "main")  # at once, however often it has crashed
            work.stop_producing()
            wait_until("every confirmed item arrives", lambda: work.confirmed <= work.found)
        finally:
            work.stop()
        assert not work.again, "it was done, and came again"


def test_what_is_confirmed_at_the_end_of_the_daemon_is_there_at_the_next_start() -> None:
    with serving(options={"persist": True}) as server:
        with contextlib.closing(Client(server)) as client:
            for n in range(20):
                client.enqueue("jobs", envelope=b"%d" % n)
        server.ctl("restart", "main")
        with contextlib.closing(Client(server)) as client:
            client.watch("jobs", credit=20)
            assert [client.item()[3] for _ in range(20)] == [b"%d" % n for n in range(20)]


def test_without_persist_a_restart_is_the_end_of_all_items() -> None:
    with serving() as server:
        with contextlib.closing(Client(server)) as client:
            client.enqueue("jobs")
        server.ctl("restart", "main")
        with contextlib.closing(Client(server)) as client:
            assert client.ask(wire.RESERVE, "jobs", 60.0, 0.0) is None
