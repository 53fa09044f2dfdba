"""The PROXY protocol, versions 1 and 2: what a proxy says of its client before the first byte of that client's.

Source: haproxy's doc/proxy-protocol.txt, 2.1 (a line) and 2.2 (binary). Only the source address is taken. TLVs, the
CRC32c among them, are skipped: what the proxy says beside the address nobody here asks for.
"""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

from workermand.errors import ProtocolError

LONGEST_LINE = 107
"""Bytes of version 1, with its CRLF."""
LONGEST = 4096
"""Bytes of version 2, with its TLVs: ours; the format would allow 65 551."""

LINE = b"PROXY "
SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
FIXED = 16
"""Bytes of version 2 that are always there: signature, version and command, family, length."""
PORT = rb"(0|[1-9][0-9]{0,4})"
ADDRESSES = re.compile(rb"PROXY TCP([46]) ([0-9A-Fa-f.:]+) ([0-9A-Fa-f.:]+) " + PORT + b" " + PORT)
UNKNOWN = re.compile(rb"PROXY UNKNOWN(?: .*)?", re.DOTALL)

LOCAL, PROXY = 0x20, 0x21
UNSPECIFIED, IPV4, IPV6, UNIX = 0, 1, 2, 3
SIZES = {UNSPECIFIED: 0, IPV4: 12, IPV6: 36, UNIX: 216}
"""Bytes of the two addresses, by family."""
FAMILIES = {0x00: UNSPECIFIED, 0x11: IPV4, 0x12: IPV4, 0x21: IPV6, 0x22: IPV6, 0x31: UNIX, 0x32: UNIX}
"""Family and transport, as they stand together in a byte; any other has to be refused."""

Client = tuple[str, int] | str
"""Address and port; "": it came over a unix socket, where clients have no name."""


class Header(NamedTuple):
    """One that is complete."""

    client: Client | None
    """None (LOCAL, UNKNOWN): the proxy speaks for itself, or does not know; the connection's own peer stands."""
    length: int
    """Bytes; what follows is the client's."""


def parse(data: bytes) -> Header | None:
    """The header that ``data``, all that has come so far, begins with. None: it is not complete yet. Raises
    ProtocolError as soon as it cannot become one."""
    if SIGNATURE.startswith(data[: len(SIGNATURE)]):
        return _binary(data)
    if LINE.startswith(data[: len(LINE)]):
        return _line(data)
    raise ProtocolError("no PROXY header: it begins otherwise")


def _line(data: bytes) -> Header | None:
    end = data.find(b"\r\n", 0, LONGEST_LINE)
    if end < 0:
        if len(data) >= LONGEST_LINE:
            raise ProtocolError(f"PROXY header: no end of line within {LONGEST_LINE} bytes")
        return None
    line, length = data[:end], end + 2
    if UNKNOWN.fullmatch(line):
        return Header(None, length)
    match = ADDRESSES.fullmatch(line)
    if match is None:
        raise ProtocolError("PROXY header: not a line of version 1")
    version = ipaddress.IPv4Address if match[1] == b"4" else ipaddress.IPv6Address
    try:
        source, _destination = (version(match[which].decode()) for which in (2, 3))
    except ValueError as error:
        raise ProtocolError(f"PROXY header: {error}") from None
    ports = int(match[4]), int(match[5])
    if max(ports) > 0xFFFF:
        raise ProtocolError(f"PROXY header: port {max(ports)}")
    return Header((_shown(source), ports[0]), length)


def _binary(data: bytes) -> Header | None:
    if len(data) < FIXED:
        return None
    command, family = data[12], FAMILIES.get(data[13])
    length = FIXED + int.from_bytes(data[14:FIXED], "big")
    if command not in (LOCAL, PROXY):
        raise ProtocolError(f"PROXY header: version and command 0x{command:02x}")
    if length > LONGEST:
        raise ProtocolError(f"PROXY header: {length} bytes, of {LONGEST} allowed")
    if command == PROXY:
        if family is None:
            raise ProtocolError(f"PROXY header: family and transport 0x{data[13]:02x}")
        if length < FIXED + SIZES[family]:
            raise ProtocolError("PROXY header: too short for its addresses")
    if len(data) < length:
        return None
    if command == LOCAL or family is None or family == UNSPECIFIED:
        return Header(None, length)
    return Header(_source(family, data[FIXED : FIXED + SIZES[family]]), length)


def _source(family: int, addresses: bytes) -> Client:
    """Both addresses stand before both ports."""
    if family == UNIX:
        return ""
    port = int.from_bytes(addresses[-4:-2], "big")
    if family == IPV4:
        return str(ipaddress.IPv4Address(addresses[:4])), port
    return _shown(ipaddress.IPv6Address(addresses[:16])), port


def _shown(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """An IPv4 client of an IPv6 socket of the proxy's has its IPv4 address."""
    return str((ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None) or ip)
