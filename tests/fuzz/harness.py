"""One harness in a process of its own: `python -m tests.fuzz.harness NAME CORPUS [libFuzzer's options]`."""

from __future__ import annotations

import importlib
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

NAMES = ["http", "websocket", "handshake", "forms", "custom"]
FOUND = Path(__file__).parent / "found"
LONGEST = 4096
"""Bytes of an input."""
MEMORY = 512
"""MiB that a process may take: what leaks, or inflates, ends it."""
PATIENCE = 10
"""Seconds for one input."""


class Run(NamedTuple):
    ok: bool
    summary: str
    output: str


def run(name: str, seconds: int, corpus: Path) -> Run:
    """Fuzzes for so long; ``corpus`` has a directory for each harness."""
    mine = corpus / name
    mine.mkdir(parents=True, exist_ok=True)
    module = importlib.import_module(f"tests.fuzz.{name}")
    for number, seed in enumerate(module.SEEDS):
        (mine / f"seed-{number}").write_bytes(seed)
    words = corpus / f"{name}.words"
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in module.WORDS if word))
    found = FOUND / name
    found.mkdir(parents=True, exist_ok=True)
    options = {
        "max_total_time": seconds,
        "max_len": LONGEST,
        # The kernel's high-water mark begins with that of the process that forks.
        "rss_limit_mb": MEMORY + resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "timeout": PATIENCE,
        "artifact_prefix": f"{found}/",
        "dict": words,
        "print_final_stats": 1,
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.harness", name, str(mine), *(f"-{key}={options[key]}" for key in options)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=seconds + 120,
        check=False,
    )
    inputs = re.search(r"number_of_executed_units: *(\d+)", done.stdout)
    branches = re.findall(r"cov: (\d+)", done.stdout)
    memory = re.search(r"peak_rss_mb: *(\d+)", done.stdout)
    if inputs is None or memory is None or not branches:
        return Run(False, f"{name}: it did not run", done.stdout)
    summary = f"{name:10} {int(inputs[1]):>9,} inputs in {seconds} s, {branches[-1]} branches, {memory[1]} MiB"
    return Run(done.returncode == 0, summary, done.stdout)


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


def main() -> None:
    import atheris  # noqa: PLC0415 - not there for every Python

    name, *options = sys.argv[1:]
    with atheris.instrument_imports(include=["workermand.protocols", "workermand.http", "multipart"]):
        check = importlib.import_module(f"tests.fuzz.{name}").check
    atheris.Setup([name, *options], check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
