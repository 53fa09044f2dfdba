"""The settings, validated and frozen: what config.load() returns and everything downstream works with.

All defaults live here. ``Seconds`` and ``Bytes`` are plain numbers; tables.py turns "30s" and "10MiB" into them before
conversion, guided by the ``unit`` in the annotation.
"""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

Seconds = Annotated[float, Meta(ge=0, le=2_000_000, extra_json_schema={"unit": "seconds"})]
"""A duration; 0 switches the matter off where the field says so. Bounded, for epoll counts 31 bits of milliseconds."""
StartSeconds = Annotated[float, Meta(ge=0.1, le=2_000_000, extra_json_schema={"unit": "seconds"})]
"""A start takes some time: 0 would kill every child at once."""
Bytes = Annotated[int, Meta(ge=0, extra_json_schema={"unit": "bytes"})]
Count = Annotated[int, Meta(ge=0)]
MOST_PROCESSES = 10_000
Processes = Annotated[int, Meta(ge=1, le=MOST_PROCESSES)]
"""Of one worker. Bounded, for a slip of the finger must not fill the machine."""
ProbeSeconds = Annotated[float, Meta(ge=1, le=32_767, extra_json_schema={"unit": "seconds"})]
"""What the kernel takes for a keepalive probe."""

Secret = Annotated[str, Meta(extra_json_schema={"secret": True})]
"""A string that no complaint and no dump shows."""

KIB = 1024
MIB = 1024 * KIB

Transport = Literal["tcp", "udp", "unix"]


class Spec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The base: immutable, by keyword, closed to unknown keys."""


class ListenSpec(Spec, frozen=True, kw_only=True):
    """One address to listen on: "text://0.0.0.0:2347", taken apart by address.parse()."""

    uri: str
    """As the operator wrote it; shown in status and in errors."""
    transport: Transport
    protocol: str
    """"raw", "text", "frame", a scheme of [protocols], or "module:Class"."""
    host: str = ""
    """Without brackets; "" for unix."""
    port: int = 0
    path: str = ""
    """Absolute path of a unix socket, or ""."""
    tls: bool = False
    """Whether its connections are encrypted, with the worker's certificates."""

    @property
    def address(self) -> tuple[str, str, int | str]:
        """What the kernel is asked for: the identity of the socket, whatever protocol is spoken over it."""
        return (self.transport, self.host, self.port) if self.transport != "unix" else ("unix", "", self.path)


class Inbox(Spec, frozen=True, kw_only=True):
    """How much may wait for an async handler before its connection is not read any further."""

    messages: Annotated[int, Meta(ge=1)] = 64
    bytes: Bytes = MIB


class HttpLimits(Spec, frozen=True, kw_only=True):
    """Of one HTTP request, but ``requests``, which are those of a connection. 0 = unlimited."""

    line: Bytes = 8 * KIB
    """The request line."""
    field: Bytes = 8 * KIB
    """One header field, name and value."""
    fields: Count = 100
    head: Bytes = 32 * KIB
    """All of them together."""
    body: Bytes = 0
    """0 = limits.package."""
    body_rate: Bytes = 500
    """In a second: a body that comes slower for as long as timeouts.body is given up."""
    requests: Count = 10_000


class WebSocketLimits(Spec, frozen=True, kw_only=True):
    """Of one WebSocket message."""

    message: Bytes = 0
    """Its fragments joined and inflated; 0 = limits.package."""
    frame: Bytes = 0
    """0 = as long as the message may be."""
    fragments: Annotated[int, Meta(ge=1)] = 1024


class Limits(Spec, frozen=True, kw_only=True):
    """Bounds of one child process (connections, requests, memory) and of one connection (the rest). 0 = unlimited."""

    connections: Count = 100_000
    per_ip: Count = 0
    accept_rate: Count = 0
    """Connections accepted in a second; the rest wait in the kernel's backlog."""
    package: Bytes = 10 * MIB
    send_buffer: Bytes = MIB
    inbox: Inbox = Inbox()
    requests: Count = 0
    memory: Bytes = 0
    http: HttpLimits = HttpLimits()
    websocket: WebSocketLimits = WebSocketLimits()


class Timeouts(Spec, frozen=True, kw_only=True):
    """Deadlines in seconds."""

    start: StartSeconds = 30.0
    stop: Seconds = 10.0
    idle: Seconds = 0.0
    """0 = never."""
    write_stall: Seconds = 30.0
    """0 = never."""
    busy: Seconds = 0.0
    """A child whose loop is blocked for longer is killed; 0 = never."""
    header: Seconds = 10.0
    """For the head of an HTTP request; 0 = for ever."""
    body: Seconds = 30.0
    """Over which limits.http.body_rate is measured; 0 = never."""
    keepalive: Seconds = 60.0
    """Of an HTTP connection between two requests; 0 = for ever."""
    handshake: Seconds = 10.0
    """Of TLS; 0 = for ever."""


class WebSocketSpec(Spec, frozen=True, kw_only=True):
    """How the upgrade of an HTTP connection is answered."""

    origins: tuple[str, ...] = ()
    """Those whose pages may connect, "https://example.com"; () = all."""
    subprotocols: tuple[str, ...] = ()
    """Ours, the dearest first."""
    deflate: bool = False
    """permessage-deflate, for clients that offer it."""


class SessionSpec(Spec, frozen=True, kw_only=True):
    """What request.session is kept in, and the cookie that has its id."""

    store: str = "file"
    """In worker.state_dir; or "redis://host:port/database", "rediss://..." (TLS), "unix:///run/redis.sock"."""
    cookie: Annotated[str, Meta(pattern=r"^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$", description="a cookie's name")] = "WMSESSID"
    lifetime: Annotated[float, Meta(ge=1, le=2_000_000_000, extra_json_schema={"unit": "seconds"})] = 1440.0
    """Since it was last changed; by itself it is prolonged when it is used in the second half of it."""
    size: Bytes = 64 * KIB
    """Of all that is in it."""
    path: Annotated[str, Meta(pattern=r"^/[^\x00-\x1f\x7f;]*$", description='a path, beginning with "/"')] = "/"
    domain: Annotated[str, Meta(pattern=r"^[0-9A-Za-z.-]*$", description="a domain, or nothing")] = ""
    """With its subdomains; "" = the host alone that set it."""
    secure: bool | Literal["auto"] = "auto"
    """To be sent over TLS only; auto = when it was set over TLS."""
    http_only: bool = True
    """Scripts of the page cannot read it."""
    same_site: Literal["Lax", "Strict", "None"] = "Lax"
    sweep: Seconds = 300.0
    """Between two looks for files that have expired; 0 = never."""


class Heartbeat(Spec, frozen=True, kw_only=True):
    """Pings to WebSocket clients."""

    interval: Seconds = 0.0
    """Of silence, before it is asked whether it is there; 0 = never."""
    timeout: Seconds = 20.0
    """For the answer."""


class KeyPair(Spec, frozen=True, kw_only=True):
    """A certificate with its chain, and its private key: PEM files."""

    cert: str = ""
    key: str | None = None
    """None: it is in the file of the certificate."""


class TlsSpec(Spec, frozen=True, kw_only=True):
    """What the encrypted listeners of a worker show, and ask for."""

    cert: str = ""
    key: str | None = None
    password: Secret | None = None
    """Of all the keys."""
    ca: str | None = None
    """The PEM file of those whose client certificates are believed."""
    verify_client: bool | Literal["optional"] = False
    """Whether a client has to show a certificate; "optional": it may."""
    sni: dict[str, KeyPair] = {}
    """Certificates for the host names that clients ask for; "*.example.com" is for one more label."""
    alpn: tuple[str, ...] | None = None
    """What is offered to clients that ask; None: "http/1.1" over http and websocket, and nothing else."""
    min_version: Literal["1.2", "1.3"] = "1.2"

    def __repr__(self) -> str:
        """Without the password."""
        return f"TlsSpec(cert={self.cert!r}, sni={list(self.sni)!r})"

    @property
    def pairs(self) -> dict[str, KeyPair]:
        """By host name; "" is for clients that ask for none, or for another."""
        return {"": KeyPair(cert=self.cert, key=self.key), **self.sni}


class Keepalive(Spec, frozen=True, kw_only=True):
    """TCP keepalive probes (Workerman's figures)."""

    idle: ProbeSeconds = 55.0
    interval: ProbeSeconds = 55.0
    count: Annotated[int, Meta(ge=1, le=127)] = 1


class WorkerSpec(Spec, frozen=True, kw_only=True):
    """One [worker.NAME]."""

    name: str
    handler: str
    """"apps.echo" or "apps.chat:Chat"."""
    listen: tuple[ListenSpec, ...] = ()
    count: Processes = 1
    user: str | None = None
    group: str | None = None
    reloadable: bool = True
    reuse_port: bool = False
    unix_mode: int = 0o660
    unix_user: str | None = None
    unix_group: str | None = None
    backlog: Annotated[int, Meta(ge=1, le=2**31 - 1)] = 65_535
    """The kernel takes the smaller of this and net.core.somaxconn."""
    env: dict[str, str] = {}
    options: dict[str, Any] = {}
    limits: Limits = Limits()
    timeouts: Timeouts = Timeouts()
    keepalive: Keepalive = Keepalive()
    tcp_nodelay: bool = True
    tls: TlsSpec | None = None
    gzip: bool = False
    """Text in answers of HTTP, for clients that take it."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses and networks whose X-Forwarded-For, X-Real-IP and PROXY header are believed."""
    proxy_protocol: bool = False
    """Every connection of a stream listener has to begin with the PROXY header of a trusted proxy."""
    websocket: WebSocketSpec = WebSocketSpec()
    heartbeat: Heartbeat = Heartbeat()
    session: SessionSpec = SessionSpec()


class LogSpec(Spec, frozen=True, kw_only=True):
    """[server] log."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "text", "json"] = "auto"
    file: str | None = None
    stdout_file: str | None = None


class ServerSpec(Spec, frozen=True, kw_only=True):
    """The whole file, includes and defaults merged, every path absolute."""

    name: str
    file: str | None = None
    """The TOML file; None when built from the command line."""
    app_path: tuple[str, ...] = ()
    run_dir: str
    state_dir: str
    log: LogSpec = LogSpec()
    control_group: str | None = None
    protocols: dict[str, str] = {}
    """Scheme -> "module:Class"; imported in children only."""
    workers: dict[str, WorkerSpec] = {}

    @property
    def label(self) -> str:
        """What complaints call the file."""
        return os.path.basename(self.file) if self.file else "command line"
