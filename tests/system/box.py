"""A real systemd as PID 1, for tests: Python's side of box.sh, which says how it is done."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

BOX = Path(__file__).with_name("box.sh")
PATIENCE = 120.0
"""Seconds that one command in the box may take."""
CANNOT = 77


class Box:
    """One that is up. Commands are words, or one string for the shell."""

    def __init__(self, name: str) -> None:
        self._name = name

    def run(
        self, command: str | list[str], *, text: str = "", env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs it to its end, whatever the exit code; ``text`` is its standard input."""
        words = ["sh", "-c", command] if isinstance(command, str) else command
        settings = [word for name, value in (env or {}).items() for word in ("--setenv", f"{name}={value}")]
        return subprocess.run(
            [str(BOX), "exec", "--name", self._name, *settings, "--", *words],
            input=text,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def do(self, command: str | list[str], *, text: str = "", env: Mapping[str, str] | None = None) -> str:
        """The same, but it has to succeed: its output, or an AssertionError with all it said."""
        done = self.run(command, text=text, env=env)
        said = command if isinstance(command, str) else shlex.join(command)
        assert done.returncode == 0, f"{said}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout.strip()

    def read(self, path: str) -> str:
        return self.do(["cat", path]) + "\n"

    def write(self, path: str, text: str) -> None:
        self.do(["tee", path], text=text)

    def show(self, unit: str, *names: str) -> str:
        """Properties of a unit, in the order of ``names``, with spaces between."""
        lines = self.do(["systemctl", "show", *(f"--property={name}" for name in names), unit]).splitlines()
        values = dict(line.split("=", 1) for line in lines)
        return " ".join(values[name] for name in names)

    def pids(self, unit: str) -> set[int]:
        """Every process in the unit's cgroup; none when it has no cgroup."""
        group = self.show(unit, "ControlGroup")
        listed = self.run(["cat", f"/sys/fs/cgroup{group}/cgroup.procs"]) if group else None
        return {int(line) for line in listed.stdout.split()} if listed else set()

    def journal(self, unit: str = "", after: str = "") -> str:
        """What the unit has said, or what has been said about it, since the cursor; without a unit: all that there is.
        (No pattern for a unit: journalctl fails while none that matches has said anything.)"""
        self.do(["journalctl", "--sync"])
        about = [f"--unit={unit}"] if unit else []
        since = [f"--after-cursor={after}"] if after else []
        return self.do(["journalctl", "--output=cat", *about, *since])

    def cursor(self) -> str:
        """The end of the journal now."""
        last = self.do(["journalctl", "--lines=0", "--show-cursor"])
        return last.partition("cursor: ")[2].strip()


def skip_unless_possible() -> None:
    """Where the machine cannot boot one: without root, say."""
    possible = subprocess.run([str(BOX), "check"], capture_output=True, text=True, timeout=PATIENCE, check=False)
    if possible.returncode == CANNOT:
        pytest.skip(f"no systemd as PID 1 here: {possible.stderr.strip()}")


@contextlib.contextmanager
def booted(name: str, *binds: tuple[Path, str]) -> Iterator[Box]:
    """Boots one, with directories of the host's seen read-only in it."""
    name = f"{name}-{os.getpid()}"
    words = [word for source, target in binds for word in ("--bind-ro", f"{source}:{target}")]
    up = subprocess.run(
        [str(BOX), "up", "--name", name, *words], capture_output=True, text=True, timeout=120, check=False
    )
    assert up.returncode == 0, up.stderr
    try:
        yield Box(name)
    finally:
        down = subprocess.run(
            [str(BOX), "down", "--name", name], capture_output=True, text=True, timeout=60, check=False
        )
        assert down.returncode == 0, down.stderr
