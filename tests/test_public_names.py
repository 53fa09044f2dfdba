"""What `from workermand import ...` gives, and that `import workermand` alone loads nothing."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import workermand

ROOT = Path(__file__).parents[1]


def test_every_public_name_loads() -> None:
    for name in workermand.__all__:
        assert getattr(getattr(workermand, name), "__name__", name) == name
    assert set(workermand.__all__) <= set(dir(workermand))


def test_an_unknown_name_is_an_error_like_any_other() -> None:
    with pytest.raises(AttributeError, match="module 'workermand' has no attribute 'Wroker'"):
        _ = workermand.Wroker


def test_what_type_checkers_see_is_what_there_is() -> None:
    tree = ast.parse(Path(workermand.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert sorted(seen) == sorted(workermand.__all__)
    for name, module in seen.items():
        assert module is not None
        assert getattr(importlib.import_module(module), name) is getattr(workermand, name)


def test_importing_the_package_loads_none_of_it() -> None:
    code = "import sys, workermand; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert not [name for name in done.stdout.split() if name.startswith(("workermand.", "asyncio", "uvloop"))]
