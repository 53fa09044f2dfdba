"""Target: "wss://example.com/feed" taken apart: where an outgoing connection goes, and what is spoken there. Pure.

The schemes are Workerman's: tcp, unix, text, frame, ws, wss, ssl and tls (raw over TLS), and those of [protocols].
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote

from workermand import address
from workermand.errors import ConfigError

SCHEMES: dict[str, tuple[str, bool, int]] = {
    "tcp": ("raw", False, 0),
    "ssl": ("raw", True, 443),
    "tls": ("raw", True, 443),
    "unix": ("raw", False, 0),
    "text": ("text", False, 0),
    "frame": ("frame", False, 0),
    "ws": ("websocket", False, 80),
    "wss": ("websocket", True, 443),
}
"""Scheme -> protocol, whether it is encrypted, and the port when none is given (0: one must be)."""
CARRIERS = ("tcp", "unix", "ssl", "tls")
"""Schemes that say nothing of the protocol, so that ``protocol=`` may."""
PROXIES: dict[str, tuple[Literal["http", "socks5"], int]] = {
    "http": ("http", 80),
    "socks5": ("socks5", 1080),
    "socks5h": ("socks5", 1080),
}
"""Scheme -> kind and usual port. Names are always resolved by the proxy, so that socks5h says the same as socks5."""
URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
PLACE = re.compile(r"(?:([^@/]*)@)?(\[[^\]]*\]|[^:/?#\[\]@]*)(?::([0-9]{1,5}))?([/?].*)?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Target:
    uri: str
    transport: Literal["tcp", "unix", "udp"]
    protocol: str
    """ "raw", "text", "frame", "websocket", a scheme of [protocols]."""
    host: str = ""
    """Without brackets; a name, or an address. "" for unix."""
    port: int = 0
    path: str = ""
    """Of a unix socket; of a WebSocket, with its query."""
    tls: bool = False

    @property
    def where(self) -> str:
        """ "example.com:443", "[::1]:80", or a unix socket's path."""
        return self.path if self.transport == "unix" else join(self.host, self.port)

    @property
    def authority(self) -> str:
        """What stands in the Host header: without the port when it is the usual one."""
        usual = 443 if self.tls else 80
        return join(self.host, self.port).removesuffix(f":{usual}" if self.port == usual else "")


@dataclass(frozen=True, slots=True)
class Proxy:
    """ "socks5://user:password@10.0.0.1:1080"."""

    kind: Literal["http", "socks5"]
    host: str
    port: int
    user: str | None = None
    password: str = ""

    def __repr__(self) -> str:
        """Without the password."""
        return f"{self.kind}://{join(self.host, self.port)}"


def parse(uri: str, *, run_dir: str = "", schemes: Iterable[str] = (), protocol: str | None = None) -> Target:
    """``schemes`` are those of [protocols], ``run_dir`` is where relative unix paths lie, ``protocol`` takes the place
    of that of tcp, unix, ssl and tls. Raises ConfigError."""
    known = {**{name: (name, False, 0) for name in schemes}, **SCHEMES}
    scheme, rest = _scheme_of("AsyncTcpConnection", uri, known)
    spoken, tls, usual = known[scheme]
    if protocol is not None:
        if scheme not in CARRIERS:
            raise ConfigError(
                "AsyncTcpConnection", f'"{uri}" and protocol={protocol!r} name two protocols', "write tcp://"
            )
        spoken = protocol
    if scheme == "unix":
        if not rest or rest.endswith("/") or "\0" in rest:
            raise ConfigError("AsyncTcpConnection", f'"{uri}" names no file', 'expected "unix:///run/chat.sock"')
        path = os.path.normpath(os.path.join(run_dir, rest))
        address.check_path_length("AsyncTcpConnection", path)
        return Target(uri, "unix", spoken, path=path)
    is_websocket = scheme in ("ws", "wss")
    user, host, port, path = _place("AsyncTcpConnection", uri, rest, usual)
    if user is not None or (path not in ("", "/") and not is_websocket):
        raise ConfigError("AsyncTcpConnection", f'"{uri}" says more than host and port', "headers= can authorize")
    if is_websocket:
        path = path if path.startswith("/") else f"/{path}"
        if not re.fullmatch(r"[!-~]+", path) or "#" in path:
            raise ConfigError("AsyncTcpConnection", f'"{uri}": no path of a request', "percent-encode it")
    return Target(uri, "tcp", spoken, host, port, path if is_websocket else "", tls)


def parse_udp(uri: str, schemes: Iterable[str] = (), protocol: str | None = None) -> Target:
    """ "udp://host:port". Raises ConfigError."""
    _scheme, rest = _scheme_of("AsyncUdpConnection", uri, {"udp"})
    user, host, port, path = _place("AsyncUdpConnection", uri, rest, 0)
    if user is not None or path not in ("", "/"):
        raise ConfigError("AsyncUdpConnection", f'"{uri}" says more than host and port', "expected udp://host:port")
    return Target(uri, "udp", protocol or "raw", host, port)


def parse_proxy(uri: str) -> Proxy:
    """Raises ConfigError, which never shows the password."""
    shown = re.sub(r"^([a-zA-Z0-9+.-]+://)?.*@", r"\1***@", uri, flags=re.DOTALL)
    scheme, rest = _scheme_of("proxy", shown, PROXIES, uri)
    kind, usual = PROXIES[scheme]
    user, host, port, path = _place("proxy", shown, rest, usual)
    if path not in ("", "/"):
        raise ConfigError("proxy", f'"{shown}" says more than host and port', f"expected {scheme}://host:port")
    if user is None:
        return Proxy(kind, host, port)
    name, _, password = user.partition(":")
    name, password = unquote(name), unquote(password)
    if kind == "socks5" and not (0 < len(name.encode()) < 256 and len(password.encode()) < 256):
        raise ConfigError("proxy", f'"{shown}": user or password', "SOCKS5 takes 1 to 255 bytes of each (RFC 1929)")
    if kind == "http" and ":" in name:
        raise ConfigError(
            "proxy", f'"{shown}": a colon in the name of the user', "Basic authorization has no way for it"
        )
    return Proxy(kind, host, port, name, password)


def join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _scheme_of(where: str, uri: str, known: Iterable[str], secret: str = "") -> tuple[str, str]:
    match = URI.fullmatch(secret or uri)
    if match is None:
        raise ConfigError(
            where, f'"{uri}" is not an address', 'expected scheme://host:port, as in "text://127.0.0.1:80"'
        )
    scheme = match[1].lower()
    if scheme not in known:
        near = difflib.get_close_matches(scheme, list(known), 1)
        hint = f'did you mean "{near[0]}"?' if near else f"there are {', '.join(sorted(known))}"
        if scheme in ("http", "https") and where != "proxy":
            hint = "an HTTP client's work: take httpx or aiohttp in an async callback"
        raise ConfigError(where, f'"{uri}": unknown scheme "{scheme}"', hint)
    return scheme, match[2]


def _place(where: str, uri: str, rest: str, usual: int) -> tuple[str | None, str, int, str]:
    """User information, host, port, path and query."""
    match = PLACE.fullmatch(rest)
    if match is None or not match[2]:
        hint = "IPv6 goes in brackets: [::1]:2347" if rest.count(":") > 1 and "[" not in rest else "expected host:port"
        raise ConfigError(where, f'"{uri}" has no host and port', hint)
    port = int(match[3] or usual)
    if not 1 <= port <= 65_535:
        what = f"found port {port}" if match[3] else "there is no port"
        raise ConfigError(where, f'"{uri}": {what}', "expected 1 to 65535")
    return match[1], _host(where, uri, match[2]), port, match[4] or ""


def _host(where: str, uri: str, host: str) -> str:
    if host.startswith("["):
        try:
            return str(ipaddress.IPv6Address(host[1:-1]))
        except ValueError:
            raise ConfigError(where, f'"{uri}": {host} is not an IPv6 address', "brackets are for those") from None
    try:
        host = host.rstrip(".") if host.isascii() else host.encode("idna").decode()
    except UnicodeError:
        host = ""
    if not re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?", host) or ".." in host:
        raise ConfigError(where, f'"{uri}" has no host', "expected a name, an address, or an IPv6 address in brackets")
    return host
