"""Clients repeat themselves: what is byte for byte as it was in a good request need not be parsed again.

A GET, its header lines and what the parser made of them; only the target may be another one. 0.6 us a request instead
of 2. Remembered are requests without a body that ask for nothing (no upgrade, no close), for whose verdict nothing
counts but these lines. Shared by all connections of the process; what grows too large begins anew.
"""

from __future__ import annotations

import re
from typing import Any, Final

from workermand.http.request import Network, Request

END: Final = b"\r\n\r\n"
MOST: Final = 512
LONGEST: Final = 2048
"""Bytes; with MOST it bounds what is remembered to a few MiB."""
_LINE = re.compile(rb"GET (/[!\"$-~]*) HTTP/1\.1\r\n")
"""A request line that is good, whatever follows it."""
_known: Final[dict[bytes, list[bytes]]] = {}


def recognize(data: bytes, most: int, connection: Any, trusted: tuple[Network, ...]) -> list[Request]:
    """The requests of ``data``, which ends with the end of a head, if all are known, else []. ``most``: names and
    values that a request may have."""
    requests: list[Request] = []
    match, known = _LINE.match, _known
    heads = data.split(END)
    heads.pop()
    for head in heads:
        if (line := match(head)) is None or (fields := known.get(head[line.end() :])) is None or len(fields) > most:
            return []
        requests.append(Request("GET", line[1], fields, connection, trusted))
    return requests


def remember(data: bytes, request: Request) -> None:
    """``request`` is the last one of ``data``, and good."""
    head = data[data.rfind(END, 0, -4) + 4 if data.count(END) > 1 else 0 : -4]
    line = _LINE.match(head)
    if line is None or request.demands or request.upgrade or len(head) > LONGEST:
        return
    if len(_known) >= MOST:
        _known.clear()
    _known[head[line.end() :]] = request.fields
