"""The command `workermand`: run, check, schema. Thin: it reads the command line and the file, and hands over.

Verdicts go to stdout, complaints to stderr. Exit codes are errors.ExitCode's; argparse adds 2 for a wrong command line.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

from workermand import __version__, certificates, config, places
from workermand.errors import ConfigError, ExitCode
from workermand.spec import ServerSpec, WorkerSpec

DEFAULT_FILES = ("config/workers.toml", "workers.toml", "/etc/workermand/workers.toml")
INTERRUPTED = 130
"""What a shell says of a program that Ctrl+C has ended."""


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code."""
    args = _parser().parse_args(argv)
    _open_standard_descriptors()
    try:
        code = int(args.act(args))
        print(end="", flush=True)
        return code
    except ConfigError as error:
        print(f"workermand: {error}", file=sys.stderr)
        return ExitCode.CONFIG
    except BrokenPipeError:  # `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still buffered would fail once more
        return ExitCode.FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


def _open_standard_descriptors() -> None:
    """Who has been started without them would take for stdout what it opens first, a socket of its own."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="workermand", description="A daemon for long-lived connections.")
    parser.add_argument("--version", action="version", version=f"workermand {__version__}")
    _add_file_option(parser, default=None)
    verbs = parser.add_subparsers(required=True, metavar="{run,check,schema}")

    def verb(name: str, act: Callable[[argparse.Namespace], int], says: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=says, description=f"{says[0].upper()}{says[1:]}.")
        added.set_defaults(act=act)
        _add_file_option(added, default=argparse.SUPPRESS)
        return added

    run = verb("run", _run, "run the daemon in the foreground")
    run.add_argument("uri", nargs="?", metavar="URI", help='without a file: an address, as in "text://127.0.0.1:2347"')
    run.add_argument("handler", nargs="?", metavar="HANDLER", help='and what serves it, as in "apps.echo"')
    run.add_argument("--count", metavar="N", help='with URI and HANDLER: how many processes, or "auto" (default: 1)')
    run.add_argument("--name", help="with URI and HANDLER: the daemon's name (default: the handler's)")
    verb("check", _check, "validate the file and import the handlers, each as its worker's user; opens nothing")
    verb("schema", _schema, "print the JSON Schema of the file")
    return parser


def _add_file_option(parser: argparse.ArgumentParser, *, default: str | None) -> None:
    """-c is taken before and after the verb; the one after must not wipe out the one before by its default."""
    parser.add_argument(
        "-c",
        "--config",
        metavar="FILE",
        default=default,
        help=f"the TOML file (default: the first of {', '.join(DEFAULT_FILES)})",
    )


def _file(args: argparse.Namespace) -> str:
    if args.config is not None:
        return str(args.config)
    for file in DEFAULT_FILES:
        if os.path.exists(file):
            return file
    raise ConfigError(
        "command line", "no configuration file", f"name one with -c; looked for {', '.join(DEFAULT_FILES)}"
    )


# ---------------------------------------------------------------------- run


def _run(args: argparse.Namespace) -> int:
    from workermand.master import master  # late: `check` and `schema` do without  # noqa: PLC0415

    reread = _reader(args)
    return master.main(reread(), reread)


def _reader(args: argparse.Namespace) -> Callable[[], ServerSpec]:
    """Reads the settings, now and at every reload."""
    if args.uri is None:
        if args.count is not None or args.name is not None:
            raise ConfigError("command line", "--count and --name go with URI and HANDLER", "a file has keys for them")
        file = _file(args)
        return lambda: config.load(file)
    if args.config is not None:
        raise ConfigError("command line", "found both a file and an address", "expected -c FILE, or URI HANDLER")
    if args.handler is None:
        raise ConfigError("command line", f"{args.uri} has no handler", "expected: workermand run URI HANDLER")
    given = args.count or "1"
    count = int(given) if given.isdecimal() else given
    return lambda: config.from_command_line(args.uri, args.handler, count, name=args.name)


# ---------------------------------------------------------------------- check


def _check(args: argparse.Namespace) -> int:
    file = _file(args)
    spec = config.load(file)
    if problems := places.verify_users(spec):
        for problem in problems:
            print(f"{file}: {problem}", file=sys.stderr)
        return ExitCode.CONFIG
    failed = False
    for worker in spec.workers.values():
        files = certificates.read(f"{file}: worker.{worker.name}.tls", worker.tls) if worker.tls else None
        if worker.tls and files is not None:
            until, name = certificates.expires(worker.tls, files)
            if warning := certificates.warning(until, name):
                failed = failed or until < time.time()
                print(f"{file}: worker.{worker.name}.tls: {warning}", file=sys.stderr)
        error, remarks = _probe(spec, worker, files)
        failed = failed or bool(error)
        for words in filter(None, (*remarks, error.rstrip())):
            print(f"{file}: worker.{worker.name}: {words}", file=sys.stderr)
    if failed:
        return ExitCode.FAILED
    processes = sum(worker.count for worker in spec.workers.values())
    print(f"{file}: ok: {len(spec.workers)} workers, {processes} processes")
    return ExitCode.OK


def _probe(spec: ServerSpec, worker: WorkerSpec, files: certificates.Files | None) -> tuple[str, list[str]]:
    """Imports the handler in a child of its own, as the worker's user, and asks it: what is wrong with it, or "", and
    its remarks."""
    from workermand.worker import process  # late: uvloop and all  # noqa: PLC0415

    # A file and no pipe: it does not fill, and what the handler leaves running cannot keep it open.
    with open(os.memfd_create("probe"), "w+b", buffering=0) as verdict:
        print(end="", flush=True)
        if (pid := os.fork()) == 0:
            _leave_after(lambda: process.probe(spec, worker, files), verdict)
        ended = _end_of(pid, worker.timeouts.start)
        verdict.seek(0)
        probed = verdict.read()
    if not probed:
        return f'handler "{worker.handler}": its import {ended}', []
    error, remarks = json.loads(probed)
    return error, remarks


def _leave_after(probe: Callable[[], tuple[str, Sequence[str]]], verdict: io.FileIO) -> NoReturn:
    """In the child. What a module prints when it is imported is no verdict of ours: it goes to stderr."""
    code = ExitCode.FAILED
    try:
        os.dup2(2, 1)
        verdict.write(json.dumps(probe()).encode())
        print(end="", flush=True)
        code = ExitCode.OK
    finally:
        os._exit(code)


def _end_of(pid: int, limit: float) -> str:
    """Waits for the child, and kills it after ``limit`` seconds: how it ended, in words."""
    pidfd = os.pidfd_open(pid)
    in_time = False
    try:
        in_time = bool(select.select([pidfd], [], [], limit)[0])
    finally:  # also at Ctrl+C
        os.close(pidfd)
        if not in_time:
            os.kill(pid, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if not in_time:
        return f"has not ended after {limit:g} s (timeouts.start)"
    return f"ended the process with {f'exit code {code}' if code >= 0 else signal.Signals(-code).name}"


# ---------------------------------------------------------------------- schema


def _schema(_args: argparse.Namespace) -> int:
    from workermand import schema  # late  # noqa: PLC0415

    print(schema.text())
    return ExitCode.OK
