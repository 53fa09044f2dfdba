"""What a message, a connection, a child and a question cost: `make bench`, or `python -m tests.bench [NAME ...]`.

All goes through the real daemon, its handler in Python. CPU is the server's own (user and system), in slices that take
turns with a C echo of one page, as the ratio of medians: that survives a noisy machine, messages per second do not. The
servers have one core, the clients another. Prints the table of docs/performance.md.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import psutil
import websockets.sync.client

from tests.bench import events, gateways, proxying
from tests.bench.cpu import (
    HERE,
    SERVERS,
    Words,
    c_echo,
    clients_on_a_core_of_their_own,
    cost,
    cpu,
    foreign,
    many_files,
    pin,
)
from tests.bench.slow import CLIENTS as SLOW
from tests.bench.slow import latency
from tests.certs import Authority
from tests.conftest import wait_until
from workermand.testing import RunningServer, running_server

HANDLER = {
    "bench.py": "def on_message(connection, data):\n    connection.send(data)\n",
    "hello.py": "def on_message(connection, request):\n    connection.send('hello')\n",
    "a_file.py": """
from workermand import Response

def on_message(connection, request):
    connection.send(Response().with_file(connection.worker.options["file"]))
""",
    "broadcast.py": """
import os, statistics, time
from workermand import Connection
from workermand.protocols.wsframe import frame

NEWS = "n" * 64

def cost(work):
    began = time.process_time()
    work()
    return time.process_time() - began

def on_message(connection, data):
    others = [other.get_socket().fileno() for other in connection.worker.connections.values()]
    ready = frame(0x81, NEWS.encode())
    rounds = [
        (cost(lambda: [os.write(fd, ready) for fd in others]), cost(lambda: connection.worker.broadcast(NEWS)))
        for _ in range(int(data))
    ]
    bare, ours = (statistics.median(side) * 1e6 / len(others) for side in zip(*rounds, strict=True))
    connection.send(f"{ours / bare:.2f} x ({ours:.2f} us each, a bare send {bare:.2f} us)")
""",
}
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: MTIzNDU2Nzg5MDEyMzQ1Ng==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
WEIGHED = {
    "weighed.py": """
with open("/proc/self/smaps_rollup") as lines:
    BEFORE = sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private"))

def on_message(connection, data):
    connection.send(str(BEFORE))
"""
}
"""Its first line runs at the last moment before the handler."""
FILES = (1 << 10, 100 << 10, 10 << 20)
"""Bytes."""
IDLE = 10_000
CHILDREN = 100
QUESTIONS = 20

Row = tuple[str, str, str]
"""A line of the table: what, measured, mark."""


# ---------------------------------------------------------------------------------------------------- the machine


def echo(count: int = 1, scheme: str = "text") -> contextlib.AbstractContextManager[RunningServer]:
    """Ours: an echo in ``count`` processes, over http a greeting. It has every address of this machine: see
    shortconn.c."""
    limits = {"http": {"requests": 0}}
    handler = "hello" if scheme == "http" else "bench"
    return running_server(handler, files=HANDLER, listen=f"{scheme}://0.0.0.0:0", count=count, limits=limits)


def children_of(server: RunningServer) -> list[psutil.Process]:
    return psutil.Process(server.pid).children()


# ---------------------------------------------------------------------------------------------------- CPU


def beside_c(program: str, c_words: Words, words: Words, args: argparse.Namespace, scheme: str = "text") -> str:
    """Ours and C's in turn."""
    with echo(scheme=scheme) as server:
        pin(server.pid, SERVERS)
        return in_turn(server.pid, server.port, program, c_words, words, args)


def in_turn(pid: int, port: int, program: str, c_words: Words, words: Words, args: argparse.Namespace) -> str:
    with c_echo() as c, clients_on_a_core_of_their_own():
        pairs = [
            (cost(*c, program, c_words, args.seconds), cost(pid, port, program, words, args.seconds))
            for _ in range(args.rounds)
        ]
    limit, ours = (statistics.median(side) for side in zip(*pairs, strict=True))
    return f"{ours / limit:.2f} x C ({ours:.2f} us, C {limit:.2f} us)"


def message(args: argparse.Namespace) -> Row:
    measured = beside_c("loadgen", ["text", 64, 1], ["text", 64, 1], args)
    return "CPU per message, 64 connections, 1 in flight", measured, "1.4 x C"


def burst(args: argparse.Namespace) -> Row:
    measured = beside_c("loadgen", ["text", 64, 16], ["text", 64, 16], args)
    return "CPU per message, 64 connections, 16 in flight", measured, "3.2 x C"


def websocket(args: argparse.Namespace) -> Row:
    one, many = (beside_c("loadgen", ["text", 64, depth], ["ws", 64, depth], args, "websocket") for depth in (1, 16))
    return "CPU per WebSocket message, 1 and 16 in flight", f"{one}; {many}", "1.5 x C; 4.2 x C"


def http(args: argparse.Namespace) -> Row:
    one, many = (beside_c("loadgen", ["text", 64, depth], ["http", 64, depth], args, "http") for depth in (1, 16))
    return "CPU per HTTP request, 1 and 16 in flight", f"{one}; {many}", "1.7 x C; 6.5 x C"


def beside_rival(rival: str, kind: str, scheme: str, args: argparse.Namespace) -> str:
    """Another server and ours in turn."""
    with echo(scheme=scheme) as server, foreign([sys.executable, HERE / "rivals.py", rival]) as other:
        pin(server.pid, SERVERS)
        answers = []
        with clients_on_a_core_of_their_own():
            for depth in (1, 16):
                words: Words = [kind, 64, depth]
                pairs = [
                    (
                        cost(*other, "loadgen", words, args.seconds),
                        cost(server.pid, server.port, "loadgen", words, args.seconds),
                    )
                    for _ in range(args.rounds)
                ]
                theirs, ours = (statistics.median(side) for side in zip(*pairs, strict=True))
                answers.append(f"{theirs / ours:.1f} times cheaper ({theirs:.1f} us)")
    return "; ".join(answers)


def rivals(args: argparse.Namespace) -> Row:
    web = beside_rival("uvicorn", "http", "http", args)
    socket_ = beside_rival("websockets", "ws", "websocket", args)
    measured = f"than uvicorn (HTTP): {web}; than websockets (WebSocket): {socket_}"
    return "beside other servers on uvloop, 1 and 16 in flight", measured, "2 times cheaper"


def tls_cost(pid: int, port: int, depth: int, seconds: float) -> float:
    """As ``cost``, without that of the handshakes."""
    command = [sys.executable, str(HERE / "tlsload.py"), str(port), "64", str(depth), str(seconds)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdin and client.stdout and client.stdout.readline() == "connected\n"
        before = cpu(pid)
        client.stdin.write("go\n")
        client.stdin.flush()
        count = int(client.stdout.readline())
        return (cpu(pid) - before) * 1e6 / count


def tls(args: argparse.Namespace) -> Row:
    """Ours in the daemon, and as a bare stream beside other stacks, all in turn."""
    answers = []
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        cert, key = Authority(Path(directory)).issue()
        settings = {"cert": str(cert), "key": str(key)}
        server = stack.enter_context(running_server("bench", files=HANDLER, tls=settings))
        pin(server.pid, SERVERS)
        stacks = {"ours in the daemon": (server.pid, server.port)}
        for name in ("ours", "aiofastnet", "uvloop"):
            command = [sys.executable, HERE / "bare_tls.py", name]
            stacks[f"{name} bare"] = stack.enter_context(foreign(command))
        stack.enter_context(clients_on_a_core_of_their_own())
        for depth in (1, 16):
            rounds = [[tls_cost(*where, depth, args.seconds) for where in stacks.values()] for _ in range(args.rounds)]
            medians = map(statistics.median, zip(*rounds, strict=True))
            answers.append(", ".join(f"{name} {each:.2f} us" for name, each in zip(stacks, medians, strict=True)))
    return "CPU per message over TLS, 64 connections, 1 and 16 in flight", "; ".join(answers), ""


def files(args: argparse.Namespace) -> Row:
    return "CPU for a file, 16 clients, beside nginx", "; ".join(one_file(size, args) for size in FILES), ""


def one_file(size: int, args: argparse.Namespace) -> str:
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "file")
        file.write_bytes(os.urandom(size))
        with (
            running_server(
                "a_file",
                files=HANDLER,
                listen="http://127.0.0.1:0",
                options={"file": str(file)},
                limits={"http": {"requests": 0}},
            ) as server,
            foreign([sys.executable, HERE / "rivals.py", "nginx", file]) as other,
            clients_on_a_core_of_their_own(),
        ):
            pin(server.pid, SERVERS)
            words: Words = ["http", 16, 1]
            pairs = [
                (
                    cost(*other, "loadgen", words, args.seconds),
                    cost(server.pid, server.port, "loadgen", words, args.seconds),
                )
                for _ in range(args.rounds)
            ]
    theirs, ours = (statistics.median(side) for side in zip(*pairs, strict=True))
    return f"{size // 1024:,} KiB {ours:.0f} us ({ours / size * 1000:.2f} s/GB), nginx {theirs:.0f} us"


def proxy(args: argparse.Namespace) -> Row:
    moved = proxying.measure(args.rounds, args.seconds)
    measured = ", ".join(f"{name} {each / 1e9:.2f} GB" for name, each in moved.items())
    return f"moved by a second of a proxy's CPU, {proxying.CONNECTIONS} connections", measured, ""


def channel(args: argparse.Namespace) -> Row:
    parts = []
    for (subscribers, under_way), costs in events.measure(args.rounds, args.seconds).items():
        words = ", ".join(f"{name} {each * 1e6:.2f} us" for name, each in costs.items())
        ratio = costs["ours"] / costs["redis"]
        parts.append(f"{subscribers} subscribers, {under_way} under way: {ratio:.2f} x redis ({words})")
    return "server's CPU per event delivered", "; ".join(parts), "3 x redis"


def delay(args: argparse.Namespace) -> Row:
    parts = [
        f"{name} p50 {half * 1e6:.0f} us, p99 {most * 1e6:.0f} us at {rate:.0f} events/s"
        for name, (rate, half, most) in events.measure_delays(args.rounds, args.seconds).items()
    ]
    return "from publisher to 10 subscribers at half load", "; ".join(parts), ""


def gateway(args: argparse.Namespace) -> Row:
    sends = [gateways.sends(clients, args.rounds, args.seconds) for clients in (1000, 10_000)]
    requests = [gateways.requests(depth, args.rounds, args.seconds) for depth in (1, 16)]
    return "CPU per message of a gateway to a group, and per request through it", "; ".join(sends + requests), ""


def floor(args: argparse.Namespace) -> Row:
    with foreign([sys.executable, HERE / "bare.py"]) as (pid, port):
        words = [["text", 64, depth] for depth in (1, 16)]
        one, many = (in_turn(pid, port, "loadgen", each, each, args) for each in words)
    return "the same for uvloop alone, which parses nothing: 1 and 16 in flight", f"{one}; {many}", ""


def short(args: argparse.Namespace) -> Row:
    measured = beside_c("shortconn", [64], [64], args)
    return "CPU per short connection (connect, one message, close)", measured, ""


# ---------------------------------------------------------------------------------------------------- memory and time


def private(process: psutil.Process) -> int:
    """Bytes that a process shares with no other."""
    return int(process.memory_full_info().uss)


def idle(_: argparse.Namespace) -> Row:
    with many_files(), contextlib.ExitStack() as stack:
        server = stack.enter_context(echo())
        (child,) = children_of(server)
        stack.enter_context(server.connect()).sendall(b"the first one costs what all share\n")
        before = private(child)
        for _number in range(IDLE):
            stack.enter_context(server.connect())
        wait_until("all connected", lambda: server.status()["processes"][0]["connections"] > IDLE)
        each = (private(child) - before) / IDLE / 1024
    return f"memory of an idle connection ({IDLE:,} of them)", f"{each:.2f} KiB", "2.5 KiB"


def upgraded(server: RunningServer, stack: contextlib.ExitStack) -> socket.socket:
    client: socket.socket = stack.enter_context(server.connect())
    client.sendall(UPGRADE)
    head = b""
    while b"\r\n\r\n" not in head:
        head += client.recv(4096)
    return client


def idle_websocket(_: argparse.Namespace) -> Row:
    with many_files(), contextlib.ExitStack() as stack:
        server = stack.enter_context(echo(scheme="websocket"))
        (child,) = children_of(server)
        upgraded(server, stack)
        before = private(child)
        for _number in range(IDLE):
            upgraded(server, stack)
        each = (private(child) - before) / IDLE / 1024
    return f"memory of an idle WebSocket ({IDLE:,} of them)", f"{each:.2f} KiB", "2.5 KiB"


def broadcast(args: argparse.Namespace) -> Row:
    with many_files(), contextlib.ExitStack() as stack:
        server = stack.enter_context(running_server("broadcast", files=HANDLER, listen="websocket://127.0.0.1:0"))
        for _number in range(IDLE):
            upgraded(server, stack)
        asking = stack.enter_context(websockets.sync.client.connect(f"ws://127.0.0.1:{server.port}"))
        asking.send(str(args.rounds))
        answer = str(next(word for word in asking if "us each" in str(word)))
    return f"a broadcast to {IDLE:,} WebSockets, beside as many bare sends", answer, ""


def slow(_: argparse.Namespace) -> Row:
    with many_files():
        median, p99, longest = latency()
    measured = f"p99 {p99:.1f} ms (median {median:.1f} ms, longest {longest:.1f} ms)"
    return f"a request beside {SLOW:,} slow clients, its connection included", measured, "p99 100 ms"


def ready(_: argparse.Namespace) -> Row:
    began = time.monotonic()
    with echo(CHILDREN):
        took = time.monotonic() - began
    return f"{CHILDREN} children READY, from the start of the daemon", f"{took:.2f} s", "1 s"


def weight_before(server: RunningServer) -> int:
    with server.connect() as client:
        client.sendall(b"?\n")
        return int(client.recv(100))


def child(_: argparse.Namespace) -> Row:
    with running_server("weighed", files=WEIGHED, listen="text://127.0.0.1:0", count=CHILDREN) as server:
        before = statistics.median(weight_before(server) for _ in range(CHILDREN)) / 1e6
        serving = statistics.median(map(private, children_of(server))) / 1e6
    measured = f"{before:.1f} MB (serving: {serving:.1f} MB)"
    return f"private memory of one of {CHILDREN} children before its handler", measured, "4 MB"


def status(_: argparse.Namespace) -> Row:
    def timed(ask: Callable[[], object]) -> float:
        began = time.monotonic()
        ask()
        return (time.monotonic() - began) * 1e3

    with echo(CHILDREN) as server:
        answer = statistics.median(timed(server.status) for _ in range(QUESTIONS))
        command = statistics.median(timed(lambda: server.ctl("status")) for _ in range(QUESTIONS))
    return f"`workermanctl status` of {CHILDREN} children", f"{command:.0f} ms (the answer {answer:.0f} ms)", ""


# ---------------------------------------------------------------------------------------------------- the table

MEASURES = {
    measure.__name__: measure
    for measure in (
        message,
        burst,
        websocket,
        http,
        rivals,
        files,
        tls,
        proxy,
        channel,
        delay,
        gateway,
        floor,
        short,
        idle,
        idle_websocket,
        broadcast,
        slow,
        ready,
        child,
        status,
    )
}


def machine() -> str:
    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = next((line.split(":")[1].strip() for line in cpuinfo.splitlines() if line.startswith("model name")), "?")
    return (
        f"{model}, {os.cpu_count()} cores, Linux {platform.release().split('-')[0]}, "
        f"Python {platform.python_version()}, uvloop {version('uvloop')}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MEASURES)}; without: all")
    parser.add_argument("--rounds", type=int, default=7, help="slices of each side (7)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of one slice (1)")
    args = parser.parse_args()
    if unknown := set(args.names) - MEASURES.keys():
        parser.error(f"no such measurement: {', '.join(sorted(unknown))}")
    print(f"{machine()}\n\n| What | Measured | Mark |\n|---|---|---|", flush=True)
    for name in args.names or MEASURES:
        print("| " + " | ".join(MEASURES[name](args)) + " |", flush=True)


if __name__ == "__main__":
    main()
