"""What a handler holds: every member of Workerman's TcpConnection, and what may be assigned to it."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from tests.worker.scene import Scene, scene
from workermand.errors import CloseReason, LoadError
from workermand.link import ConnectionRow
from workermand.protocols.custom import adapt
from workermand.protocols.frame import Frame
from workermand.protocols.raw import Raw
from workermand.protocols.text import Text
from workermand.testing import MemoryTransport
from workermand.worker.connection import Connection, ConnectionStatus

__all__ = ["scene"]


def connect(scene: Scene, **extra: Any) -> Connection:
    connection = Connection(scene.worker, Text(), scene.worker.next_connection_id())
    MemoryTransport(extra=extra).connect(connection.wire)
    return connection


# ---------------------------------------------------------------------------------------------------- attributes


def test_who_it_is(scene: Scene) -> None:
    first, _ = scene.connect()
    second, _ = scene.connect()
    assert (first.id, second.id) == (1, 2) and first.worker is scene.worker
    assert scene.worker.connections == {1: first, 2: second}
    second.id = "carol"  # type: ignore[assignment]
    assert scene.worker.connections[2] is second
    assert first.context is None
    first.context = {"name": "dave"}
    assert first.context == {"name": "dave"}
    assert repr(first) == "<Connection 1 from 127.0.0.1:50000, ESTABLISHED>"
    assert len({first, second}) == 2


def test_attributes_of_the_users_own(scene: Scene) -> None:
    connection, _ = scene.connect()
    connection.uid = 7
    assert connection.uid == 7 and vars(connection) == {"uid": 7}
    with pytest.raises(AttributeError, match="'Connection' object has no attribute 'rooms'"):
        _ = connection.rooms


def test_before_it_is_connected(scene: Scene) -> None:
    connection = Connection(scene.worker, Text(), 1)
    assert connection.status is ConnectionStatus.INITIAL and connection.close_reason is None
    assert repr(connection) == "<Connection 1 from unix, INITIAL>"


@pytest.mark.parametrize(
    ("peer", "ip", "port", "shown", "is_ipv4", "is_ipv6"),
    [
        (("192.0.2.1", 5555), "192.0.2.1", 5555, "192.0.2.1:5555", True, False),
        (("2001:db8::1", 5555, 0, 0), "2001:db8::1", 5555, "[2001:db8::1]:5555", False, True),
        (("::ffff:192.0.2.1", 5555, 0, 0), "192.0.2.1", 5555, "192.0.2.1:5555", True, False),
        ("", "", 0, "unix", False, False),
    ],
)
def test_addresses(scene: Scene, peer: Any, ip: str, port: int, shown: str, is_ipv4: bool, is_ipv6: bool) -> None:
    connection = connect(scene, peername=peer, sockname=peer or "/run/echo.sock")
    assert (connection.get_remote_ip(), connection.get_remote_port()) == (ip, port)
    assert connection.get_remote_address() == shown
    assert (connection.get_local_ip(), connection.get_local_port()) == (ip, port)
    assert connection.get_local_address() == (shown if peer else "/run/echo.sock")
    assert (connection.is_ipv4(), connection.is_ipv6()) == (is_ipv4, is_ipv6)
    assert connection.transport == ("tcp" if peer else "unix")


def test_its_row_in_the_table_of_connections(scene: Scene) -> None:
    scene.on(on_message=lambda connection, data: connection.send(data))
    connection, transport = scene.connect()
    connection.id = "carol"  # type: ignore[assignment]
    transport.receive(b"hello\nhal")
    transport.stall()
    connection.send("more")
    assert connection.row() == ConnectionRow(
        id=1,
        transport="tcp",
        protocol="text",
        ipv4=True,
        ipv6=False,
        recv_queue=3,
        send_queue=5,
        bytes_read=9,
        bytes_written=11,
        status="ESTABLISHED",
        local="127.0.0.1:2347",
        remote="127.0.0.1:50000",
    )
    assert connection.get_recv_buffer_size() == 3 and connection.get_send_buffer_size() == 5
    assert not connection.buffer_is_empty()


# ---------------------------------------------------------------------------------------------------- callbacks


def test_callbacks_of_its_own(scene: Scene) -> None:
    scene.note("on_message", "on_close")
    mine, transport = scene.connect()
    _, others_transport = scene.connect()
    assert mine.on_message is scene.worker.on_message and mine.on_connect is None

    def shout(connection: Connection, data: str) -> None:
        scene.log.append(data.upper())

    mine.on_message = shout
    mine.on_close = lambda connection: scene.log.append("mine closed")
    assert mine.on_message is shout
    transport.receive(b"one\n")
    others_transport.receive(b"two\n")
    transport.receive_eof()
    others_transport.receive_eof()
    assert scene.log == ["ONE", "two", "mine closed", "on_close"]


def test_a_new_on_message_holds_for_the_very_next_message(scene: Scene) -> None:
    def first(connection: Connection, data: str) -> None:
        scene.log.append(("first", data))
        connection.on_message = functools.partial(second, "second")

    def second(name: str, connection: Connection, data: str) -> None:
        scene.log.append((name, data))
        connection.on_message = None

    scene.on(on_message=first)
    _, transport = scene.connect()
    transport.receive(b"a\nb\nc\n")
    assert scene.log == [("first", "a"), ("second", "b")]


def test_what_cannot_be_a_callback_is_refused(scene: Scene) -> None:
    connection, _ = scene.connect()
    with pytest.raises(AttributeError, match='unknown callback on_mesage; did you mean "on_message"'):
        connection.on_mesage = print
    with pytest.raises(AttributeError, match="unknown callback on_worker_start"):
        connection.on_worker_start = print
    with pytest.raises(LoadError, match="cannot be called as on_close"):
        connection.on_close = lambda: None
    with pytest.raises(AttributeError):
        _ = connection.on_mesage
    assert connection.on_close is None


def test_callbacks_assigned_to_the_worker_hold_for_later_connections(scene: Scene) -> None:
    scene.note("on_message")
    _, transport = scene.connect()
    scene.on(on_message=lambda connection, data: scene.log.append(data.upper()))
    _, others_transport = scene.connect()
    transport.receive(b"old\n")
    others_transport.receive(b"new\n")
    assert scene.log == ["old", "NEW"]


# ---------------------------------------------------------------------------------------------------- sending


@pytest.mark.parametrize("data", ["grüße", "grüße".encode()])
def test_str_and_bytes_encoded_and_raw(scene: Scene, data: Any) -> None:
    connection, transport = scene.connect()
    assert connection.send(data) is True and connection.send(data, raw=True) is True
    assert transport.sent == "grüße\ngrüße".encode()
    with pytest.raises(TypeError, match="must be str or bytes, not dict"):
        connection.send({}, raw=True)


def test_last_words_may_be_raw(scene: Scene) -> None:
    connection, transport = scene.connect()
    connection.close(b"\xff\xfe", raw=True)
    assert transport.sent == b"\xff\xfe"
    connection, transport = scene.connect()
    connection.end("bye", raw=True)
    assert transport.sent == b"bye"


# ---------------------------------------------------------------------------------------------------- receiving


def test_a_paused_connection_delivers_what_it_had_read_when_it_is_resumed(scene: Scene) -> None:
    def on_message(connection: Connection, data: str) -> None:
        scene.log.append(data)
        connection.send(data)
        if data == "stop":
            connection.pause_recv()

    scene.on(on_message=on_message)
    connection, transport = scene.connect()
    transport.receive(b"a\nstop\nb\nstop\nc\nhalf")
    assert scene.log == ["a", "stop"] and transport.sent == b"a\nstop\n" and not transport.is_reading()
    transport.receive(b" and half\n")
    connection.resume_recv()
    assert scene.log == ["a", "stop", "b", "stop"] and not transport.is_reading()
    assert transport.writes == [b"a\nstop\n", b"b\nstop\n"]
    assert not connection.between_messages
    connection.resume_recv()
    transport.settle()
    assert scene.log[4:] == ["c", "half and half"]
    connection.resume_recv()
    assert scene.worker.stats.total_request == 6


def test_pausing_and_resuming_in_one_breath_changes_nothing(scene: Scene) -> None:
    def on_message(connection: Connection, data: str) -> None:
        scene.log.append(data)
        connection.pause_recv()
        connection.resume_recv()

    scene.on(on_message=on_message)
    _, transport = scene.connect()
    transport.receive(b"a\nb\nc\n")
    assert scene.log == ["a", "b", "c"] and transport.is_reading()


def test_a_paused_connection_can_be_closed(scene: Scene) -> None:
    scene.note("on_message", "on_close")
    connection, transport = scene.connect()
    connection.on_message = lambda connection, data: connection.pause_recv()
    transport.receive(b"a\nb\n")
    connection.close()
    connection.resume_recv()
    connection.pause_recv()
    transport.settle()
    assert scene.log == ["on_close"]


def test_a_custom_protocol_may_consume_what_it_has_seen(scene: Scene) -> None:
    class Greeted:
        """A greeting of three bytes, then packages of two."""

        @staticmethod
        def input(buffer: bytes, connection: Connection) -> int:
            if connection.context is None and len(buffer) >= 3:
                connection.context = buffer[:3]
                connection.consume_recv_buffer(3)
                buffer = buffer[3:]
            return 2 if connection.context and buffer else 0

        @staticmethod
        def decode(package: bytes, connection: Connection) -> bytes:
            return package

        @staticmethod
        def encode(data: bytes, connection: Connection) -> bytes:
            return data

    scene.note("on_message")
    connection, transport = scene.connect(adapt(Greeted, "greeted")(1000))
    transport.receive(b"he")
    transport.receive(b"yabcd")
    assert connection.context == b"hey" and scene.log == [b"ab", b"cd"]
    with pytest.raises(TypeError, match="text: there is no buffer"):
        scene.connect()[0].consume_recv_buffer(1)


def test_its_status_and_names_for_a_log(scene: Scene) -> None:
    connection, transport = scene.connect()
    assert connection.get_status() == 2 and connection.get_status(raw=False) == "ESTABLISHED"
    assert connection.get_socket() is transport.get_extra_info("socket")
    assert connection.json_serialize() == {
        "id": 1, "status": 2, "transport": "tcp", "is_ipv4": True, "is_ipv6": False,
        "remote_ip": "127.0.0.1", "remote_port": 50000, "remote_address": "127.0.0.1:50000",
        "local_ip": connection.get_local_ip(), "local_port": connection.get_local_port(),
        "local_address": connection.get_local_address(),
    }  # fmt: skip


def test_an_error_handler_keeps_the_connection(scene: Scene) -> None:
    def on_message(connection: Connection, data: str) -> None:
        raise ValueError(data)

    scene.on(on_message=on_message)
    connection, transport = scene.connect()
    errors: list[BaseException] = []
    connection.error_handler = errors.append
    transport.receive(b"one\n")
    assert repr(errors) == "[ValueError('one')]" and connection.status is ConnectionStatus.ESTABLISHED
    connection.error_handler = lambda error: 1 / 0
    transport.receive(b"two\n")
    assert connection.close_reason is CloseReason.HANDLER_ERROR
    assert [where for where, _ in scene.failures] == ["on_message", "on_message", "error_handler"]


def test_the_limit_of_a_package(scene: Scene) -> None:
    connection, transport = scene.connect(Text(1000))
    assert connection.max_package_size == 1000
    connection.max_package_size = 0
    assert connection.max_package_size == 0
    transport.receive(b"x" * 100_000)
    connection.max_package_size = 10
    transport.receive(b"x")
    assert connection.close_reason is CloseReason.PACKAGE_TOO_BIG


# ---------------------------------------------------------------------------------------------------- swapping


@pytest.mark.parametrize("how", ["object", "class", "name"])
def test_the_protocol_is_swapped_and_what_is_left_belongs_to_the_new_one(scene: Scene, how: str) -> None:
    def on_message(connection: Connection, data: Any) -> None:
        scene.log.append(data)
        if data == "frames":
            frame = Frame(500)
            connection.protocol = {"object": frame, "class": Frame, "name": "frame"}[how]
            connection.send("ok")

    scene.on(on_message=on_message)
    connection, transport = scene.connect(Text(500))
    transport.receive(b"hello\nframes\n\0\0\0\x07a\r\n\0\0")
    transport.receive(b"\0\x05b")
    assert scene.log == ["hello", "frames", b"a\r\n", b"b"] and transport.sent == b"\0\0\0\x06ok"
    assert isinstance(connection.protocol, Frame) and connection.max_package_size == 500
    assert scene.worker.stats.total_request == 4


def test_a_class_with_three_functions_will_do(scene: Scene) -> None:
    class Fixed:
        @staticmethod
        def input(buffer: bytes, connection: Connection) -> int:
            return 3

        @staticmethod
        def decode(package: bytes, connection: Connection) -> tuple[int, bytes]:
            return connection.id, package

        @staticmethod
        def encode(message: str, connection: Connection) -> str:
            return message * 3

    scene.note("on_message")
    connection, transport = scene.connect()
    connection.protocol = Fixed  # type: ignore[assignment]
    transport.receive(b"abcde")
    connection.send("x")
    assert scene.log == [(1, b"abc")] and transport.sent == b"xxx"


# ---------------------------------------------------------------------------------------------------- pipe


def test_a_pipe_carries_slows_down_and_ends(scene: Scene) -> None:
    scene.limit(send_buffer=10)
    source, source_transport = scene.connect(Raw())
    to, to_transport = scene.connect(Raw())
    source.pipe(to)
    source_transport.receive(b"hello")
    assert to_transport.sent == b"hello"
    to_transport.stall()
    source_transport.receive(b"x" * 10)
    assert not source_transport.is_reading(), "the other is full"
    source_transport.receive(b"yz")
    to_transport.drain()
    source_transport.settle()
    assert source_transport.is_reading() and to_transport.sent == b"hello" + b"x" * 10 + b"yz"
    source_transport.receive_eof()
    to_transport.settle()
    assert to.close_reason is CloseReason.CLOSED and source.close_reason is CloseReason.PEER_CLOSED


def test_what_is_piped_is_encoded_for_the_other_unless_raw(scene: Scene) -> None:
    for raw, expected in ((False, b"\0\0\0\x06hi"), (True, b"hi")):
        source, source_transport = scene.connect(Text())
        to, to_transport = scene.connect(Frame())
        source.pipe(to, raw)
        source_transport.receive(b"hi\n")
        assert to_transport.sent == expected
