"""The control socket over real sockets, turned by hand: polite clients, stuck ones, rude ones."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import stat
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from workermand.errors import ConfigError
from workermand.master import control as module
from workermand.master.control import Control, Request


class Desk:
    """A selector with a Control, and what it was asked."""

    def __init__(self, path: Path) -> None:
        self.path = path / "control.sock"
        self.selector = selectors.EpollSelector()
        self.asked: list[Request] = []
        self.serve: Callable[[Request], None] = lambda request: request.reply({"verb": request.verb, **request.args})
        self.control = Control(self.selector, str(self.path), None, self._serve)

    def _serve(self, request: Request) -> None:
        self.asked.append(request)
        self.serve(request)

    def turn(self) -> None:
        for key, mask in self.selector.select(0):
            key.data(mask)

    def client(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(self.path))
        client.setblocking(False)
        self.turn()
        return client

    def until_closed(self, client: socket.socket) -> bytes:
        """Turns until the client has all that comes."""
        received, deadline = b"", time.monotonic() + 30
        while time.monotonic() < deadline:
            self.turn()
            try:
                chunk = client.recv(65536)
            except BlockingIOError:
                continue
            except ConnectionResetError:
                return received
            if not chunk:
                return received
            received += chunk
        raise AssertionError("not closed in time")

    @property
    def clients(self) -> int:
        return len(self.selector.get_map()) - 1


@pytest.fixture
def desk(short_dir: Path) -> Iterator[Desk]:
    made = Desk(short_dir)
    yield made
    made.control.close()
    made.selector.close()


def frame(document: Any) -> bytes:
    body = json.dumps(document).encode()
    return struct.pack(">I", len(body)) + body


def answer(received: bytes) -> Any:
    (length,) = struct.unpack(">I", received[:4])
    assert len(received) == 4 + length
    return json.loads(received[4:])


def test_one_request_one_answer(desk: Desk) -> None:
    with desk.client() as client:
        client.sendall(frame({"verb": "scale", "name": "echo", "count": 3}))
        assert answer(desk.until_closed(client)) == {"ok": True, "data": {"verb": "scale", "name": "echo", "count": 3}}
    [request] = desk.asked
    assert (request.peer.pid, request.peer.uid, request.peer.gid) == (os.getpid(), os.getuid(), os.getgid())
    assert desk.clients == 0


def test_a_request_may_come_in_pieces(desk: Desk) -> None:
    with desk.client() as client:
        for byte in frame({"verb": "ping"}):
            client.sendall(bytes([byte]))
            desk.turn()
        assert answer(desk.until_closed(client))["ok"]


def test_an_answer_may_come_later_and_be_large(desk: Desk) -> None:
    desk.serve = lambda request: None
    with desk.client() as client:
        client.sendall(frame({"verb": "connections"}))
        desk.turn()
        desk.turn()
        [request] = desk.asked
        assert request.alive and desk.control.next_deadline() is None
        request.reply({"rows": ["x" * 1000] * 2000})
        assert desk.control.next_deadline() is not None, "a client that does not read has a deadline"
        assert len(answer(desk.until_closed(client))["data"]["rows"]) == 2000
    assert not request.alive


def test_a_failure_has_a_code(desk: Desk) -> None:
    desk.serve = lambda request: request.fail("no worker 'x'", 4)
    with desk.client() as client:
        client.sendall(frame({"verb": "restart"}))
        assert answer(desk.until_closed(client)) == {"ok": False, "code": 4, "error": "no worker 'x'"}


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (struct.pack(">I", 0xFFFFFFFF), "may have 65536 bytes"),
        (b"GET / HTTP/1.1\r\n\r\n", "may have 65536 bytes"),
        (struct.pack(">I", 4) + b"\xff\xff\xff\xff", "not JSON"),
        (frame([1]), "expected"),
        (frame({"verb": 7}), "expected"),
        (frame({}), "expected"),
        (struct.pack(">I", 0), "not JSON"),
        (struct.pack(">I", 60_000) + b"[" * 60_000, "not JSON"),
        (frame({"verb": "restart", "name": {"a": []}}), "plain arguments"),
    ],
)
def test_a_rude_client_is_told_and_closed(sent: bytes, words: str, desk: Desk) -> None:
    with desk.client() as client:
        client.sendall(sent)
        said = answer(desk.until_closed(client))
    assert words in said["error"] and not said["ok"]
    assert not desk.asked and desk.clients == 0


def test_who_sends_nothing_is_closed_at_the_deadline(desk: Desk) -> None:
    with desk.client() as silent, desk.client() as half:
        half.sendall(frame({"verb": "ping"})[:7])
        desk.turn()
        deadline = desk.control.next_deadline()
        assert deadline is not None
        desk.control.expire(deadline - 1)
        assert desk.clients == 2
        desk.control.expire(deadline + 1)
        assert desk.clients == 0
        assert desk.until_closed(silent) == b""


def test_who_never_reads_is_closed_at_the_deadline(desk: Desk) -> None:
    desk.serve = lambda request: request.reply({"rows": "x" * 10_000_000})
    with desk.client() as client:
        client.sendall(frame({"verb": "status"}))
        desk.turn()
        desk.turn()
        deadline = desk.control.next_deadline()
        assert deadline is not None and desk.clients == 1
        desk.control.expire(deadline)
        assert desk.clients == 0


def test_who_leaves_before_the_answer_harms_nobody(desk: Desk) -> None:
    desk.serve = lambda request: None
    with desk.client() as client:
        client.sendall(frame({"verb": "reload"}))
        desk.turn()
    desk.turn()
    desk.turn()
    [request] = desk.asked
    assert not request.alive and desk.clients == 0
    request.reply({"what": "reload"})


def test_a_thousand_silent_clients_keep_nobody_out(desk: Desk) -> None:
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(desk.client()) for _ in range(1000)]
        assert desk.clients == module.MAX_CLIENTS
        client = stack.enter_context(desk.client())
        client.sendall(frame({"verb": "ping"}))
        assert answer(desk.until_closed(client))["ok"]
        assert desk.until_closed(silent[0]) == b"", "the oldest have made way"


def test_who_waits_for_an_answer_makes_no_way(desk: Desk) -> None:
    desk.serve = lambda request: None
    with contextlib.ExitStack() as stack:
        for _ in range(module.MAX_CLIENTS):
            client = stack.enter_context(desk.client())
            client.sendall(frame({"verb": "reload"}))
            desk.turn()
        late = stack.enter_context(desk.client())
        assert desk.until_closed(late) == b""
        assert all(request.alive for request in desk.asked)


def test_another_user_is_refused(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.os, "geteuid", lambda: os.getuid() + 1)
    monkeypatch.setattr(module, "Peer", lambda pid, uid, gid: type("Peer", (), {"uid": 4711})())
    with desk.client() as client:
        assert desk.until_closed(client) == b""


def test_modes(short_dir: Path) -> None:
    desk = Desk(short_dir)
    assert stat.S_IMODE(desk.path.stat().st_mode) == 0o600
    desk.control.close()
    assert not desk.path.exists()
    group = Control(desk.selector, str(desk.path), "root", lambda request: None)
    assert stat.S_IMODE(desk.path.stat().st_mode) == 0o660
    group.close()


def test_a_stale_file_is_removed_and_a_live_one_is_not(short_dir: Path) -> None:
    path = short_dir / "control.sock"
    with socket.socket(socket.AF_UNIX) as crashed:
        crashed.bind(str(path))
    desk = Desk(short_dir)
    with pytest.raises(ConfigError, match="in use"):
        Desk(short_dir)
    desk.control.close()


def test_a_place_where_no_socket_can_be(short_dir: Path) -> None:
    with pytest.raises(ConfigError, match=r"server\.run_dir: cannot make the control socket .*; name another"):
        Control(selectors.EpollSelector(), str(short_dir / "missing" / "control.sock"), None, lambda request: None)
