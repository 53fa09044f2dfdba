"""The tables that people read, made from the documents of docs/control.md. Pure: rows in, text out.

The master writes them plain (status.txt, the start banner); workermanctl shows the same tables with rich on a terminal.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from workermand.spec import ServerSpec


@dataclass(frozen=True, slots=True)
class Table:
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def plain(table: Table) -> str:
    """Columns aligned by spaces; figures to the right."""
    columns = [list(column) for column in zip(table.columns, *table.rows, strict=True)]
    aligned = []
    for cells in columns:
        width = max(map(len, cells))
        figures = len(cells) > 1 and all(map(_is_figure, cells[1:]))
        aligned.append([cell.rjust(width) if figures else cell.ljust(width) for cell in cells])
    lines = ["  ".join(row).rstrip() for row in zip(*aligned, strict=True)]
    return "\n".join([*filter(None, [table.title]), *lines])


def banner(spec: ServerSpec, own: str) -> str:
    """What a start prints: what will listen where, as whom, how often. ``own``: the user of the daemon, and of every
    worker that names no other."""
    rows = [
        (name, listen, worker.user or own, str(worker.count), "[OK]")
        for name, worker in spec.workers.items()
        for listen in [listen.uri for listen in worker.listen] or ["-"]
    ]
    title = f"workermand {spec.name}: {spec.file or 'from the command line'}"
    return plain(Table(title, ("worker", "listen", "user", "count", "state"), rows))


def heading(document: dict[str, Any]) -> str:
    """The lines above the tables: start time, run time, load, and the note."""
    server = document["server"]
    started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(server["started"]))
    load = " ".join(f"{figure:.2f}" for figure in server["load"])
    lines = [
        "workermand {version}  {name}  pid {pid}  Python {python}  uvloop {uvloop}".format(**server),
        f"start time {started}  run {duration(server['uptime'])}  load {load}",
        "generation {generation}  {state}  run_dir {run_dir}".format(**server),
        f"{len(document['workers'])} workers  {len(document['processes'])} processes",
    ]
    lines += [f"! {server['note']}"] if server["note"] else []
    lines += [f"! {worker['name']}: {worker['note']}" for worker in document["workers"] if worker["note"]]
    return "\n".join(lines)


def status_tables(document: dict[str, Any]) -> list[Table]:
    """The exits and the processes, in the columns of Workerman's status."""
    exits = [
        (row["worker"], row["reason"], str(row["count"]), time.strftime("%m-%d %H:%M:%S", time.localtime(row["last"])))
        for row in document["exits"]
    ]
    tables = [Table("exits", ("worker", "reason", "count", "last"), exits)] if exits else []
    uss = any("uss" in process for process in document["processes"])
    columns = ["pid", "memory", *(["uss"] if uss else []), "listening", "name", "connections", "send_fail", "timers",
               "total_request", "qps", "status"]  # fmt: skip
    rows = [_process(process, uss) for process in document["processes"]]
    rows.append(_summary(document["processes"], uss))
    return [*tables, Table("processes", columns, rows), *_figures(document["processes"])]


def _figures(processes: Sequence[dict[str, Any]]) -> list[Table]:
    """What handlers count."""
    rows = [
        (f"{row['worker']}#{row['id']}", ", ".join(f"{what} {figure}" for what, figure in row["figures"].items()))
        for row in processes
        if row.get("figures")
    ]
    return [Table("figures", ("name", "counted by its handler"), rows)] if rows else []


def _process(row: dict[str, Any], uss: bool) -> list[str]:
    return [
        str(row["pid"]), size(row["memory"]), *([size(row.get("uss", 0))] if uss else []), row["listening"] or "-",
        f"{row['worker']}#{row['id']}", str(row["connections"]), str(row["send_fail"]), str(row["timers"]),
        str(row["total_request"]), f"{row['qps']:.0f}", f"[{row['state']}]",
    ]  # fmt: skip


def _summary(rows: Sequence[dict[str, Any]], uss: bool) -> list[str]:
    total = {key: sum(row.get(key, 0) for row in rows) for key in
             ("memory", "uss", "connections", "send_fail", "timers", "total_request", "qps")}  # fmt: skip
    return [
        "Summary", size(total["memory"]), *([size(total["uss"])] if uss else []), "-", "-", str(total["connections"]),
        str(total["send_fail"]), str(total["timers"]), str(total["total_request"]), f"{total['qps']:.0f}", "[Summary]",
    ]  # fmt: skip


def _is_figure(cell: str) -> bool:
    return cell[:1].isdigit() and "/" not in cell and ":" not in cell


def size(number: float) -> str:
    """7 -> "7B", 1536 -> "1.5KB"."""
    if number < 1024:
        return f"{int(number)}B"
    unit = min(int(math.log(number, 1024)), 4)
    return f"{number / 1024**unit:.1f}{'BKMGT'[unit]}B"


def duration(seconds: float) -> str:
    """90061 -> "1 days 1 hours 1 minutes"."""
    minutes = int(seconds) // 60
    return f"{minutes // 1440} days {minutes // 60 % 24} hours {minutes % 60} minutes"


CONNECTION_COLUMNS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "pid": ("pid", str), "worker": ("worker", str), "id": ("id", str), "direction": ("direction", str),
    "trans": ("transport", str),
    "protocol": ("protocol", str), "ipv4": ("ipv4", lambda yes: str(int(yes))),
    "ipv6": ("ipv6", lambda yes: str(int(yes))), "recv-q": ("recv_queue", size),
    "send-q": ("send_queue", size), "bytes-r": ("bytes_read", size),
    "bytes-w": ("bytes_written", size), "status": ("status", str), "local address": ("local", str),
    "foreign address": ("remote", str),
}  # fmt: skip
"""Heading -> key of the document, and how it is shown."""


def connection_table(document: dict[str, Any]) -> Table:
    """Workerman's connection status."""
    rows = [tuple(show(row[key]) for key, show in CONNECTION_COLUMNS.values()) for row in document["connections"]]
    return Table("connections", tuple(CONNECTION_COLUMNS), rows)
