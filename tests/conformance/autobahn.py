"""Autobahn's suite against a real websocket worker, and against a worker that is the client.

It is a program for Python 2.7, and gets an environment of its own. The interpreter is $PYTHON27, or python2.7 on the
PATH, or pyenv's; requirements.txt has every package that it needs, by version. They come from PyPI once, into
.venv/autobahn, which `make clean` takes away with the rest.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from workermand.testing import running_server

HERE = Path(__file__).parent
PLACE = HERE.parents[1] / ".venv" / "autobahn"
WSTEST = PLACE / "venv" / "bin" / "wstest"
REQUIREMENTS = HERE / "requirements.txt"
AGENT = "workermand"

CORE = ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*"]
"""Frames, fragments, control frames, UTF-8, closing."""
QUICK = [*CORE, "9.*", "12.1.*", "13.1.*"]
"""And large messages, and permessage-deflate: once for the messages, once for the terms."""
ALL = ["*"]
EXPECTED = {
    "6.4.3": "NON-STRICT",  # text is looked at when its frame is whole, not byte by byte
    "6.4.4": "NON-STRICT",
    "7.1.6": "INFORMATIONAL",  # what becomes of a message behind a Close, and of codes that nobody has defined
    "7.13.1": "INFORMATIONAL",
    "7.13.2": "INFORMATIONAL",
}
"""All that is not OK, of all cases. Neither word means that anything is wrong: FAILED would."""

CLIENT_QUICK = [*CORE, "9.1.*", "9.2.*", "12.1.1", "12.1.8", "13.1.1"]
"""Of the client, whose messages are those of the server: of large and deflated ones a few are enough."""

HANDLER = "def on_message(connection, message):\n    connection.send(message)\n"
CLIENT = """
import asyncio

from workermand import AsyncTcpConnection, Timer


def on_worker_start(worker):
    Timer.add(0, run, (worker,), persistent=False)


async def run(worker):
    counted = []
    while not counted:  # the server is about to start
        await asyncio.sleep(0.05)
        await visit(worker, "getCaseCount", lambda _client, count: counted.append(int(count)))
    for number in range(1, counted[0] + 1):
        await visit(worker, f"runCase?case={number}&agent=workermand", echo)
    await visit(worker, "updateReports?agent=workermand&shutdownOnComplete=true", echo)


def echo(client, message):
    client.send(message)


async def visit(worker, path, on_message):
    ended = asyncio.Event()
    client = AsyncTcpConnection(f"{worker.options['url']}/{path}", deflate=True)
    client.on_message = on_message
    client.on_close = lambda _client: ended.set()
    client.connect()
    await ended.wait()
"""
SETTINGS = {
    "websocket": {"deflate": True},
    # 9.2 has messages of 16 MiB, 9.3 and 9.4 have them of 4 MiB in fragments of 64 bytes.
    "limits": {"package": "16MiB", "websocket": {"fragments": 100_000}},
}


def python27() -> str | None:
    """The interpreter; None when there is none."""
    pyenv = sorted(Path.home().glob(".pyenv/versions/2.7*/bin/python"))
    candidates = [os.environ.get("PYTHON27"), shutil.which("python2.7"), *map(str, pyenv)]
    return next((found for found in candidates if found and _is_of_use(found)), None)


def _is_of_use(python: str) -> bool:
    """pyenv has a python2.7 on the PATH that only says where another one is."""
    return subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0


def install() -> None:
    """Once, whoever else is at it. LookupError without Python 2.7; CalledProcessError when PyPI lacks what it needs."""
    python = python27()
    if python is None:
        raise LookupError("there is no Python 2.7: PYTHON27 may name one")
    PLACE.mkdir(parents=True, exist_ok=True)
    with _locked(PLACE / "lock"):
        done = PLACE / "done"
        wanted = REQUIREMENTS.read_text()
        if done.exists() and done.read_text() == wanted and WSTEST.exists():
            return
        quiet = ["--quiet", "--quiet", "--disable-pip-version-check"]
        run([python, "-m", "pip", "install", *quiet, "--upgrade", "--target", str(PLACE / "boot"), "virtualenv<20.22"])
        run([python, "-m", "virtualenv", "--quiet", str(PLACE / "venv")], PYTHONPATH=str(PLACE / "boot"))
        run([str(PLACE / "venv/bin/pip"), "install", *quiet, "--requirement", str(REQUIREMENTS)])
        done.write_text(wanted)


def run(command: Sequence[str], **environment: str) -> None:
    """Its output only when it fails. The environment of our own Python is no use to another one."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COVERAGE"))}
    try:
        subprocess.run(
            command,
            check=True,
            env={**clean, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    except subprocess.CalledProcessError as failure:
        failure.add_note(failure.stdout[-4000:])
        raise


def results(cases: Sequence[str], reports: Path) -> dict[str, str]:
    """What Autobahn says of each case, by its number: "OK", or the worse of what it says of the messages and of the
    closing. ``reports``: a directory, where index.html shows each one byte by byte."""
    handler = {"echo_all.py": HANDLER}
    with running_server("echo_all", files=handler, listen="websocket://127.0.0.1:0", **SETTINGS) as server:
        servers = [{"agent": AGENT, "url": f"ws://127.0.0.1:{server.port}"}]
        run(_command("fuzzingclient", cases, reports, servers=servers))
    return _index(reports)


def client_results(cases: Sequence[str], reports: Path) -> dict[str, str]:
    """As ``results``, of a worker that is the client: Autobahn's server waits for it, and ends when it has been through
    all cases."""
    options = {"url": "ws://127.0.0.1:0"}
    with running_server(
        "visit_all", files={"visit_all.py": CLIENT}, listen=None, options=options, **SETTINGS
    ) as server:
        url = server.spec.workers["main"].options["url"]
        run(_command("fuzzingserver", cases, reports, url=url))
    return _index(reports)


def _command(mode: str, cases: Sequence[str], reports: Path, **more: Any) -> list[str]:
    reports.mkdir(parents=True, exist_ok=True)
    orders = {"outdir": str(reports), "cases": list(cases), "exclude-cases": [], "exclude-agent-cases": {}, **more}
    file = reports / "orders.json"
    file.write_text(json.dumps(orders))
    return [str(WSTEST), "--mode", mode, "--spec", str(file), "--webport", "0"]


def _index(reports: Path) -> dict[str, str]:
    index = json.loads((reports / "index.json").read_text())[AGENT]
    return {number: _word(case["behavior"], case["behaviorClose"]) for number, case in index.items()}


def _word(messages: str, closing: str) -> str:
    if messages == "OK":
        return closing
    return messages if closing in ("OK", messages) else f"{messages}, closing {closing}"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
