"""The fixture ``spawn``: real children of worker.process.run, driven over their links as the master drives them."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from tests.conftest import PATIENCE
from tests.worker.nursery import Request
from workermand.link import Ask, Connections, Link, LinkClosed, Message, Ready, Status, Stop, StopHow
from workermand.spec import ListenSpec, ServerSpec, WorkerSpec

M = TypeVar("M", bound=Message)
ROOT = Path(__file__).parents[2]


class Nursery:
    """The process that forks them; see nursery.py."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", "tests.worker.nursery", str(theirs.fileno())]
        self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()], cwd=ROOT)
        theirs.close()
        ours.settimeout(PATIENCE)
        self._control = ours
        self._ended: dict[int, int] = {}

    def fork(self, request: Request, fds: list[int]) -> int:
        socket.send_fds(self._control, [msgspec.msgpack.encode(request)], fds)
        return msgspec.msgpack.decode(self._control.recv(1024), type=int)

    def wait(self, pid: int) -> int:
        """Exit code, or minus the signal, of this child."""
        while pid not in self._ended:
            self._control.send(b"wait")
            ended, status = msgspec.msgpack.decode(self._control.recv(1024), type=tuple[int, int])
            self._ended[ended] = status
        return os.waitstatus_to_exitcode(self._ended.pop(pid))

    def close(self) -> None:
        self._control.close()
        self.process.kill()
        self.process.wait()


class Child:
    """One child, seen from the master's end of its link."""

    def __init__(self, nursery: Nursery, request: Request, sockets: list[socket.socket]) -> None:
        self._nursery = nursery
        self.sockets = sockets
        self.link, theirs = Link.pair()
        self._output, output = os.pipe()
        fds = [output, theirs.fileno(), *(sock.fileno() for sock in sockets)]
        self.pid = nursery.fork(request, fds)
        theirs.close()
        os.close(output)
        self.received: list[tuple[Message, list[int]]] = []
        self.printed = ""
        self._clients: list[socket.socket] = []
        self.exit_code: int | None = None

    # ------------------------------------------------------------------ the link

    def say(self, message: Message, *fds: int) -> None:
        assert self.link.send(message, list(fds))

    def hear(self, kind: type[M]) -> M:
        """The next message of this kind; what comes before it is kept in ``received``."""
        return self.until(f"a {kind.__name__}", lambda: self._take(kind))

    def _take(self, kind: type[M]) -> M | None:
        self._receive()
        for entry in self.received:
            if isinstance(entry[0], kind):
                self.received.remove(entry)
                return entry[0]
        return None

    def _receive(self) -> None:
        try:
            self.received += self.link.receive()
        except LinkClosed:
            assert select.select([self.link], [], [], 0)[0]

    def ask(self) -> Status:
        """Its counters as they are now."""
        return self._ask(Status, "status")

    def ask_connections(self) -> Connections:
        return self._ask(Connections, "connections")

    def _ask(self, kind: type[Any], what: Any) -> Any:
        number = time.monotonic_ns() & 0xFFFFFF
        self.say(Ask(number, what))
        while (answer := self.hear(kind)).asked != number:
            pass
        return answer

    def stop(self, how: StopHow = "drain", seconds: float = PATIENCE, *, reload: bool = False) -> None:
        self.say(Stop(how, seconds, reload))

    # ------------------------------------------------------------------ output

    def prints(self, text: str) -> str:
        """Waits until it has printed ``text``; gives all that it has printed."""
        return self.until(f"{text!r} in the output", lambda: self._read() and text in self.printed and self.printed)

    def _read(self) -> bool:
        while select.select([self._output], [], [], 0)[0]:
            data = os.read(self._output, 1 << 16)
            if not data:
                return True
            self.printed += data.decode("utf-8", "backslashreplace")
        return True

    def output(self) -> str:
        """All of it, to the end of the process."""
        while True:
            assert select.select([self._output], [], [], PATIENCE)[0], f"still alive; so far: {self.printed}"
            data = os.read(self._output, 1 << 16)
            if not data:
                return self.printed
            self.printed += data.decode("utf-8", "backslashreplace")

    def lines(self) -> list[str]:
        """The whole output without the tags of worker and pid."""
        return [re.sub(r"^\[\w+#\d+ \d+\] ", "", line) for line in self.output().splitlines()]

    # ------------------------------------------------------------------ life

    def signal(self, signum: signal.Signals) -> None:
        os.kill(self.pid, signum)

    def wait(self) -> int:
        if self.exit_code is None:
            self.exit_code = self._nursery.wait(self.pid)
        return self.exit_code

    def until(self, what: str, condition: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + PATIENCE
        while not (value := condition()):
            if time.monotonic() > deadline:
                self._read()
                pytest.fail(f"waited for {what}; received {self.received}; printed:\n{self.printed}")
            select.select([self.link, self._output], [], [], 0.01)
        return value

    # ------------------------------------------------------------------ clients

    def connect(self, number: int = 0) -> socket.socket:
        """A client of its first (or given) listening socket."""
        sock = self.sockets[number]
        client = socket.socket(sock.family, sock.type)
        self._clients.append(client)
        client.settimeout(PATIENCE)
        client.connect(sock.getsockname())
        return client

    def close(self, *, wait: bool = True) -> None:
        if wait and self.exit_code is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()
        self._read()
        print(self.printed)  # pytest shows it with a failure
        self.link.close()
        os.close(self._output)
        for sock in (*self.sockets, *self._clients):
            sock.close()


class Spawn:
    """``spawn(code, listen="text", ...)``: a child whose handler is ``code``, not yet READY."""

    def __init__(self, nursery: Nursery, directory: Path) -> None:
        self._nursery = nursery
        self._children: list[Child] = []
        self.directory = directory

    def __call__(
        self,
        code: str = "",
        *,
        listen: str = "",
        handler: str = "handler",
        slot: int = 0,
        server: dict[str, Any] | None = None,
        master_pid: int | None = None,
        nursery: Nursery | None = None,
        probe: bool = False,
        **settings: Any,
    ) -> Child:
        if code:
            (self.directory / "handler.py").write_text(code)
        sockets = [bind(uri) for uri in listen.split()]
        listens = tuple(spec_of(uri, sock) for uri, sock in zip(listen.split(), sockets, strict=True))
        spec = WorkerSpec(name="echo", handler=handler, listen=listens, **settings)
        root = str(self.directory)
        whole = ServerSpec(name="test", app_path=(root,), run_dir=root, state_dir=root, **(server or {}))
        child = Child(nursery or self._nursery, Request(whole, spec, slot, master_pid, probe), sockets)
        if nursery is None:
            self._children.append(child)
        return child

    def ready(self, code: str = "", **settings: Any) -> Child:
        child = self(code, **settings)
        child.hear(Ready)
        return child

    def close(self) -> None:
        for child in self._children:
            child.close()


def ask(client: socket.socket, line: bytes) -> bytes:
    """Sends, and gives what comes next."""
    client.sendall(line)
    return client.recv(65536)


def bind(protocol: str) -> socket.socket:
    """A listening socket on a port of its own; "udp" is raw over udp, anything else that protocol over tcp."""
    sock = socket.socket(type=socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM)
    sock.bind(("127.0.0.1", 0))
    if protocol != "udp":
        sock.listen(100)
    return sock


def spec_of(protocol: str, sock: socket.socket) -> ListenSpec:
    host, port = sock.getsockname()
    transport = "udp" if protocol == "udp" else "tcp"
    name = "raw" if protocol in ("udp", "tcp") else protocol
    return ListenSpec(uri=f"{protocol}://{host}:{port}", transport=transport, protocol=name, host=host, port=port)


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    made = Nursery()
    yield made
    made.close()


@pytest.fixture
def mortal() -> Iterator[Nursery]:
    """A nursery of the test's own, to be killed."""
    made = Nursery()
    yield made
    made.close()


@pytest.fixture
def spawn(nursery: Nursery, short_dir: Path) -> Iterator[Spawn]:
    short_dir.chmod(0o755)  # also for the users that children become
    made = Spawn(nursery, short_dir)
    yield made
    made.close()
