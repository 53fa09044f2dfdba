"""The command `workermand`, in a process of its own where it forks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from workermand import cli
from workermand.errors import ExitCode
from workermand.spec import ServerSpec

ROOT = Path(__file__).parents[1]
GOOD = '[worker.echo]\nlisten = "text://127.0.0.1:2347"\nhandler = "handler"\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "workers.toml"
    path.write_text(GOOD)
    (tmp_path / "handler.py").write_text("def on_message(connection, data):\n    pass\n")
    return path


def run(*arguments: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "workermand", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=cwd)


@pytest.mark.parametrize("before", [True, False])
def test_check(before: bool, file: Path) -> None:
    done = run("-c", file, "check") if before else run("check", "-c", file)
    assert (done.returncode, done.stdout) == (0, f"{file}: ok, 1 workers\n"), done.stderr


def test_check_names_a_broken_setting(file: Path) -> None:
    file.write_text(GOOD + "cuont = 1\n")
    done = run("check", "-c", file)
    assert done.returncode == ExitCode.CONFIG
    assert done.stderr == 'workermand: workers.toml: worker.echo.cuont: unknown key; did you mean "count"?\n'


@pytest.mark.parametrize(
    ("handler", "words"),
    [
        ("import nothing_there\n", "nothing_there"),
        ("def on_mesage(connection, data): pass\n", 'did you mean "on_message"?'),
        ("def broken(\n", "SyntaxError"),
        ("import os\nos._exit(5)\n", "its import ended the process (5)"),
        ("import sys\nsys.exit(5)\n", "SystemExit"),
    ],
)
def test_check_imports_the_handlers_aside(handler: str, words: str, file: Path) -> None:
    (file.parent / "handler.py").write_text(handler)
    done = run("check", "-c", file)
    assert done.returncode == 1 and words in done.stderr, done.stderr
    assert "worker.echo.handler" in done.stderr


def test_check_does_not_hang(file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (file.parent / "handler.py").write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setattr(cli, "PROBE_TIME", 1.0)
    assert cli.main(["check", "-c", str(file)]) == 1
    assert "its import has not ended after 1 s" in capsys.readouterr().err


def test_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "workermand"


def test_version() -> None:
    assert run("--version").stdout == "0.1.0\n"


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What would have been run."""
    from workermand.master import master  # noqa: PLC0415

    specs: list[Any] = []

    def main(spec: ServerSpec, reread: Any) -> int:
        specs.append((spec, reread))
        return 0

    monkeypatch.setattr(master, "main", main)
    return specs


def test_run_with_a_file_reads_it_anew_at_each_reload(file: Path, started: list[Any]) -> None:
    assert cli.main(["run", "-c", str(file)]) == 0
    [(spec, reread)] = started
    assert spec.workers["echo"].count == 1
    file.write_text(GOOD + "count = 3\n")
    assert reread().workers["echo"].count == 3


def test_run_without_a_file(started: list[Any]) -> None:
    assert cli.main(["run", "text://127.0.0.1:2347", "apps.echo", "--count", "2"]) == 0
    [(spec, _reread)] = started
    assert spec.workers["main"].count == 2 and spec.workers["main"].handler == "apps.echo"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "text://127.0.0.1:2347"], "which handler?"),
        (["run", "text://127.0.0.1:2347", "apps.echo", "--count", "x"], 'found "x", expected an integer'),
        (["run", "-c", "/nowhere.toml"], "No such file"),
    ],
)
def test_run_explains_itself(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == ExitCode.CONFIG
    assert words in capsys.readouterr().err


def test_run_looks_for_a_file(
    file: Path, started: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "DEFAULT_FILES", ("workers.toml",))
    monkeypatch.chdir(file.parent)
    assert cli.main(["run"]) == 0 and started[0][0].file == str(file)
    file.unlink()
    assert cli.main(["run"]) == ExitCode.CONFIG
    assert "no configuration file" in capsys.readouterr().err
