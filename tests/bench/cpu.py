"""A server's CPU for what a client program has had of it: on a core of its own, the clients on another."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

HERE = Path(__file__).parent
CORES = sorted(os.sched_getaffinity(0))
SERVERS, CLIENTS = CORES[0], CORES[-1]
Words = list[object]
"""The arguments of a client program."""


def family(pid: int) -> list[psutil.Process]:
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def pin(pid: int, core: int) -> None:
    """To one core, with what it has started and will start."""
    for process in family(pid):
        process.cpu_affinity([core])


@contextlib.contextmanager
def clients_on_a_core_of_their_own() -> Iterator[None]:
    os.sched_setaffinity(0, {CLIENTS})
    try:
        yield
    finally:
        os.sched_setaffinity(0, CORES)


def cpu(pid: int) -> float:
    """Seconds that a server and its children have used."""
    return sum(times.user + times.system for times in (process.cpu_times() for process in family(pid)))


@contextlib.contextmanager
def many_files() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def c_echo() -> contextlib.AbstractContextManager[tuple[int, int]]:
    """(pid, port) of the measure."""
    return foreign([HERE / "cecho"])


@contextlib.contextmanager
def foreign(command: Sequence[str | Path]) -> Iterator[tuple[int, int]]:
    """(pid, port) of a server that is not ours; it takes the port as its argument and says when it is ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    with subprocess.Popen([*command, str(port)], stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline() == b"ready\n"
        pin(process.pid, SERVERS)
        try:
            yield process.pid, port
        finally:
            process.kill()


def cost(pid: int, port: int, program: str, words: Words, seconds: float) -> float:
    """Microseconds of the server's CPU for one message or connection of the client program."""
    return costs([pid], port, program, words, seconds)[0]


def costs(pids: Sequence[int], port: int, program: str, words: Words, seconds: float) -> list[float]:
    """The same of servers that share the work."""
    before = [cpu(pid) for pid in pids]
    command = [str(word) for word in (HERE / program, port, *words, seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    count, errors = map(int, done.stdout.split())
    assert errors == 0, f"{program} {words}: {errors} errors"
    return [(cpu(pid) - began) * 1e6 / count for pid, began in zip(pids, before, strict=True)]
