"""workermanctl against a real daemon: every verb, and a master that cannot answer."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from typing import Any

import psutil

from tests.system.test_reload import ECHO, ask, config
from workermand.testing import running_server


def test_what_is_read() -> None:
    with running_server(config(count=2), files={"handler.py": ECHO}) as server, server.connect() as client:
        client.sendall(b"x\n")
        assert client.recv(10) == b"x\n"
        table = server.ctl("status").stdout
        assert "echo#0" in table and "echo#1" in table and "[Summary]" in table
        document = json.loads(server.ctl("status", "--json", "--uss").stdout)
        assert document["version"] == 1 and all(process["uss"] > 0 for process in document["processes"])
        [row] = json.loads(server.ctl("connections", "--json").stdout)["connections"]
        assert row["remote"] == "{}:{}".format(*client.getsockname()) and row["bytes_read"] == 2
        assert row["remote"] in server.ctl("connections").stdout
        assert json.loads(server.ctl("ping", "--json").stdout)["pid"] == server.pid
        assert "uvloop" in server.ctl("version").stdout


def test_restart_replaces_every_process_also_of_what_is_not_reloadable() -> None:
    settings = config(count=2) + '[worker.state]\nhandler = "handler"\nreloadable = false\n'
    with running_server(settings, files={"handler.py": ECHO}) as server:
        before = {(p["worker"], p["id"]): p["pid"] for p in server.status()["processes"]}
        server.ctl("restart", "state")
        one = {(p["worker"], p["id"]): p["pid"] for p in server.status()["processes"] if p["state"] == "idle"}
        assert {key for key in before if one[key] != before[key]} == {("state", 0)}
        server.ctl("restart")
        after = {(p["worker"], p["id"]): p["pid"] for p in server.status()["processes"] if p["state"] == "idle"}
        assert all(after[key] != one[key] for key in one)
        assert server.ctl("restart", "nobody", check=False).returncode == 4
        assert server.status()["server"]["generation"] == 1


def test_stop_returns_when_all_is_over() -> None:
    with running_server(config(count=2), files={"handler.py": ECHO}) as server:
        children = [psutil.Process(p["pid"]) for p in server.status()["processes"]]
        assert server.ctl("stop").stdout == "stopped\n"
        assert not any(child.is_running() for child in children)
        assert server.wait() == 0
        assert server.ctl("status", check=False).returncode == 3


def test_stop_now_does_not_wait_for_clients() -> None:
    settings = config(count=1).replace('stop = "3s"', 'stop = "50s"')
    with running_server(settings, files={"handler.py": ECHO}) as server, server.connect() as client:
        server.ctl("stop", "--now")
        assert client.recv(10) == b""
        assert server.wait() == 0


def test_a_suspended_master_is_named(eventually: Callable[..., Any]) -> None:
    with running_server(config(count=1), files={"handler.py": ECHO}) as server:
        os.kill(server.pid, signal.SIGSTOP)
        try:
            eventually("it is suspended", lambda: psutil.Process(server.pid).status() == psutil.STATUS_STOPPED)
            said = server.ctl("--timeout", "1", "status", check=False)
            assert said.returncode == 1 and f"kill -CONT {server.pid}" in said.stderr
            assert ask(server, "x") == "x", "the children serve on"
        finally:
            os.kill(server.pid, signal.SIGCONT)
        assert server.ctl("status").returncode == 0


def test_two_daemons_of_different_names_live_side_by_side() -> None:
    first = '[server]\nname = "one"\n' + config(count=1)
    second = '[server]\nname = "two"\n' + config(count=1)
    with (
        running_server(first, files={"handler.py": ECHO}) as one,
        running_server(second, files={"handler.py": ECHO}) as two,
    ):
        assert one.status()["server"]["name"] == "one" and two.status()["server"]["name"] == "two"
        two.ctl("stop")
        assert ask(one, "x") == "x"
