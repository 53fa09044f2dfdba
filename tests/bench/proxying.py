"""What a proxy moves for its CPU: apps.tcp_proxy, haproxy and nginx before the same upstream, in turn."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from tests.conftest import wait_until
from workermand.testing import running_server

CONNECTIONS = 8
PORTION = 1 << 20
"""Bytes of one write of the upstream, and of one read of a client."""
CORES = sorted(os.sched_getaffinity(0))

HAPROXY = """
global
    nbthread 1
    tune.bufsize {buffer}
defaults
    mode tcp
    timeout connect 10s
    timeout client 10m
    timeout server 10m
listen proxy
    bind 127.0.0.1:{port}
    server upstream 127.0.0.1:{upstream}
"""
NGINX = """
daemon off; master_process off; user root; pid {directory}/nginx.pid;
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
events {{}}
stream {{ server {{ listen 127.0.0.1:{port}; proxy_buffer_size {buffer}; proxy_pass 127.0.0.1:{upstream}; }} }}
"""
"""Debian's libnginx-mod-stream."""

BUFFERS = {"16 KiB": 16_384, "256 KiB": 262_144}
"""Theirs by default, and uvloop's for what it reads."""

Proxy = tuple[int, int]
"""(pid, port)."""


@contextlib.contextmanager
def upstream() -> Iterator[int]:
    """The port of a server that sends and sends."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listening:
        thread = threading.Thread(target=_flood_all, args=(listening,))
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


def _flood_all(listening: socket.socket) -> None:
    while True:
        try:
            client, _ = listening.accept()
        except OSError:
            return
        threading.Thread(target=_flood, args=(client,)).start()


def _flood(client: socket.socket) -> None:
    portion = bytes(PORTION)
    with client, contextlib.suppress(OSError):
        while True:
            client.sendall(portion)


@contextlib.contextmanager
def proxies() -> Iterator[dict[str, Proxy]]:
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(upstream())
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        options = {"upstream": f"127.0.0.1:{port}"}
        ours = stack.enter_context(running_server("apps.tcp_proxy", listen="tcp://127.0.0.1:0", options=options))
        (child,) = psutil.Process(ours.pid).children()
        found = {"ours": (child.pid, ours.port)}
        commands = {"haproxy": (HAPROXY, ["haproxy", "-db", "-f"]), "nginx": (NGINX, ["nginx", "-e", "stderr", "-c"])}
        for words, buffer in BUFFERS.items():
            for name, (text, command) in commands.items():
                place = Path(directory, f"{name}{buffer}")
                place.mkdir()
                proxy = stack.enter_context(_foreign(text, command, place, upstream=port, buffer=buffer))
                found[f"{name} with buffers of {words}"] = proxy
        for pid, _ in found.values():
            os.sched_setaffinity(pid, {CORES[0]})
        yield found


@contextlib.contextmanager
def _foreign(text: str, command: Sequence[str], directory: Path, **settings: int) -> Iterator[Proxy]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    file = directory / "settings"
    file.write_text(text.format(port=port, directory=directory, **settings))
    with subprocess.Popen([*command, str(file)], stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(command[0], lambda: socket.create_connection(("127.0.0.1", port)).close() or True)
            yield process.pid, port
        finally:
            process.kill()


def moved(proxy: Proxy, seconds: float) -> float:
    """Bytes for each second of the proxy's CPU."""
    pid, port = proxy
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        for _ in range(CONNECTIONS):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            client.recv(1)
            selector.register(client, selectors.EVENT_READ, client)
        buffer = bytearray(PORTION)
        received, before = 0, _cpu(pid)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for key, _ in selector.select(1):
                count = key.data.recv_into(buffer)
                assert count, "the proxy ended a connection"
                received += count
        return received / (_cpu(pid) - before)


def _cpu(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def measure(rounds: int, seconds: float) -> dict[str, float]:
    """Of each proxy the median, in bytes for each second of CPU."""
    os.sched_setaffinity(0, {CORES[-1]})
    try:
        with proxies() as found:
            slices = [[moved(proxy, seconds) for proxy in found.values()] for _ in range(rounds)]
    finally:
        os.sched_setaffinity(0, CORES)
    return {name: statistics.median(side) for name, side in zip(found, zip(*slices, strict=True), strict=True)}
