"""The control socket: one request, one answer, over a unix socket that belongs to the daemon's owner.

A frame is a 4-byte big-endian length and JSON. Everything is non-blocking and bounded, so that a stuck or rude client
harms nobody: MAX_REQUEST bytes of request, REQUEST_TIME to send it, MAX_CLIENTS at once. What a request means is
desk.py's business.
"""

from __future__ import annotations

import contextlib
import grp
import json
import logging
import os
import selectors
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeGuard

from workermand.errors import ConfigError
from workermand.master.sockets import remove_stale

log = logging.getLogger(__name__)

MAX_REQUEST = 64 * 1024
MAX_CLIENTS = 64
REQUEST_TIME = 10.0
ANSWER_TIME = 30.0
HEADER = struct.Struct(">I")


@dataclass(frozen=True, slots=True)
class Peer:
    """Who asks, by SO_PEERCRED."""

    pid: int
    uid: int
    gid: int


class Request:
    """One request and its answer, which may be given at any later time, once."""

    def __init__(self, client: Client, verb: str, args: dict[str, Any], peer: Peer) -> None:
        self.verb = verb
        self.args = args
        self.peer = peer
        self._client = client

    @property
    def alive(self) -> bool:
        return self._client.sock.fileno() >= 0

    def reply(self, data: dict[str, Any]) -> None:
        self._client.answer({"ok": True, "data": data})

    def fail(self, error: str, code: int = 1) -> None:
        self._client.answer({"ok": False, "code": code, "error": error})


class Client:
    """One connection: reads a request, waits for its answer, writes it, closes."""

    def __init__(self, control: Control, sock: socket.socket, peer: Peer) -> None:
        self.sock = sock
        self.deadline: float | None = time.monotonic() + REQUEST_TIME
        self._control = control
        self._peer = peer
        self._received = bytearray()
        self._unsent = b""
        self.asked = False

    def ready(self, mask: int) -> None:
        if mask & selectors.EVENT_WRITE:
            self._write()
        elif mask & selectors.EVENT_READ:
            self._read()

    def _read(self) -> None:
        try:
            data = self.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._control.drop(self)
        elif not self.asked:  # what follows a request is ignored
            self._received += data
            self._parse()

    def _parse(self) -> None:
        if len(self._received) < HEADER.size:
            return
        (length,) = HEADER.unpack_from(self._received)
        if length > MAX_REQUEST:
            self._ask(None, f"a request may have {MAX_REQUEST} bytes")
        elif len(self._received) >= HEADER.size + length:
            try:
                self._ask(json.loads(self._received[HEADER.size : HEADER.size + length]), "")
            except (ValueError, RecursionError) as error:
                self._ask(None, f"not JSON: {error}")

    def _ask(self, asked: Any, wrong: str) -> None:
        self.asked, self.deadline = True, None
        self._received.clear()
        if not _is_request(asked):
            self.answer({"ok": False, "code": 2, "error": wrong or 'expected {"verb": ...}, with plain arguments'})
            return
        args = {key: value for key, value in asked.items() if key != "verb"}
        self._control.serve(Request(self, asked["verb"], args, self._peer))

    def answer(self, answer: dict[str, Any]) -> None:
        if self.sock.fileno() < 0 or self._unsent:
            return
        body = json.dumps(answer).encode()
        self._unsent = HEADER.pack(len(body)) + body
        self.deadline = time.monotonic() + ANSWER_TIME
        self._write()

    def _write(self) -> None:
        try:
            sent = self.sock.send(self._unsent)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._control.drop(self)
            return
        self._unsent = self._unsent[sent:]
        if self._unsent:
            self._control.want_write(self)
        else:
            self._control.drop(self)


def _is_request(asked: Any) -> TypeGuard[dict[str, Any]]:
    if not isinstance(asked, dict) or not isinstance(asked.get("verb"), str):
        return False
    return not any(isinstance(value, (dict, list)) for value in asked.values())


class Control:
    """Process: the master; driven by its selector, whose key data is a callable that takes the event mask."""

    def __init__(
        self, selector: selectors.BaseSelector, path: str, group: str | None, serve: Callable[[Request], None]
    ) -> None:
        self.serve = serve
        self._selector = selector
        self._path = path
        self._group = group
        self._clients: dict[Client, None] = {}
        """The oldest first."""
        self._sock = self._listen()
        selector.register(self._sock, selectors.EVENT_READ, data=self._accept)

    def _listen(self) -> socket.socket:
        remove_stale("server.run_dir", self._path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        before = os.umask(0o177)
        try:
            sock.bind(self._path)
            if self._group is not None:
                os.chown(self._path, -1, grp.getgrnam(self._group).gr_gid)
                os.chmod(self._path, 0o660)
            sock.listen(MAX_CLIENTS)
        except (OSError, KeyError) as error:
            sock.close()
            what = f"cannot make the control socket {self._path}: {error}"
            raise ConfigError("server.run_dir", what, "name another") from error
        finally:
            os.umask(before)
        return sock

    def close(self) -> None:
        for client in list(self._clients):
            self.drop(client)
        self._selector.unregister(self._sock)
        self._sock.close()
        with contextlib.suppress(OSError):
            os.unlink(self._path)

    def next_deadline(self) -> float | None:
        return min((client.deadline for client in self._clients if client.deadline is not None), default=None)

    def expire(self, now: float) -> None:
        for client in list(self._clients):
            if client.deadline is not None and now >= client.deadline:
                self.drop(client)

    def drop(self, client: Client) -> None:
        if client in self._clients:
            del self._clients[client]
            self._selector.unregister(client.sock)
            client.sock.close()

    def want_write(self, client: Client) -> None:
        self._selector.modify(client.sock, selectors.EVENT_WRITE, data=client.ready)

    def _has_room(self) -> bool:
        """Who has asked nothing yet makes way for a newcomer: a thousand silent clients keep nobody out."""
        silent = (client for client in self._clients if not client.asked)
        if len(self._clients) >= MAX_CLIENTS and (oldest := next(silent, None)):
            self.drop(oldest)
        return len(self._clients) < MAX_CLIENTS

    def _accept(self, _mask: int) -> None:
        try:
            sock, _address = self._sock.accept()
        except OSError:
            return
        sock.setblocking(False)
        peer = Peer(*struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)))
        allowed = peer.uid in (0, os.geteuid()) or self._group is not None
        if not allowed or not self._has_room():
            sock.close()
            return
        client = Client(self, sock, peer)
        self._clients[client] = None
        self._selector.register(sock, selectors.EVENT_READ, data=client.ready)
