"""Addresses: "text://0.0.0.0:2347" taken apart into a ListenSpec, and socket addresses shown as people write them.

Pure: nothing is resolved and nothing is opened. config.py asks for the addresses of the file, the master for those that
handlers ask for at run time.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
from collections.abc import Iterable
from typing import Any

from workermand.errors import ConfigError
from workermand.spec import ListenSpec, Transport

SCHEMES: dict[str, tuple[Transport, str]] = {
    "tcp": ("tcp", "raw"),
    "udp": ("udp", "raw"),
    "unix": ("unix", "raw"),
    "text": ("tcp", "text"),
    "frame": ("tcp", "frame"),
    "http": ("tcp", "http"),
    "websocket": ("tcp", "websocket"),
    "https": ("tcp", "http"),
    "wss": ("tcp", "websocket"),
}
"""Scheme -> transport and protocol. What [protocols] adds is a protocol over tcp."""
ENCRYPTED = ("https", "wss")
"""Schemes that there are over TLS only."""
STREAMS = ("http", "websocket")
"""Protocols that a datagram cannot carry."""
CARRIERS = ("tcp", "udp", "unix")
"""Schemes that say nothing of the protocol, so that the key `protocol` may."""
CLASS = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*")
"""What `protocol` and [protocols] may name: module:Class."""
UNIX_PATH_MAX = 107
"""Bytes that fit into sockaddr_un beside the closing NUL."""


def parse(
    uri: str, *, run_dir: str, worker_name: str, protocol: str | None = None, schemes: Iterable[str] = ()
) -> ListenSpec:
    """Takes ``uri`` apart. ``protocol`` takes the place of that of tcp, udp and unix; ``schemes`` are those of
    [protocols]; relative unix paths lie in ``run_dir``. Raises ConfigError."""
    where = f"worker.{worker_name}.listen"
    known: dict[str, tuple[Transport, str]] = {**{name: ("tcp", name) for name in schemes}, **SCHEMES}
    match = re.fullmatch(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", uri, re.DOTALL)
    if match is None:
        raise ConfigError(
            where, f'"{uri}" is not an address', 'expected scheme://host:port, as in "text://0.0.0.0:2347"'
        )
    scheme, rest = match[1].lower(), match[2]
    if scheme not in known:
        hint = _did_you_mean(scheme, known) or f"there are {', '.join(sorted(known))}, and those of [protocols]"
        raise ConfigError(where, f'"{uri}": unknown scheme "{scheme}"', hint)
    transport, its_protocol = known[scheme]
    if protocol is not None:
        if scheme not in CARRIERS:
            raise ConfigError(
                where, f'"{uri}" and protocol = "{protocol}" name two protocols', "drop `protocol`, or write tcp://"
            )
        its_protocol = protocol
    if transport == "unix":
        return ListenSpec(uri=uri, transport=transport, protocol=its_protocol, path=_path(where, uri, rest, run_dir))
    if transport == "udp" and its_protocol in STREAMS:
        raise ConfigError(where, f'"{uri}": {its_protocol} over udp', "these need tcp:// or unix://")
    host, port = _host_and_port(where, uri, rest)
    tls = scheme in ENCRYPTED
    return ListenSpec(uri=uri, transport=transport, protocol=its_protocol, host=host, port=port, tls=tls)


def check_protocol(where: str, protocol: str, schemes: Iterable[str] = ()) -> None:
    """Whether a protocol may have this name; whether "module:Class" is there only a child can tell. Raises
    ConfigError."""
    known = [*dict.fromkeys(name for _, name in SCHEMES.values()), *schemes]
    if protocol not in known and not CLASS.fullmatch(protocol):
        allowed = ", ".join(f'"{name}"' for name in known)
        raise ConfigError(
            where, f'found "{protocol}", expected {allowed}, or "module:Class"', _did_you_mean(protocol, known)
        )


def overlap(one: ListenSpec, other: ListenSpec) -> bool:
    """Whether the kernel lets but one of two different addresses listen (without reuse_port): 0.0.0.0 is every IPv4
    address, and [::] every address."""
    hosts = {one.host, other.host}
    if "unix" in (one.transport, other.transport) or (one.transport, one.port) != (other.transport, other.port):
        return False
    return "::" in hosts or ("0.0.0.0" in hosts and not any(":" in host for host in hosts))


def check_path_length(where: str, path: str) -> None:
    """Raises ConfigError for a path that no unix socket can have."""
    if (length := len(os.fsencode(path))) > UNIX_PATH_MAX:
        raise ConfigError(where, f'"{path}" has {length} bytes', f"the path of a unix socket may have {UNIX_PATH_MAX}")


def _path(where: str, uri: str, rest: str, run_dir: str) -> str:
    if not rest or rest.endswith("/") or "\0" in rest:
        hint = 'expected "unix:///run/chat.sock", or "unix://chat.sock" for one in run_dir'
        raise ConfigError(where, f'"{uri}" names no file', hint)
    path = os.path.normpath(os.path.join(run_dir, rest))
    check_path_length(where, path)
    return path


def _host_and_port(where: str, uri: str, rest: str) -> tuple[str, int]:
    match = re.fullmatch(r"(\[[^\]]*\]|[^:\[\]]*):([0-9]{1,5})", rest)
    if match is None:
        hint = "IPv6 goes in brackets: [::]:2347" if rest.count(":") > 1 and "[" not in rest else "expected host:port"
        raise ConfigError(where, f'"{uri}" has no host and port', hint)
    host, port = match[1], int(match[2])
    if not 1 <= port <= 65_535:
        raise ConfigError(where, f'"{uri}": found port {port}', "expected 1 to 65535")
    return _host(where, uri, "127.0.0.1" if host == "localhost" else host), port


def _host(where: str, uri: str, host: str) -> str:
    """Names are not resolved: an answer may take half a minute, and may be another one tomorrow."""
    bare = host.removeprefix("[").removesuffix("]")
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        hint = "expected an address of this machine, 0.0.0.0, [::] or localhost"
        raise ConfigError(where, f'"{uri}": "{bare}" is not an IP address', hint) from None
    if address.version == 4 and bare != host:
        raise ConfigError(where, f'"{uri}": brackets are for IPv6 addresses', f"write {bare} without them")
    if "%" in bare:
        raise ConfigError(where, f'"{uri}": an address of one interface only', "expected [::], or an address without %")
    mapped = address.ipv4_mapped if address.version == 6 else None
    return str(mapped or address)


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, known, 1)
    return f'did you mean "{near[0]}"?' if near else ""


# ---------------------------------------------------------------------- shown


def plain_ip(host: str) -> str:
    """An IPv4 client of an IPv6 socket is shown as what it is: "::ffff:192.0.2.1" -> "192.0.2.1"."""
    return host.removeprefix("::ffff:") if host.startswith("::ffff:") and "." in host else host


def display(sockaddr: Any) -> str:
    """ "192.0.2.1:80", "[2001:db8::1]:80", or a unix socket's path; "unix" when it has none."""
    if isinstance(sockaddr, tuple):
        host = plain_ip(sockaddr[0])
        return f"[{host}]:{sockaddr[1]}" if ":" in host else f"{host}:{sockaddr[1]}"
    return os.fsdecode(sockaddr) if sockaddr else "unix"
