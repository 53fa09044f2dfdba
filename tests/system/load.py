"""Clients under load, in a process of their own: `python -m tests.system.load short|keepalive HOST PORT ...`.

Prints one JSON object at its end: what was done, and every failure in words. Text protocol, an echo on the other side.
"""

from __future__ import annotations

import argparse
import collections
import json
import socket
import sys
import threading
from collections.abc import Callable

DEADLINE = 60.0
"""Seconds that one read or connect may take: a stuck server is a failure, not a hang."""


class Tally:
    """What all threads have done together."""

    def __init__(self) -> None:
        self.counts: collections.Counter[str] = collections.Counter()
        self.failures: list[str] = []
        self._lock = threading.Lock()

    def add(self, what: str, number: int = 1) -> None:
        with self._lock:
            self.counts[what] += number

    def failed(self, why: str) -> None:
        with self._lock:
            self.counts["failed"] += 1
            self.failures.append(why)


def ask(sock: socket.socket, line: bytes) -> bytes:
    """One message and its answer; what came before the end of the connection when there is no newline in it."""
    sock.sendall(line)
    answer = b""
    while not answer.endswith(b"\n"):
        chunk = sock.recv(65536)
        if not chunk:
            break
        answer += chunk
    return answer


def short(address: tuple[str, int], numbers: range, tally: Tally, stop: threading.Event) -> None:
    """Connect, one message, its answer, close; again and again."""
    for number in numbers:
        line = b"short %d\n" % number
        try:
            with socket.create_connection(address, DEADLINE) as sock:
                answer = ask(sock, line)
        except OSError as error:
            tally.failed(f"{number}: {error}")
            continue
        if answer == line:
            tally.add("done")
        else:
            tally.failed(f"{number}: answered {answer!r}")
        if stop.is_set():
            return


def keepalive(address: tuple[str, int], numbers: range, tally: Tally, stop: threading.Event) -> None:
    """One connection for many messages; after an end between two messages the client comes again."""
    number = numbers.start
    while not stop.is_set():
        try:
            with socket.create_connection(address, DEADLINE) as sock:
                while not stop.is_set():
                    number += 1
                    line = b"keepalive %d\n" % number
                    try:
                        answer = ask(sock, line)
                    except ConnectionError:
                        answer = b""
                    if not answer:
                        tally.add("moved")
                        break
                    if answer != line:
                        tally.failed(f"cut: {answer!r} instead of {line!r}")
                        break
                    tally.add("done")
        except OSError as error:
            tally.failed(f"refused: {error}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["short", "keepalive"])
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--total", type=int, default=1000, help="connections in all (short)")
    args = parser.parse_args()
    tally, stop = Tally(), threading.Event()
    client: Callable[[tuple[str, int], range, Tally, threading.Event], None] = {"short": short, "keepalive": keepalive}[
        args.kind
    ]
    each = args.total // args.clients
    threads = [
        threading.Thread(target=client, args=((args.host, args.port), range(n * each, (n + 1) * each), tally, stop))
        for n in range(args.clients)
    ]
    for thread in threads:
        thread.start()
    print("started", flush=True)
    if args.kind == "keepalive":
        sys.stdin.read()  # until the test closes it
        stop.set()
    for thread in threads:
        thread.join()
    print(json.dumps({**tally.counts, "failures": tally.failures[:20]}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
