"""What the gateway cluster costs: a message to a group for each client that gets it, a request there and back.

Beside it, in turn, one websocket worker that does the same without a cluster, and what the kernel alone takes: as many
bare writes, and the C echo. One gateway, one business worker; all servers have one core.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import websockets.sync.client

from tests.bench.cpu import (
    HERE,
    SERVERS,
    Words,
    c_echo,
    clients_on_a_core_of_their_own,
    cost,
    costs,
    cpu,
    many_files,
    pin,
)
from tests.conftest import wait_until
from tests.system.cluster import cluster
from workermand.services.gateway import GatewayClient
from workermand.testing import RunningServer, running_server

NEWS = "n" * 100
GROUP = "bench"
CONNECTIONS = 64
"""Of the requests."""
EVENTS = f"""
from workermand.services.gateway import Gateway

def on_connect(client_id):
    Gateway.join_group(client_id, "{GROUP}")

def on_message(client_id, message):
    Gateway.send_to_client(client_id, message)
"""
ALONE = f"""
import os
from workermand.protocols.wsframe import frame

NEWS = "{NEWS}"
READY = frame(0x81, NEWS.encode())
descriptors = []

def on_message(connection, data):
    worker = connection.worker
    if data == "bare":
        for descriptor in descriptors:
            os.write(descriptor, READY)
    elif data == "broadcast":
        worker.broadcast(NEWS, exclude=[connection])
    elif data == "look":
        others = (other for other in worker.connections.values() if other is not connection)
        descriptors[:] = [other.get_socket().fileno() for other in others]
    connection.send(data)
"""


@contextlib.contextmanager
def servers() -> Iterator[tuple[RunningServer, RunningServer]]:
    """The cluster, and the worker alone."""
    with (
        running_server(cluster("bench_events", gateways=1, businesses=1), files={"bench_events.py": EVENTS}) as many,
        running_server("alone", files={"alone.py": ALONE}, listen="websocket://127.0.0.1:0") as one,
    ):
        pin(many.pid, SERVERS)
        pin(one.pid, SERVERS)
        yield many, one


def _pid(server: RunningServer, worker: str) -> int:
    return next(int(one["pid"]) for one in server.status()["processes"] if one["worker"] == worker)


def _port(server: RunningServer, worker: str) -> int:
    return int(server.addresses[worker][0][1])


# ---------------------------------------------------------------------------------------------------- to a group


@contextlib.contextmanager
def readers(port: int, count: int) -> Iterator[None]:
    """WebSockets that read whatever comes. They may still be on their way."""
    command = [str(word) for word in (HERE / "loadgen", port, "ws", count, 0, 3600)]
    with subprocess.Popen(command) as process:
        try:
            yield
        finally:
            process.kill()


def sends(count: int, rounds: int, seconds: float) -> str:
    """To so many clients: microseconds for each of them."""
    with many_files(), servers() as (many, one), clients_on_a_core_of_their_own():
        gateway, alone = _pid(many, "gateway"), _pid(one, "main")
        with (
            readers(_port(many, "gateway"), count),
            readers(one.port, count),
            websockets.sync.client.connect(f"ws://127.0.0.1:{one.port}") as asking,
            asyncio.Runner() as runner,
        ):
            client = GatewayClient(f"register://{many.run_dir}/register.sock")
            runner.run(client.connect())

            def through_gateway() -> None:
                sent = runner.run(_send(client))
                assert sent.delivered == count, sent

            def by(word: str) -> Callable[[], None]:
                def ask() -> None:
                    asking.send(word)
                    assert asking.recv() == word

                return ask

            wait_until("all in the group", lambda: runner.run(_members(client)) == count)
            wait_until("all at the worker", lambda: one.status()["processes"][0]["connections"] == count + 1)
            by("look")()
            sides = [(gateway, through_gateway), (alone, by("broadcast")), (alone, by("bare"))]
            slices = [[_each(pid, work, seconds) for pid, work in sides] for _ in range(rounds)]
            runner.run(client.close())
    (ours, sender), (worker, _), (bare, _) = (
        [statistics.median(times) * 1e6 / count for times in zip(*side, strict=True)]
        for side in zip(*slices, strict=True)
    )
    return (
        f"a message to {count:,} clients: gateway {ours:.2f} us each ({ours / bare:.2f} x a bare write), sender "
        f"{sender:.3f} us, one worker's broadcast {worker:.2f} us, a bare write {bare:.2f} us"
    )


async def _send(client: GatewayClient) -> Any:
    return await client.send_to_group(GROUP, NEWS)


async def _members(client: GatewayClient) -> int:
    return await client.get_client_id_count_by_group(GROUP)


def _each(pid: int, work: Callable[[], None], seconds: float) -> tuple[float, float]:
    """CPU seconds of the server, and of this process, for one time."""
    work()
    times, before, own = 0, cpu(pid), time.process_time()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        work()
        times += 1
    own = time.process_time() - own
    return (cpu(pid) - before) / times, own / times


# ---------------------------------------------------------------------------------------------------- there and back


def requests(depth: int, rounds: int, seconds: float) -> str:
    """An echo, with so many in flight for each client: microseconds."""
    words: Words = ["ws", CONNECTIONS, depth]
    with servers() as (many, one), c_echo() as c, clients_on_a_core_of_their_own():
        parts = [_pid(many, "gateway"), _pid(many, "business")]
        port = _port(many, "gateway")
        slices = [
            (
                *costs(parts, port, "loadgen", words, seconds),
                cost(_pid(one, "main"), one.port, "loadgen", words, seconds),
                cost(*c, "loadgen", ["text", CONNECTIONS, depth], seconds),
            )
            for _ in range(rounds)
        ]
    gateway, business, alone, limit = (statistics.median(side) for side in zip(*slices, strict=True))
    both = gateway + business
    return (
        f"a request, {depth} in flight: {both:.2f} us (gateway {gateway:.2f}, business {business:.2f}), one worker "
        f"{alone:.2f} us, C {limit:.2f} us"
    )
