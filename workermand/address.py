"""Addresses: "text://0.0.0.0:2347" taken apart into a ListenSpec, and socket addresses shown as people write them."""

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
}
"""Scheme -> transport and protocol. What [protocols] adds is a protocol over tcp."""
CARRIERS = ("tcp", "udp", "unix")
"""Schemes that say nothing of the protocol, so that the key `protocol` may."""
UNIX_PATH_MAX = 107
"""Bytes that fit into sockaddr_un beside the closing NUL."""


def parse(
    uri: str, *, run_dir: str, worker_name: str, protocol: str | None = None, schemes: Iterable[str] = ()
) -> ListenSpec:
    """Takes ``uri`` apart. ``protocol`` replaces that of tcp, udp and unix; ``schemes`` are those of [protocols];
    relative unix paths lie in ``run_dir``. Raises ConfigError."""
    where = f"worker.{worker_name}.listen"
    match = re.fullmatch(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", uri)
    if match is None:
        raise ConfigError(
            where, f'"{uri}" is not an address', 'expected scheme://host:port, as in "text://0.0.0.0:2347"'
        )
    scheme, rest = match[1].lower(), match[2]
    known = {**SCHEMES, **{name: ("tcp", name) for name in schemes}}
    if scheme not in known:
        raise ConfigError(where, f'"{uri}": unknown scheme "{scheme}"', _suggest(scheme, known))
    transport, its_protocol = known[scheme]
    if protocol is not None:
        if scheme not in CARRIERS:
            raise ConfigError(
                where, f'"{uri}" and protocol = "{protocol}" name two protocols', "drop `protocol`, or write tcp://"
            )
        its_protocol = protocol
    if transport == "unix":
        return ListenSpec(uri=uri, transport="unix", protocol=its_protocol, path=_path(where, uri, rest, run_dir))
    host, port = _host_and_port(where, uri, rest)
    return ListenSpec(uri=uri, transport=transport, protocol=its_protocol, host=host, port=port)


def _path(where: str, uri: str, rest: str, run_dir: str) -> str:
    if not rest or rest.endswith("/"):
        raise ConfigError(
            where, f'"{uri}" names no file', 'expected "unix:///run/chat.sock", or "unix://chat.sock" in run_dir'
        )
    path = os.path.normpath(os.path.join(run_dir, rest))
    if len(os.fsencode(path)) > UNIX_PATH_MAX:
        raise ConfigError(
            where, f'"{path}" has {len(os.fsencode(path))} bytes', f"a unix socket's path may have {UNIX_PATH_MAX}"
        )
    return path


def _host_and_port(where: str, uri: str, rest: str) -> tuple[str, int]:
    match = re.fullmatch(r"(\[[^\]]*\]|[^:/\[\]]*):([0-9]+)", rest)
    if match is None:
        hint = "IPv6 goes in brackets: [::1]:2347" if rest.count(":") > 1 else "expected host:port"
        raise ConfigError(where, f'"{uri}" has no host and port', hint)
    host, port = match[1].strip("[]"), int(match[2])
    if not 1 <= port <= 65535:
        raise ConfigError(where, f'"{uri}": found port {port}', "expected 1 to 65535")
    if host == "localhost":
        host = "127.0.0.1"
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise ConfigError(
            where, f'"{uri}": "{host}" is not an IP address', "expected one of this machine, 0.0.0.0, [::] or localhost"
        ) from None
    if (address.version == 6) != match[1].startswith("["):
        raise ConfigError(where, f'"{uri}": brackets are for IPv6 addresses', f"write {host}:{port}")
    return str(address), port


def _suggest(scheme: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(scheme, known, 1)
    return (
        f'did you mean "{near[0]}"?' if near else f"there are {', '.join(sorted(known))}, and those under [protocols]"
    )


def plain_ip(host: str) -> str:
    """An IPv4 client of an IPv6 socket is shown as what it is: "::ffff:192.0.2.1" -> "192.0.2.1"."""
    return host.removeprefix("::ffff:") if host.startswith("::ffff:") and "." in host else host


def display(sockaddr: Any) -> str:
    """ "192.0.2.1:80", "[2001:db8::1]:80", or a unix socket's path."""
    if isinstance(sockaddr, tuple):
        host = plain_ip(sockaddr[0])
        return f"[{host}]:{sockaddr[1]}" if ":" in host else f"{host}:{sockaddr[1]}"
    return os.fsdecode(sockaddr) if sockaddr else "unix"
