"""Reloads of a real daemon under real load: nobody is refused, nothing is cut, nothing leaks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import wait_until
from workermand.testing import RunningServer, running_server

ECHO = """
def on_message(connection, data):
    connection.send(data)
"""
VERSIONED = """
VERSION = {version}

def on_message(connection, data):
    connection.send(f"{{data}} {{VERSION}}")
"""


def config(**settings: Any) -> str:
    keys = {"listen": "text://127.0.0.1:0", "handler": "handler", "count": 4, **settings}
    lines = [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
    return "[worker.echo]\n" + "\n".join(lines) + '\ntimeouts = {stop = "3s"}\n'


def load(server: RunningServer, kind: str, **options: int) -> subprocess.Popen[str]:
    host, port = server.address
    arguments = [f"--{key}={value}" for key, value in options.items()]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.system.load", kind, str(host), str(port), *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "started\n"
    return process


def result(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, _ = process.communicate(timeout=300)
    answer: dict[str, Any] = json.loads(out)
    return answer


def ask(server: RunningServer, line: str) -> str:
    with server.connect() as client, client.makefile("rw", newline="\n") as file:
        file.write(line + "\n")
        file.flush()
        return file.readline().rstrip("\n")


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("reuse_port", [False, True])
def test_short_connections_survive_rolling_reloads(reuse_port: bool, full: bool) -> None:
    reloads, total = (12, 100_000) if full else (4, 12_000)
    with running_server(config(reuse_port=reuse_port), files={"handler.py": ECHO}) as server:
        clients = load(server, "short", total=total, clients=8)
        for _ in range(reloads):
            server.reload()
        outcome = result(clients)
        assert outcome["failures"] == []
        assert outcome["done"] == total // 8 * 8
        assert server.status()["server"]["generation"] == reloads + 1


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_keepalive_clients_are_never_cut_mid_message(full: bool) -> None:
    with running_server(config(), files={"handler.py": ECHO}) as server:
        clients = load(server, "keepalive", clients=16)
        for _ in range(12 if full else 3):
            server.reload()
        outcome = result(clients)
        assert outcome["failures"] == []
        assert outcome["done"] > 100


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_many_reloads_leave_the_master_as_it_was(full: bool, eventually: Callable[..., Any]) -> None:
    reloads = 200 if full else 20

    def figures() -> tuple[int, int, int]:
        assert len(master.children()) == 4, "the old children are gone"
        return master.num_fds(), master.num_threads(), master.memory_info().rss

    with running_server(config(), files={"handler.py": ECHO}) as server:
        master = psutil.Process(server.pid)
        for _ in range(5):
            server.reload()
        fds, threads, memory = eventually("the first reloads have settled", figures)
        for _ in range(reloads):
            server.reload()
        after = eventually("the last reload has settled", figures)
        assert after[0] <= fds and after[1] == threads  # the first settling may not have been quite over
        assert after[2] < memory * 1.02 + 1_000_000
        assert not [child for child in master.children() if child.status() == psutil.STATUS_ZOMBIE]


def test_ten_edits_within_a_second_each_serve_the_newest_code() -> None:
    with running_server(config(count=1), files={"handler.py": VERSIONED.format(version=0)}) as server:
        for version in range(1, 11):
            (server.directory / "handler.py").write_text(VERSIONED.format(version=version))
            server.reload()
            assert ask(server, "x") == f"x {version}"
        assert not list(server.directory.rglob("*.pyc"))


def test_new_code_that_does_not_load_changes_nothing() -> None:
    with running_server(config(), files={"handler.py": VERSIONED.format(version=1)}) as server:
        before = {process["pid"] for process in server.status()["processes"]}
        (server.directory / "handler.py").write_text("def on_message(connection, data)\n    pass\n")
        failed = server.ctl("reload", check=False)
        assert failed.returncode == 1
        assert "SyntaxError" in failed.stdout + failed.stderr
        status = server.status()
        assert {process["pid"] for process in status["processes"] if process["state"] == "idle"} == before
        assert "last reload failed" in status["server"]["note"]
        assert ask(server, "x") == "x 1"
        (server.directory / "handler.py").write_text(VERSIONED.format(version=2))
        server.reload()
        assert ask(server, "x") == "x 2"
        assert server.status()["server"]["note"] == ""


def test_a_reload_that_fails_cuts_no_client_of_the_good_new_children(eventually: Callable[..., Any]) -> None:
    settings = config(count=1) + '[worker.other]\nhandler = "other"\n'
    files = {"handler.py": VERSIONED.format(version=1), "other.py": ""}
    with running_server(settings, files=files) as server:
        (server.directory / "handler.py").write_text(VERSIONED.format(version=2))
        gate = server.directory / "gate"
        os.mkfifo(gate)
        (server.directory / "other.py").write_text(f"open({str(gate)!r}).close()\n1 / 0\n")
        server.ask("reload", wait=False)
        clients: list[Any] = []

        def met_the_new_one() -> bool:
            clients.append(server.connect())
            clients[-1].sendall(b"x\n")
            answer: bytes = clients[-1].recv(100)
            return answer == b"x 2\n"

        eventually("a client of the new child", met_the_new_one)
        gate.open("w").close()
        server.wait_for("reload failed, nothing has changed")
        clients[-1].sendall(b"y\n")
        assert clients[-1].recv(100) == b"y 2\n"
        for client in clients:
            client.close()
        assert ask(server, "z") == "z 1"


def test_a_broken_file_changes_nothing() -> None:
    with running_server(config(), files={"handler.py": ECHO}) as server:
        good = server.file.read_text()
        server.file.write_text(good.replace("count =", "cuont ="))
        failed = server.ctl("reload", check=False)
        assert failed.returncode == 1
        assert 'cuont: unknown key; did you mean "count"?' in failed.stdout + failed.stderr
        assert ask(server, "x") == "x"
        server.file.write_text(good.replace("count = 4", "count = 2"))
        server.reload()
        assert len([p for p in server.status()["processes"] if p["state"] == "idle"]) == 2


LATER = """
import pathlib
from workermand import Worker

def on_worker_start(worker: Worker) -> None:
    if worker.id == 2 and pathlib.Path({flag!r}).exists():
        raise RuntimeError("not this one")

def on_message(connection, data):
    connection.send(data)
"""


def test_a_failure_after_the_first_slot_keeps_the_remaining_old_children(tmp_path: Path) -> None:
    flag = tmp_path / "fail"
    with running_server(config(), files={"handler.py": LATER.format(flag=str(flag))}) as server:
        before = {p["id"]: p["pid"] for p in server.status()["processes"]}
        flag.touch()
        failed = server.ctl("reload", check=False)
        assert failed.returncode == 1 and "not this one" in failed.stdout + failed.stderr
        status = server.status()
        assert status["server"]["state"] == "degraded"
        assert server.ctl("status", check=False).returncode == 1
        now = {p["id"]: p["pid"] for p in status["processes"] if p["state"] == "idle"}
        assert [now[index] == before[index] for index in range(4)] == [False, False, True, True]
        flag.unlink()
        server.reload()
        assert server.status()["server"]["state"] == "running"


STATEFUL = """
import os
from workermand import Worker

seen = []

def on_worker_reload(worker: Worker) -> None:
    seen.append(worker.options.get("greeting"))

def on_message(connection, data):
    worker = connection.worker
    connection.send(f"{os.getpid()} {seen} {worker.options} {worker.limits.package} {worker.count}")
"""


def test_what_is_not_reloadable_keeps_its_process_and_gets_the_new_settings() -> None:
    settings = config(count=1, reloadable=False) + "options = {greeting = 'hello'}\n"
    with running_server(settings, files={"handler.py": STATEFUL}) as server:
        pid = ask(server, "x").split()[0]
        text = server.file.read_text()
        server.file.write_text(text.replace("hello", "good day") + 'limits = {package = "1KiB"}\n')
        server.reload()
        told = f"{pid} ['good day'] {{'greeting': 'good day'}} 1024 1"
        wait_until("on_worker_reload has run, which a reload does not wait for", lambda: ask(server, "x") == told)
        server.file.write_text(text.replace("count = 1", "count = 3"))
        server.reload()
        pids = {ask(server, "x").split()[0] for _ in range(200)}
        assert pid in {p["pid"] for p in server.status()["processes"]} | {pid} and len(pids) >= 1
        assert len([p for p in server.status()["processes"] if p["state"] == "idle"]) == 3


def test_a_changed_address_of_what_is_not_reloadable_waits_for_a_restart(free_port: Callable[[], int]) -> None:
    old, new = free_port(), free_port()
    settings = config(count=1, reloadable=False, listen=f"text://127.0.0.1:{old}")
    with running_server(settings, files={"handler.py": ECHO}) as server:
        server.file.write_text(server.file.read_text().replace(str(old), str(new)))
        said = server.ctl("reload")
        assert "workermanctl restart echo" in said.stdout + said.stderr
        assert ask(server, "x") == "x", "the old address serves on"
        server.ctl("restart", "echo")
        [process] = [p for p in server.status()["processes"] if p["state"] == "idle"]
        assert process["listening"] == f"text://127.0.0.1:{new}"


def test_an_overlapping_address_says_needs_restart_and_nothing_has_changed(free_port: Callable[[], int]) -> None:
    port = free_port()
    with running_server(config(listen=f"text://127.0.0.1:{port}"), files={"handler.py": ECHO}) as server:
        server.file.write_text(server.file.read_text().replace("127.0.0.1", "0.0.0.0"))
        failed = server.ctl("reload", check=False)
        assert failed.returncode == 1 and "needs restart" in failed.stdout + failed.stderr
        assert ask(server, "x") == "x"


def test_a_second_reload_while_one_runs_is_queued_and_not_lost() -> None:
    slow = "import time\ntime.sleep(0.5)\n" + VERSIONED
    with running_server(config(count=2), files={"handler.py": slow.format(version=1)}) as server:
        server.ask("reload", wait=False)
        (server.directory / "handler.py").write_text(slow.format(version=2))
        server.ask("reload", wait=False)
        server.ask("reload", wait=False)
        server.reload()
        assert {ask(server, "x") for _ in range(20)} == {"x 2"}
        assert 3 <= server.status()["server"]["generation"] <= 4


def test_an_idle_connection_does_not_block_later_reloads() -> None:
    """Workerman's `reload -g` hangs on one idle client, and ignores every reload after it."""
    with running_server(config(count=1), files={"handler.py": VERSIONED.format(version=1)}) as server:
        with server.connect() as idle:
            for version in (2, 3, 4):
                (server.directory / "handler.py").write_text(VERSIONED.format(version=version))
                server.reload()
                assert ask(server, "x") == f"x {version}"
            states = [process["state"] for process in server.status()["processes"]]
            assert states.count("idle") == 1
            assert idle.recv(10) == b"", "the deadline ends it"


def test_a_client_that_is_connected_is_served_by_the_old_code_until_it_goes() -> None:
    with running_server(config(count=1), files={"handler.py": VERSIONED.format(version=1)}) as server:
        with server.connect() as client, client.makefile("rwb") as file:
            (server.directory / "handler.py").write_text(VERSIONED.format(version=2))
            server.reload()
            file.write(b"old\n")
            file.flush()
            assert file.readline() == b"old 1\n"
        assert ask(server, "new") == "new 2"


def test_scale_lasts_until_the_next_reload() -> None:
    with running_server(config(count=1), files={"handler.py": ECHO}) as server:
        pid = server.status()["processes"][0]["pid"]
        server.ctl("scale", "echo", "3")
        serving = [p for p in server.status()["processes"] if p["state"] == "idle"]
        assert len(serving) == 3 and pid in {p["pid"] for p in serving}
        server.ctl("scale", "echo", "2")
        assert len([p for p in server.status()["processes"] if p["state"] == "idle"]) == 2
        server.reload()
        assert len([p for p in server.status()["processes"] if p["state"] == "idle"]) == 1
        assert server.ctl("scale", "nothing", "2", check=False).returncode == 4


def test_scaling_a_reuse_port_worker_down_and_up_loses_no_connection() -> None:
    with running_server(config(reuse_port=True), files={"handler.py": ECHO}) as server:
        for count in (2, 4, 1, 3):
            server.ctl("scale", "echo", str(count))
            clients = load(server, "short", total=400, clients=8)
            assert result(clients)["failures"] == []


def test_logs_are_opened_anew(tmp_path: Path) -> None:
    log, out = tmp_path / "log", tmp_path / "out"
    settings = f'[server]\nlog = {{file = "{log}", stdout_file = "{out}"}}\n' + config(count=1, reloadable=False)
    shout = "def on_message(connection, data):\n    print('heard', data)\n    connection.send(data)\n"
    with running_server(settings, files={"handler.py": shout}) as server:
        ask(server, "one")
        assert "heard one" in out.read_text()
        for path in (log, out):
            path.rename(path.with_suffix(".1"))
        server.reload()
        ask(server, "two")
        assert "heard two" in out.read_text()
        assert "reload" in log.read_text()


@pytest.mark.skipif(os.cpu_count() == 1, reason="needs two cores")
def test_a_status_of_a_blocked_child_comes_all_the_same() -> None:
    block = "import time\ndef on_message(connection, data):\n    connection.send('blocking')\n    time.sleep(5)\n"
    with running_server(config(count=2), files={"handler.py": block}) as server, server.connect() as client:
        client.sendall(b"x\n")
        deadline = time.monotonic() + 30
        while "busy" not in [p["state"] for p in server.status()["processes"]]:
            assert time.monotonic() < deadline
