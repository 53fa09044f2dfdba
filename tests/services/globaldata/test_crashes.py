"""A real server with persist that is killed again and again: it is held to a dict; and many processes count with it.

What was confirmed is there; what was under way when it died is there whole, or not at all, and stays as it was first
seen. The whole daemon is killed, and started again over the same directory.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from tests.conftest import wait_until
from tests.services.globaldata.conftest import HANDLER
from tests.services.globaldata.faults import confirmed_values_survive, watches_go_on
from workermand.services.globaldata import BlockingGlobalData, GlobalDataError, wire
from workermand.services.globaldata.embedded import Embedded
from workermand.services.links.address import parse
from workermand.services.links.errors import TimedOut, Unreachable
from workermand.testing import RunningServer, running_server

MISSING = "missing"
"""No value that the machine sets."""


class Mortal:
    """The daemon."""

    def __init__(self, directory: Path, port: int) -> None:
        self.url = f"globaldata://127.0.0.1:{port}"
        self._file = directory / "server.toml"
        self._file.write_text(
            f'[server]\nrun_dir = "{directory}/run"\nstate_dir = "{directory}/state"\n'
            f'[worker.main]\nlisten = "frame://127.0.0.1:{port}"\nhandler = "{HANDLER}"\n'
            "reloadable = false\noptions = { persist = true }\n"
        )
        for name in ("run", "state"):
            (directory / name).mkdir()
        self._stack = contextlib.ExitStack()
        self._server: RunningServer

    def start(self) -> None:
        self._server = self._stack.enter_context(running_server(self._file))

    def kill(self) -> None:
        """kill -9 of all its processes."""
        self._server.kill_all()
        self._stack.close()

    def crash(self) -> None:
        self.kill()
        self.start()


@pytest.fixture
def mortal(short_dir: Path, free_port: Callable[[], int]) -> Iterator[Mortal]:
    short_dir.chmod(0o755)
    server = Mortal(short_dir, free_port())
    server.start()
    yield server
    server.kill()


# ---------------------------------------------------------------------------------------------------- against a dict

KEYS = st.sampled_from(["a", "b", "c"])
VALUES = st.sampled_from([0, 1, 2.5, "text", None, [1, b"\0"], {"x": 1}])
CALLS = st.one_of(
    st.tuples(st.just("set"), KEYS, VALUES),
    st.tuples(st.just("add"), KEYS, VALUES),
    st.tuples(st.just("cas"), KEYS, VALUES, VALUES),
    st.tuples(st.just("increment"), KEYS, st.integers(-2, 2)),
    st.tuples(st.just("delete"), KEYS),
)


def same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and bool(one == other)


def apply(held: Any, verb: str, *arguments: Any) -> tuple[Any, Any]:
    """What a dict would hold then, and what the verb says; what is refused changes nothing and says nothing."""
    match verb, arguments:
        case "set", (value,):
            return value, True
        case "add", (value,):
            return (value, True) if same(held, MISSING) else (held, False)
        case "cas", (old, new):
            return (new, True) if same(held, old) else (held, False)
        case "increment", (step,):
            if same(held, MISSING):
                return held, None
            return (held + step, held + step) if type(held) in (int, float) else (held, "refused")
        case "delete", ():
            return MISSING, not same(held, MISSING)
    raise AssertionError(verb)


class AgainstADict(RuleBasedStateMachine):
    """The model: key -> what it may hold; more than one thing only after a call that nobody has confirmed."""

    server: Mortal
    """The test's."""
    crashes: int

    def __init__(self) -> None:
        super().__init__()
        self.data = BlockingGlobalData(self.server.url, timeout=30)
        for key in ("a", "b", "c"):
            self.data.delete(key)
        self.model: dict[str, list[Any]] = {key: [MISSING] for key in ("a", "b", "c")}

    def teardown(self) -> None:
        self.data.close()

    def ask(self, verb: str, key: str, *arguments: Any) -> Any:
        try:
            answer = getattr(self.data, verb)(key, *arguments)
        except GlobalDataError:
            return "refused"
        return True if verb == "set" else answer

    @rule(call=CALLS)
    def call(self, call: tuple[Any, ...]) -> None:
        verb, key, *arguments = call
        self.get(key)
        (held,) = self.model[key]
        expected, says = apply(held, verb, *arguments)
        assert same(self.ask(*call), says), call
        self.model[key] = [expected]

    @rule(key=KEYS)
    def get(self, key: str) -> None:
        got = self.data.get(key, MISSING)
        assert any(same(got, value) for value in self.model[key]), (key, got, self.model[key])
        self.model[key] = [got]

    @rule()
    def keys(self) -> None:
        for key in self.model:
            self.get(key)
        assert self.data.keys() == sorted(key for key, (held,) in self.model.items() if not same(held, MISSING))

    @precondition(lambda self: self.crashes > 0)
    @rule()
    def crash(self) -> None:
        type(self).crashes -= 1
        self.server.crash()

    @precondition(lambda self: self.crashes > 0)
    @rule(calls=st.lists(CALLS, min_size=1, max_size=30))
    def crash_meanwhile(self, calls: list[tuple[Any, ...]]) -> None:
        """One after the other, until one is not answered."""
        type(self).crashes -= 1
        begun = threading.Event()

        def work() -> None:
            for number, call in enumerate(calls):
                verb, key, *arguments = call
                outcomes = [apply(held, verb, *arguments) for held in self.model[key]]
                if number == len(calls) // 2:
                    begun.set()
                try:
                    answer = self.ask(*call)
                except (Unreachable, TimedOut):
                    self.model[key] = [*self.model[key], *(held for held, _says in outcomes)]
                    return
                self.model[key] = [held for held, says in outcomes if same(says, answer)]
                assert self.model[key], call

        failures: list[BaseException] = []

        def watched() -> None:
            try:
                work()
            except BaseException as error:
                failures.append(error)
            finally:
                begun.set()

        thread = threading.Thread(target=watched)
        thread.start()
        begun.wait()
        self.server.kill()
        self.server.start()
        thread.join()
        assert not failures, failures


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_against_a_dict(mortal: Mortal, full: bool) -> None:
    class Machine(AgainstADict):
        server = mortal
        crashes = 100 if full else 8

    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Machine,
        settings=settings(
            max_examples=60 if full else 8,
            stateful_step_count=40 if full else 25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            report_multiple_bugs=False,
            database=None,
        ),
    )


# ---------------------------------------------------------------------------------------------------- as every engine


def engine_of(mortal: Mortal) -> Embedded:
    return Embedded(*parse(mortal.url, wire.SERVICE, wire.PORT))


def test_watches_go_on(mortal: Mortal) -> None:
    asyncio.run(watches_go_on(lambda: engine_of(mortal), mortal))


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_confirmed_values_survive(mortal: Mortal, full: bool) -> None:
    asyncio.run(confirmed_values_survive(lambda: engine_of(mortal), mortal, 100 if full else 5))


# ---------------------------------------------------------------------------------------------------- many processes

STOP = """
import json, sys, threading

stopped = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), stopped.set()), daemon=True).start()
confirmed = unclear = 0
"""
BLOCKING = f"""{STOP}
from workermand.services.globaldata import BlockingGlobalData
from workermand.services.links.errors import ServiceError

with BlockingGlobalData(sys.argv[1]) as data:
    print("ready", flush=True)
    while not stopped.is_set():
        try:
            data.increment("counter")
            confirmed += 1
        except ServiceError:  # refused at the door, or lost on the way: it may have counted
            unclear += 1
            stopped.wait(0.01)
print(json.dumps([confirmed, unclear]))
"""
ASYNC = f"""{STOP}
import asyncio
from workermand.services.globaldata import GlobalData

async def main():
    global confirmed, unclear
    async with await GlobalData.connect(sys.argv[1]) as data:
        print("ready", flush=True)
        while not stopped.is_set():
            outcomes = await asyncio.gather(*(data.increment("counter") for _ in range(20)), return_exceptions=True)
            failed = sum(isinstance(outcome, BaseException) for outcome in outcomes)
            confirmed, unclear = confirmed + 20 - failed, unclear + failed

asyncio.run(main())
print(json.dumps([confirmed, unclear]))
"""


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_many_processes_count_while_it_is_killed(mortal: Mortal, full: bool) -> None:
    """Not one that was confirmed is lost, not one counts twice."""
    with BlockingGlobalData(mortal.url, timeout=30) as data:
        data.counter = 0
        counters = [
            subprocess.Popen(
                [sys.executable, "-c", script, mortal.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            for script in (BLOCKING, BLOCKING, ASYNC, ASYNC)
        ]
        try:
            for counter in counters:
                assert counter.stdout is not None and counter.stdout.readline() == "ready\n"
            for _ in range(100 if full else 5):
                seen = data.counter
                wait_until("they count", lambda seen=seen: data.counter > seen + 40)
                mortal.crash()
            counted = [json.loads(counter.communicate(timeout=60)[0]) for counter in counters]
        finally:
            for counter in counters:
                with counter:
                    counter.kill()
        confirmed, unclear = (sum(each) for each in zip(*counted, strict=True))
        assert all(each for each, _unclear in counted) and confirmed > 200
        assert confirmed <= data.counter <= confirmed + unclear, (data.counter, counted)
