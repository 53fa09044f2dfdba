"""Answers that are files, over real sockets, and over a transport that has none (as TLS)."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.worker.scene import Scene, until
from workermand.errors import CloseReason
from workermand.http.request import Request
from workermand.http.response import File, FileFacts, Response
from workermand.worker import sending
from workermand.worker.connection import Connection
from workermand.worker.deadlines import Deadlines, _taken
from workermand.worker.status import ESTABLISHED
from workermand.worker.web import Web

BIG = 8 * 1024 * 1024
"""More than the kernel takes of a client that does not read."""


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    sending._known.clear()
    before = descriptors()
    yield made
    for connection in list(made.worker.connections.values()):
        connection.destroy()
    made.turn()
    assert descriptors() == before, "descriptors were left open"
    made.close()


def descriptors() -> list[str]:
    """Files, and sockets: those of the loop are neither."""
    links = []
    for number in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{number}"))
        except FileNotFoundError:  # the listing's own
            continue
    return sorted(link for link in links if "/srv-" in link)


@pytest.fixture
def srv(tmp_path: Path) -> Path:
    root = tmp_path / "srv-root"
    root.mkdir()
    (root / "big").write_bytes(os.urandom(BIG))
    (root / "other").write_bytes(os.urandom(BIG // 2))
    (root / "small").write_bytes(b"small" * 100)
    (root / "empty").write_bytes(b"")
    return root


def answering(scene: Scene, srv: Path) -> None:
    """/text is a str, all else a file."""

    def on_message(connection: Connection, request: Request) -> None:
        connection.send("text" if request.path == "/text" else Response().with_file(f"{srv}{request.path}"))

    scene.on(on_message=on_message)


def get(*paths: str, more: str = "") -> bytes:
    return b"".join(f"GET {path} HTTP/1.1\r\nHost: a\r\n{more}\r\n".encode() for path in paths)


class Client:
    """Of a listener that speaks HTTP."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.listener = scene.listen(Web)
        self.sock = socket.socket()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        self.sock.connect(("127.0.0.1", self.listener.spec.port))
        self.sock.setblocking(False)
        self.data = bytearray()

    def send(self, data: bytes) -> None:
        self.scene.run(self.scene.loop.sock_sendall(self.sock, data))

    async def receive(self, size: int = 65536) -> bytes:
        data = await self.scene.loop.sock_recv(self.sock, size)
        self.data += data
        return data

    async def answer(self) -> tuple[int, bytes]:
        """Status and body of the next one."""
        while b"\r\n\r\n" not in self.data:
            assert await self.receive(), "the connection has ended"
        head, _, _ = bytes(self.data).partition(b"\r\n\r\n")
        del self.data[: len(head) + 4]
        lengths = [line.split(b":")[1] for line in head.split(b"\r\n") if line.startswith(b"Content-Length")]
        length = int(lengths[0]) if lengths else 0
        while len(self.data) < length:
            assert await self.receive(1 << 20), f"{length - len(self.data)} bytes are missing"
        body = bytes(self.data[:length])
        del self.data[:length]
        return int(head.split()[1]), body

    def answers(self, count: int) -> list[tuple[int, bytes]]:
        async def all_of_them() -> list[tuple[int, bytes]]:
            return [await self.answer() for _ in range(count)]

        answers: list[tuple[int, bytes]] = self.scene.run(all_of_them())
        return answers

    def until_end(self) -> bytes:
        async def rest() -> bytes:
            while await self.receive(1 << 20):
                pass
            return bytes(self.data)

        data: bytes = self.scene.run(rest())
        return data

    def connection(self) -> Connection:
        self.scene.until(lambda: self.scene.worker.connections)
        (connection,) = self.scene.worker.connections.values()
        return connection

    def stuck(self) -> Connection:
        """Once the file is under way and the socket full."""
        connection = self.connection()
        self.scene.until(lambda: connection.wire.sending is not None and connection.wire.sending._is_watching)
        return connection


@pytest.fixture
def client(scene: Scene, srv: Path) -> Iterator[Client]:
    answering(scene, srv)
    made = Client(scene)
    yield made
    made.sock.close()


# ---------------------------------------------------------------------------------------------------- it arrives


def test_a_file_arrives_whole_and_is_counted(scene: Scene, srv: Path, client: Client) -> None:
    client.send(get("/big"))
    assert client.answers(1) == [(200, (srv / "big").read_bytes())]
    connection = client.connection()
    scene.until(lambda: connection.between_messages)
    assert BIG < connection.bytes_written < BIG + 1000
    assert connection.wire.sending is None
    assert connection not in scene.worker.stalled


def test_pipelined_answers_keep_their_order(srv: Path, client: Client) -> None:
    client.send(get("/text", "/big", "/text", "/small", "/empty", "/other", "/none", "/big", "/text"))
    bodies = [b"text", b"big", b"text", b"small", b"empty", b"other", None, b"big", b"text"]
    answers = client.answers(len(bodies))
    expected = [(200, name if name in (b"text", None) else (srv / name.decode()).read_bytes()) for name in bodies]
    expected[6] = (404, b"404 Not Found\n")
    assert answers == expected


def test_async_handlers_answer_in_order(scene: Scene, srv: Path, client: Client) -> None:
    async def on_message(connection: Connection, request: Request) -> None:
        await asyncio.sleep(0)
        connection.send("text" if request.path == "/text" else Response().with_file(f"{srv}{request.path}"))

    scene.on(on_message=on_message)
    client.send(get("/big", "/text", "/other", "/small", "/text"))
    texts, files = (200, b"text"), [(200, (srv / name).read_bytes()) for name in ("big", "other", "small")]
    assert client.answers(5) == [files[0], texts, files[1], files[2], texts]


def test_answers_that_are_given_in_one_go_queue(scene: Scene, srv: Path, client: Client) -> None:
    requests: list[Request] = []

    def on_message(connection: Connection, request: Request) -> None:
        requests.append(request)
        if len(requests) == 3:
            assert connection.send(Response().with_file(srv / "big")) is None
            assert connection.send("text") is None
            assert connection.get_send_buffer_size() > 4
            assert not connection.buffer_is_empty()
            connection.send(Response().with_file(srv / "other"))

    scene.on(on_message=on_message)
    client.send(get("/1", "/2", "/3"))
    assert client.answers(3) == [
        (200, (srv / "big").read_bytes()),
        (200, b"text"),
        (200, (srv / "other").read_bytes()),
    ]


def test_several_ranges(srv: Path, client: Client) -> None:
    client.send(get("/big", "/text", more="Range: bytes=0-9,100000-4100000,5000000-5000009\r\n"))
    (status, body), text = client.answers(2)
    data = (srv / "big").read_bytes()
    assert (status, text) == (206, (200, b"text"))
    pieces = body.split(b"\r\n--workermand-part-of-a-file")
    assert [piece.partition(b"\r\n\r\n")[2] for piece in pieces[:-1]] == [
        data[:10],
        data[100000:4100001],
        data[5000000:5000010],
    ]


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (get("/big").replace(b"GET", b"HEAD"), 200),
        (get("/big", more="If-None-Match: *\r\n"), 304),
        (get("/big", more=f"Range: bytes={BIG}-\r\n"), 416),
    ],
)
def test_without_a_body_the_file_is_closed_at_once(client: Client, request_: bytes, status: int) -> None:
    client.send(request_ + get("/text"))

    async def both() -> bytes:
        while not client.data.endswith(b"text"):
            await client.receive()
        return bytes(client.data)

    head, _, second = client.scene.run(both()).partition(b"\r\n\r\n")
    assert int(head.split()[1]) == status
    assert second.startswith(b"HTTP/1.1 200")
    assert descriptors() == []


def test_a_100_follows_the_file_it_has_to_wait_for(srv: Path, client: Client) -> None:
    client.send(get("/big") + b"POST /text HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n")
    assert client.answers(2) == [(200, (srv / "big").read_bytes()), (100, b"")]
    client.send(b"x")
    assert client.answers(1) == [(200, b"text")]


def test_the_same_response_can_be_sent_again(scene: Scene, srv: Path, client: Client) -> None:
    response = Response().with_file(srv / "big")
    scene.on(on_message=lambda connection, request: connection.send(response))
    client.send(get("/1", "/2"))
    assert [len(body) for _status, body in client.answers(2)] == [BIG, BIG]


@pytest.mark.parametrize("name", ["none", "directory", "fifo", "small/below", "x\0y", "x" * 300])
def test_what_is_no_file_is_not_found(scene: Scene, srv: Path, client: Client, name: str) -> None:
    (srv / "directory").mkdir()
    os.mkfifo(srv / "fifo")
    scene.on(on_message=lambda connection, request: connection.send(Response().with_file(f"{srv}/{name}")))
    client.send(get("/"))
    assert client.answers(1) == [(404, b"404 Not Found\n")]


def test_failures_of_ours_are_no_404(scene: Scene, srv: Path, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "open", lambda *_: (_ for _ in ()).throw(OSError(24, "Too many open files")))
    client.send(get("/big"))
    assert [status for status, _ in client.answers(1)] == [500]
    assert scene.failures == [("on_message", "OSError: [Errno 24] Too many open files")]


def test_a_head_that_cannot_be_made_leaves_no_file_open(scene: Scene, srv: Path, client: Client) -> None:
    response = Response().with_file(srv / "big")
    response._headers.append(("X-Bad", "\u20ac"))
    scene.on(on_message=lambda connection, request: connection.send(response))
    client.send(get("/"))
    assert [status for status, _ in client.answers(1)] == [500]


# ---------------------------------------------------------------------------------------------------- memory and disk


def test_a_small_file_is_one_write(scene: Scene, srv: Path) -> None:
    answering(scene, srv)
    _connection, transport = scene.connect(Web())
    transport.receive(get("/small", "/text"))
    assert len(transport.writes) == 1
    assert b"small" * 100 in transport.writes[0]


def test_what_is_not_in_memory_is_read_by_a_thread(srv: Path, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "read_at_once", lambda *_: 0)
    client.send(get("/big", "/small", "/text"))
    assert client.answers(3) == [(200, (srv / name).read_bytes()) for name in ("big", "small")] + [(200, b"text")]


def test_a_file_system_that_cannot_say_is_read_by_a_thread(
    srv: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = os.preadv

    def preadv(fd: int, buffers: Any, offset: int, flags: int = 0) -> int:
        if flags:
            raise OSError(95, "Operation not supported")
        return really(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", preadv)
    client.send(get("/big"))
    assert client.answers(1) == [(200, (srv / "big").read_bytes())]


def test_what_was_seen_in_memory_is_not_looked_at_again(
    scene: Scene, srv: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    really = sending.read_at_once

    def read_at_once(fd: int, into: memoryview, offset: int) -> int:
        looks.append(offset)
        return really(fd, into, offset)

    monkeypatch.setattr(sending, "read_at_once", read_at_once)
    monkeypatch.setattr(sending, "STALE", 1000.0)
    client.send(get("/big", "/big"))
    client.answers(2)
    assert looks == list(range(0, BIG, sending.PORTION))
    monkeypatch.setattr(sending, "MOST_KNOWN", 1)
    client.send(get("/other"))
    client.answers(1)
    assert len(sending._known) == 1


def test_a_file_in_memory_is_never_waited_for(scene: Scene, client: Client) -> None:
    path = Path(f"/dev/shm/srv-{os.getpid()}")  # a tmpfs on every Linux
    path.write_bytes(os.urandom(BIG))
    try:
        scene.on(on_message=lambda connection, request: connection.send(Response().with_file(path)))
        client.send(get("/"))
        assert client.answers(1) == [(200, path.read_bytes())]
    finally:
        path.unlink()


def test_what_sendfile_cannot_send_is_copied(srv: Path, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def sendfile(*_: int) -> int:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "sendfile", sendfile)
    client.send(get("/big", "/text"))
    assert client.answers(2) == [(200, (srv / "big").read_bytes()), (200, b"text")]


@pytest.mark.parametrize("is_cold", [False, True])
def test_a_transport_without_a_socket_has_one_portion_unsent_at_most(
    scene: Scene, srv: Path, monkeypatch: pytest.MonkeyPatch, is_cold: bool
) -> None:
    if is_cold:
        monkeypatch.setattr(sending, "read_at_once", lambda *_: 0)
    answering(scene, srv)
    connection, transport = scene.connect(Web(), stalled=True)
    transport.receive(get("/big", "/text"))
    while len(transport.sent) < BIG:
        scene.until(transport.get_write_buffer_size)
        assert transport.get_write_buffer_size() <= sending.COPIED
        transport.drain(transport.get_write_buffer_size())
    scene.until(lambda: connection.wire.sending is None)
    transport.drain()
    assert transport.sent.partition(b"\r\n\r\n")[2].startswith((srv / "big").read_bytes() + b"HTTP/1.1 200")


def test_a_file_that_shrinks_ends_the_connection(
    scene: Scene, srv: Path, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    client.send(get("/big", "/text"))
    connection = client.stuck()
    os.truncate(srv / "big", 1000)
    assert len(client.until_end()) < BIG
    assert connection.close_reason is CloseReason.FILE_FAILED
    assert scene.worker.stats.closed[CloseReason.FILE_FAILED] == 1
    assert "the file has become shorter" in caplog.text


def test_a_thread_that_cannot_read_ends_the_connection(
    client: Client, srv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bring(*_: int) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(sending, "read_at_once", lambda *_: 0)
    monkeypatch.setattr(sending, "_bring", bring)
    client.send(get("/big"))
    client.until_end()
    client.scene.until(lambda: client.scene.worker.stats.closed.get(CloseReason.FILE_FAILED) == 1)


# ---------------------------------------------------------------------------------------------------- ends


def test_a_refused_answer_leaves_no_file_open(scene: Scene, srv: Path, client: Client) -> None:
    requests: list[Request] = []

    def two_at_once(connection: Connection, request: Request) -> None:
        requests.append(request)
        if len(requests) == 2:
            connection.max_send_buffer_size = 10
            connection.send(Response().with_file(srv / "big"))
            scene.log.append(connection.send(b"a text that fills the buffer", raw=True))
            scene.log.append(connection.send(Response().with_file(srv / "other")))

    scene.on(on_message=two_at_once)
    client.send(get("/1", "/2"))
    scene.until(lambda: bool(scene.worker.stats.closed))
    assert scene.log == [None, False]
    assert list(scene.worker.stats.closed) == [CloseReason.BUFFER_FULL], "or the next would be taken for it"
    assert descriptors() == []


def test_sending_on_a_closed_connection_opens_nothing(scene: Scene, srv: Path) -> None:
    scene.on(on_message=lambda connection, request: None)
    connection, transport = scene.connect(Web())
    transport.receive(get("/1", "/2"))
    connection.destroy()
    assert connection.send(Response().with_file(srv / "big")) is False
    facts = Web.open_file(Web(), File(str(srv / "big")))
    assert facts is None
    response = Response().with_file(srv / "big")
    assert response.file is not None
    fd = os.open(srv / "big", os.O_RDONLY)
    response.file.facts = FileFacts(fd, BIG, 0)
    assert connection.send(response) is False
    assert descriptors() == []


ENDS: list[Callable[[Connection], object]] = [
    lambda connection: connection.close(),
    lambda connection: connection.end(),
    lambda connection: connection.finish(CloseReason.DRAINED),
    lambda connection: connection.close_lingering(CloseReason.IDLE),
]


@pytest.mark.parametrize("end", ENDS)
def test_the_end_waits_for_the_file(
    scene: Scene, srv: Path, client: Client, end: Callable[[Connection], object]
) -> None:
    client.send(get("/big"))
    connection = client.stuck()
    assert not connection.between_messages
    end(connection)
    assert client.until_end().endswith((srv / "big").read_bytes())
    client.sock.close()
    scene.until(lambda: not scene.worker.connections)


def test_the_end_waits_for_a_queue(scene: Scene, srv: Path, client: Client) -> None:
    requests: list[Request] = []

    def on_message(connection: Connection, request: Request) -> None:
        requests.append(request)
        if len(requests) == 2:
            connection.send(Response().with_file(srv / "big"))
            connection.close("the last word")

    scene.on(on_message=on_message)
    client.send(get("/1", "/2"))
    data = client.until_end()
    assert (srv / "big").read_bytes() in data
    assert data.endswith(b"the last word")


def test_a_client_that_sends_no_more_gets_its_file(srv: Path, client: Client) -> None:
    client.send(get("/big", "/text"))
    client.sock.shutdown(socket.SHUT_WR)
    data = client.until_end()
    assert (srv / "big").read_bytes() in data
    assert data.endswith(b"text")


def test_a_client_that_sends_no_more_after_end_gets_its_file(srv: Path, client: Client) -> None:
    client.send(get("/big"))
    client.stuck().end()
    client.sock.shutdown(socket.SHUT_WR)
    assert client.until_end().endswith((srv / "big").read_bytes())


BREAKS: list[Callable[[Connection, socket.socket], object]] = [
    lambda connection, sock: connection.destroy(),
    lambda connection, sock: connection.abort(CloseReason.DRAIN_DEADLINE),
    lambda connection, sock: sock.close(),
]


@pytest.mark.parametrize("is_cold", [False, True])
@pytest.mark.parametrize("brk", BREAKS)
def test_a_break_in_the_middle_closes_the_file(
    scene: Scene,
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
    brk: Callable[[Connection, socket.socket], object],
    is_cold: bool,
) -> None:
    if is_cold:
        monkeypatch.setattr(sending, "read_at_once", lambda *_: 0)
    client.send(get("/big", "/other", "/text"))
    connection = client.connection() if is_cold else client.stuck()
    scene.until(lambda: connection.bytes_written)
    brk(connection, client.sock)
    scene.until(lambda: not scene.worker.connections and not descriptors())
    assert connection.wire.sending is None
    assert not scene.worker.stalled


def test_a_handler_that_fails_behind_its_file(scene: Scene, srv: Path, client: Client) -> None:
    def on_message(connection: Connection, request: Request) -> None:
        connection.send(Response().with_file(srv / "big"))
        raise ValueError("too late")

    scene.on(on_message=on_message)
    client.send(get("/"))
    assert client.until_end().endswith((srv / "big").read_bytes())
    assert scene.failures == [("on_message", "ValueError: too late")]


# ---------------------------------------------------------------------------------------------------- back-pressure


def test_one_file_is_open_however_many_are_asked_for(scene: Scene, client: Client) -> None:
    client.send(get(*["/big"] * 100))
    connection = client.stuck()
    assert len(descriptors()) == 1
    assert connection.wire.paused
    assert connection in scene.worker.stalled


def test_a_pause_of_the_handler_outlasts_the_file(scene: Scene, srv: Path, client: Client) -> None:
    def on_message(connection: Connection, request: Request) -> None:
        connection.send(Response().with_file(f"{srv}{request.path}"))
        connection.pause_recv()

    scene.on(on_message=on_message)
    client.send(get("/big", "/small"))
    connection = client.stuck()
    assert client.answers(1) == [(200, (srv / "big").read_bytes())]
    scene.until(lambda: connection.wire.sending is None)
    assert connection.wire.paused
    connection.resume_recv()
    assert client.answers(1) == [(200, (srv / "small").read_bytes())]


def test_a_resume_of_the_handler_waits_for_the_file(scene: Scene, srv: Path, client: Client) -> None:
    client.send(get("/big", "/text"))
    connection = client.stuck()
    connection.pause_recv()
    connection.resume_recv()
    assert connection.wire.paused
    assert client.answers(2) == [(200, (srv / "big").read_bytes()), (200, b"text")]


def test_on_buffer_drain_tells_the_end_of_the_file(scene: Scene, client: Client) -> None:
    scene.note("on_buffer_drain")
    client.send(get("/big"))
    client.answers(1)
    scene.until(lambda: scene.log == ["on_buffer_drain"])


def test_drain_waits_for_what_is_behind_the_file(scene: Scene, srv: Path, client: Client) -> None:
    async def answer(connection: Connection) -> None:
        connection.send(Response().with_file(srv / "big"))
        connection.send("x" * 100_000)
        await connection.drain()
        scene.log.append(connection.wire.sending)

    requests: list[Request] = []
    scene.on(on_message=lambda connection, request: requests.append(request))
    client.send(get("/1", "/2"))
    connection = client.connection()
    scene.until(lambda: len(requests) == 2)
    task = scene.loop.create_task(answer(connection))
    client.stuck()
    assert scene.log == []
    assert client.answers(2) == [(200, (srv / "big").read_bytes()), (200, b"x" * 100_000)]
    scene.until(task.done)
    task.result()
    assert scene.log == [None]


def test_who_reads_slowly_lives_and_who_stops_does_not(scene: Scene, client: Client) -> None:
    """Less than what makes room for another write: the kernel has taken nothing meanwhile."""
    deadlines = Deadlines(scene.worker)
    client.send(get("/big"))
    connection = client.stuck()
    limit = scene.worker.timeouts.write_stall
    for number in range(5):
        deadlines.sweep(number * (limit - 1))
        before = _taken(connection)
        client.scene.run(read_until(client, lambda before=before: _taken(connection) > before))
    deadlines.sweep(5 * (limit - 1))
    assert connection.status is ESTABLISHED
    deadlines.sweep(5 * (limit - 1) + limit)
    assert connection.close_reason is CloseReason.WRITE_STALL


async def read_until(client: Client, condition: Callable[[], bool]) -> None:
    while not condition():
        await client.receive(16384)


def test_others_are_served_meanwhile(scene: Scene, client: Client) -> None:
    client.send(get("/big"))
    client.stuck()

    async def another() -> bytes:
        reader, writer = await scene.dial(client.listener)
        writer.write(get("/text"))
        data = await reader.readuntil(b"text")
        writer.close()
        await until(lambda: len(scene.worker.connections) == 1)
        return data

    assert scene.run(another()).startswith(b"HTTP/1.1 200")
