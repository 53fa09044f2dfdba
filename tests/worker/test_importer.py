"""Source only: a real interpreter for each try, because the import system of this one must stay as it is."""

from __future__ import annotations

import _ctypes
import os
import py_compile
import shutil
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import importlib, sys
sys.path.insert(0, {ours!r})
from workermand.worker import importer
importer.install({app_path!r})
"""
OURS = str(Path(__file__).parents[2])


def run(code: str, *app_path: Path) -> str:
    script = SCRIPT.format(ours=OURS, app_path=[str(path) for path in app_path]) + code
    # Bytecode is on here, whatever the environment of the tests says.
    env = {"PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=env, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_no_bytecode_is_written(tmp_path: Path) -> None:
    (tmp_path / "mine" / "deep").mkdir(parents=True)
    (tmp_path / "mine" / "deep" / "echo.py").write_text("name = 'echo'\n")
    assert run("import mine.deep.echo as e; print(e.name)", tmp_path) == "echo"
    assert not list(tmp_path.rglob("*.pyc"))


def test_no_bytecode_is_trusted(tmp_path: Path) -> None:
    """Same size, same second: to the standard importer the old bytecode is good."""
    source = tmp_path / "echo.py"
    source.write_text("name = 'old'\n")
    py_compile.compile(str(source), doraise=True)
    stamp = source.stat().st_mtime_ns
    source.write_text("name = 'new'\n")
    os.utime(source, ns=(stamp, stamp))
    assert run("import echo; print(echo.name)", tmp_path) == "new"


def test_bytecode_alone_is_no_module(tmp_path: Path) -> None:
    source = tmp_path / "gone.py"
    source.write_text("name = 'old'\n")
    py_compile.compile(str(source), cfile=str(tmp_path / "gone.pyc"), doraise=True)
    source.unlink()
    code = "import importlib.util; print(importlib.util.find_spec('gone'))"
    assert run(code, tmp_path) == "None"


def test_packages_and_several_roots_in_order(tmp_path: Path) -> None:
    for root, text in (("one", "1"), ("two", "2")):
        (tmp_path / root / "mine").mkdir(parents=True)
        (tmp_path / root / "mine" / "__init__.py").write_text("")
        (tmp_path / root / "mine" / "both.py").write_text(f"text = {text!r}\n")
    code = "import mine.both; print(mine.both.text)"
    assert run(code, tmp_path / "one", tmp_path / "two") == "1"
    assert run(code, tmp_path / "two", tmp_path / "one") == "2"


def test_what_was_looked_up_before_is_looked_up_anew(tmp_path: Path) -> None:
    """The master may have the directory on its own path, with a finder that trusts bytecode."""
    (tmp_path / "echo.py").write_text("")
    code = """
loader = importlib.import_module("echo").__loader__
print(type(loader).__name__)
"""
    script = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\ntry:\n import nothing\nexcept ImportError: pass\n"
    done = subprocess.run(
        [sys.executable, "-c", script + SCRIPT.format(ours=OURS, app_path=[str(tmp_path)]) + code],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == "SourceOnlyLoader"


def test_installed_libraries_keep_their_bytecode_even_below_app_path(tmp_path: Path) -> None:
    """app_path = "/" stands for a project with its .venv inside."""
    code = """
import colorsys, msgspec
print(type(colorsys.__loader__).__name__, msgspec.__loader__.__class__.__name__)
"""
    assert run(code, Path("/")) == "SourceFileLoader SourceFileLoader"


def test_extension_modules_below_app_path_are_found(tmp_path: Path) -> None:
    built = Path(_ctypes.__file__)
    shutil.copy(built, tmp_path / built.name)
    code = "import importlib.util; print(importlib.util.find_spec('_ctypes').origin)"
    assert run(code, tmp_path) == str(tmp_path / built.name)
