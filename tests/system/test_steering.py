"""workermanctl against a real daemon: every verb, and a master that cannot answer."""

from __future__ import annotations

import grp
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

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


def test_the_documents_are_what_the_page_about_them_shows() -> None:
    page = Path(__file__).parents[2].joinpath("docs", "control.md").read_text()
    shown = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", page, re.DOTALL)]
    with running_server(config(count=1), files={"handler.py": ECHO}) as server, server.connect() as client:
        os.kill(server.status()["processes"][0]["pid"], signal.SIGKILL)
        server.wait_for("ended: SIGKILL")
        assert client.recv(10) == b""
        with server.connect() as other:
            other.sendall(b"x\n")
            assert other.recv(10) == b"x\n"
            made = [server.ask("status", uss=True), server.ask("connections")]
    for page_has, real in zip(shown, made, strict=True):
        assert _keys(page_has) == _keys(real)


def _keys(value: object) -> object:
    """Its shape, but for what is counted by reason, or by handlers."""
    if isinstance(value, dict):
        return {key: None if key in ("closed", "figures") else _keys(entry) for key, entry in value.items()}
    return [_keys(entry) for entry in value[:1]] if isinstance(value, list) else None


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


BLOCKS = """
import time

def on_message(connection, data):
    if data == "block":
        time.sleep(600)
    connection.send(data)
"""


def test_a_blocked_child_is_shown_busy_and_holds_nothing_up(eventually: Callable[..., Any]) -> None:
    with running_server(config(count=1), files={"handler.py": BLOCKS}) as server, server.connect() as client:
        client.sendall(b"block\n")
        eventually("it is busy", lambda: server.status()["processes"][0]["state"] == "busy")
        assert "[busy]" in server.ctl("status").stdout
        pid = server.status()["processes"][0]["pid"]
        assert f"busy, no answer: {pid}" in server.ctl("connections").stderr
        server.ctl("stop", "--now")


@pytest.mark.skipif(os.geteuid() != 0, reason="asks as another user")
def test_the_control_group_may_ask_and_nobody_else(short_dir: Path) -> None:
    group = grp.getgrgid(65534).gr_name
    settings = f'[server]\ncontrol_group = "{group}"\nrun_dir = "{short_dir}/run"\n' + config(count=1)
    short_dir.chmod(0o755)
    with running_server(settings, files={"handler.py": ECHO}) as server:
        command = [sys.executable, "-m", "workermand.ctl", "-s", str(server.run_dir / "control.sock"), "ping"]
        said = [
            subprocess.run(
                command, user=65534, group=group, extra_groups=[], capture_output=True, text=True, timeout=60,
                check=False, cwd=Path(__file__).parents[2], env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            )
            for group in (65534, 12345)
        ]  # fmt: skip
        if "Permission denied" in said[0].stderr:
            pytest.skip("the interpreter is where only root gets")
        assert said[0].stdout == f"pid {server.pid} answers\n", said[0].stderr
        assert said[1].returncode == 1 and "belongs to user root: use sudo, or set" in said[1].stderr


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
