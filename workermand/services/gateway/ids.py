"""client_id: the name of one client in the whole cluster, from which everybody can tell its gateway. Pure.

    8 hex digits    the gateway's tag, made anew by each gateway process: no id is ever used again
    12 or more      random

For PHP it is GatewayWorker's: pack("NnN") of the gateway's inner IPv4 address, its port and the connection's number,
20 hex digits; the number is random here, not counted. Whoever is to be believed must not only know an id: it is no
password. But nobody finds others' by counting.
"""

from __future__ import annotations

import re
import secrets
import socket
import struct
from typing import Final

LENGTH: Final = 20
"""Hex digits."""
LONGEST: Final = 64
TAG: Final = 8
"""Hex digits of a gateway's tag;"""
PHP_PREFIX: Final = 12
"""those that say where a gateway for PHP is."""

CLIENT_ID: Final = re.compile(r"[0-9a-f]{20,64}")
PHP: Final = struct.Struct(">4sHI")


def new_tag() -> str:
    """Of a gateway process, for its life."""
    return secrets.token_hex(TAG // 2)


def new_id(prefix: str, length: int = LENGTH) -> str:
    """A client of the gateway with this prefix: its tag, or php_prefix(). It may be taken: look."""
    rest = length - len(prefix)
    return prefix + secrets.token_hex(rest // 2)


def is_id(text: str) -> bool:
    """It looks like one."""
    return CLIENT_ID.fullmatch(text) is not None


def php_prefix(ip: str, port: int) -> str:
    """Of the ids of a gateway whose clients PHP may address. Raises ValueError when ``ip`` is not IPv4."""
    try:
        packed = socket.inet_aton(ip) if ip.count(".") == 3 else b""
    except OSError:
        packed = b""
    if len(packed) != 4:
        raise ValueError(f'"{ip}" is no IPv4 address, and a client_id for PHP has room for no other')
    return packed.hex() + port.to_bytes(2).hex()


def php_id(ip: int, port: int, number: int) -> str:
    """Workerman: Context::addressToClientId()."""
    return PHP.pack(ip.to_bytes(4), port, number).hex()


def php_place(client_id: str) -> tuple[str, int, int]:
    """(ip, port, number). Workerman: Context::clientIdToAddress(). Raises ValueError."""
    if len(client_id) != LENGTH:
        raise ValueError(f"{client_id!r} is no client_id of PHP's")
    ip, port, number = PHP.unpack(bytes.fromhex(client_id))
    return socket.inet_ntoa(ip), port, number
