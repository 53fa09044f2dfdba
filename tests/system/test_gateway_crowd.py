"""Ten thousand clients of a gateway cluster that come and go, join groups and leave them: the counts are exact, and
nothing is left of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import resource
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
import uvloop

from tests.conftest import PATIENCE
from tests.services.gateway.conftest import cluster, register_of
from workermand.services.gateway import Delivery, GatewayClient
from workermand.testing import RunningServer

CLIENTS = 10_000
SECONDS, LONG = 30.0, 600.0
GROUPS = [f"g{number}" for number in range(100)]
UIDS = [f"u{number}" for number in range(CLIENTS // 2)]
"""Most have several clients."""
TOLD = UIDS[:200]
"""Those that are sent to."""
EACH = 3
"""Groups of a client."""
AT_ONCE = 200
"""Clients that come in at a time."""
TICK = 0.05
"""Seconds;"""
CHANGES = 10
"""in which so many clients do something else, and a group and a uid are told something."""
SLACK = 100
"""Objects that a process may have more than before; if each client left one, it would be thousands."""
GROWTH = 1.1
"""Of a process's memory, from the second third of the time to the last, and another MiB."""
ALL = {"gateway": {"hooks": "tests.system.inventory"}, "worker": {"timeout": 60.0}}
Census = dict[str, dict[str, set[str]]]


class Member(asyncio.Protocol):
    """One connection: does one thing at a time, and complains of what is not for it."""

    def __init__(self, crowd: Crowd) -> None:
        self.crowd = crowd
        self.id = ""
        self.uid = ""
        self.groups: set[str] = set()
        self.changing: set[str] = set()
        """Groups that it is about to join, or leave, and uids."""
        self._transport: Any = None
        self._rest = b""
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._hear(line.decode())

    def connection_lost(self, error: Exception | None) -> None:
        self.crowd.gone(self)
        if not self._done.done():
            self._done.set_exception(ConnectionResetError(f"{self.id} was closed by the gateway: {error}"))

    def _hear(self, line: str) -> None:
        verb, _, rest = line.partition(" ")
        if verb == "heard":
            kind, to, _words = rest.split()
            self.crowd.heard[kind] += 1
            if to not in self.changing and to not in (self.groups if kind == "group" else {self.uid}):
                self.crowd.complaints.append(f"{self.id} of {self.uid} and {self.groups} heard {line}")
        elif verb == "id" and not self.id:
            self.id = rest
            self._done.set_result(None)
        elif verb in ("done", "entered") and not self._done.done():
            self._done.set_result(None)
        else:
            self.crowd.complaints.append(f"{self.id} has not asked: {line}")

    async def say(self, line: str) -> None:
        """Until it is done."""
        self._done = asyncio.get_running_loop().create_future()
        self._transport.write(f"{line}\n".encode())
        await self._done

    def tell(self, kind: str, to: str) -> None:
        """By way of a business worker."""
        self._transport.write(f"tell {kind} {to} x\n".encode())

    async def enter(self) -> None:
        await self._done
        uid, groups = random.choice(UIDS), set(random.sample(GROUPS, EACH))
        self.changing = {uid, *groups}
        await self.say(f"enter {uid} {' '.join(groups)}")
        self.uid, self.groups, self.changing = uid, groups, set()

    async def change(self) -> None:
        """A group for another one, or the uid."""
        if random.random() < 0.2:
            uid = random.choice(UIDS)
            self.changing = {uid}
            await self.say(f"do bind_uid {uid}")
            self.uid = uid
        else:
            old, new = random.choice(sorted(self.groups)), random.choice(sorted(set(GROUPS) - self.groups))
            self.changing = {old, new}
            await self.say(f"do leave_group {old}")
            self.groups.remove(old)
            await self.say(f"do join_group {new}")
            self.groups.add(new)
        self.changing = set()

    async def leave(self) -> None:
        self._done.cancel()
        self._transport.abort()


class Crowd:
    """All of them, on one loop."""

    def __init__(self, server: RunningServer) -> None:
        self.server = server
        self.members: dict[Member, None] = {}
        self.complaints: list[str] = []
        self.heard: Counter[str] = Counter()
        self.done: Counter[str] = Counter()

    def gone(self, member: Member) -> None:
        self.members.pop(member, None)

    async def come(self, number: int) -> None:
        """Returns when all of them are in."""
        gate = asyncio.Semaphore(AT_ONCE)

        async def one() -> None:
            async with gate:
                await self._one()

        await asyncio.gather(*(one() for _ in range(number)))

    async def _one(self) -> None:
        host, port = self.server.addresses["gateway"][0]
        _, member = await asyncio.get_running_loop().create_connection(lambda: Member(self), str(host), int(port))
        self.members[member] = None
        await member.enter()

    async def leave(self) -> None:
        for member in list(self.members):
            await member.leave()

    async def churn(self, api: GatewayClient, seconds: float) -> None:
        """Some change at every tick, and a group and a uid are told something."""
        tasks: set[asyncio.Task[None]] = set()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for member in random.sample(list(self.members), CHANGES):
                if not member.changing and member.id:
                    task = asyncio.create_task(self._again(member) if random.random() < 0.3 else member.change())
                    self.done["changes"] += 1
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
            for asked in (tell(api, "group", random.choice(GROUPS)), tell(api, "uid", random.choice(TOLD))):
                asked.add_done_callback(self._delivered)
            random.choice(list(self.members)).tell("group", random.choice(GROUPS))
            await asyncio.sleep(TICK)
        await asyncio.gather(*tasks)

    async def _again(self, member: Member) -> None:
        await member.leave()
        self.gone(member)
        await self._one()

    def _delivered(self, asked: asyncio.Future[Delivery]) -> None:
        self.done["delivered"] += asked.result().delivered
        self.done["dropped"] += asked.result().dropped + asked.result().lost

    def census(self) -> Census:
        """What the cluster has to find."""
        found: Census = {"uids": defaultdict(set), "groups": defaultdict(set)}
        for member in self.members:
            found["uids"][member.uid].add(member.id)
            for group in member.groups:
                found["groups"][group].add(member.id)
        return found


def tell(api: GatewayClient, kind: str, to: str) -> asyncio.Future[Delivery]:
    send = api.send_to_group if kind == "group" else api.send_to_uid
    return send(to, f"heard {kind} {to} x")


async def agree(api: GatewayClient, crowd: Crowd) -> None:
    """All that can be asked is as the crowd knows it. Who has just left may be there for a moment."""
    async with asyncio.timeout(PATIENCE):
        while await api.get_all_client_id_count() != len(crowd.members):  # noqa: ASYNC110
            await asyncio.sleep(TICK)
    expected = crowd.census()
    assert set(await api.get_all_client_id_list()) == {member.id for member in crowd.members}
    assert await api.get_all_group_client_id_count() == {group: len(ids) for group, ids in expected["groups"].items()}
    groups = await api.get_all_group_client_id_list()
    assert {group: set(ids) for group, ids in groups.items()} == expected["groups"]
    assert sum(map(len, groups.values())) == sum(map(len, expected["groups"].values()))
    assert await api.get_all_uid_count() == len(expected["uids"])
    uids = await api.batch_get_client_id_by_uid(list(expected["uids"]))
    assert {uid: set(ids) for uid, ids in uids.items()} == expected["uids"]
    assert sorted(await api.get_all_uid_list()) == sorted(expected["uids"])


async def inventory(server: RunningServer) -> dict[str, dict[str, int]]:
    """By process: what it holds when it has nothing to do."""

    def figures() -> dict[str, dict[str, int]]:
        rows = server.status()["processes"]
        return {f"{row['worker']} {row['id']}": row["figures"] for row in rows if row["worker"] != "register"}

    before = await asyncio.to_thread(figures)
    async with asyncio.timeout(2 * PATIENCE):
        while True:
            now = await asyncio.to_thread(figures)
            looks = {name: one.get("looks", 0) - before[name].get("looks", 0) for name, one in now.items()}
            if min(looks.values()) >= 2 and not any(
                one.get(what) for one in now.values() for what in ("table", "streams", "waiting", "lanes", "asked")
            ):
                return now
            await asyncio.sleep(TICK)


class Memory:
    """Bytes that are the processes' own, while the crowd churns."""

    def __init__(self, server: RunningServer) -> None:
        rows = server.status()["processes"]
        self._processes = {
            f"{row['worker']} {row['id']}": psutil.Process(row["pid"]) for row in rows if row["worker"] != "register"
        }
        self.samples: dict[str, list[int]] = defaultdict(list)

    async def watch(self, period: float) -> None:
        while True:
            for name, process in self._processes.items():
                self.samples[name].append(await asyncio.to_thread(lambda one=process: one.memory_full_info().uss))
            await asyncio.sleep(period)

    def growth(self) -> dict[str, tuple[float, float]]:
        """The medians of the second third and of the last, in MiB."""
        found = {}
        for name, samples in self.samples.items():
            third = len(samples) // 3
            second, last = samples[third : 2 * third], samples[2 * third :]
            found[name] = (statistics.median(second) / 2**20, statistics.median(last) / 2**20)
        return found


async def play(server: RunningServer, clients: int, seconds: float) -> None:
    crowd = Crowd(server)
    async with GatewayClient(register_of(server), timeout=60.0) as api:
        # What is made once, whoever comes, is there before it is counted.
        await crowd.come(AT_ONCE)
        await asyncio.gather(*(tell(api, "group", group) for group in GROUPS), *(tell(api, "uid", uid) for uid in TOLD))
        await crowd.churn(api, 1.0)
        await crowd.leave()
        before = await inventory(server)

        began = time.monotonic()
        await crowd.come(clients)
        print(f"{clients} clients came in {time.monotonic() - began:.1f} s")
        await agree(api, crowd)
        memory = Memory(server)
        watching = asyncio.create_task(memory.watch(seconds / 60))
        cpu = {name: sum(process.cpu_times()[:2]) for name, process in memory._processes.items()}
        await crowd.churn(api, seconds)
        watching.cancel()
        used = {name: sum(process.cpu_times()[:2]) - cpu[name] for name, process in memory._processes.items()}
        print("cpu", {name: f"{100 * one / seconds:.0f} %" for name, one in used.items()})
        await agree(api, crowd)
        print(dict(crowd.done), dict(crowd.heard))
        print("MiB", {name: f"{second:.2f}, {last:.2f}" for name, (second, last) in memory.growth().items()})
        await crowd.leave()
        await agree(api, crowd)
        after = await inventory(server)
    print(before, after, sep="\n")
    assert crowd.complaints == []
    for name, (second, last) in memory.growth().items():
        assert last <= GROWTH * second + 1, name
    for name, held in after.items():
        assert held["objects"] <= before[name]["objects"] + SLACK, name
        assert held.get("tasks", 0) == held.get("lost", 0) == 0
        # What is sent to is watched, by two business workers and the client, whether somebody has it or not.
        assert held.get("watched", 0) == held.get("watchers", 0) <= 3 * len(GROUPS) + len(TOLD)
        assert held.get("known", 0) <= 2 * len(GROUPS)


@contextlib.contextmanager
def many_files(number: int) -> Iterator[None]:
    """For this process, and the daemon that it starts. The last word of it is root's."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, number), max(hard, number)))
    except (ValueError, OSError):
        pytest.skip(f"this process may have {hard} files open, not {number}")
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.real
@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_ten_thousand_come_and_go(full: bool) -> None:
    with (
        many_files(CLIENTS + 1000),
        cluster(gateways=2, business=2, events="tests.system.crowd_events", **ALL) as server,
    ):
        uvloop.run(play(server, CLIENTS, LONG if full else SECONDS))
