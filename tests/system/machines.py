"""Machines: network namespaces with an address each on one switch, from which a test can cut them off.

The namespaces have no names: one lives as long as a thread or a process is in it, so that whatever becomes of a test
nothing of them is left, and tests beside each other do not meet. Root, and `ip` of iproute2.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

CLONE_NEWNET = 0x40000000

T = TypeVar("T")
P = ParamSpec("P")

_libc = ctypes.CDLL(None, use_errno=True)


class Namespace:
    """A thread in a network of its own: what it starts, and the sockets it makes, are there."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self.path = self.run(_unshare)
        """For `ip`."""
        self.ip("link", "set", "lo", "up")

    def run(self, function: Callable[P, T], *arguments: P.args, **keywords: P.kwargs) -> T:
        """Calls it in there."""
        return self._thread.submit(function, *arguments, **keywords).result()

    def ip(self, *arguments: str) -> None:
        """Runs `ip`."""
        self.call("ip", *arguments)

    def call(self, *command: str) -> None:
        self.run(subprocess.run, command, check=True)

    def socket(self) -> socket.socket:
        """For a connection from there, whoever uses it."""
        return self.run(socket.socket)

    def close(self) -> None:
        self._thread.shutdown()


class Machine(Namespace):
    """Number n has the address 10.99.0.n."""

    def __init__(self, switch: Namespace, number: int) -> None:
        super().__init__()
        self.address = f"10.99.0.{number}"
        self._switch = switch
        self._port = f"port{number}"
        switch.ip("link", "add", self._port, "type", "veth", "peer", "name", "lan", "netns", self.path)
        switch.ip("link", "set", self._port, "master", "switch", "up")
        self.ip("address", "add", f"{self.address}/24", "dev", "lan")
        self.ip("link", "set", "lan", "up")

    def cut(self) -> None:
        """Packets are lost, and nobody is told: as when a switch dies."""
        self._switch.ip("link", "set", self._port, "nomaster")

    def heal(self) -> None:
        self._switch.ip("link", "set", self._port, "master", "switch")

    def isolate(self, isolated: bool) -> None:
        """Those that are isolated do not reach each other, and all the others do."""
        self._switch.call("bridge", "link", "set", "dev", self._port, "isolated", "on" if isolated else "off")


@contextlib.contextmanager
def machines(count: int) -> Iterator[list[Machine]]:
    """So many, on one switch."""
    with contextlib.ExitStack() as stack:
        switch = Namespace()
        stack.callback(switch.close)
        switch.ip("link", "add", "switch", "type", "bridge", "stp_state", "0")
        switch.ip("link", "set", "switch", "up")
        found = []
        for number in range(1, count + 1):
            found.append(Machine(switch, number))
            stack.callback(found[-1].close)
        yield found


def _unshare() -> str:
    """Leaves this thread in a new network. Where that can be found."""
    if _libc.unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), f"unshare: {os.strerror(ctypes.get_errno())}")
    return f"/proc/{os.getpid()}/task/{threading.get_native_id()}/ns/net"
