# ruff: noqa: E501 - rows of tables
from __future__ import annotations

from typing import Any

import pytest

from workermand import report
from workermand.report import Table
from workermand.spec import ListenSpec, ServerSpec, WorkerSpec

PROCESS: dict[str, Any] = {
    "worker": "echo", "id": 0, "pid": 4711, "state": "idle", "connections": 3, "send_fail": 1, "timers": 2,
    "total_request": 1000, "qps": 99.6, "memory": 12 * 2**20, "listening": "text://0.0.0.0:2347",
}  # fmt: skip
DOCUMENT: dict[str, Any] = {
    "server": {"name": "workers", "version": "0.1.0", "pid": 1, "python": "3.11.2", "uvloop": "0.23.0", "uptime": 90061.0,
               "started": 0.0, "load": [1.0, 0.5, 0.25], "generation": 7, "state": "degraded", "run_dir": "/run/x", "note": "last reload failed: x"},
    "workers": [{"name": "echo", "note": "echo#1 crashed 3 times"}],
    "processes": [PROCESS, {**PROCESS, "pid": 4712, "id": 1, "state": "busy", "listening": ""}],
    "exits": [{"worker": "echo", "reason": "SIGKILL (stop deadline)", "count": 2, "last": 0.0}],
}  # fmt: skip


def test_the_status_has_workermans_columns() -> None:
    exits, processes = report.status_tables(DOCUMENT)
    assert list(processes.columns) == [
        "pid", "memory", "listening", "name", "connections", "send_fail", "timers", "total_request", "qps", "status",
    ]  # fmt: skip
    assert list(processes.rows[0]) == [
        "4711", "12.0MB", "text://0.0.0.0:2347", "echo#0", "3", "1", "2", "1000", "100", "[idle]",
    ]  # fmt: skip
    assert processes.rows[1][2] == "-" and processes.rows[1][-1] == "[busy]"
    assert list(processes.rows[-1]) == ["Summary", "24.0MB", "-", "-", "6", "2", "4", "2000", "199", "[Summary]"]
    assert exits.rows[0][:3] == ("echo", "SIGKILL (stop deadline)", "2")


def test_without_exits_there_is_one_table_and_uss_is_a_column_when_asked_for() -> None:
    processes = [{**PROCESS, "uss": 3 * 2**20}]
    [table] = report.status_tables({**DOCUMENT, "exits": [], "processes": processes})
    assert table.columns[2] == "uss" and table.rows[0][2] == "3.0MB" and table.rows[-1][2] == "3.0MB"


def test_what_handlers_count() -> None:
    counting = {**PROCESS, "figures": {"players": 12, "games": 3}}
    *_, figures = report.status_tables({**DOCUMENT, "processes": [PROCESS, counting]})
    assert figures.rows == [("echo#0", "players 12, games 3")]


def test_the_heading_says_what_is_wrong() -> None:
    text = report.heading(DOCUMENT)
    assert "run 1 days 1 hours 1 minutes" in text and "load 1.00 0.50 0.25" in text
    assert "generation 7  degraded  run_dir /run/x\n" in text and "1 workers  2 processes" in text
    assert "! last reload failed: x" in text and "! echo: echo#1 crashed 3 times" in text


def test_connections() -> None:
    row = {
        "pid": 1, "worker": "echo", "id": 7, "transport": "tcp", "protocol": "text", "ipv4": True, "ipv6": False,
        "recv_queue": 0, "send_queue": 2048, "bytes_read": 7, "bytes_written": 8, "status": "ESTABLISHED",
        "local": "127.0.0.1:1", "remote": "127.0.0.1:2", "direction": "in",
    }  # fmt: skip
    table = report.connection_table({"connections": [row]})
    assert table.rows[0] == (
        "1", "echo", "7", "in", "tcp", "text", "1", "0", "0B", "2.0KB", "7B", "8B", "ESTABLISHED", "127.0.0.1:1", "127.0.0.1:2",
    )  # fmt: skip


def test_plain_text_is_aligned() -> None:
    table = Table("title", ("name", "count"), [("a", "7"), ("longer", "12")])
    assert report.plain(table) == "title\nname    count\na           7\nlonger     12"


def test_the_banner_names_every_listener() -> None:
    listen = ListenSpec(uri="text://0.0.0.0:2347", transport="tcp", protocol="text", host="0.0.0.0", port=2347)
    workers = {
        "echo": WorkerSpec(name="echo", handler="a", count=2, listen=(listen,), user="nobody"),
        "clock": WorkerSpec(name="clock", handler="b"),
    }
    lines = report.banner(ServerSpec(name="t", run_dir="/r", state_dir="/s", workers=workers), "root").splitlines()
    assert lines[1].split() == ["worker", "listen", "user", "count", "state"]
    assert lines[2].split() == ["echo", "text://0.0.0.0:2347", "nobody", "2", "[OK]"]
    assert lines[3].split() == ["clock", "-", "root", "1", "[OK]"]


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0B"), (1023, "1023B"), (1024, "1.0KB"), (1536, "1.5KB"), (2**20, "1.0MB"), (2**50, "1024.0TB")],
)
def test_size(number: int, text: str) -> None:
    assert report.size(number) == text
