"""running_server: a real daemon of a test's own, from READY to the last of its processes.

Nothing here polls: READY comes over sd_notify's socket, the end over a pidfd, what is printed over a pipe that a thread
reads. Ports lie below the kernel's ephemeral range and are held for as long as the server lives, so that tests beside
each other, and the thousands of clients of one of them, do not take them away.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from workermand import config
from workermand.errors import WorkermandError
from workermand.spec import ListenSpec

FIRST_PORT = 10_240

Address = tuple[str, int] | str
"""(host, port), or the path of a unix socket."""


class ServerFailed(WorkermandError):
    """The daemon did not start, or not do what was asked, in time; the text ends with its output."""


@contextlib.contextmanager
def running_server(
    what: str | Path,
    *,
    listen: str | list[str] | None = "text://127.0.0.1:0",
    files: Mapping[str, str] | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = 60.0,
    **worker: Any,
) -> Iterator[RunningServer]:
    """A daemon, for one ``with`` block.

    ``what`` is a handler ("apps.echo"), which makes one worker named "main" with ``listen`` and any other key of
    [worker.NAME] as a keyword; or the text of a TOML file; or the Path of one, used where it is. Port 0 in a listen URI
    stands for a free port, except in a Path. ``files`` (name to source) are written beside the TOML text: that
    directory and the current one are the app_path, unless the text has its own. run_dir and state_dir are temporary;
    ``env`` is added to the environment. ``timeout``, in seconds, is for each wait. Raises ServerFailed when the daemon
    does not become ready.

    At the end the daemon gets TERM, at the deadline KILL, and what is left of its processes is killed.
    """
    with contextlib.ExitStack() as stack:
        directory = Path(tempfile.mkdtemp(prefix="workermand-"))
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        directory.chmod(0o755)  # the handler of a worker with another user is read here
        for name, source in (files or {}).items():
            _write(directory / name, source)
        if isinstance(what, Path):
            file = what
        else:
            file = directory / "server.toml"
            text = what if "\n" in what else _one_worker({"listen": listen, "handler": what, **worker})
            _write(file, _with_app_path(_with_free_ports(text, stack), directory))
        server = stack.enter_context(RunningServer(file, directory, env or {}, timeout))
        server.wait_until_ready()
        yield server


class RunningServer:
    """What ``running_server`` gives: the daemon, its clients and its tools."""

    def __init__(self, file: Path, directory: Path, env: Mapping[str, str], timeout: float) -> None:
        self.file = file
        """The TOML file. After a change: ``reload()``."""
        self.directory = directory
        """Where ``files`` are."""
        self.timeout = timeout
        self.output = ""
        """What the daemon and its children have printed so far."""
        self._printed = threading.Condition()
        self._env = _environment(directory, env)
        self.spec = config.load(str(file), self._env)
        """The settings, as the daemon reads them."""
        self.run_dir = Path(self.spec.run_dir)

    def __enter__(self) -> RunningServer:
        self._notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notified.bind(str(self.directory / "notify"))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "workermand", "run", "-c", str(self.file)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**self._env, "NOTIFY_SOCKET": str(self.directory / "notify")},
            start_new_session=True,  # its processes can be told by their session, whatever becomes of the master
        )
        self.pid = self._process.pid
        self._pidfd = os.pidfd_open(self.pid)
        assert self._process.stdout is not None
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True)
        self._reader.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.stop()
            else:
                sys.stderr.write(self.output)  # pytest shows it with the failure
        finally:
            self.kill_all()
            self._notified.close()
            os.close(self._pidfd)

    # ------------------------------------------------------------------ clients

    @property
    def addresses(self) -> dict[str, list[Address]]:
        """Of every worker, each of its listeners."""
        return {name: [_address(listen) for listen in worker.listen] for name, worker in self.spec.workers.items()}

    @property
    def address(self) -> Address:
        """The first one."""
        return next(address for addresses in self.addresses.values() for address in addresses)

    @property
    def port(self) -> int:
        """Of the first address."""
        return int(self.address[1])

    def connect(self, worker: str | None = None) -> socket.socket:
        """A client of the first listener (of ``worker``), stream or datagram, whose calls have the server's timeout."""
        names = [worker] if worker else list(self.spec.workers)
        listen = next(listen for name in names for listen in self.spec.workers[name].listen)
        kind = socket.SOCK_DGRAM if listen.transport == "udp" else socket.SOCK_STREAM
        client = socket.socket(_family(listen), kind)
        client.settimeout(self.timeout)
        try:
            client.connect(_address(listen))
        except BaseException:
            client.close()
            raise
        return client

    # ------------------------------------------------------------------ control

    def ask(self, verb: str, **arguments: Any) -> dict[str, Any]:
        """One request over the control socket. ServerFailed when it is refused."""
        request = json.dumps({"verb": verb, **arguments}).encode()
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(self.timeout)
            control.connect(str(self.run_dir / "control.sock"))
            control.sendall(struct.pack(">I", len(request)) + request)
            with control.makefile("rb") as answers:
                answer = json.loads(answers.read()[4:])
        if not answer["ok"]:
            raise ServerFailed(answer["error"])
        data: dict[str, Any] = answer["data"]
        return data

    def status(self) -> dict[str, Any]:
        """What `workermanctl status --json` prints."""
        return self.ask("status")

    def ctl(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs `workermanctl` on this daemon. With ``check`` an exit code other than 0 is ServerFailed."""
        command = [sys.executable, "-m", "workermand.ctl", "-c", str(self.file), *arguments]
        done = subprocess.run(command, env=self._env, capture_output=True, text=True, timeout=self.timeout, check=False)
        if check and done.returncode:
            said = f"{done.stdout}{done.stderr}"
            raise ServerFailed(f"workermanctl {' '.join(arguments)}: exit code {done.returncode}\n{said}")
        return done

    def reload(self) -> None:
        """Returns when the new file and code serve. ServerFailed when they cannot."""
        self.ctl("reload")

    def stop(self, signum: int = signal.SIGTERM) -> int:
        """Sends the signal, unless the daemon has ended, and waits for the end. The exit code."""
        if self._process.poll() is None:
            os.kill(self.pid, signum)
        return self.wait()

    # ------------------------------------------------------------------ waiting

    def wait_until_ready(self) -> None:
        """Waits for READY. ServerFailed when the daemon ends instead, or says nothing in time."""
        deadline = time.monotonic() + self.timeout
        while self._notified in _readable([self._notified, self._pidfd], deadline):
            if b"READY=1" in self._notified.recv(4096).split(b"\n"):
                # Nobody would read what follows, and a full queue would hold the daemon up.
                self._notified.close()
                return
        raise self._failed("not ready" if self._process.poll() is None else f"exit code {self.wait()}")

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Waits until the output matches a regular expression. ServerFailed when it does not in time."""
        with self._printed:
            self._printed.wait_for(lambda: re.search(pattern, self.output), self.timeout)
            if found := re.search(pattern, self.output):
                return found
        raise self._failed(f"no {pattern!r} in the output")

    def wait(self) -> int:
        """Waits for the end. The exit code, -N for signal N. ServerFailed when it does not come in time."""
        if not _readable([self._pidfd], time.monotonic() + self.timeout):
            raise self._failed("still running")
        code = self._process.wait()
        self._reader.join(self.timeout)
        return code

    # ------------------------------------------------------------------ processes

    def processes(self) -> list[int]:
        """The pids of the daemon and of everything it has started, those that are only waited for left out."""
        pids = (int(entry) for entry in os.listdir("/proc") if entry.isdigit())
        return [pid for pid in pids if _lives_in_session(pid, self.pid)]

    def kill_all(self) -> None:
        """Ends every process of the daemon at once."""
        while pids := self.processes():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join(self.timeout)

    def _read(self, pipe: IO[bytes]) -> None:
        with pipe:
            while chunk := os.read(pipe.fileno(), 65536):
                with self._printed:
                    self.output += chunk.decode(errors="replace")
                    self._printed.notify_all()

    def _failed(self, why: str) -> ServerFailed:
        return ServerFailed(f"{self.file.name}: {why} (limit {self.timeout:g} s)\n{self.output}")


# ---------------------------------------------------------------------------------------------------- the TOML text


def _one_worker(keys: dict[str, Any]) -> str:
    lines = [f"{key} = {_toml(value)}" for key, value in keys.items() if value is not None]
    return "\n".join(["[worker.main]", *lines, ""])


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def _with_app_path(text: str, directory: Path) -> str:
    if re.search(r"^\s*app_path\s*=", text, re.MULTILINE):
        return text
    line = f"app_path = {_toml([str(directory), os.getcwd()])}"
    if server := re.search(r"^\[server\].*$", text, re.MULTILINE):
        return f"{text[: server.end()]}\n{line}{text[server.end() :]}"
    return f"[server]\n{line}\n{text}"


def _with_free_ports(text: str, stack: contextlib.ExitStack) -> str:
    return re.sub(r'(://[^"\',\s]*:)0(?=["\'])', lambda match: f"{match[1]}{_free_port(stack)}", text)


def _free_port(stack: contextlib.ExitStack) -> int:
    """Free for tcp and udp, and this test's until the stack is closed."""
    last = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        # Not the module's generator: pytest-randomly seeds that alike in all processes.
        port = random.SystemRandom().randrange(FIRST_PORT, max(last, 2 * FIRST_PORT))
        held = stack.enter_context(socket.socket())
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
            datagrams.bind(("0.0.0.0", port))
            held.bind(("0.0.0.0", port))
            # Set after the bind: another test's bind fails, the daemon's, which sets it before, does not.
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            return port


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


# ---------------------------------------------------------------------------------------------------- the machine


def _environment(directory: Path, env: Mapping[str, str]) -> dict[str, str]:
    places = {"RUNTIME_DIRECTORY": str(directory / "run"), "STATE_DIRECTORY": str(directory / "state")}
    for place in places.values():
        Path(place).mkdir(mode=0o755)
    package = str(Path(__file__).parents[2])
    whole = {**os.environ, **places, **env}
    return {**whole, "PYTHONPATH": os.pathsep.join(filter(None, (package, whole.get("PYTHONPATH", ""))))}


def _address(listen: ListenSpec) -> Address:
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(listen.host, listen.host)
    return listen.path or (reachable, listen.port)


def _family(listen: ListenSpec) -> socket.AddressFamily:
    if listen.path:
        return socket.AF_UNIX
    return socket.AF_INET6 if ":" in listen.host else socket.AF_INET


def _readable(files: list[Any], deadline: float) -> list[Any]:
    """Those of ``files`` that have something, once one has; none at the deadline."""
    poll = select.poll()
    for file in files:
        poll.register(file, select.POLLIN)
    ready = {fd for fd, _ in poll.poll(max(0.0, deadline - time.monotonic()) * 1000)}
    return [file for file in files if (file if isinstance(file, int) else file.fileno()) in ready]


def _lives_in_session(pid: int, session: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    state, _parent, _group, its_session = stat.rpartition(")")[2].split()[:4]
    return state not in "ZX" and int(its_session) == session
