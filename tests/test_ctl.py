"""workermanctl against a master that is played by a thread: a real Control on a real selector, canned answers."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import selectors
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.test_report import DOCUMENT
from workermand import ctl, report
from workermand.master.control import Control, Request

ROOT = Path(__file__).parents[1]


class Played:
    """A master in a thread; ``serve`` answers."""

    def __init__(self, run_dir: Path) -> None:
        self.socket = run_dir / "control.sock"
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.serve: Callable[[Request], None] = lambda request: request.reply(ANSWERS[request.verb])
        self._selector = selectors.EpollSelector()
        self._control = Control(self._selector, str(self.socket), None, self._serve)
        self._wakeup, self._stop = socket.socketpair()
        self._selector.register(self._wakeup, selectors.EVENT_READ, data=None)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _serve(self, request: Request) -> None:
        self.asked.append((request.verb, request.args))
        self.serve(request)

    def _run(self) -> None:
        while True:
            for key, mask in self._selector.select():
                if key.data is None:
                    return
                key.data(mask)

    def close(self) -> None:
        self._stop.send(b"x")
        self._thread.join()
        self._control.close()
        self._selector.close()
        self._wakeup.close()
        self._stop.close()


CHANGE = {"what": "reload", "seconds": 0.5, "steps": ["commit"], "notes": ["x: waits for `workermanctl restart x`"]}
ANSWERS: dict[str, dict[str, Any]] = {
    "status": DOCUMENT,
    "connections": {"version": 1, "connections": [], "busy": [4711]},
    "reload": CHANGE,
    "restart": CHANGE,
    "scale": CHANGE,
    "stop": {"what": "stop", "stopped": True},
    "version": {"version": 1, "workermand": "0.1.0", "python": "3.11.2", "uvloop": "0.23.0", "name": "t", "pid": 7},
    "ping": {"version": 1, "pong": True, "pid": 7},
}


@pytest.fixture
def played(short_dir: Path) -> Iterator[Played]:
    made = Played(short_dir)
    yield made
    made.close()


def test_status(played: Played, capsys: pytest.CaptureFixture[str]) -> None:
    assert ctl.main(["-s", str(played.socket), "status"]) == 1, "degraded"
    out = capsys.readouterr().out
    assert "total_request" in out and "echo#0" in out and "last reload failed: x" in out
    assert played.asked == [("status", {"uss": False})]


@pytest.mark.parametrize("verb", ["status", "connections", "version", "ping"])
def test_json_is_the_document(verb: str, played: Played, capsys: pytest.CaptureFixture[str]) -> None:
    ctl.main([verb, "--json", "-s", str(played.socket)])
    assert json.loads(capsys.readouterr().out) == ANSWERS[verb]


@pytest.mark.parametrize(
    ("arguments", "asked", "out", "err"),
    [
        (["reload"], ("reload", {}), "reload: done in 0.50 s", "waits for `workermanctl restart x`"),
        (["restart"], ("restart", {"name": None}), "done", ""),
        (["restart", "echo"], ("restart", {"name": "echo"}), "done", ""),
        (["scale", "echo", "3"], ("scale", {"name": "echo", "count": 3}), "done", "until the next reload"),
        (["stop"], ("stop", {"now": False}), "stopped", ""),
        (["stop", "--now"], ("stop", {"now": True}), "stopped", ""),
        (["connections"], ("connections", {}), "foreign address", "busy, no answer: 4711"),
        (["version"], ("version", {}), "workermand 0.1.0, Python 3.11.2, uvloop 0.23.0", ""),
        (["ping"], ("ping", {}), "pid 7 answers", ""),
        (["status", "--uss"], ("status", {"uss": True}), "echo#0", ""),
    ],
)
def test_verbs(
    arguments: list[str], asked: Any, out: str, err: str, played: Played, capsys: pytest.CaptureFixture[str]
) -> None:
    ctl.main(["-s", str(played.socket), *arguments])
    said = capsys.readouterr()
    assert played.asked == [asked]
    assert out in said.out and err in said.err


def test_a_failure_has_its_code_and_its_words(played: Played, capsys: pytest.CaptureFixture[str]) -> None:
    played.serve = lambda request: request.fail("no worker 'x'; there are echo", 4)
    assert ctl.main(["-s", str(played.socket), "restart", "x"]) == 4
    assert capsys.readouterr().err == "workermanctl: no worker 'x'; there are echo\n"


def test_the_daemon_is_found_by_its_file(played: Played, short_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = short_dir / "broken.toml"
    file.write_text(f'[server]\nrun_dir = "{short_dir}"\n[worker.x]\nnonsense = true\n')
    assert ctl.main(["ping", "-c", str(file)]) == 0


def test_the_first_live_daemon_is_taken(
    played: Played, short_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = short_dir / "base"
    (base / "a").mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(base / "a" / "control.sock"))
    (base / "b").symlink_to(short_dir)
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(base))
    assert ctl.main(["ping"]) == 0


def test_not_running(short_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert ctl.main(["-s", str(short_dir / "none.sock"), "status"]) == 3
    monkeypatch.setattr("workermand.places.default_run_dirs", list)
    assert ctl.main(["status"]) == 3
    assert "no workermand is running here" in capsys.readouterr().err


def test_another_users_daemon_is_named(
    played: Played, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(self: socket.socket, address: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(ctl.socket.socket, "connect", refuse)
    assert ctl.main(["-s", str(played.socket), "status"]) == 1
    assert "belongs to user" in capsys.readouterr().err


def test_a_suspended_master_is_named_with_the_remedy(short_dir: Path, eventually: Any) -> None:
    code = (
        "import socket, sys, time\n"
        "s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen()\n"
        "print('listening', flush=True); time.sleep(60)\n"
    )
    path = str(short_dir / "control.sock")
    with subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE, text=True) as master:
        assert master.stdout is not None and master.stdout.readline() == "listening\n"
        os.kill(master.pid, signal.SIGSTOP)
        stat = Path(f"/proc/{master.pid}/stat")
        eventually("it is suspended", lambda: stat.read_text().rpartition(")")[2].split()[0] == "T")
        done = subprocess.run(
            [sys.executable, "-m", "workermand.ctl", "-s", path, "--timeout", "1", "status"],
            capture_output=True, text=True, timeout=60, check=False, cwd=ROOT,
        )  # fmt: skip
        master.kill()
    assert done.returncode == 1
    assert f"pid {master.pid}, is suspended (Ctrl+Z?): `kill -CONT {master.pid}` wakes it" in done.stderr


def test_a_daemon_that_ends_before_it_answers(played: Played, capsys: pytest.CaptureFixture[str]) -> None:
    played.serve = lambda request: request._client._control.drop(request._client)
    assert ctl.main(["-s", str(played.socket), "reload"]) == 1
    assert "ended before it answered" in capsys.readouterr().err


def test_a_mistyped_verb_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        ctl.main(["stauts"])
    assert refused.value.code == 2
    assert "status" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["-w", "-1"], ["-w", "nan"], ["--timeout", "0"], ["--timeout", "1e300"]])
def test_what_is_no_number_of_seconds_is_a_usage_error(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        ctl.main(["status", *words])
    assert refused.value.code == 2
    assert f"invalid number of seconds value: '{words[1]}'" in capsys.readouterr().err


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ctl.main(["status", "-c", str(tmp_path / "x.toml")]) == 1
    assert f"workermanctl: {tmp_path}/x.toml: cannot be read: No such file" in capsys.readouterr().err


def test_a_change_that_takes_longer_than_one_waits_goes_on(played: Played, capsys: pytest.CaptureFixture[str]) -> None:
    played.serve = lambda request: None
    assert ctl.main(["-s", str(played.socket), "--timeout", "0.2", "reload"]) == 1
    assert f"no answer from pid {os.getpid()} within 0.2 s; it will still do it" in capsys.readouterr().err


def test_a_terminal_that_is_too_narrow_cuts_nothing(played: Played) -> None:
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("4H", 24, 40, 0, 0))
    command = [sys.executable, "-m", "workermand.ctl", "-s", str(played.socket), "status"]
    with subprocess.Popen(command, stdout=its, cwd=ROOT, env={**os.environ, "TERM": "dumb"}):
        os.close(its)
        shown = b""
        with contextlib.suppress(OSError):  # EIO: the other end is closed
            while chunk := os.read(ours, 65536):
                shown += chunk
    os.close(ours)
    columns = report.status_tables(DOCUMENT)[-1].columns
    assert all(column.encode() in shown for column in columns) and "…".encode() not in shown


@pytest.mark.parametrize("file", ["/dev/full", "a pipe"])
def test_an_output_that_takes_no_more_is_no_traceback(file: str, played: Played) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer if file == "a pipe" else file, "wb", buffering=0) as output:
        done = subprocess.run(
            [sys.executable, "-m", "workermand.ctl", "-s", str(played.socket), "ping"],
            stdout=output, stderr=subprocess.PIPE, text=True, timeout=60, check=False, cwd=ROOT,
        )  # fmt: skip
    if file != "a pipe":
        os.close(writer)
    said = "" if file == "a pipe" else "workermanctl: cannot write: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, said)


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ctl.main(["completion", shell]) == 0
    assert "workermanctl" in capsys.readouterr().out


def test_what_is_for_people_is_imported_late() -> None:
    code = "import sys, workermand.ctl; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not {"rich", "shtab", "msgspec", "uvloop", "asyncio", "psutil"} & set(done.stdout.split())
