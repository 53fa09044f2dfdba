"""The command `workermand`: run, check, schema. Thin: it reads the command line and the file, and hands over."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Sequence

from workermand import config, places
from workermand.errors import ConfigError, ExitCode
from workermand.spec import ServerSpec, WorkerSpec

DEFAULT_FILES = ("workers.toml", "config/workers.toml", "/etc/workermand/workers.toml")
PROBE_TIME = 30.0
"""Seconds that `check` gives a handler to be imported."""


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code; a configuration that cannot be used is EX_CONFIG (78)."""
    args = _parser().parse_args(argv)
    try:
        return int(VERBS[args.verb](args))
    except ConfigError as error:
        print(f"workermand: {error}", file=sys.stderr)
        return ExitCode.CONFIG


def add_file_option(parser: argparse.ArgumentParser, *, top: bool) -> None:
    """-c is taken before and after the verb; the one after must not wipe out the one before with its default."""
    parser.add_argument(
        "-c", "--config", metavar="FILE", default=None if top else argparse.SUPPRESS, help="the TOML file"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="workermand", description="A daemon for long-lived connections.")
    parser.add_argument("--version", action="version", version=importlib.metadata.version("workermand"))
    add_file_option(parser, top=True)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="{run,check,schema}")
    run = verbs.add_parser("run", help="run the daemon in the foreground")
    add_file_option(run, top=False)
    run.add_argument("uri", nargs="?", help='without a file: where to listen, as in "text://127.0.0.1:2347"')
    run.add_argument("handler", nargs="?", help='and the handler, as in "apps.echo"')
    run.add_argument("--count", default="1", help='processes, or "auto"')
    check = verbs.add_parser("check", help="validate the file and import the handlers; opens nothing")
    add_file_option(check, top=False)
    schema = verbs.add_parser("schema", help="print the JSON Schema of the file")
    add_file_option(schema, top=False)
    return parser


def _file(args: argparse.Namespace) -> str:
    if args.config:
        return str(args.config)
    for file in DEFAULT_FILES:
        if os.path.exists(file):
            return file
    raise ConfigError(
        "command line", "no configuration file", f"name one with -c; looked for {', '.join(DEFAULT_FILES)}"
    )


def _reader(args: argparse.Namespace) -> Callable[[], ServerSpec]:
    if args.uri is None:
        file = _file(args)
        return lambda: config.load(file)
    if args.handler is None:
        raise ConfigError("command line", f"{args.uri}: which handler?", "workermand run URI HANDLER")
    count = args.count if args.count == "auto" else int(args.count) if args.count.isdigit() else args.count
    return lambda: config.from_command_line(args.uri, args.handler, count)


def _run(args: argparse.Namespace) -> int:
    from workermand.master import master  # late: `check` and `schema` do without  # noqa: PLC0415

    reread = _reader(args)
    return master.main(reread(), reread)


def _check(args: argparse.Namespace) -> int:
    file = _file(args)
    spec = config.load(file)
    for problem in places.verify_users(spec):
        raise problem
    failures = 0
    for worker in spec.workers.values():
        if error := _probe(spec, worker):
            failures += 1
            print(f"{file}: worker.{worker.name}.handler: {error.rstrip()}", file=sys.stderr)
    if failures:
        return ExitCode.FAILED
    print(f"{file}: ok, {len(spec.workers)} workers")
    return ExitCode.OK


def _probe(spec: ServerSpec, worker: WorkerSpec) -> str:
    """Imports the handler in a child of its own, as the worker's user. What is wrong with it, or ""."""
    from workermand.worker import process  # late: uvloop and all  # noqa: PLC0415

    reader, writer = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(reader)
            if error := process.probe(spec, worker):
                os.write(writer, error.encode(errors="replace")[-60_000:])
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    deadline = time.monotonic() + PROBE_TIME
    said = b""
    with open(reader, "rb", buffering=0) as pipe:
        while select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
            if not (chunk := pipe.read(65536)):
                break
            said += chunk
        else:
            os.kill(pid, signal.SIGKILL)
            said = f"{worker.handler}: its import has not ended after {PROBE_TIME:.0f} s".encode()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return said.decode(errors="replace") or (f"{worker.handler}: its import ended the process ({code})" if code else "")


def _schema(args: argparse.Namespace) -> int:
    from workermand import schema  # late  # noqa: PLC0415

    print(schema.text())
    return ExitCode.OK


VERBS: dict[str, Callable[[argparse.Namespace], int]] = {"run": _run, "check": _check, "schema": _schema}
