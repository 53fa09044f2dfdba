"""What a newcomer types: `make run` in a terminal, a client, Ctrl+C."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0

# config/workers.toml has ports of its own: one test at a time.
pytestmark = pytest.mark.xdist_group("shipped-config")


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    """One test at a time on this machine, whoever else runs these tests in a copy of the project."""
    with Path(tempfile.gettempdir(), f"workermand-shipped-config-{os.getuid()}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture
def places(short_dir: Path) -> dict[str, str]:
    """A run_dir and a state_dir of its own: a daemon of the same name may be the machine's."""
    return {**os.environ, "RUNTIME_DIRECTORY": f"{short_dir}/run", "STATE_DIRECTORY": f"{short_dir}/state"}


class Terminal:
    """A command in a terminal of its own."""

    def __init__(self, *command: str, env: dict[str, str]) -> None:
        self.screen = ""
        self._fd, other = pty.openpty()
        # setsid: the terminal is the command's, and Ctrl+C reaches it and all it has started.
        words = ["setsid", "--ctty", *command]
        self._process = subprocess.Popen(words, cwd=ROOT, env=env, stdin=other, stdout=other, stderr=other)
        os.close(other)

    def type(self, keys: bytes) -> None:
        os.write(self._fd, keys)

    def wait_for(self, pattern: str) -> None:
        while not re.search(pattern, self.screen):
            assert self._read(), f"ended without {pattern!r}:\n{self.screen}"

    def wait(self) -> int:
        """Its exit code, at its end: -N for signal N."""
        while self._read():
            pass
        return self._process.wait(PATIENCE)

    def hang_up(self) -> None:
        """The window is closed."""
        os.close(self._fd)
        self._fd = -1

    def end(self) -> None:
        """Whatever it is at."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self._fd >= 0:
            self.hang_up()

    def _read(self) -> bool:
        ready, _, _ = select.select([self._fd], [], [], PATIENCE)
        assert ready, f"nothing more within {PATIENCE:g} s:\n{self.screen}"
        try:
            data = os.read(self._fd, 65536)
        except OSError:  # EIO: nobody has the other side any more
            return False
        self.screen += data.decode(errors="replace")
        return bool(data)


def test_make_run_serves_until_ctrl_c(places: dict[str, str]) -> None:
    terminal = Terminal("make", "run", env=places)
    try:
        terminal.wait_for(r"text://0\.0\.0\.0:2347")
        terminal.wait_for(r"started: ")
        with socket.create_connection(("127.0.0.1", 2347), timeout=PATIENCE) as client:
            client.sendall(b"hello\n")
            assert client.recv(100) == b"hello\n"
        with urllib.request.urlopen("http://127.0.0.1:55151/", timeout=PATIENCE) as page:
            assert b"chat.js" in page.read()
        with connect("ws://127.0.0.1:7272/", open_timeout=PATIENCE) as browser:
            browser.send(json.dumps({"type": "login", "client_name": "Anne", "room_id": "1"}))
            said = json.loads(browser.recv(PATIENCE))
            assert (said["type"], said["client_name"]) == ("login", "Anne")
        terminal.type(b"\x03")
        assert terminal.wait() == 0
    finally:
        terminal.end()
    assert "***" not in terminal.screen
    assert "Traceback" not in terminal.screen


def test_a_closed_terminal_ends_what_was_started_in_it(
    places: dict[str, str], short_dir: Path, eventually: Callable[..., Any]
) -> None:
    def refused() -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", 2347)) == errno.ECONNREFUSED

    pid_file = short_dir / "run" / "workers" / "workermand.pid"
    terminal = Terminal("bash", "-c", "make run; true", env=places)  # a shell leads the session, as in a window
    try:
        terminal.wait_for(r"started: ")
        assert pid_file.exists()
        terminal.hang_up()
        eventually("nothing listens any more", refused)
        eventually("the master has left", lambda: not pid_file.exists())
    finally:
        terminal.end()
