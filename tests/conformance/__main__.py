"""`make conformance`: Autobahn's suite, all of it, of the server and then of the client;
`python -m tests.conformance 9.* 12.1.*`: some of it."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.conformance import autobahn


def main() -> int:
    try:
        autobahn.install()
    except LookupError as error:
        print(f"conformance: {error}", file=sys.stderr)
        return 2
    cases = sys.argv[1:] or autobahn.ALL
    of_server = report("server", autobahn.results, cases)
    of_client = report("client", autobahn.client_results, cases)
    return int(not (of_server and of_client))


def report(which: str, run: Callable[[Sequence[str], Path], dict[str, str]], cases: Sequence[str]) -> bool:
    """Whether all is as it should be."""
    reports = autobahn.PLACE / "reports" / which
    began = time.monotonic()
    results = run(cases, reports)
    for number, word in results.items():
        if word != "OK":
            expected = " (as expected)" if autobahn.EXPECTED.get(number) == word else ""
            print(f"{which}: {number:8} {word}{expected}")
    counts = ", ".join(f"{count} {word}" for word, count in Counter(results.values()).most_common())
    took = time.monotonic() - began
    print(f"{which}: {len(results)} cases in {took:.0f} s: {counts}; {reports}/index.html", flush=True)
    return all(word in ("OK", autobahn.EXPECTED.get(number)) for number, word in results.items())


if __name__ == "__main__":
    sys.exit(main())
