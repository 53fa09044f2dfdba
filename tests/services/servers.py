"""Real servers of other makes, on free ports, ended by their pid: redis-server and nats-server, as Debian has them."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import wait_until


class Server:
    """One that can be killed, and started again over the same data."""

    def __init__(self, command: list[str], port: int, url: str, output: Path) -> None:
        self._command = command
        self._port = port
        self._output = output
        self.url = url
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it accepts connections."""
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(self._command, stdout=output, stderr=output)
        wait_until(f"{self._command[0]} accepts connections", self._accepts)

    def kill(self) -> None:
        """kill -9."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """As an administrator does."""
        self._end(signal.SIGTERM)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """It is there, and says nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(30)
            self._process = None

    def _accepts(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self._output.read_text()[-2000:]
        with socket.create_connection(("127.0.0.1", self._port), 1):
            return True


@contextlib.contextmanager
def redis_server(*settings: str) -> Iterator[Server]:
    """``settings``: of its command line; without any it keeps every write."""
    yield from _run("redis-server", settings or ("--appendonly", "yes", "--appendfsync", "always"))


@contextlib.contextmanager
def nats_server(*settings: str) -> Iterator[Server]:
    """With JetStream, unless ``settings`` say something else."""
    yield from _run("nats-server", settings or ("--jetstream",))


def _run(name: str, settings: tuple[str, ...]) -> Iterator[Server]:
    if shutil.which(name) is None:
        pytest.skip(f"needs {name}: apt-get install {name}")
    place = Path(tempfile.mkdtemp(prefix="wm-"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [name, *settings, "--port", str(port)]
    if name == "redis-server":
        command += ["--bind", "127.0.0.1", "--save", "", "--dir", str(place)]
    else:
        command += ["--addr", "127.0.0.1", *(["--store_dir", str(place)] if "--jetstream" in settings else [])]
    server = Server(command, port, f"{name.partition('-')[0]}://127.0.0.1:{port}", place / "output")
    try:
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(place)
