"""What an event costs the server that passes it on: ours, redis-server and nats-server, in turn, by the same clients.

One publisher, and subscribers that read all of it; a burst is over when everybody has it. The clients are sockets and
count bytes, so that what is measured, the server's own CPU, has no client library in it.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import psutil

from tests.services.servers import nats_server, redis_server
from workermand.services.channel import wire
from workermand.services.links import wire as links
from workermand.testing import running_server

SUBSCRIBERS = (1, 10, 1000)
BURSTS = (1, 50)
"""Events under way at once."""
PAYLOAD = b"x" * 100
EVENT = "bench.event"
CORES = sorted(os.sched_getaffinity(0))


class Wire(NamedTuple):
    """How a server is spoken to."""

    subscribe: bytes
    subscribed: bytes
    """What its answer ends with."""
    publish: bytes
    delivered: bytes
    """One event, as a subscriber gets it."""
    connect: Callable[[socket.socket], None]


class Broker(NamedTuple):
    pid: int
    port: int
    wire: Wire


def _read_until(client: socket.socket, end: bytes) -> None:
    heard = b""
    while not heard.endswith(end):
        chunk = client.recv(65536)
        assert chunk, heard
        heard += chunk


def _welcomed(client: socket.socket) -> None:
    client.sendall(links.pack([links.HELLO, 0, links.VERSION, "channel"]))
    _read_until(client, links.pack([links.CHALLENGE, 0, links.VERSION, b""]))
    client.sendall(links.pack([links.PROOF, 0, b"", b""]))
    _read_until(client, links.pack([links.WELCOME, 0, b""]))


def _greeted(client: socket.socket) -> None:
    _read_until(client, b"\r\n")
    client.sendall(b'CONNECT {"verbose":false}\r\nPING\r\n')
    _read_until(client, b"PONG\r\n")


def _bulk(*parts: bytes) -> bytes:
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


_NAME = EVENT.encode()
OURS = Wire(
    links.pack([wire.SUBSCRIBE, 1, [EVENT]]),
    links.pack([links.OK, 1, None]),
    links.pack([wire.PUBLISH, 1, [EVENT], PAYLOAD, False]),
    wire.event_frame(EVENT, PAYLOAD),
    _welcomed,
)
REDIS = Wire(
    _bulk(b"SUBSCRIBE", _NAME),
    b":1\r\n",
    _bulk(b"PUBLISH", _NAME, PAYLOAD),
    _bulk(b"message", _NAME, PAYLOAD),
    lambda client: None,
)
NATS = Wire(
    b"SUB %s 1\r\nPING\r\n" % _NAME,
    b"PONG\r\n",
    b"PUB %s %d\r\n%s\r\n" % (_NAME, len(PAYLOAD), PAYLOAD),
    b"MSG %s 1 %d\r\n%s\r\n" % (_NAME, len(PAYLOAD), PAYLOAD),
    _greeted,
)


@contextlib.contextmanager
def brokers() -> Iterator[dict[str, Broker]]:
    """All of them, on one core."""
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(
            running_server(
                "workermand.services.channel.server", listen="tcp://127.0.0.1:0", protocol="frame", reloadable=False
            )
        )
        (child,) = psutil.Process(ours.pid).children()
        found = {"ours": Broker(child.pid, ours.port, OURS)}
        foreign = {
            "redis": (redis_server("--appendonly", "no"), REDIS),
            "nats": (nats_server("-m", "-1"), NATS),
        }
        for name, (server, spoken) in foreign.items():
            running = stack.enter_context(server)
            port = int(running.url.rpartition(":")[2])
            found[name] = Broker(_listener(port), port, spoken)
        for broker in found.values():
            os.sched_setaffinity(broker.pid, {CORES[0]})
            for thread in psutil.Process(broker.pid).threads():
                os.sched_setaffinity(thread.id, {CORES[0]})
        yield found


def _listener(port: int) -> int:
    """The process behind a port."""
    for process in psutil.Process().children(recursive=True):
        if any(found.laddr.port == port for found in process.net_connections("tcp") if found.status == "LISTEN"):
            return process.pid
    raise LookupError(port)


def cost(broker: Broker, subscribers: int, burst: int, seconds: float) -> float:
    """The server's CPU for each event delivered, in seconds."""
    spoken = broker.wire
    with _clients(broker, subscribers) as (publisher, heard), selectors.DefaultSelector() as selector:
        for subscriber in heard:
            selector.register(subscriber, selectors.EVENT_READ)
        _play(publisher, selector, spoken, subscribers, burst)
        events, before = 0, _cpu(broker.pid)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            _play(publisher, selector, spoken, subscribers, burst)
            events += burst
        return (_cpu(broker.pid) - before) / (events * subscribers)


@contextlib.contextmanager
def _clients(broker: Broker, subscribers: int) -> Iterator[tuple[socket.socket, list[socket.socket]]]:
    """A publisher, and who has subscribed."""
    spoken = broker.wire
    with contextlib.ExitStack() as stack:

        def client() -> socket.socket:
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", broker.port)))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            spoken.connect(sock)
            return sock

        heard = [client() for _ in range(subscribers)]
        for subscriber in heard:
            subscriber.sendall(spoken.subscribe)
            _read_until(subscriber, spoken.subscribed)
        yield client(), heard


def _play(
    publisher: socket.socket, selector: selectors.DefaultSelector, spoken: Wire, subscribers: int, burst: int
) -> None:
    """One burst, until all of it is everywhere; then the publisher's answers are read."""
    publisher.sendall(spoken.publish * burst)
    missing = len(spoken.delivered) * burst * subscribers
    while missing > 0:  # nats-server says PING as well, once
        for key, _ in selector.select(10):
            chunk = key.fileobj.recv(1 << 18)  # type: ignore[union-attr]
            assert chunk, "the server ended a connection"
            missing -= len(chunk)
    with contextlib.suppress(BlockingIOError):
        publisher.recv(1 << 18, socket.MSG_DONTWAIT)


def _cpu(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def delays(broker: Broker, subscribers: int, seconds: float) -> tuple[float, list[float]]:
    """Events a second, half of what goes through in bursts; and for each event the seconds from when it was due to when
    the last subscriber had it. Those that could not be sent in time count from when they were due, too."""
    spoken = broker.wire
    with _clients(broker, subscribers) as (publisher, heard), selectors.DefaultSelector() as selector:
        for subscriber in heard:
            selector.register(subscriber, selectors.EVENT_READ)
        end, bursts = time.monotonic() + 0.5, 0
        while time.monotonic() < end:
            _play(publisher, selector, spoken, subscribers, BURSTS[-1])
            bursts += 1
        every = 0.5 / (bursts * BURSTS[-1]) * 2
        took: list[float] = []
        got = dict.fromkeys(heard, 0)
        sent, began = 0, time.monotonic()
        while len(took) * every < seconds:
            now = time.monotonic()
            if due := int((now - began) / every) - sent:
                publisher.sendall(spoken.publish * due)
                sent += due
            for key, _ in selector.select(max(0.0, began + (sent + 1) * every - time.monotonic())):
                subscriber = key.fileobj  # type: ignore[assignment]
                got[subscriber] += len(subscriber.recv(1 << 18))
            whole, now = min(got.values()) // len(spoken.delivered), time.monotonic()
            took += [now - (began + (number + 1) * every) for number in range(len(took), whole)]
            with contextlib.suppress(BlockingIOError):
                publisher.recv(1 << 18, socket.MSG_DONTWAIT)
        return 1 / every, took


def measure_delays(rounds: int, seconds: float) -> dict[str, tuple[float, float, float]]:
    """By server: events a second, and the medians of p50 and p99 in seconds, with 10 subscribers at half load."""
    os.sched_setaffinity(0, {CORES[-1]})
    try:
        with brokers() as found:
            runs = [[delays(broker, 10, seconds) for broker in found.values()] for _ in range(rounds)]
    finally:
        os.sched_setaffinity(0, CORES)
    measured = {}
    for name, of_one in zip(found, zip(*runs, strict=True), strict=True):
        rate = statistics.median(rate for rate, _ in of_one)
        cuts = [statistics.quantiles(took, n=100) for _, took in of_one]
        measured[name] = (rate, statistics.median(cut[49] for cut in cuts), statistics.median(cut[98] for cut in cuts))
    return measured


def measure(rounds: int, seconds: float) -> dict[tuple[int, int], dict[str, float]]:
    """By (subscribers, burst) and server: the median of what an event costs."""
    os.sched_setaffinity(0, {CORES[-1]})
    measured: dict[tuple[int, int], dict[str, float]] = {}
    try:
        with brokers() as found:
            for subscribers in SUBSCRIBERS:
                for burst in BURSTS:
                    slices = [
                        [cost(broker, subscribers, burst, seconds) for broker in found.values()] for _ in range(rounds)
                    ]
                    medians = map(statistics.median, zip(*slices, strict=True))
                    measured[subscribers, burst] = dict(zip(found, medians, strict=True))
    finally:
        os.sched_setaffinity(0, CORES)
    return measured
