"""A gateway cluster on three machines, which are cut off and healed while everybody talks to everybody."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import shutil
import signal
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import uvloop

from tests.system.machines import Machine, machines
from workermand.services.gateway import GatewayClient
from workermand.testing import RunningServer, running_server

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("ip"), reason="needs root, and ip of iproute2"),
    pytest.mark.timeout(300),
]

SECRET = "correct horse battery staple"
REGISTERS = "register://10.99.0.1:1236,10.99.0.2:1236,10.99.0.3:1236"
PING = 0.4
"""Seconds: what is cut off is missed after two of them."""
BOUND = 20.0
"""Seconds within which everybody has to agree. It takes less than two; what it took is printed."""
UIDS = 8
PACE = 0.02
"""Seconds between what one of them says and the next."""

REGISTER = f"""
[worker.register]
listen = "frame://{{ip}}:1236"
handler = "workermand.services.gateway.register"
reloadable = false
options = {{{{ secret = "{SECRET}" }}}}
"""
OPTIONS = f'register = "{REGISTERS}", secret = "{SECRET}", inner_ping = {PING}'
MACHINE = f"""
[worker.gateway]
listen = "text://{{ip}}:7272"
handler = "workermand.services.gateway.gateway"
count = 2
reloadable = false
options = {{{{ {OPTIONS}, lan_ip = "{{ip}}", start_port = 2300 }}}}

[worker.business]
handler = "workermand.services.gateway.business"
count = 2
options = {{{{ {OPTIONS}, events = "tests.system.talk" }}}}
"""


class Connection:
    """One connection of a Person: what is heard in it is checked."""

    def __init__(self, person: Person) -> None:
        self.person = person
        self.id = ""
        self.entered = asyncio.Event()
        self.heard: dict[tuple[str, ...], int] = {}
        """The last number, by who said it to whom."""

    def hear(self, line: str) -> None:
        verb, _, rest = line.partition(" ")
        person = self.person
        if verb == "id":
            self.id = rest
        elif verb == "entered":
            self.entered.set()
        elif verb == "census":
            number, _, found = rest.partition(" ")
            person.answer(int(number), json.loads(found))
        elif verb == "heard":
            kind, to, who, number = rest.split()
            if to not in {"client": [self.id], "uid": [person.uid], "group": person.groups, "all": ["*"]}[kind]:
                person.complain(f"it is for {kind} {to}, not {self.id}: {line}")
            self._count((kind, to, who), int(number), line)
        elif verb == "number":
            self._count(("number",), int(rest), line)
        else:
            person.complain(f"who says so? {line}")

    def _count(self, what: tuple[str, ...], number: int, line: str) -> None:
        """Numbers may be missing after a cut; none comes twice, or late."""
        if number <= self.heard.get(what, 0):
            self.person.complain(f"{self.heard[what]} was before {line}")
        self.heard[what] = number
        self.person.total[what[0]] += 1


class Person:
    """A client with a uid and groups, that comes back when its connection ends."""

    def __init__(self, machine: Machine, name: str, uid: str, groups: list[str], talks: bool) -> None:
        self.machine = machine
        self.name, self.uid, self.groups = name, uid, groups
        self.talks = talks
        """The others are there to be asked."""
        self.connection: Connection | None = None
        self.complaints: list[str] = []
        self.total: Counter[str] = Counter()
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._task = asyncio.create_task(self._live())

    def complain(self, why: str) -> None:
        self.complaints.append(f"{self.name}: {why}")

    def answer(self, number: int, found: Any) -> None:
        asked = self._asked.pop(number, None)
        if asked is not None and not asked.done():
            asked.set_result(found)

    async def census(self) -> Any:
        """What a business worker says; a word when it says nothing."""
        if self._writer is None:
            return "not connected"
        number = next(self._numbers)
        asked = self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            self.say(f"census {number}")
            async with asyncio.timeout(2 * PING):
                return await asked
        except TimeoutError:
            return "no answer"

    def say(self, line: str) -> None:
        if self._writer is not None:
            self._writer.write(f"{line}\n".encode())

    async def leave(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _live(self) -> None:
        while True:
            with contextlib.suppress(OSError):
                await self._connect()
            self.connection = None
            for number in list(self._asked):
                self.answer(number, "no answer")
            await asyncio.sleep(PACE)

    async def _connect(self) -> None:
        sock = self.machine.socket()
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (self.machine.address, 7272))
        reader, self._writer = await asyncio.open_connection(sock=sock)
        connection = Connection(self)
        talking = asyncio.create_task(self._talk(connection))
        try:
            while line := await reader.readline():
                connection.hear(line.decode().rstrip())
                if connection.id and self.connection is None:
                    self.connection = connection
        finally:
            talking.cancel()
            self._writer.transport.abort()
            self._writer = None

    async def _talk(self, connection: Connection) -> None:
        """Enters, again when a machine was cut off with that event, then says numbers, and to the others."""
        while not connection.entered.is_set():
            self.say(f"enter {self.uid} {' '.join(self.groups)}")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(connection.entered.wait(), 4 * PING)
        for number in itertools.count(1) if self.talks else ():
            self.say(f"number {number}")
            for kind, to in (("uid", self.uid), ("group", self.groups[0]), ("client", connection.id), ("all", "*")):
                self.say(f"tell {kind} {to} {connection.id} {number}")
            await asyncio.sleep(20 * PACE)


class World:
    """Three machines and those on them; the test looks on from a fourth."""

    def __init__(self, machines: list[Machine], daemons: list[RunningServer]) -> None:
        self.machines = machines
        self.daemons = daemons
        self.people: list[Person] = []
        self.client: GatewayClient
        self.complaints: list[str] = []
        """Of those who have left,"""
        self.total: Counter[str] = Counter()
        """and what they have heard."""

    def come(self, machine: Machine, uid: str = "", talks: bool = True) -> Person:
        number = len(self.people)
        uid = uid or f"u{number % UIDS}"
        person = Person(machine, f"p{number}", uid, [f"g{number % 5}", "everybody"], talks)
        self.people.append(person)
        return person

    async def leave(self, person: Person) -> None:
        self.people.remove(person)
        await person.leave()
        self.complaints += person.complaints
        self.total += person.total

    def expected(self, reachable: list[Machine]) -> dict[str, Any] | None:
        """What a census has to find; None while somebody is not in again."""
        found: dict[str, Any] = {"clients": [], "uids": defaultdict(list), "groups": defaultdict(list)}
        for person in self.people:
            if person.machine in reachable:
                if person.connection is None or not person.connection.entered.is_set():
                    return None
                id = person.connection.id
                found["clients"].append(id)
                found["uids"][person.uid].append(id)
                for group in person.groups:
                    found["groups"][group].append(id)
        found["clients"].sort()
        for ids in (*found["uids"].values(), *found["groups"].values()):
            ids.sort()
        counts = {group: len(ids) for group, ids in found["groups"].items()}
        return {**found, "count": len(found["clients"]), "counts": counts}

    async def agree(self, what: str, *parts: list[Machine]) -> None:
        """Waits until all business workers of each part find those on its machines, and nobody else."""
        began = time.monotonic()
        last: Any = None
        try:
            async with asyncio.timeout(BOUND):
                for part in parts:
                    for machine in part:
                        while (last := await self._differs(machine, part)) is not None:  # noqa: ASYNC110
                            await asyncio.sleep(PACE)
        except TimeoutError:
            raise AssertionError(f"{what}: on {machine.address} they do not agree: {last}") from None
        print(f"{what}: {time.monotonic() - began:.2f} s")

    async def disagree(self, machine: Machine, part: list[Machine]) -> None:
        """Waits until somebody there does not get the census of all."""
        async with asyncio.timeout(BOUND):
            while await self._differs(machine, part) is None:  # noqa: ASYNC110
                await asyncio.sleep(PACE)

    async def _differs(self, machine: Machine, part: list[Machine]) -> Any:
        asked = [person for person in self.people if person.machine is machine and not person.talks]
        expected = self.expected(part)
        found = await asyncio.gather(*(person.census() for person in asked))
        if expected is None or expected != self.expected(part):
            return "somebody is not in"
        return next(((one, expected) for one in found if one != expected), None)

    async def tell(self) -> None:
        """From outside, to everybody in every way, for ever."""
        api = self.client
        for number in itertools.count(1):
            for uid in range(UIDS):
                api.send_to_uid(f"u{uid}", f"heard uid u{uid} outside {number}").add_done_callback(_fetch)
            api.send_to_group("g1", f"heard group g1 outside {number}").add_done_callback(_fetch)
            api.send_to_all(f"heard all * outside {number}").add_done_callback(_fetch)
            for person in self.people:
                if person.connection is not None:
                    id = person.connection.id
                    api.send_to_client(id, f"heard client {id} outside {number}").add_done_callback(_fetch)
            await asyncio.sleep(5 * PACE)

    async def kill(self, machine: Machine, worker: str, *ids: int) -> None:
        """Its master puts others in their place."""
        status = await asyncio.to_thread(self.daemons[self.machines.index(machine)].status)
        for process in status["processes"]:
            if process["worker"] == worker and process["id"] in ids:
                os.kill(process["pid"], signal.SIGKILL)


def _fetch(asked: asyncio.Future[Any]) -> None:
    if not asked.cancelled():
        asked.exception()


@contextlib.contextmanager
def three_machines() -> Iterator[tuple[list[Machine], list[RunningServer]]]:
    """Each with a daemon, and the third with its Register in one of its own; and one without anything to look on."""
    with machines(4) as found, contextlib.ExitStack() as stack:

        def start(machine: Machine, text: str) -> RunningServer:
            server = running_server(text.format(ip=machine.address))
            stack.callback(machine.run, server.__exit__, None, None, None)
            return machine.run(server.__enter__)

        one, two, three, _ = found
        daemons = [start(one, REGISTER + MACHINE), start(two, REGISTER + MACHINE)]
        register = start(three, REGISTER)
        daemons.append(start(three, MACHINE))
        yield found, [*daemons, register]


@contextlib.asynccontextmanager
async def world(found: list[Machine], daemons: list[RunningServer]) -> AsyncIterator[World]:
    made = World(found[:3], daemons)
    async with GatewayClient(register=REGISTERS, secret=SECRET, ping=PING) as made.client:
        for number in range(21):
            made.come(found[number % 3], talks=number < 12)
        telling = asyncio.create_task(made.tell())
        yield made
        telling.cancel()
        for person in made.people.copy():
            await made.leave(person)


async def play(found: list[Machine], daemons: list[RunningServer]) -> None:
    one, two, three, _ = found
    async with world(found, daemons) as people:
        await people.agree("all are in", found[:3])
        three.cut()
        await people.agree("machine 3 is cut off", [one, two], [three])
        # Who is on the other side goes on, goes, and has the same uid somewhere else.
        await people.leave(people.people[2])
        people.come(one, uid="u2")
        people.come(three, uid="u1")
        await people.agree("people come and go", [one, two], [three])
        three.heal()
        await people.agree("machine 3 is healed", found[:3])
        for machine in (one, two):
            machine.isolate(True)
        await people.disagree(one, found[:3])
        for machine in (one, two):
            machine.isolate(False)
        await people.agree("machines 1 and 2 reach each other again", found[:3])

        one.cut()
        await people.kill(one, "gateway", 0, 1)
        one.heal()
        await people.agree("machine 1 was cut off, and is healed with new gateways", found[:3])

        await asyncio.to_thread(daemons[3].stop)
        await people.agree("the Register of machine 3 is gone", found[:3])
        await people.kill(one, "register", 0)
        await people.kill(two, "gateway", 0)
        await people.agree("a Register and a gateway are killed", found[:3])
        await asyncio.gather(*(people.kill(machine, "gateway", 0, 1) for machine in found[:3]))
        await people.agree("all gateways are killed", found[:3])
    assert people.complaints == []
    print(dict(people.total))
    assert all(people.total[kind] > 100 for kind in ("number", "client", "uid", "group", "all"))


def test_machines_that_are_cut_off_and_gateways_that_are_killed() -> None:
    with three_machines() as (found, daemons):
        found[3].run(uvloop.run, play(found, daemons))
