"""A deflate bomb, 1 MiB that stands for 1 GiB: the limit of a message ends it long before, and in little memory."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.protocols.streams import bomb

MIB = 1 << 20

FED = """
import sys
from workermand.errors import ProtocolError
from workermand.protocols.deflate import Terms
from workermand.protocols.websocket import WebSocket

def most():  # not ru_maxrss: that counts what the parent had when it forked
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))

wire = sys.stdin.buffer.read()
before = most()
socket = WebSocket(int(sys.argv[1]), deflate=Terms(12, True, 15, True, 6, 5))
try:
    for at in range(0, len(wire), 65536):
        socket.feed(wire[at : at + 65536])
except ProtocolError as error:
    print(int.from_bytes(error.farewell[2:4]), most() - before, most())
"""
"""The code of the Close, how many bytes it took, and all that the process ever had."""


@pytest.fixture(scope="module", params=[1, 1000], ids=["a frame", "fragments"])
def wire(request: pytest.FixtureRequest) -> bytes:
    made = bomb(request.param)
    assert 0.9 * MIB < len(made) < 1.1 * MIB
    return made


def explode(wire: bytes, limit: int) -> tuple[int, int, int]:
    """In a process of its own, which nothing else has filled."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    command = [sys.executable, "-c", FED, str(limit)]
    done = subprocess.run(command, input=wire, env=plain, stdout=subprocess.PIPE, check=True, timeout=60)
    code, took, most = map(int, done.stdout.split())
    return code, took, most


def test_the_default_limit_takes_less_than_32_mib(wire: bytes) -> None:
    code, took, _ = explode(wire, 10 * MIB)
    assert code == 1009
    assert took < 32 * MIB


def test_with_a_limit_of_1_mib_the_whole_process_has_less_than_32_mib(wire: bytes) -> None:
    code, _, most = explode(wire, MIB)
    assert code == 1009
    assert most < 32 * MIB
