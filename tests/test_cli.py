"""The command line, in process; and `check`, which forks, as the process that it is."""

from __future__ import annotations

import json
import os
import pwd
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import workermand
from workermand import cli, config, places
from workermand.errors import ExitCode
from workermand.master import master
from workermand.spec import ServerSpec

ROOT = Path(__file__).parents[1]
ECHO = '[worker.echo]\nlisten = "text://127.0.0.1:2347"\nhandler = "apps.echo"\n'

Ran = list[tuple[ServerSpec, Callable[[], ServerSpec]]]


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Ran:
    """What the master was called with; from a directory without any files."""
    calls: Ran = []
    monkeypatch.setattr(master, "main", lambda spec, reread: calls.append((spec, reread)) or 7)
    monkeypatch.setattr(cli, "DEFAULT_FILES", ("config/workers.toml", "workers.toml", str(tmp_path / "etc.toml")))
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/rt")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return calls


# ---------------------------------------------------------------------------------------------------- run


@pytest.mark.parametrize(
    "words", [["-c", "FILE", "run"], ["run", "-c", "FILE"], ["-c", "other", "run", "--config", "FILE"]]
)
def test_the_file_is_taken_before_and_after_the_verb(ran: Ran, tmp_path: Path, words: list[str]) -> None:
    file = tmp_path / "chat.toml"
    file.write_text(ECHO)
    assert cli.main([word.replace("FILE", str(file)) for word in words]) == 7
    assert ran[0][0].name == "chat"


def test_a_reload_reads_the_file_again(ran: Ran, tmp_path: Path) -> None:
    file = tmp_path / "chat.toml"
    file.write_text(ECHO)
    cli.main(["run", "-c", str(file)])
    file.write_text(ECHO + "count = 3\n")
    spec, reread = ran[0]
    assert (spec.workers["echo"].count, reread().workers["echo"].count) == (1, 3)


def test_without_c_the_nearest_file_is_taken(ran: Ran, tmp_path: Path) -> None:
    (tmp_path / "here" / "config").mkdir()
    for file in (tmp_path / "etc.toml", Path("workers.toml"), Path("config/workers.toml")):
        file.write_text(ECHO)
        cli.main(["run"])
        assert ran[-1][0].file == str(file.absolute())


def test_without_a_file_an_address_and_a_handler(ran: Ran) -> None:
    assert cli.main(["run", "text://127.0.0.1:2347", "apps.echo", "--count", "2"]) == 7
    cli.main(["run", "tcp://127.0.0.1:1", "apps.chat:Chat", "--count", "auto", "--name", "other"])
    (first, reread), (second, _) = ran
    assert first == reread() and (first.name, first.workers["echo"].count) == ("echo", 2)
    assert (second.name, second.workers["chat"].count) == ("other", len(os.sched_getaffinity(0)))


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (
            ["run"],
            "command line: no configuration file; name one with -c; looked for config/workers.toml, workers.toml",
        ),
        (["check"], "command line: no configuration file"),
        (["run", "-c", "none.toml"], "none.toml: cannot be read: No such file or directory"),
        (["run", "-c", ""], "cannot be read: Is a directory"),
        (["run", "tcp://127.0.0.1:1"], "command line: tcp://127.0.0.1:1 has no handler; expected: workermand run URI"),
        (["run", "tcp://127.0.0.1:1", "a", "-c", "x"], "command line: found both a file and an address"),
        (["run", "--count", "2"], "command line: --count and --name go with URI and HANDLER"),
        (
            ["run", "tcp://127.0.0.1:1", "a", "--count", "0"],
            "command line: worker.a.count: found 0, expected an integer",
        ),
        (
            ["run", "tcp://127.0.0.1:1", "a", "--count", "x"],
            'command line: worker.a.count: found "x", expected an integer',
        ),
        (["run", "tcp://127.0.0.1:1", "a", "--name", "a b"], 'command line: server.name: found "a b"'),
    ],
)
def test_complaints(ran: Ran, words: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == ExitCode.CONFIG
    said = capsys.readouterr()
    assert complaint in said.err and said.err.startswith("workermand: ") and not said.out and not ran


def test_the_interrupted_says_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(_file: str) -> ServerSpec:
        raise KeyboardInterrupt

    monkeypatch.setattr(config, "load", interrupted)
    assert cli.main(["check", "-c", "x"]) == cli.INTERRUPTED
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("words", "code"), [(["--version"], 0), (["--help"], 0), (["run", "--help"], 0), ([], 2), (["x"], 2)]
)
def test_what_argparse_answers(words: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == code
    said = capsys.readouterr()
    assert (f"workermand {workermand.__version__}" in said.out) == (words == ["--version"])


def test_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "workermand"


def test_a_reader_that_has_had_enough_is_no_traceback() -> None:
    command = [sys.executable, "-m", "workermand", "schema"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None and process.stderr.read() == b""
    assert process.returncode == ExitCode.FAILED


# ---------------------------------------------------------------------------------------------------- check


def check(file: Path) -> subprocess.CompletedProcess[str]:
    """`workermand check -c FILE`, as a process."""
    return subprocess.run(
        [sys.executable, "-m", "workermand", "check", "-c", str(file)],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


HANDLERS = {
    "good": "print('imported')\ndef on_message(connection, data): pass\n",
    "raises": "import no_such_module\n",
    "syntax": "def on_message(connection, data:\n",
    "arity": "def on_message(connection): pass\n",
    "exits": "import sys\nsys.exit(3)\n",
    "leaves": "import os\nos._exit(0)\n",
    "dies": "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n",
    "forks": """
import os, signal
if (pid := os.fork()) == 0:
    os.closerange(0, 3)
    signal.pause()
open(__file__ + ".pid", "w").write(str(pid))
""",
}


def write(directory: Path, *names: str, more: str = "") -> Path:
    for name in names:
        (directory / f"{name}_handler.py").write_text(HANDLERS.get(name, ""))
    file = directory / "workers.toml"
    file.write_text("".join(f"[worker.{name}]\nhandler = '{name}_handler'\n{more}" for name in names))
    return file


def test_check_says_ok_and_opens_nothing(tmp_path: Path) -> None:
    file = write(tmp_path, "good", more="count = 2\nlisten = 'unix://a.sock'\n")
    file.write_text("[server]\nrun_dir = 'run'\nstate_dir = 'state'\n" + file.read_text())
    done = check(file)
    assert (done.returncode, done.stdout) == (0, f"{file}: ok: 1 workers, 2 processes\n"), done.stderr
    assert done.stderr == "imported\n"
    assert not (tmp_path / "run").exists() and not (tmp_path / "state").exists()


def test_check_prints_what_handlers_say_of_their_options(tmp_path: Path) -> None:
    file = tmp_path / "workers.toml"
    (tmp_path / "app.py").write_text("def on_worker_check(worker): return ['one', 'two']")
    file.write_text("[worker.a]\nhandler = 'app'\n")
    done = check(file)
    assert (done.returncode, done.stderr) == (0, f"{file}: worker.a: one\n{file}: worker.a: two\n")
    for service in ("webserver", "asgi"):
        file.write_text(f"[worker.a]\nhandler = 'workermand.services.{service}'\noptions = {{apq = 1}}\n")
        done = check(file)
        assert done.returncode == ExitCode.FAILED and "worker a: options.apq: unknown key" in done.stderr


def test_check_without_an_output(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "workermand", "check", "-c", str(write(tmp_path, "good"))]
    done = subprocess.run(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command], cwd=ROOT, timeout=60, check=False)
    assert done.returncode == 0


def test_check_does_not_wait_for_what_a_handler_leaves_behind(tmp_path: Path) -> None:
    done = check(write(tmp_path, "forks"))
    os.kill(int((tmp_path / "forks_handler.py.pid").read_text()), signal.SIGKILL)
    assert done.returncode == 0, done.stderr


def test_check_names_every_handler_that_fails(tmp_path: Path) -> None:
    file = write(tmp_path, "good", "raises", "syntax", "arity", "exits", "leaves", "dies")
    done = check(file)
    assert (done.returncode, done.stdout) == (ExitCode.FAILED, "")
    complaints = re.split(rf"^{file}: worker\.", done.stderr, flags=re.MULTILINE)[1:]
    said = {complaint.partition(":")[0]: complaint for complaint in complaints}
    assert set(said) == {"raises", "syntax", "arity", "exits", "leaves", "dies"}
    assert "Traceback" in said["raises"] and "No module named 'no_such_module'" in said["raises"]
    assert "SyntaxError" in said["syntax"] and "syntax_handler.py" in said["syntax"]
    assert "on_message(connection) cannot be called as on_message(connection, data)" in said["arity"]
    assert "SystemExit: 3" in said["exits"]
    assert 'leaves: handler "leaves_handler": its import ended the process with exit code 0\n' in said["leaves"]
    assert 'dies: handler "dies_handler": its import ended the process with SIGKILL\n' in said["dies"]


def test_check_does_not_wait_for_ever(tmp_path: Path) -> None:
    file = write(tmp_path, "hangs", more="timeouts = {start = 2}\n")
    pid_file = tmp_path / "pid"
    source = f"import os, time\nopen({str(pid_file)!r}, 'w').write(str(os.getpid()))\ntime.sleep(1000)\n"
    (tmp_path / "hangs_handler.py").write_text(source)
    done = check(file)
    assert done.returncode == ExitCode.FAILED
    assert 'worker.hangs: handler "hangs_handler": its import has not ended after 2 s (timeouts.start)' in done.stderr
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)


def test_ctrl_c_ends_check_and_what_it_has_started(tmp_path: Path, eventually: Callable[..., object]) -> None:
    file = write(tmp_path, "hangs")
    pid_file = tmp_path / "pid"
    source = f"import os, time\nopen({str(pid_file)!r}, 'w').write(str(os.getpid()))\ntime.sleep(1000)\n"
    (tmp_path / "hangs_handler.py").write_text(source)
    command = [sys.executable, "-m", "workermand", "check", "-c", str(file)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        pid = int(str(eventually("the import hangs", lambda: pid_file.exists() and pid_file.read_text())))
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60)[1] == ""
    assert process.returncode == cli.INTERRUPTED
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_check_of_a_broken_file(tmp_path: Path) -> None:
    (tmp_path / "workers.toml").write_text(ECHO + "cuont = 1\n")
    done = check(tmp_path / "workers.toml")
    complaint = 'workermand: workers.toml: worker.echo.cuont: unknown key; did you mean "count"?\n'
    assert (done.returncode, done.stdout, done.stderr) == (ExitCode.CONFIG, "", complaint)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root drops users")
def test_check_imports_as_the_workers_user(short_dir: Path) -> None:
    short_dir.chmod(0o755)
    file = write(short_dir, "who", more='user = "nobody"\n')
    (short_dir / "who_handler.py").write_text("import os\nprint('uid', os.getuid())\n")
    if places.verify_users(config.load(str(file))):
        pytest.skip("the interpreter is where only root gets")
    done = check(file)
    assert (done.returncode, done.stderr) == (0, f"uid {pwd.getpwnam('nobody').pw_uid}\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root drops users")
def test_check_names_the_directory_that_is_closed(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o700)
    done = check(write(tmp_path / "closed", "good", more='user = "nobody"\n'))
    assert done.returncode == ExitCode.CONFIG
    assert re.search(r"workers.toml: worker.good.user: nobody cannot read .*; chmod o\+rx ", done.stderr)


def test_check_of_the_shipped_file() -> None:
    done = check(ROOT / "config" / "workers.toml")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("workers.toml: ok: 14 workers, 19 processes\n")
