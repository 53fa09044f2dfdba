"""Bad input and what it gets: a clear message or a counted reason, and nothing else is lost."""

from __future__ import annotations

import json
import os
import resource
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.system.test_reload import ECHO, ask, config
from workermand.testing import RunningServer, ServerFailed, running_server

Eventually = Callable[..., Any]


def closed(server: RunningServer) -> dict[str, int]:
    """Reason -> how often, of all children."""
    reasons: dict[str, int] = {}
    for process in server.status()["processes"]:
        for reason, count in process["closed"].items():
            reasons[reason] = reasons.get(reason, 0) + count
    return reasons


def until_closed(client: socket.socket) -> bytes:
    received = b""
    try:
        while chunk := client.recv(65536):
            received += chunk
    except ConnectionResetError:
        pass
    return received


def start_fails(text: str, code: int, words: str, **files: str) -> None:
    with pytest.raises(ServerFailed) as failed, running_server(text, files={"handler.py": ECHO, **files}):
        pass
    assert f"exit code {code}" in str(failed.value), str(failed.value)
    assert words in str(failed.value), str(failed.value)


def test_a_port_in_use_names_its_holder() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        start_fails(config(listen=f"text://127.0.0.1:{port}"), 1, f"(pid {os.getpid()})")


def test_a_daemon_without_stdin_stdout_and_stderr(short_dir: Path, free_port: Callable[[], int]) -> None:
    """Its log would go to whatever it opens first: a byte of it, into its own wakeup socket, is a signal."""
    file = short_dir / "closed.toml"
    file.write_text(f'[server]\nrun_dir = "."\nstate_dir = "."\n{config(listen=f"text://127.0.0.1:{free_port()}")}')
    (short_dir / "handler.py").write_text("print('imported')\n" + ECHO)
    here = Path(__file__).parents[2]
    command = [sys.executable, "-m", "workermand", "run", "-c", str(file)]
    with subprocess.Popen(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command], cwd=here) as daemon:
        try:
            ready = [sys.executable, "-m", "workermand.ctl", "-c", str(file), "status", "--json"]
            deadline = time.monotonic() + 60
            while True:
                done = subprocess.run(ready, cwd=here, capture_output=True, text=True, timeout=60, check=False)
                if done.returncode == 0 and len(json.loads(done.stdout)["processes"]) == 4:
                    break
                assert time.monotonic() < deadline, done
            assert [os.readlink(f"/proc/{daemon.pid}/fd/{fd}") for fd in range(3)] == ["/dev/null"] * 3
            assert json.loads(done.stdout)["server"]["generation"] == 1
        finally:
            daemon.terminate()
    assert daemon.returncode == 0


def test_an_address_that_is_not_ours() -> None:
    start_fails(config(listen="text://192.0.2.1:4000"), 78, "192.0.2.1 is not an address of this machine")


def test_a_handler_that_is_missing() -> None:
    start_fails(config(handler="nothing.there"), 3, "no module named nothing")


def test_a_run_dir_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    start_fails(f'[server]\nrun_dir = "{tmp_path}/file/run"\n' + config(), 78, "server.run_dir: cannot make or write")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a tiny file system")
@pytest.mark.parametrize(
    ("options", "run_dir", "words"),
    [
        ("size=4k,nr_inodes=3", "run/deep", "/run/deep: No space left on device; make room, or "),
        ("size=4k", "", "/workermand.pid: No space left on device; make room, or "),
        ("ro", "run", "/run: Read-only file system; mount it writable, or "),
        ("ro", "", ": Read-only file system; mount it writable, or "),
    ],
)
def test_a_full_disk_and_a_read_only_one(options: str, run_dir: str, words: str, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("this machine does not let us mount")
    try:
        if options != "ro":
            (disk / "filler").write_bytes(b"x" * 4096)
        start_fails(f'[server]\nrun_dir = "{disk / run_dir}"\n' + config(), 78, f"{disk}{words}")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="starts as another user")
def test_a_privileged_port_without_the_right(short_dir: Path) -> None:
    short_dir.chmod(0o777)
    script = f"""
import os, sys
os.setgid(65534); os.setuid(65534)
os.environ.update(RUNTIME_DIRECTORY={str(short_dir)!r}, STATE_DIRECTORY={str(short_dir)!r})
from workermand.cli import main
sys.exit(main(["run", "text://127.0.0.1:81", "apps.echo"]))
"""
    with open("/proc/sys/net/ipv4/ip_unprivileged_port_start") as start:
        if int(start.read()) <= 81:
            pytest.skip("every port is free for all here")
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 78 and "CAP_NET_BIND_SERVICE" in done.stderr, done.stderr


def test_a_package_over_the_limit_is_closed_and_counted(eventually: Eventually) -> None:
    settings = config(count=1) + 'limits = {package = "1KiB"}\n'
    with (
        running_server(settings, files={"handler.py": ECHO}) as server,
        server.connect() as client,
        server.connect() as other,
    ):
        client.sendall(b"good\n" + b"x" * 2000)
        assert until_closed(client) == b"good\n"
        eventually("it is counted", lambda: closed(server) == {"package over the limit": 1})
        other.sendall(b"still here\n")
        assert other.recv(100) == b"still here\n"


@pytest.mark.parametrize("total", range(4))
def test_a_frame_shorter_than_its_header_is_closed_and_counted(total: int, eventually: Eventually) -> None:
    """Workerman waits for ever at 0 and makes a bogus package of 1 to 3."""
    with running_server(config(count=1, listen="frame://127.0.0.1:0"), files={"handler.py": ECHO}) as server:
        with server.connect() as client:
            good = struct.pack(">I", 8) + b"good"
            client.sendall(good + struct.pack(">I", total) + b"zz")
            assert until_closed(client) == good
        eventually("it is counted", lambda: closed(server) == {"protocol violation": 1})


def test_a_gigabyte_without_a_newline_is_closed_at_the_limit_and_memory_stays_flat(eventually: Eventually) -> None:
    with running_server(config(count=1), files={"handler.py": ECHO}) as server, server.connect() as client:
        child = psutil.Process(server.status()["processes"][0]["pid"])
        before = child.memory_info().rss
        block, sent = b"x" * 2**20, 0
        try:
            while sent < 2**30:
                client.sendall(block)
                sent += len(block)
        except (ConnectionResetError, BrokenPipeError):
            pass
        assert sent < 64 * 2**20
        eventually("it is counted", lambda: closed(server) == {"package over the limit": 1})
        assert child.memory_info().rss - before < 48 * 2**20


FLOOD = """
def on_message(connection, data):
    for _ in range(100):
        connection.send(b"x" * 100_000)
"""


def test_a_client_that_never_reads_is_closed(eventually: Eventually) -> None:
    settings = config(count=1).replace('{stop = "3s"}', '{stop = "3s", write_stall = "2s"}')
    with running_server(settings, files={"handler.py": FLOOD}) as server, server.connect() as client:
        client.sendall(b"flood\n")
        eventually("it is closed", lambda: closed(server) == {"write stall": 1})
        [process] = server.status()["processes"]
        assert process["send_fail"] > 0, "what did not fit was refused, and counted"


def test_an_idle_client_is_closed(eventually: Eventually) -> None:
    settings = config(count=1).replace('{stop = "3s"}', '{stop = "3s", idle = "1s"}')
    with running_server(settings, files={"handler.py": ECHO}) as server, server.connect() as client:
        assert client.recv(10) == b""
        eventually("it is counted", lambda: closed(server) == {"idle timeout": 1})


def test_telnets_interrupt_is_no_harm() -> None:
    interrupt = b"\xff\xf4\xff\xfd\x06"
    with running_server(config(count=1), files={"handler.py": ECHO}) as server, server.connect() as client:
        client.sendall(interrupt + b"\r\nhello\r\n")
        received = b""
        while not received.endswith(b"hello\n"):
            received += client.recv(100)
        assert received == interrupt + b"\nhello\n"


@pytest.mark.parametrize("how", ["raise ValueError('boom')", "import sys; sys.exit(3)", "raise KeyboardInterrupt"])
def test_an_exception_ends_one_connection(how: str, eventually: Eventually) -> None:
    handler = f"def on_message(connection, data):\n    if data == 'boom':\n        {how}\n    connection.send(data)\n"
    with running_server(config(count=1), files={"handler.py": handler}) as server:
        pid = server.status()["processes"][0]["pid"]
        with server.connect() as victim, server.connect() as other:
            victim.sendall(b"boom\n")
            assert until_closed(victim) == b""
            other.sendall(b"fine\n")
            assert other.recv(10) == b"fine\n"
        [process] = server.status()["processes"]
        assert process["pid"] == pid and process["exceptions"] == 1
        assert process["closed"]["exception in handler"] == 1
        server.wait_for("exception in on_message, connection 1 from 127.0.0.1:")


def test_limits_of_connections(eventually: Eventually) -> None:
    settings = config(count=1) + "limits = {connections = 2}\n"
    with running_server(settings, files={"handler.py": ECHO}) as server:
        first, second, third = (server.connect() for _ in range(3))
        for client in (first, second, third):
            client.sendall(b"x\n")
        assert first.recv(10) == second.recv(10) == b"x\n"
        eventually("it pauses", lambda: server.status()["processes"][0]["paused"])
        first.close()
        assert third.recv(10) == b"x\n", "the kernel has kept it"
        second.close()
        third.close()


def test_limits_of_an_address() -> None:
    settings = config(count=1) + "limits = {per_ip = 1}\n"
    with running_server(settings, files={"handler.py": ECHO}) as server, server.connect() as first:
        first.sendall(b"x\n")
        assert first.recv(10) == b"x\n"
        with server.connect() as second:
            assert until_closed(second) == b""
        assert closed(server) == {"refused: limit per address": 1}


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_more_clients_than_descriptors_are_kept_by_the_kernel_and_none_is_lost(full: bool) -> None:
    """10,000 at once with 1,000 descriptors: libuv would accept and close."""
    clients = 10_000 if full else 3_000
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard < clients + 1000:
        pytest.skip("this machine has too few descriptors for the clients")
    limited = ECHO.replace("def on_message", LIMIT_DESCRIPTORS + "\ndef on_message", 1)
    with running_server(config(count=1), files={"handler.py": limited}) as server:
        driver = subprocess.run(
            [sys.executable, "-m", "tests.system.crowd", *map(str, server.address), str(clients)],
            capture_output=True, text=True, timeout=280, check=False, cwd=Path(__file__).parents[2],
        )  # fmt: skip
        assert driver.stdout.strip() == f"{clients} answered, 0 lost", driver.stdout + driver.stderr
        assert ask(server, "x") == "x"


LIMIT_DESCRIPTORS = """
import resource

def on_worker_start(worker):
    resource.setrlimit(resource.RLIMIT_NOFILE, (1000, 1000))
"""
