"""UDP on real sockets: a message per datagram, answers to its sender, and nothing that one sender can break."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.conftest import PATIENCE
from tests.worker.scene import Scene, scene
from workermand.errors import CloseReason, ProtocolError, SendError
from workermand.protocols.base import Protocol
from workermand.protocols.custom import adapt
from workermand.protocols.frame import Frame
from workermand.protocols.raw import Raw
from workermand.protocols.text import Text
from workermand.spec import Inbox, ListenSpec
from workermand.worker.datagram import BATCH, DatagramListener, UdpConnection
from workermand.worker.handlers import Handlers

__all__ = ["scene"]

LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


class Post:
    """Makes listeners, and clients that write to them; all are closed at the end."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._listeners: list[DatagramListener] = []
        self._clients: list[socket.socket] = []

    def listen(
        self,
        protocol: Callable[[int], Protocol] = Raw,
        callbacks: Handlers | None = None,
        *,
        sock: socket.socket | None = None,
        start: bool = True,
    ) -> DatagramListener:
        sock = sock or bound()
        host, port = sock.getsockname()[:2]
        spec = ListenSpec(uri="udp://test", transport="udp", protocol="raw", host=host, port=port)
        listener = DatagramListener(self._scene.worker, spec, [sock], protocol, callbacks)
        self._listeners.append(listener)
        if start:
            listener.start()
        return listener

    def client(self, listener: DatagramListener, family: socket.AddressFamily = socket.AF_INET) -> socket.socket:
        client = socket.socket(family, socket.SOCK_DGRAM)
        self._clients.append(client)
        client.settimeout(PATIENCE)
        client.connect((LOOPBACK[family], listener.spec.port))
        return client

    def write(self, listener: DatagramListener, *datagrams: bytes) -> socket.socket:
        client = self.client(listener)
        for datagram in datagrams:
            client.send(datagram)
        return client

    def close(self) -> None:
        for listener in self._listeners:
            listener.stop()
        for client in self._clients:
            client.close()


@pytest.fixture
def post(scene: Scene) -> Iterator[Post]:
    made = Post(scene)
    yield made
    made.close()
    scene.turn()


def bound(family: socket.AddressFamily = socket.AF_INET, *, dual: bool = False) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM)
    if dual:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind(("::" if dual else LOOPBACK[family], 0))
    return sock


def echo(connection: UdpConnection, data: Any) -> None:
    connection.send(data)


def requests(scene: Scene, count: int) -> None:
    """Runs the loop until so many datagrams have come, and no more."""
    scene.until(lambda: scene.worker.stats.total_request >= count)
    scene.turn()
    assert scene.worker.stats.total_request == count


# ---------------------------------------------------------------------------------------------------- there and back


def test_each_datagram_is_a_message_and_send_answers_its_sender(scene: Scene, post: Post) -> None:
    scene.on(on_message=echo)
    listener = post.listen()
    one, other = post.write(listener, b"one", b"again"), post.write(listener, b"other")
    requests(scene, 3)
    assert [one.recv(100), one.recv(100), other.recv(100)] == [b"one", b"again", b"other"]
    assert scene.worker.connections == {} and scene.worker.stats.connection_count == 0
    assert scene.worker.stats.accepted == 0


def test_no_other_callback_knows_of_a_datagram(scene: Scene, post: Post) -> None:
    scene.note("on_connect", "on_message", "on_close")
    post.write(post.listen(), b"x")
    requests(scene, 1)
    assert scene.log == [b"x"]


def test_an_empty_datagram_is_a_message_too(scene: Scene, post: Post) -> None:
    scene.note("on_message")
    post.write(post.listen(), b"", b"x")
    requests(scene, 2)
    assert scene.log == [b"", b"x"]


def test_the_longest_datagram(scene: Scene, post: Post) -> None:
    scene.on(on_message=echo)
    client = post.write(post.listen(), b"x" * 65_507)
    requests(scene, 1)
    assert client.recv(65_535) == b"x" * 65_507


def test_more_than_one_go_reads(scene: Scene, post: Post) -> None:
    scene.note("on_message")
    sent = [str(number).encode() for number in range(2 * BATCH + 1)]
    post.write(post.listen(), *sent)
    requests(scene, len(sent))
    assert scene.log == sent


def test_without_on_message_datagrams_are_read_and_counted(scene: Scene, post: Post) -> None:
    post.write(post.listen(), b"x")
    requests(scene, 1)
    assert scene.failures == []


def test_what_send_takes_and_tells(scene: Scene, post: Post) -> None:
    def on_message(connection: UdpConnection, _data: bytes) -> None:
        results = [connection.send(data) for data in ("grüße", b"bytes", bytearray(b"array"), "", b"")]
        scene.log.append(results)
        connection.send(7)

    scene.on(on_message=on_message)
    client = post.write(post.listen(), b"x")
    requests(scene, 1)
    assert scene.log == [[True, True, True, None, None]]
    assert [client.recv(100) for _ in range(3)] == ["grüße".encode(), b"bytes", b"array"]
    assert scene.failures == [("on_message", "TypeError: a message must be str or bytes, not int")]


def test_closing_sends_what_is_given_and_closes_nothing(scene: Scene, post: Post) -> None:
    def on_message(connection: UdpConnection, data: bytes) -> None:
        connection.close()
        connection.close(b"bye " + data)
        connection.close(b"raw", raw=True)

    scene.on(on_message=on_message)
    listener = post.listen()
    for number in range(2):
        client = post.write(listener, b"x")
        requests(scene, number + 1)
        assert [client.recv(100), client.recv(100)] == [b"bye x", b"raw"]


def test_a_sender_may_be_answered_later(scene: Scene, post: Post) -> None:
    scene.on(on_message=lambda connection, data: scene.log.append(connection))
    client = post.write(post.listen(), b"x")
    requests(scene, 1)
    (connection,) = scene.log
    assert connection.context is None
    connection.context = "mine"
    assert connection.send("later") and client.recv(100) == b"later"


def test_to_a_sender_that_is_gone(scene: Scene, post: Post) -> None:
    """Its kernel's ICMP message is no reason to stop reading."""
    scene.on(on_message=lambda connection, data: scene.log.append(connection))
    listener = post.listen()
    post.write(listener, b"x").close()
    requests(scene, 1)
    assert [scene.log[0].send("anybody?") for _ in range(3)] == [True] * 3
    post.write(listener, b"y")
    requests(scene, 2)
    assert scene.worker.stats.send_fail == 0


def test_a_datagram_that_is_too_long_to_send(scene: Scene, post: Post) -> None:
    scene.note("on_error")
    scene.on(on_message=lambda connection, data: scene.log.append(connection.send(b"x" * 65_508)))
    post.write(post.listen(), b"x")
    requests(scene, 1)
    assert scene.log == [(int(SendError.SEND_FAIL), "Message too long"), False]
    assert scene.worker.stats.send_fail == 1


def test_a_full_send_buffer_drops_the_datagram(scene: Scene, post: Post) -> None:
    """Loopback never fills it, so that the socket is one that says so."""

    class Full:
        def sendto(self, data: bytes, peer: Any) -> None:
            raise BlockingIOError

    scene.note("on_error")
    connection = UdpConnection(post.listen(), Full(), ("127.0.0.1", 9), Raw())  # type: ignore[arg-type]
    assert connection.send(b"x") is False
    assert scene.log == [(int(SendError.SEND_FAIL), "send buffer full and drop package")]
    assert scene.worker.stats.send_fail == 1


# ---------------------------------------------------------------------------------------------------- addresses


def test_who_the_sender_is(scene: Scene, post: Post) -> None:
    scene.on(on_message=lambda connection, data: scene.log.append(connection))
    listener = post.listen()
    host, port = post.write(listener, b"x").getsockname()
    requests(scene, 1)
    (connection,) = scene.log
    assert (connection.get_remote_ip(), connection.get_remote_port()) == (host, port)
    assert connection.get_remote_address() == f"{host}:{port}"
    assert (connection.get_local_ip(), connection.get_local_port()) == ("127.0.0.1", listener.spec.port)
    assert connection.get_local_address() == f"127.0.0.1:{listener.spec.port}"
    assert connection.is_ipv4() and not connection.is_ipv6()
    assert connection.id == 0 and connection.worker is scene.worker
    assert repr(connection) == f"<UdpConnection from {host}:{port}>"


@pytest.mark.parametrize(
    ("family", "ip", "shown"), [(socket.AF_INET, "127.0.0.1", "127.0.0.1"), (socket.AF_INET6, "::1", "[::1]")]
)
def test_an_ipv6_socket_shows_ipv4_senders_plain(
    scene: Scene, post: Post, family: socket.AddressFamily, ip: str, shown: str
) -> None:
    def on_message(connection: UdpConnection, data: bytes) -> None:
        scene.log.append(connection)
        connection.send(data)

    scene.on(on_message=on_message)
    client = post.client(post.listen(sock=bound(socket.AF_INET6, dual=True)), family)
    client.send(b"x")
    requests(scene, 1)
    (connection,) = scene.log
    assert client.recv(100) == b"x"
    assert connection.get_remote_ip() == ip
    assert connection.get_remote_address() == f"{shown}:{client.getsockname()[1]}"
    assert connection.is_ipv6() is (family is socket.AF_INET6)


# ---------------------------------------------------------------------------------------------------- protocols


def test_a_protocol_reads_each_datagram_by_itself(scene: Scene, post: Post) -> None:
    def on_message(connection: UdpConnection, data: str) -> None:
        scene.log.append(data)
        connection.send(data)
        connection.send("raw", raw=True)

    scene.on(on_message=on_message)
    client = post.write(post.listen(Text), b"one\ntwo\nthr", b"ee\n")
    requests(scene, 2)
    assert scene.log == ["one", "two", "ee"], "what is left over is dropped"
    assert [client.recv(100), client.recv(100)] == [b"one\n", b"raw"]
    assert not scene.worker.stats.closed


def test_a_violation_drops_the_rest_of_its_datagram_and_is_counted(
    scene: Scene, post: Post, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "workermand")
    scene.note("on_message")
    scene.limit(package=10)
    client = post.write(post.listen(Frame), Frame().encode(b"ok") + bytes(4), b"\xff" * 4, Frame().encode(b"good"))
    requests(scene, 3)
    assert scene.log == [b"ok", b"good"]
    assert scene.worker.stats.closed == {CloseReason.PROTOCOL_ERROR: 1, CloseReason.PACKAGE_TOO_BIG: 1}
    host, port = client.getsockname()
    assert caplog.messages[0] == f"datagram from {host}:{port}: frame: length 0 is less than the header's own 4 bytes"
    assert scene.failures == [], "it is the sender's fault"


class Lines:
    """Workerman's three functions. A number is refused, "drop" is decoded to False."""

    def input(self, buffer: bytes, connection: Any) -> int:
        if buffer[:1].isdigit():
            raise ProtocolError("no numbers", ["not this either"])
        return buffer.find(b"\n") + 1

    def decode(self, package: bytes, connection: Any) -> Any:
        line = package.strip().decode()
        if line == "broken":
            raise ValueError("broken indeed")
        return {"drop": False, "zero": 0, "none": None}.get(line, line)

    def encode(self, message: Any, connection: Any) -> str:
        return f"{message} to {connection.get_remote_ip()}"


def test_workermans_three_functions(scene: Scene, post: Post) -> None:
    scene.on(on_message=echo)
    client = post.write(post.listen(adapt(Lines, "lines")), b"one\ntwo\nrest")
    requests(scene, 1)
    assert [client.recv(100), client.recv(100)] == [b"one to 127.0.0.1", b"two to 127.0.0.1"]


def test_what_they_decode_to_false_is_dropped(scene: Scene, post: Post) -> None:
    scene.note("on_message")
    post.write(post.listen(adapt(Lines, "lines")), b"a\ndrop\nzero\nnone\nb\n")
    requests(scene, 1)
    assert scene.log == ["a", 0, None, "b"]
    assert not scene.worker.stats.closed


def test_of_another_protocol_false_is_a_message(scene: Scene, post: Post) -> None:
    class Truth(Protocol):
        def feed(self, data: bytes) -> list[Any]:
            return [data == b"true"]

    scene.note("on_message")
    post.write(post.listen(Truth), b"true", b"false")
    requests(scene, 2)
    assert scene.log == [True, False]


def test_after_a_violation_they_read_no_more_of_it(scene: Scene, post: Post) -> None:
    scene.note("on_message")
    post.write(post.listen(adapt(Lines, "lines")), b"a\nbroken\nb\n", b"c\n7\nd\n", b"e\n")
    requests(scene, 3)
    assert scene.log == ["a", "c", "not this either", "e"]
    assert scene.worker.stats.closed == {CloseReason.PROTOCOL_ERROR: 2}


def test_a_handler_that_swaps_the_protocol_answers_in_the_new_one(scene: Scene, post: Post) -> None:
    def on_message(connection: UdpConnection, data: str) -> None:
        connection.send(data)
        connection.protocol = Text()

    scene.on(on_message=on_message)
    client = post.write(post.listen(adapt(Lines, "lines")), b"one\ntwo\n")
    requests(scene, 1)
    assert [client.recv(100), client.recv(100)] == [b"one to 127.0.0.1", b"two\n"]


def test_an_exception_that_is_no_protocol_error_is_one(
    scene: Scene, post: Post, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Protocol):
        def feed(self, data: bytes) -> list[Any]:
            raise KeyError("why")

    caplog.set_level(logging.INFO, "workermand")
    post.write(post.listen(Broken), b"x")
    requests(scene, 1)
    assert scene.worker.stats.closed == {CloseReason.PROTOCOL_ERROR: 1}
    (record,) = caplog.records
    assert record.exc_info and record.exc_info[0] is KeyError


def test_an_exit_in_a_protocol_is_counted_and_reported(scene: Scene, post: Post) -> None:
    class Exits(Protocol):
        name = "exits"

        def feed(self, data: bytes) -> list[Any]:
            raise SystemExit(3)

    post.write(post.listen(Exits), b"x", b"y")
    requests(scene, 2)
    assert scene.failures == [("protocol exits", "SystemExit: 3")] * 2
    assert scene.worker.stats.closed == {CloseReason.PROTOCOL_ERROR: 2}


@pytest.mark.parametrize("error", [ValueError("not today"), SystemExit("not today")])
def test_a_protocol_that_cannot_be_made_costs_its_datagram_alone(
    scene: Scene, post: Post, error: BaseException
) -> None:
    class Picky(Text):
        made = 0

        def __init__(self, max_package: int) -> None:
            Picky.made += 1
            if Picky.made == 1:
                raise error
            super().__init__(max_package)

    scene.note("on_message")
    post.write(post.listen(Picky), b"x\n", b"y\n")
    requests(scene, 2)
    assert scene.log == ["y"]
    assert scene.failures == [("a datagram on udp://test", f"{type(error).__name__}: not today")]


# ---------------------------------------------------------------------------------------------------- handlers


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit("no"), KeyboardInterrupt("no")])
def test_a_handlers_exception_is_counted_and_the_socket_lives(scene: Scene, post: Post, error: BaseException) -> None:
    def on_message(connection: UdpConnection, data: bytes) -> None:
        if data == b"bad":
            raise error
        connection.send(data)

    scene.on(on_message=on_message)
    client = post.write(post.listen(), b"bad", b"good")
    requests(scene, 2)
    assert scene.failures == [("on_message", f"{type(error).__name__}: no")]
    assert scene.worker.stats.exceptions == 1
    assert client.recv(100) == b"good"


def test_an_exception_in_on_error_is_reported_too(scene: Scene, post: Post) -> None:
    def on_error(connection: UdpConnection, code: int, text: str) -> None:
        raise ValueError("no")

    scene.on(on_message=lambda connection, data: connection.send(b"x" * 65_508), on_error=on_error)
    post.write(post.listen(), b"x")
    requests(scene, 1)
    assert scene.failures == [("on_error", "ValueError: no")]


def test_callbacks_of_its_own_and_those_assigned_later(scene: Scene, post: Post) -> None:
    class Own:
        def on_message(self, connection: UdpConnection, data: bytes) -> None:
            scene.log.append(("own", data))

    scene.on(on_message=lambda connection, data: scene.log.append(("first", data)))
    listener, other = post.listen(), post.listen(callbacks=Handlers(Own()))
    post.write(listener, b"x")
    requests(scene, 1)
    scene.on(on_message=lambda connection, data: scene.log.append(("second", data)))
    post.write(listener, b"y")
    requests(scene, 2)
    post.write(other, b"z")
    requests(scene, 3)
    assert scene.log == [("first", b"x"), ("second", b"y"), ("own", b"z")]


class Doorman:
    """An async on_message that begins in order and ends when the test says so."""

    def __init__(self, scene: Scene) -> None:
        self.begun: list[bytes] = []
        self.open = asyncio.Event()
        scene.on(on_message=self.on_message)

    async def on_message(self, connection: UdpConnection, data: bytes) -> None:
        self.begun.append(data)
        await self.open.wait()
        connection.send(data)


def test_async_handlers_run_side_by_side_in_the_order_of_arrival(scene: Scene, post: Post) -> None:
    doorman = Doorman(scene)
    listener = post.listen()
    client = post.write(listener, b"1", b"2", b"3")
    requests(scene, 3)
    assert doorman.begun == [b"1", b"2", b"3"] and listener.pending == 3
    doorman.open.set()
    scene.until(lambda: not listener.pending)
    assert [client.recv(100) for _ in range(3)] == [b"1", b"2", b"3"]


def test_so_many_async_handlers_and_the_rest_waits_in_the_kernel(scene: Scene, post: Post) -> None:
    scene.limit(inbox=Inbox(messages=2))
    doorman = Doorman(scene)
    listener = post.listen()
    post.write(listener, b"1", b"2", b"3", b"4", b"5")
    requests(scene, 2)
    assert doorman.begun == [b"1", b"2"] and listener.paused and listener.pending == 2
    doorman.open.set()
    requests(scene, 5)
    scene.until(lambda: not listener.pending)
    assert not listener.paused


def test_a_bound_that_is_raised_while_it_is_reached(scene: Scene, post: Post) -> None:
    scene.limit(inbox=Inbox(messages=1))
    doorman = Doorman(scene)
    listener = post.listen()
    post.write(listener, b"1", b"2", b"3")
    requests(scene, 1)
    scene.limit(inbox=Inbox(messages=10))
    doorman.open.set()
    requests(scene, 3)


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit("no")])
def test_an_async_handlers_exception(scene: Scene, post: Post, error: BaseException) -> None:
    async def on_message(connection: UdpConnection, data: bytes) -> None:
        await asyncio.sleep(0)
        raise error

    scene.on(on_message=on_message)
    listener = post.listen()
    post.write(listener, b"x")
    scene.until(lambda: scene.failures)
    scene.until(lambda: not listener.pending)
    assert scene.failures == [("on_message", f"{type(error).__name__}: no")]


# ---------------------------------------------------------------------------------------------------- start, stop


def test_nothing_is_read_before_the_start_nor_in_a_pause(scene: Scene, post: Post) -> None:
    scene.note("on_message")
    listener = post.listen(start=False)
    client = post.write(listener, b"1")
    scene.turn()
    assert scene.log == [] and not listener.paused
    listener.start()
    requests(scene, 1)
    listener.pause()
    assert listener.paused
    client.send(b"2")
    scene.turn()
    assert scene.log == [b"1"]
    listener.resume()
    requests(scene, 2)
    assert scene.log == [b"1", b"2"] and not listener.paused


def test_a_handler_that_pauses_it_gets_no_more_of_what_is_there(scene: Scene, post: Post) -> None:
    def on_message(connection: UdpConnection, data: bytes) -> None:
        scene.log.append(data)
        listener.pause()

    scene.on(on_message=on_message)
    listener = post.listen()
    post.write(listener, b"1", b"2")
    requests(scene, 1)
    listener.resume()
    requests(scene, 2)


def test_stopping_closes_our_copy_alone(scene: Scene, post: Post) -> None:
    """The master's socket keeps what comes for another child."""
    sock = bound()
    first = post.listen(sock=sock.dup())
    first.stop()
    scene.turn()
    assert first._socks == []
    first.start()
    first.resume()
    scene.note("on_message")
    second = post.listen(sock=sock)
    post.write(second, b"x")
    requests(scene, 1)
    assert scene.log == [b"x"]


def test_a_handler_that_stops_it_can_still_answer(scene: Scene, post: Post) -> None:
    def on_message(connection: UdpConnection, data: str) -> None:
        listener.stop()
        connection.send(data)

    scene.on(on_message=on_message)
    listener = post.listen(Text)
    client = post.write(listener, b"one\ntwo\n", b"three\n")
    requests(scene, 1)
    assert [client.recv(100), client.recv(100)] == [b"one\n", b"two\n"]
    assert listener._socks == []


def test_async_handlers_may_answer_after_the_stop(scene: Scene, post: Post) -> None:
    doorman = Doorman(scene)
    listener = post.listen()
    client = post.write(listener, b"1", b"2")
    requests(scene, 2)
    listener.stop()
    client.send(b"3")
    scene.turn()
    assert listener.pending == 2 and doorman.begun == [b"1", b"2"]
    doorman.open.set()
    scene.until(lambda: not listener.pending)
    scene.turn()
    assert [client.recv(100), client.recv(100)] == [b"1", b"2"] and listener._socks == []


def test_answering_when_the_socket_is_closed_is_refused(scene: Scene, post: Post) -> None:
    scene.on(on_message=lambda connection, data: scene.log.append(connection))
    listener = post.listen()
    post.write(listener, b"x")
    requests(scene, 1)
    (connection,) = scene.log
    listener.stop()
    scene.turn()
    assert connection.send(b"too late") is False and scene.worker.stats.send_fail == 1


def test_another_socket_of_the_same_address(scene: Scene, post: Post) -> None:
    """reuse_port: a surplus slot's socket is handed to one that goes on."""
    scene.on(on_message=echo)
    listener = post.listen()
    more = bound()
    elsewhere = more.getsockname()
    listener.add_sockets([more])
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        client.settimeout(PATIENCE)
        client.sendto(b"x", elsewhere)
        requests(scene, 1)
        assert client.recvfrom(100) == (b"x", elsewhere), "the answer comes from where it was asked"


@pytest.mark.parametrize("error", [BlockingIOError(), InterruptedError()])
def test_a_datagram_that_another_child_has_taken(scene: Scene, post: Post, error: OSError) -> None:
    class Emptied:
        def recvfrom(self, size: int) -> Any:
            raise error

    post.listen()._readable(Emptied())  # type: ignore[arg-type]
    assert scene.worker.stats.total_request == 0


def test_what_icmp_has_reported_is_skipped(scene: Scene, post: Post, caplog: pytest.LogCaptureFixture) -> None:
    """A connected socket gets it with its next read; ours are not connected, but a systemd socket may be anything."""
    caplog.set_level(logging.DEBUG, "workermand")
    scene.note("on_message")
    with bound() as gone:
        peer = gone.getsockname()
    sock = bound()
    listener = post.listen(sock=sock, start=False)
    (ours,) = listener._socks
    ours.connect(peer)
    ours.send(b"anybody?")
    listener.start()
    scene.until(lambda: "Connection refused" in caplog.text)
    assert "reading from udp://test" in caplog.text and scene.worker.stats.total_request == 0
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        client.bind(peer)
        client.sendto(b"here", ours.getsockname())
        requests(scene, 1)
    assert scene.log == [b"here"]
