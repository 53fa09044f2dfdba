"""`make fuzz`: every harness, or those named, for so long each; two at a time, one process each.

    python -m tests.fuzz [NAME ...] [--seconds 600] [--corpus DIRECTORY]

atheris (libFuzzer) makes the inputs: bytes that reach a branch which none before has reached are kept and varied. What
is found is written to tests/fuzz/found/NAME, where test_fuzz.py replays it for ever; the corpus lies in .fuzz/.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.fuzz import harness


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(harness.NAMES))
    parser.add_argument("--seconds", type=int, default=600, help="for each (600)")
    parser.add_argument("--corpus", type=Path, default=Path(".fuzz"), help="where inputs are kept from run to run")
    chosen = parser.parse_args()
    names = chosen.names or harness.NAMES
    if unknown := set(names) - set(harness.NAMES):
        parser.error(f"no harness {', '.join(sorted(unknown))}: there are {', '.join(harness.NAMES)}")

    def fuzz(name: str) -> bool:
        run = harness.run(name, chosen.seconds, chosen.corpus)
        print(run.summary if run.ok else run.output, flush=True)
        return run.ok

    with ThreadPoolExecutor(2) as both:
        return int(not all(list(both.map(fuzz, names))))


if __name__ == "__main__":
    sys.exit(main())
