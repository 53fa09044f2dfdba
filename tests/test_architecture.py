"""ARCHITECTURE.md and the tree are held to each other: imports, mirrored tests, sizes, and what a live master is."""

from __future__ import annotations

import ast
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from workermand.testing import running_server

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "workermand"
SOURCES = sorted(PACKAGE.rglob("*.py"))
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in SOURCES}
UNRULED = {"workermand", "workermand.__main__"}
"""The public names, each loaded on first use; and two lines that call cli."""
MIRRORLESS = {"__init__.py", "__main__.py"}
"""Nothing of their own to test."""
PUBLIC_SERVICE = re.compile(r"workermand\.services\.\w+$")
"""What apps may import of the services: a package's own names, and handlers."""
LINES_OF_A_FILE = 500
LINES_OF_A_FUNCTION = 60


# ---------------------------------------------------------------------------------------------------- who imports whom


@dataclass(frozen=True)
class Rule:
    """One line of the table, ``source -> allowed ... ! refused ...``: of our own modules what is allowed, of others
    all but what is refused."""

    allowed: tuple[str, ...]
    refused: tuple[str, ...]

    def permits(self, target: str) -> bool:
        name, _, rest = target.partition(".")
        if name == "workermand":
            rest = rest or "public"
            return any(rest == allowed or rest.startswith(f"{allowed}.") for allowed in self.allowed)
        return not any(target == refused or target.startswith(f"{refused}.") for refused in self.refused)


def table() -> dict[str, Rule]:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    block = re.search(r"^```imports\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert block, "ARCHITECTURE.md has no block of ```imports"
    rules = {}
    for line in block[1].splitlines():
        source, _, right = line.partition("->")
        allowed, _, refused = right.partition("!")
        rules[source.strip()] = Rule(tuple(allowed.split()), tuple(refused.split()))
    return rules


RULES = table()


def part_of(module: str) -> str:
    """What the table calls it: "worker" for workermand.worker.timer."""
    return module.split(".")[1]


def parsed(text: str) -> ast.Module:
    """Python before 3.11.5 mixes up the depths of two threads that make trees at once (an import in a thread that an
    earlier test has left): SystemError, for nothing."""
    for _ in range(9):
        try:
            return ast.parse(text)
        except SystemError:
            continue
    return ast.parse(text)


def imports(module: str) -> Iterator[tuple[int, str]]:
    """(line, imported module), those for the type checker alone left out. What comes from the package itself, a public
    name, is "workermand"; its version is everybody's."""
    tree = parsed(MODULES[module].read_text())
    for node in at_run_time(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: imports are absolute here"
            base = str(node.module)
            for alias in node.names:
                name = f"{base}.{alias.name}"
                if name == "workermand.__version__":
                    continue
                yield node.lineno, name if name in MODULES else base


def at_run_time(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        yield child
        yield from at_run_time(child)


def test_the_table_names_every_part() -> None:
    assert {part_of(module) for module in MODULES if module not in UNRULED} == set(RULES)


@pytest.mark.parametrize("module", sorted(MODULES.keys() - UNRULED))
def test_a_module_imports_what_the_table_allows(module: str) -> None:
    rule = RULES[part_of(module)]
    broken = [
        f"{MODULES[module].relative_to(ROOT)}:{line}: {name}"
        for line, name in imports(module)
        if not rule.permits(name)
    ]
    assert not broken, f"ARCHITECTURE.md allows {part_of(module)} only {rule.allowed}, and never {rule.refused}"


def test_apps_use_the_public_names() -> None:
    for path in sorted((ROOT / "apps").rglob("*.py")):
        for node in ast.walk(parsed(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            private = [name for name in names if name.startswith("workermand.") and not PUBLIC_SERVICE.match(name)]
            assert not private, f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}: {private}"


# ---------------------------------------------------------------------------------------------------- the tree


def test_tests_mirror_the_package() -> None:
    missing = []
    for source in SOURCES:
        place = source.relative_to(PACKAGE)
        if place.name not in MIRRORLESS and not (ROOT / "tests" / place.parent / f"test_{place.name}").exists():
            missing.append(f"tests/{place.parent}/test_{place.name}")
    assert not missing


def test_files_and_functions_fit_a_head() -> None:
    for source in [*SOURCES, *sorted((ROOT / "apps").rglob("*.py"))]:
        text = source.read_text()
        assert text.count("\n") <= LINES_OF_A_FILE, source
        for node in ast.walk(parsed(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = int(node.end_lineno or 0) - node.lineno + 1
                assert lines <= LINES_OF_A_FUNCTION, f"{source}:{node.lineno}: {node.name} has {lines} lines"


def test_every_module_says_its_purpose() -> None:
    for source in SOURCES:
        text = source.read_text()
        assert not text or ast.get_docstring(parsed(text)), f"{source} has no docstring"


# ---------------------------------------------------------------------------------------------------- a live master

CONFESSION = """
import asyncio, atexit, gc, json, os, sys, threading

def confess():
    # Forked children leave by os._exit: this is the master's alone.
    ours = [name for name in sys.modules if name.split(".")[0] in ("apps", "handler")]
    loops = [repr(thing) for thing in gc.get_objects() if isinstance(thing, asyncio.AbstractEventLoop)]
    policy = asyncio.get_event_loop_policy()
    loops += [repr(loop) for loop in [getattr(policy._local, "_loop", None)] if loop]
    print("CONFESSION", json.dumps({"handlers": ours, "loops": loops, "threads": threading.active_count()}), flush=True)

atexit.register(confess)
"""


def test_a_live_master_has_no_loop_no_thread_and_no_handler(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(CONFESSION)
    handler = "def on_message(connection, data):\n    connection.send(data)\n"
    with running_server("handler", files={"handler.py": handler}, env={"PYTHONPATH": str(tmp_path)}, count=2) as server:
        with server.connect() as client:
            client.sendall(b"hello\n")
            assert client.recv(100) == b"hello\n"
        server.reload()
        assert len(os.listdir(f"/proc/{server.pid}/task")) == 1
        assert not unexpected(server.pid)
        server.stop()
        confession = json.loads(server.wait_for(r"CONFESSION (.*)")[1])
    assert confession == {"handlers": [], "loops": [], "threads": 1}


def unexpected(pid: int) -> list[str]:
    """Open descriptors of no kind that the master opens on purpose. An event loop would show as an eventfd."""
    kinds = r"pipe:|socket:|anon_inode:\[(eventpoll|pidfd)\]|/dev/null|.*/workermand\.pid"
    open_files = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
    return [name for name in open_files if not re.match(kinds, name)]
