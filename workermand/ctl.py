"""The command `workermanctl`: parse, ask the master, print. No logic: what it shows is the master's document.

Data goes to stdout, messages to stderr. Exit codes: 0 fine, 1 failed or degraded, 2 usage, 3 not running, 4 no such
worker.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import struct
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from workermand.errors import ConfigError

READ_TIME = 5.0
"""Seconds that an answer from memory may take."""
CHANGE_TIME = 600.0
"""Seconds that a reload, restart or stop may take unless --timeout says otherwise."""
MOST_SECONDS = 1_000_000.0
WIDEST = 10_000
"""Columns that a table may have."""
NOT_RUNNING = 3
HEADER = struct.Struct(">I")


class Failed(Exception):
    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    try:
        code = VERBS[args.verb](args)
        print(end="", flush=True)
        return code
    except Failed as error:
        print(f"workermanctl: {error}", file=sys.stderr)
        return error.code
    except OSError as error:  # of stdout: _ask() has its own
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still buffered would fail once more
        if not isinstance(error, BrokenPipeError):  # `| head`
            print(f"workermanctl: cannot write: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="workermanctl", description="Shows and steers a running workermand.",
        epilog="exit codes: 0 fine, 1 failed or degraded, 2 usage, 3 not running, 4 no such worker",
    )  # fmt: skip
    _options(parser, top=True)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, help: str, *, reads: bool = False) -> argparse.ArgumentParser:
        made = verbs.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.")
        _options(made, top=False)
        if reads:
            made.add_argument("--json", action="store_true", help="the whole document, for programs")
        return made

    status = verb("status", "processes, exits and why", reads=True)
    status.add_argument("--uss", action="store_true", help="private memory too (slower)")
    status.add_argument("-w", "--watch", nargs="?", type=_seconds, const=1.0, metavar="SECONDS", help="again and again")
    verb("connections", "every connection", reads=True)
    verb("reload", "re-read file and code; returns when no old process accepts")
    verb("stop", "drain and stop").add_argument("--now", action="store_true", help="fast: what SIGINT does")
    restart = verb("restart", "new processes, also for what is not reloadable")
    restart.add_argument("name", nargs="?", help="one worker; without it all of them")
    scale = verb("scale", "more or fewer processes, until the next reload")
    scale.add_argument("name", help="one worker")
    scale.add_argument("count", type=int, help="how many processes it shall have")
    verb("version", "the daemon's version", reads=True)
    verb("ping", "whether the master answers", reads=True)
    verb("completion", "print a shell completion").add_argument("shell", choices=("bash", "zsh", "tcsh"))
    return parser


def _options(parser: argparse.ArgumentParser, *, top: bool) -> None:
    """Taken before and after the verb; the ones after must not wipe out the ones before with their defaults."""
    default = None if top else argparse.SUPPRESS
    parser.add_argument("-c", "--config", metavar="FILE", default=default, help="the daemon's TOML file")
    parser.add_argument("-s", "--socket", metavar="SOCKET", default=default, help="its control socket")
    parser.add_argument(
        "--timeout", type=_seconds, metavar="SECONDS", default=default, help="how long to wait for an answer"
    )


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds <= MOST_SECONDS:
        raise ValueError
    return seconds


_seconds.__name__ = "number of seconds"  # argparse: invalid number of seconds value: '-1'

# ---------------------------------------------------------------------- verbs


def _status(args: argparse.Namespace) -> int:
    from workermand import report  # noqa: PLC0415

    while True:
        document = _ask(args, "status", uss=args.uss)
        if args.json:
            print(json.dumps(document), flush=True)
        else:
            _clear(args)
            print(report.heading(document))
            for table in report.status_tables(document):
                _show(table)
        if args.watch is None:
            return int(document["server"]["state"] == "degraded")
        time.sleep(args.watch)


def _connections(args: argparse.Namespace) -> int:
    from workermand import report  # noqa: PLC0415

    document = _ask(args, "connections")
    if args.json:
        print(json.dumps(document))
        return 0
    _show(report.connection_table(document))
    if document["busy"]:
        print(f"busy, no answer: {', '.join(map(str, document['busy']))}", file=sys.stderr)
    return 0


def _reload(args: argparse.Namespace) -> int:
    _done(_ask(args, "reload"))
    return 0


def _restart(args: argparse.Namespace) -> int:
    _done(_ask(args, "restart", name=args.name))
    return 0


def _stop(args: argparse.Namespace) -> int:
    _ask(args, "stop", now=args.now)
    print("stopped")
    return 0


def _scale(args: argparse.Namespace) -> int:
    _done(_ask(args, "scale", name=args.name, count=args.count))
    print("until the next reload: to keep it, write count into the file", file=sys.stderr)
    return 0


def _version(args: argparse.Namespace) -> int:
    answer = _ask(args, "version")
    print(
        json.dumps(answer)
        if args.json
        else f"workermand {answer['workermand']}, Python {answer['python']}, uvloop {answer['uvloop']}"
    )
    return 0


def _ping(args: argparse.Namespace) -> int:
    answer = _ask(args, "ping")
    print(json.dumps(answer) if args.json else f"pid {answer['pid']} answers")
    return 0


def _completion(args: argparse.Namespace) -> int:
    import shtab  # noqa: PLC0415

    print(shtab.complete(_parser(), args.shell))
    return 0


VERBS: dict[str, Callable[[argparse.Namespace], int]] = {
    "status": _status,
    "connections": _connections,
    "reload": _reload,
    "restart": _restart,
    "stop": _stop,
    "scale": _scale,
    "version": _version,
    "ping": _ping,
    "completion": _completion,
}


def _done(summary: dict[str, Any]) -> None:
    print(f"{summary['what']}: done in {summary['seconds']:.2f} s")
    for note in summary["notes"]:
        print(note, file=sys.stderr)


def _clear(args: argparse.Namespace) -> None:
    if args.watch is not None and sys.stdout.isatty():
        print("\x1b[H\x1b[2J", end="")


def _show(table: Any) -> None:
    """rich for a person, aligned text for everything else."""
    if not sys.stdout.isatty():
        from workermand import report  # noqa: PLC0415

        print(report.plain(table))
        return
    from rich import box  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    shown = Table(*table.columns, title=table.title, title_justify="left", box=box.SIMPLE_HEAD)
    for row in table.rows:
        shown.add_row(*(cell.replace("[", r"\[") for cell in row))
    # What is wider than the terminal is for the terminal to wrap: rich would cut every cell down to a few letters.
    Console(highlight=False, width=WIDEST, height=1).print(shown)


# ---------------------------------------------------------------------- asking


def _ask(args: argparse.Namespace, verb: str, **arguments: Any) -> dict[str, Any]:
    reads = verb in ("status", "connections", "version", "ping")
    patience = args.timeout or (READ_TIME if reads else CHANGE_TIME)
    with _connect(args, min(patience, READ_TIME)) as sock:
        request = json.dumps({"verb": verb, **arguments}).encode()
        try:
            sock.sendall(HEADER.pack(len(request)) + request)
            sock.settimeout(patience)
            answer = json.loads(_receive(sock))
        except TimeoutError:
            raise Failed(_why_silent(sock, patience) + ("" if reads else "; it will still do it")) from None
        except (OSError, ValueError) as error:
            raise Failed(f"the daemon ended before it answered ({error})") from error
    if not answer["ok"]:
        raise Failed(answer["error"], answer.get("code", 1))
    data: dict[str, Any] = answer["data"]
    return data


def _receive(sock: socket.socket) -> bytes:
    with sock.makefile("rb") as stream:
        header = stream.read(HEADER.size)
        if len(header) < HEADER.size:
            raise ValueError("no answer")
        return stream.read(HEADER.unpack(header)[0])


def _connect(args: argparse.Namespace, patience: float) -> socket.socket:
    """The first live socket of the candidates; the best complaint when there is none."""
    complaint = Failed(
        "no workermand is running here; name its file with -c FILE, or its socket with -s SOCKET", NOT_RUNNING
    )
    for path in _candidates(args):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(patience)
        try:
            sock.connect(path)
        except PermissionError:
            complaint = Failed(f"{path} belongs to {_owner(path)}: use sudo, or set [server] control_group")
        except TimeoutError:
            complaint = Failed(_suspended(Path(path).with_name("workermand.pid")) or f"{path} does not answer")
        except OSError:
            if args.config or args.socket:
                complaint = Failed(f"not running (nobody answers at {path})", NOT_RUNNING)
        else:
            return sock
        sock.close()
    raise complaint


def _candidates(args: argparse.Namespace) -> list[str]:
    if args.socket:
        return [args.socket]
    from workermand import places  # noqa: PLC0415

    if args.config:
        try:
            return [os.path.join(places.locate(args.config)[1], "control.sock")]
        except ConfigError as error:
            raise Failed(str(error)) from error
    return [os.path.join(directory, "control.sock") for directory in places.default_run_dirs()]


def _owner(path: str) -> str:
    import pwd  # noqa: PLC0415

    with contextlib.suppress(OSError, KeyError):
        return f"user {pwd.getpwuid(os.stat(path).st_uid).pw_name}"
    return "another user"


def _why_silent(sock: socket.socket, patience: float) -> str:
    pid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    return _suspended_pid(pid) or f"no answer from pid {pid} within {patience:g} s"


def _suspended(pid_file: Path) -> str:
    with contextlib.suppress(OSError, ValueError):
        return _suspended_pid(int(pid_file.read_text()))
    return ""


def _suspended_pid(pid: int) -> str:
    with contextlib.suppress(OSError):
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "Tt":
            return f"the master, pid {pid}, is suspended (Ctrl+Z?): `kill -CONT {pid}` wakes it"
    return ""


if __name__ == "__main__":
    sys.exit(main())
