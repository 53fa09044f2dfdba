"""The listening sockets. The master owns them all: they outlive any child, so that a reload refuses no connection.

An address is opened once, or once for each slot with reuse_port (so that the kernel spreads connections over the
sockets). A child gets its share by inheritance at the fork. Closing one socket of a reuse_port group loses what waits
in its backlog, so that a surplus slot's socket goes to a remaining child and is closed only with the whole address.

Sockets that systemd passed are taken by name or address, and never unlinked: they are not ours.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import logging
import os
import pwd
import socket
import stat
from collections.abc import MutableMapping
from dataclasses import dataclass, field

from workermand.address import plain_ip
from workermand.errors import ConfigError
from workermand.master.plan import Address
from workermand.spec import ListenSpec, WorkerSpec

log = logging.getLogger(__name__)

Listeners = list[tuple[ListenSpec, list[socket.socket]]]
"""What a child gets: its addresses, each with the sockets that it accepts on."""

LISTEN_FDS_START = 3
FAMILIES = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM, "unix": socket.SOCK_STREAM}


class AddressInUse(ConfigError):
    """Somebody else has the address now; it may be free later, so that systemd may try again."""


@dataclass(slots=True)
class Bound:
    """One open address."""

    listen: ListenSpec
    sockets: list[socket.socket] = field(default_factory=list)
    inode: int | None = None
    """Of the unix socket file that we made; None when it is not ours to remove."""
    inherited: bool = False


class Sockets:
    """Every open address of the daemon. Process: the master."""

    def __init__(self) -> None:
        self._open: dict[Address, Bound] = {}
        self._offered: list[tuple[str, socket.socket]] = []

    # ------------------------------------------------------------------ systemd

    def offer(self, environ: MutableMapping[str, str]) -> None:
        """Takes in what systemd passed (sd_listen_fds(3)) and takes the variables out of ``environ``."""
        count = int(environ.pop("LISTEN_FDS", "0") or 0)
        pid = environ.pop("LISTEN_PID", "")
        names = environ.pop("LISTEN_FDNAMES", "").split(":")
        if pid != str(os.getpid()):
            return
        for index in range(count):
            sock = socket.socket(fileno=LISTEN_FDS_START + index)
            sock.set_inheritable(False)
            sock.setblocking(False)
            self._offered.append((names[index] if index < len(names) else "", sock))

    def close_unclaimed(self) -> None:
        """After the first start: what no worker wants is named and closed."""
        for name, sock in self._offered:
            log.warning('systemd passed socket "%s" (%s), which no worker listens on: closed', name, sock.getsockname())
            sock.close()
        self._offered.clear()

    def _claim(self, worker: str, listen: ListenSpec) -> socket.socket | None:
        """The same address first; else one that bears the worker's name and is of the same kind."""
        fitting = [(n, s) for n, s in self._offered if s.type == FAMILIES[listen.transport]]
        fitting = [(n, s) for n, s in fitting if (s.family == socket.AF_UNIX) == (listen.transport == "unix")]
        same = [(n, s) for n, s in fitting if _is_bound_to(s, listen)]
        named = [(n, s) for n, s in fitting if n == worker]
        for claimed in (*same, *named):
            self._offered.remove(claimed)
            return claimed[1]
        return None

    # ------------------------------------------------------------------ open and close

    def addresses(self) -> frozenset[Address]:
        return frozenset(self._open)

    def open(self, spec: WorkerSpec) -> list[Address]:
        """Opens what is not open of this worker's addresses and adjusts what is. Returns the addresses opened, for
        the caller to close if its plan fails. Raises ConfigError (AddressInUse); nothing of this call is left open."""
        opened: list[Address] = []
        try:
            for listen in spec.listen:
                if listen.address not in self._open:
                    self._open[listen.address] = Bound(listen)
                    opened.append(listen.address)
                self._fill(spec, listen)
        except ConfigError:
            for address in opened:
                self.close(address)
            raise
        return opened

    def _fill(self, spec: WorkerSpec, listen: ListenSpec) -> None:
        bound = self._open[listen.address]
        if not bound.sockets and (passed := self._claim(spec.name, listen)):
            bound.sockets.append(passed)
            bound.inherited = True
        wanted = spec.count if spec.reuse_port and listen.transport != "unix" and not bound.inherited else 1
        while len(bound.sockets) < wanted:
            bound.sockets.append(self._bind(spec, listen))
            if listen.transport == "unix":
                bound.inode = os.stat(listen.path).st_ino
        for sock in bound.sockets:
            if sock.type == socket.SOCK_STREAM:
                sock.listen(spec.backlog)
        if bound.inode is not None:
            _give_away(spec, listen)

    def close(self, address: Address) -> None:
        bound = self._open.pop(address, None)
        if bound is None:
            return
        for sock in bound.sockets:
            sock.close()
        if bound.inode is not None:
            _unlink_ours(bound.listen.path, bound.inode)

    def close_all(self) -> None:
        for address in list(self._open):
            self.close(address)

    def share(self, spec: WorkerSpec, slot: int) -> Listeners:
        """The sockets of a slot: the one of an ordinary address, every count-th of a reuse_port group."""
        shares: Listeners = []
        for listen in spec.listen:
            sockets = self._open[listen.address].sockets
            width = min(spec.count, len(sockets))
            shares.append((listen, sockets[slot % width :: width]))
        return shares

    def get(self, address: Address) -> Bound | None:
        return self._open.get(address)

    # ------------------------------------------------------------------ bind

    def _bind(self, spec: WorkerSpec, listen: ListenSpec) -> socket.socket:
        where = f"worker.{spec.name}.listen"
        if listen.transport == "unix":
            return _bind_unix(where, listen)
        family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
        try:
            sock = socket.socket(family, FAMILIES[listen.transport])
        except OSError as error:
            raise ConfigError(where, f"cannot make a socket for {listen.uri}: {error.strerror}") from error
        try:
            sock.setblocking(False)
            if listen.transport == "tcp":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if spec.reuse_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            sock.bind((listen.host, listen.port))
            if listen.transport == "tcp":
                sock.listen(spec.backlog)
        except OSError as error:
            sock.close()
            raise self._explain(where, listen, error) from error
        return sock

    def _explain(self, where: str, listen: ListenSpec, error: OSError) -> ConfigError:
        if error.errno == errno.EADDRINUSE:
            if mine := self._overlapping(listen):
                return AddressInUse(
                    where,
                    f"{listen.uri} overlaps {mine}, which this daemon holds",
                    "needs restart: `systemctl restart workermand` (or stop and start it)",
                )
            return AddressInUse(where, f"{listen.uri} is in use{holder(listen)}", "stop it, or choose another port")
        if error.errno == errno.EADDRNOTAVAIL:
            return ConfigError(where, f"{listen.host} is not an address of this machine", "see `ip address`")
        if error.errno in (errno.EACCES, errno.EPERM):
            return ConfigError(
                where,
                f"port {listen.port} needs privileges that this process does not have",
                "use a port above 1023, start as root, or grant CAP_NET_BIND_SERVICE",
            )
        return ConfigError(where, f"cannot listen on {listen.uri}: {error.strerror or error}")

    def _overlapping(self, listen: ListenSpec) -> str:
        for (transport, _host, port), bound in self._open.items():
            if (transport, port) == (listen.transport, listen.port) and bound.sockets:
                return bound.listen.uri
        return ""


def _is_bound_to(sock: socket.socket, listen: ListenSpec) -> bool:
    name = sock.getsockname()
    if listen.transport == "unix":
        return bool(name == listen.path)
    return tuple(name[:2]) == (listen.host, listen.port)


def holder(listen: ListenSpec) -> str:
    """ " by nginx (pid 812)", or "" when that cannot be known (another user's process)."""
    import psutil  # only for this message  # noqa: PLC0415

    with contextlib.suppress(psutil.Error, OSError):
        kind = "tcp" if listen.transport == "tcp" else "udp"
        for connection in psutil.net_connections(kind):
            listens = connection.status == psutil.CONN_LISTEN or kind == "udp"
            if connection.laddr and _is_in_the_way(listen, *connection.laddr) and listens and connection.pid:
                return f" by {psutil.Process(connection.pid).name()} (pid {connection.pid})"
    return ""


def _is_in_the_way(listen: ListenSpec, host: str, port: int) -> bool:
    everywhere = ("0.0.0.0", "::")
    return port == listen.port and (listen.host in (plain_ip(host), *everywhere) or host in everywhere)


def _bind_unix(where: str, listen: ListenSpec) -> socket.socket:
    remove_stale(where, listen.path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    before = os.umask(0o177)  # nobody may connect before _give_away has set mode and owner
    try:
        sock.bind(listen.path)
        sock.listen()
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise AddressInUse(where, f"{listen.path} is in use", "stop its owner, or choose another path") from error
        raise ConfigError(
            where, f"cannot make {listen.path}: {error.strerror}", "the directory must exist and be writable"
        ) from error
    finally:
        os.umask(before)
    return sock


def remove_stale(where: str, path: str) -> None:
    """A socket file that nobody answers at is a crash's remains; one that cannot be asked counts as in use."""
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigError(where, f"{path} exists and is not a socket", "remove it, or choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        result = probe.connect_ex(path)
    if result != errno.ECONNREFUSED:
        raise AddressInUse(where, f"{path} is in use by another process", "stop it, or choose another path")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _unlink_ours(path: str, inode: int) -> None:
    """Not when somebody else has put a socket of his own there meanwhile."""
    with contextlib.suppress(OSError):
        if os.stat(path).st_ino == inode:
            os.unlink(path)


def _give_away(spec: WorkerSpec, listen: ListenSpec) -> None:
    """Owner and mode of a unix socket file; by default the worker's user and its group."""
    owner = spec.unix_user or spec.user
    group = spec.unix_group or spec.group
    uid = pwd.getpwnam(owner).pw_uid if owner else -1
    gid = grp.getgrnam(group).gr_gid if group else pwd.getpwnam(spec.user).pw_gid if spec.user else -1
    try:
        if (uid, gid) != (-1, -1):
            os.chown(listen.path, uid, gid)
        os.chmod(listen.path, spec.unix_mode)
    except OSError as error:
        raise ConfigError(
            f"worker.{spec.name}.listen", f"cannot set owner and mode of {listen.path}: {error.strerror}",
            "unix_user and unix_group need root",
        ) from error  # fmt: skip
