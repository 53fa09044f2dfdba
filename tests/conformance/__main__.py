"""`make conformance`: Autobahn's suite, all of it; `python -m tests.conformance 9.* 12.1.*`: some of it."""

from __future__ import annotations

import sys
import time
from collections import Counter

from tests.conformance import autobahn


def main() -> int:
    reports = autobahn.PLACE / "reports"
    try:
        autobahn.install()
    except LookupError as error:
        print(f"conformance: {error}", file=sys.stderr)
        return 2
    began = time.monotonic()
    results = autobahn.results(sys.argv[1:] or autobahn.ALL, reports)
    for number, word in results.items():
        if word != "OK":
            expected = " (as expected)" if autobahn.EXPECTED.get(number) == word else ""
            print(f"{number:8} {word}{expected}")
    counts = ", ".join(f"{count} {word}" for word, count in Counter(results.values()).most_common())
    print(f"{len(results)} cases in {time.monotonic() - began:.0f} s: {counts}; {reports}/index.html")
    return int(any(word not in ("OK", autobahn.EXPECTED.get(number)) for number, word in results.items()))


if __name__ == "__main__":
    sys.exit(main())
