"""PHP programs that tests write: a few lines that use client.php, run by php-cli; they speak with the test in lines."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CLIENT = Path(__file__).with_name("client.php")


def php() -> str:
    """Where it is. For tests marked ``real``: skips them where there is none."""
    path = shutil.which("php")
    if path is None:
        pytest.skip("no php: apt install php-cli")
    return path


class Program:
    """A running one: what it tells, and what it is told."""

    def __init__(self, code: str, *arguments: object) -> None:
        """``code`` finds its arguments in $argv, from 1."""
        text = f"error_reporting(E_ALL); require '{CLIENT}'; {code}"
        command = [php(), "-n", "-d", "display_errors=stderr", "-r", text, "--", *map(str, arguments)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    def tells(self) -> Any:
        """The arguments of its next tell()."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"PHP has ended: {self.process.communicate()[1]}"
        return json.loads(line)

    def say(self, line: str = "") -> None:
        """Its heard() returns."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def end(self) -> list[Any]:
        """It ends in good order; what it has told until then."""
        rest, errors = self.process.communicate(timeout=60)
        assert (self.process.returncode, errors) == (0, "")
        return [json.loads(line) for line in rest.splitlines()]


@contextmanager
def program(code: str, *arguments: object) -> Iterator[Program]:
    """Ended by force with the block, if it still runs."""
    running = Program(code, *arguments)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.communicate()


def run(code: str, *arguments: object) -> list[Any]:
    """All that it tells, until it ends."""
    with program(code, *arguments) as running:
        return running.end()
