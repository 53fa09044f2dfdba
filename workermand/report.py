"""The tables that people read, made from the documents of docs/control.md. Pure: rows in, text out.

The master writes them plain (status.txt, the start banner); workermanctl shows the same tables with rich on a terminal.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from workermand.spec import ServerSpec


@dataclass(frozen=True, slots=True)
class Table:
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def plain(table: Table) -> str:
    """Columns aligned by spaces; a number's column to the right."""
    rows = [list(table.columns), *(list(row) for row in table.rows)]
    widths = [max(len(row[index]) for row in rows) for index in range(len(table.columns))]
    right = [all(_is_figure(row[index]) for row in table.rows) and bool(table.rows) for index in range(len(widths))]
    lines = [
        "  ".join(cell.rjust(width) if to_right else cell.ljust(width) for cell, width, to_right in zip(row, widths, right, strict=True))
        for row in rows
    ]  # fmt: skip
    return "\n".join([*filter(None, [table.title]), *(line.rstrip() for line in lines)])


def banner(spec: ServerSpec) -> str:
    """What a start prints: what will listen where, as whom, how often."""
    rows = [
        (name, listen, worker.user or "-", str(worker.count), "[OK]")
        for name, worker in spec.workers.items()
        for listen in [listen.uri for listen in worker.listen] or ["-"]
    ]
    return plain(
        Table(
            f"workermand {spec.name}: {spec.file or 'from the command line'}",
            ("worker", "listen", "user", "count", "state"),
            rows,
        )
    )


def heading(document: dict[str, Any]) -> str:
    """The lines above the tables: start time, run time, load, and the note."""
    server = document["server"]
    started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(server["started"]))
    lines = [
        "workermand {version}  {name}  pid {pid}  Python {python}  uvloop {uvloop}".format(**server),
        f"start time {started}  run {duration(server['uptime'])}  load {' '.join(f'{load:.2f}' for load in server['load'])}",
        "generation {generation}  {state}".format(**server),
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
    return [*tables, Table("processes", columns, rows)]


def connection_table(document: dict[str, Any]) -> Table:
    """Workerman's connection status."""
    columns = ("pid", "worker", "id", "trans", "protocol", "ipv4", "ipv6", "recv-q", "send-q", "bytes-r", "bytes-w", "status",
               "local address", "foreign address")  # fmt: skip
    rows = [
        (str(row["pid"]), row["worker"], str(row["id"]), row["transport"], row["protocol"], str(int(row["ipv4"])), str(int(row["ipv6"])),
         size(row["recv_queue"]), size(row["send_queue"]), size(row["bytes_read"]), size(row["bytes_written"]), row["status"],
         row["local"], row["remote"])
        for row in document["connections"]
    ]  # fmt: skip
    return Table("connections", columns, rows)


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
