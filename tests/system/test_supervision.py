"""Crashes, kills, stops and signals of a real daemon: who takes harm, who does not, and what is written down."""

from __future__ import annotations

import os
import select
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.system.test_reload import ECHO, ask, config, load, result
from workermand.testing import RunningServer, ServerFailed, running_server

Eventually = Callable[..., Any]


def idle(server: RunningServer, count: int) -> dict[int, int]:
    """Slot -> pid, once ``count`` children serve; an AssertionError until then."""
    found = {p["id"]: p["pid"] for p in server.status()["processes"] if p["state"] == "idle"}
    assert len(found) == count, found
    return found


def exits(server: RunningServer) -> dict[str, int]:
    return {row["reason"]: row["count"] for row in server.status()["exits"]}


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_killed_children_take_only_their_own_connections_with_them(full: bool, eventually: Eventually) -> None:
    """Every slot's child, in two halves: the one watches while the other dies."""
    slots = 50 if full else 10
    with running_server(config(count=slots), files={"handler.py": ECHO}) as server:
        first = idle(server, slots)
        master = psutil.Process(server.pid)
        memory = master.memory_info().rss
        for half in (range(slots // 2), range(slots // 2, slots)):
            before = idle(server, slots)
            victims = {before[slot] for slot in half}
            held = talk(server, 4 * slots)
            owner = {row["remote"]: row["pid"] for row in server.ask("connections")["connections"]}
            kill(victims)
            for client in held:
                name = "{}:{}".format(*client.getsockname()[:2])
                assert is_cut_off(client) == (owner[name] in victims)
                client.close()
            after = eventually("all are replaced", lambda: idle(server, slots))
            assert {slot for slot in before if after[slot] != before[slot]} == set(half)
        assert not set(after.values()) & set(first.values())
        assert exits(server) == {"SIGKILL": slots}
        assert master.memory_info().rss < memory * 1.1 + 2_000_000
        assert ask(server, "x") == "x"


def kill(pids: set[int]) -> None:
    """Returns when they are dead."""
    for pidfd in [os.pidfd_open(pid) for pid in pids]:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        select.select([pidfd], [], [])
        os.close(pidfd)


def talk(server: RunningServer, count: int) -> list[socket.socket]:
    """So many clients that have had an answer."""
    clients = [server.connect() for _ in range(count)]
    for client in clients:
        client.sendall(b"hello\n")
        assert client.recv(100) == b"hello\n"
    return clients


def is_cut_off(client: socket.socket) -> bool:
    try:
        client.sendall(b"still\n")
        return client.recv(100) != b"still\n"
    except (ConnectionResetError, BrokenPipeError):
        return True


CRASH = """
import os
from workermand import Timer

def on_worker_start(worker):
    if os.path.exists({flag!r}):
        os._exit(1)

def on_message(connection, data):
    connection.send(data)
    if data == "die":
        os._exit(7)
"""


def test_a_crash_loop_is_slowed_down_and_named(tmp_path: Path, eventually: Eventually) -> None:
    """Workerman forks 740 times in 3 seconds."""
    flag = tmp_path / "crash"
    with running_server(config(count=1), files={"handler.py": CRASH.format(flag=str(flag))}) as server:
        flag.touch()
        ask(server, "die")
        eventually("three ends", lambda: exits(server).get("exit 1", 0) >= 2)
        status = server.status()
        assert exits(server)["exit 7"] == 1
        assert status["server"]["state"] == "degraded"
        assert "crashed" in eventually("a note", lambda: server.status()["workers"][0]["note"])
        assert exits(server)["exit 1"] < 10
        flag.unlink()
        eventually("it recovers", lambda: idle(server, 1))


def test_no_orphan_outlives_a_killed_master(eventually: Eventually) -> None:
    with running_server(config(count=3), files={"handler.py": ECHO}) as server:
        children = [psutil.Process(pid) for pid in idle(server, 3).values()]
        os.kill(server.pid, signal.SIGKILL)
        gone, alive = psutil.wait_procs(children, timeout=30)
        assert not alive and len(gone) == 3
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(server.address, 5)
        assert server.wait() == -signal.SIGKILL


def test_a_blocked_child_does_not_outlive_a_killed_master() -> None:
    block = "def on_message(connection, data):\n    connection.send(data)\n    while True: pass\n"
    with running_server(config(count=1), files={"handler.py": block}) as server, server.connect() as client:
        client.sendall(b"x\n")
        children = [psutil.Process(pid) for pid in psutil.Process(server.pid).children()[0:1] and
                    [c.pid for c in psutil.Process(server.pid).children()]]  # fmt: skip
        os.kill(server.pid, signal.SIGKILL)
        _gone, alive = psutil.wait_procs(children, timeout=60)
        assert not alive
        server.wait()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_stop(signum: signal.Signals) -> None:
    words = """
def on_worker_stop(worker):
    print("stopping", worker.id)

def on_message(connection, data):
    connection.send(data)

def on_close(connection):
    print("closed:", connection.close_reason)
"""
    with running_server(config(count=2), files={"handler.py": words}) as server, server.connect() as client:
        client.sendall(b"x\n")
        assert client.recv(10) == b"x\n"
        assert server.stop(signum) == 0
        assert "stopping 0" in server.output and "stopping 1" in server.output
        assert "closed:" in server.output
        assert client.recv(10) == b""
        assert not (server.run_dir / "workermand.pid").exists()
        assert not (server.run_dir / "control.sock").exists()


def test_the_whole_group_may_get_the_terminals_signals(eventually: Eventually) -> None:
    with running_server(config(count=2), files={"handler.py": ECHO}) as server:
        before = idle(server, 2)
        for pid in before.values():
            for signum in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
                os.kill(pid, signum)
        os.kill(server.pid, signal.SIGUSR2)
        server.wait_for("written to")
        assert idle(server, 2) == before
        text = (server.run_dir / "status.txt").read_text()
        assert "echo" in text and str(before[0]) in text
        assert (server.run_dir / "status.txt").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("signum", [signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_reloads(signum: signal.Signals) -> None:
    with running_server(config(count=1), files={"handler.py": ECHO}) as server:
        before = idle(server, 1)
        os.kill(server.pid, signum)
        server.wait_for("reload done")
        assert idle(server, 1) != before


def test_a_child_that_is_told_term_drains_and_is_replaced(eventually: Eventually) -> None:
    with running_server(config(count=2), files={"handler.py": ECHO}) as server:
        before = idle(server, 2)
        os.kill(before[0], signal.SIGTERM)
        after = eventually("a new one", lambda: {0: idle(server, 2)[0]} if idle(server, 2)[0] != before[0] else None)
        assert after[0] != before[0]
        assert idle(server, 2)[1] == before[1]


def test_a_second_signal_kills() -> None:
    slow = """
import time

def on_worker_stop(worker):
    print("on it", flush=True)
    time.sleep(60)
"""
    settings = config(count=1).replace('stop = "3s"', 'stop = "50s"')
    with running_server(settings, files={"handler.py": slow}) as server:
        os.kill(server.pid, signal.SIGTERM)
        server.wait_for("on it")
        os.kill(server.pid, signal.SIGTERM)
        assert server.wait() == 0
        assert "SIGKILL (second signal)" in server.output


def test_what_was_asked_for_before_is_not_a_first_signal() -> None:
    with running_server(config(count=1).replace('"3s"', '"50s"'), files={"handler.py": ECHO}) as server:
        with server.connect() as client:
            client.sendall(b"one\nha")
            assert client.recv(100) == b"one\n"
            os.kill(server.pid, signal.SIGQUIT)
            server.wait_for("stopping gracefully")
            os.kill(server.pid, signal.SIGTERM)
            assert server.status()["server"]["state"] == "stopping"
            client.sendall(b"lf\n")
            assert client.recv(100) == b"half\n"
        assert server.wait() == 0
        assert "second signal" not in server.output


def test_a_stop_ends_an_import_that_hangs_at_once() -> None:
    with running_server(config(count=1).replace('"3s"', '"50s"'), files={"handler.py": ECHO}) as server:
        (server.directory / "handler.py").write_text("import time\nprint('importing')\ntime.sleep(600)\n")
        os.kill(idle(server, 1)[0], signal.SIGKILL)
        server.wait_for("importing")
        assert server.stop() == 0
        assert "ended: SIGTERM" in server.output


def test_a_child_that_will_not_stop_is_killed_at_the_deadline_and_counted() -> None:
    slow = "import time\ndef on_worker_stop(worker):\n    time.sleep(60)\n"
    with running_server(config(count=1).replace('"3s"', '"1s"'), files={"handler.py": slow}) as server:
        assert server.stop() == 0
        assert "SIGKILL (stop deadline)" in server.output


def test_a_child_blocked_for_too_long_shows_its_traceback_and_is_replaced(eventually: Eventually) -> None:
    block = "def on_message(connection, data):\n    connection.send(data)\n    while data == 'block': pass\n"
    settings = config(count=1).replace('{stop = "3s"}', '{stop = "3s", busy = "2s"}')
    with running_server(settings, files={"handler.py": block}) as server:
        ask(server, "block")
        eventually("it is killed", lambda: exits(server).get("SIGABRT (busy deadline)") == 1)
        server.wait_for("in on_message")
        eventually("it is replaced", lambda: idle(server, 1))
        assert ask(server, "x") == "x"


REQUESTS = "def on_message(connection, data):\n    connection.send(data)\n"


@pytest.mark.parametrize("reloadable", [True, False])
def test_the_requests_limit_replaces_a_child_without_loss(reloadable: bool, eventually: Eventually) -> None:
    settings = config(count=2, reloadable=reloadable) + "limits = {requests = 200}\n"
    with running_server(settings, files={"handler.py": REQUESTS}) as server:
        clients = load(server, "short", total=3000, clients=4)
        outcome = result(clients)
        if reloadable:
            assert outcome["failures"] == []
        assert eventually("counted", lambda: exits(server).get("requests limit"))
        assert "SIGKILL" not in exits(server)


MAX_REQUEST = """
served = 0

def on_message(connection, data):
    global served
    served += 1
    connection.send(data)
    if served >= 5:
        connection.worker.stop_all()
"""


def test_stop_all_in_a_handler_ends_that_child_only(eventually: Eventually) -> None:
    with running_server(config(count=2), files={"handler.py": MAX_REQUEST}) as server:
        for number in range(40):
            assert ask(server, str(number)) == str(number)
        assert eventually("they leave", lambda: exits(server).get("exit 0", 0) >= 3)
        eventually("they are replaced", lambda: idle(server, 2))


@pytest.mark.parametrize(
    ("handler", "code", "words"),
    [
        ("import nothing_of_that_name\n", 3, "nothing_of_that_name"),
        ("def on_message(connection, data)\n", 3, "SyntaxError"),
        ("def on_mesage(connection, data): pass\n", 3, "on_message"),
        ("def on_message(connection): pass\n", 3, "on_message"),
        ("def on_worker_start(worker):\n    raise RuntimeError('no database')\n", 3, "no database"),
        ("import os\ndef on_worker_start(worker):\n    os._exit(9)\n", 9, "exit 9"),
        ("def on_worker_start(worker):\n    worker.stop()\n", 1, "exit 0 after stop()"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n", 1, "SIGSEGV"),
    ],
    ids=["import", "syntax", "name", "arity", "start", "exit", "stop", "signal"],
)
def test_a_worker_that_cannot_start_ends_the_daemon_with_its_reason(handler: str, code: int, words: str) -> None:
    with pytest.raises(ServerFailed) as failed, running_server(config(), files={"handler.py": handler}):
        pass
    assert f"exit code {code}" in str(failed.value)
    assert words in str(failed.value)


def test_an_import_that_hangs_shows_where_and_is_killed_at_the_start_deadline() -> None:
    settings = config(count=1).replace('{stop = "3s"}', '{stop = "3s", start = "1s"}')
    with pytest.raises(ServerFailed, match=r"SIGABRT \(start deadline\)") as failed:
        with running_server(settings, files={"handler.py": "import time\ntime.sleep(60)\n"}):
            pass
    assert 'handler.py", line 2 in <module>' in str(failed.value)


def test_after_the_start_deadline_one_child_of_each_worker_will_do(eventually: Eventually) -> None:
    second_hangs = "import time\ndef on_worker_start(worker):\n    time.sleep(600 * worker.id)\n"
    settings = config(count=2).replace('{stop = "3s"}', '{stop = "1s", start = "1s"}')
    settings += '[worker.other]\nhandler = "other"\n'  # whose start deadline, 30 s, holds nothing up: it is ready
    with running_server(settings, files={"handler.py": second_hangs, "other.py": ""}, timeout=25) as server:
        what_is_missing = "2/3 children of 2 workers serve; missing: echo#1"
        eventually("it says what is missing", lambda: what_is_missing in server.output)
        assert server.status()["server"]["state"] == "degraded"
        eventually("it is counted", lambda: exits(server).get("SIGABRT (start deadline)"))


def test_the_same_name_twice_is_refused_with_the_pid_of_the_first(short_dir: Path) -> None:
    places = {"RUNTIME_DIRECTORY": str(short_dir), "STATE_DIRECTORY": str(short_dir)}
    first = config(count=1)
    with running_server(first, files={"handler.py": ECHO}, env=places) as server:
        with pytest.raises(ServerFailed, match=f"running already, pid {server.pid}") as failed:
            with running_server(config(count=1), files={"handler.py": ECHO}, env=places):
                pass
        assert "exit code 78" in str(failed.value)
        assert ask(server, "x") == "x"


def test_the_master_is_one_thread_without_a_loop_or_a_handler() -> None:
    with running_server(config(count=2), files={"handler.py": ECHO}) as server:
        master = psutil.Process(server.pid)
        assert master.num_threads() == 1
        kinds = sorted(
            os.readlink(f"/proc/{server.pid}/fd/{fd}").split(":")[0] for fd in os.listdir(f"/proc/{server.pid}/fd")
        )
        assert kinds.count("anon_inode") == 3, "one epoll, two pidfds: no loop"
        # listener, control, wakeup pair, two links, notify; pid file; 0, 1, 2
        assert kinds.count("socket") == 7, kinds
        maps = Path(f"/proc/{server.pid}/cmdline").read_bytes()
        assert maps.startswith(b"workermand: master")
