"""A server of links, and clients to it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from workermand.services.links.address import Address
from workermand.testing import RunningServer, running_server

HANDLER = "tests.services.links.linkserver"


@contextlib.contextmanager
def serving(secret: str = "", **keys: Any) -> Iterator[tuple[RunningServer, Address]]:
    keys = {"listen": "frame://127.0.0.1:0", "options": {"secret": secret}, "reloadable": False, **keys}
    with running_server(HANDLER, **keys) as server:
        host, port = server.address
        yield server, Address(host, int(port), "")
