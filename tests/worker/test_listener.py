"""Clients of real listening sockets: accepted, refused, left in the backlog, and whom the sockets belong to."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from tests.worker.scene import Scene, scene
from workermand.protocols.text import Text
from workermand.spec import Keepalive, ListenSpec
from workermand.worker.connection import Connection
from workermand.worker.listener import BATCH, Listener

__all__ = ["scene"]


def dial(listener: Listener) -> socket.socket:
    return socket.create_connection(("127.0.0.1", listener.spec.port), 10)


def echo(connection: Connection, data: Any) -> None:
    connection.send(data)


def only(scene: Scene) -> Connection:
    scene.until(lambda: scene.worker.connections)
    (connection,) = scene.worker.connections.values()
    return connection


async def ask(scene: Scene, listener: Listener, line: bytes) -> bytes:
    reader, writer = await scene.dial(listener)
    writer.write(line)
    answer = await reader.readline()
    writer.close()
    await writer.wait_closed()
    return answer


def test_a_client_is_served(scene: Scene) -> None:
    scene.on(on_message=echo)
    listener = scene.listen()
    assert scene.run(ask(scene, listener, b"hello\n")) == b"hello\n"
    scene.until(lambda: not scene.worker.connections)
    assert scene.worker.stats.accepted == 1 and listener.pending == 0


def test_over_a_unix_socket(scene: Scene, short_dir: Path) -> None:
    scene.worker.tcp_nodelay = False  # an option it does not have
    scene.on(on_message=echo)
    listener = scene.listen(path=str(short_dir / "s"))
    assert scene.run(ask(scene, listener, b"hello\n")) == b"hello\n"


def test_over_ipv6_an_ipv4_client_has_its_plain_address(scene: Scene) -> None:
    sock = socket.socket(socket.AF_INET6)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind(("::", 0))
    sock.listen()
    spec = ListenSpec(uri="test://", transport="tcp", protocol="text", host="::", port=sock.getsockname()[1])
    listener = Listener(scene.worker, spec, [sock], Text)
    listener.start()
    with dial(listener):
        four = only(scene)
        assert (four.get_remote_ip(), four.is_ipv4()) == ("127.0.0.1", True)
        four.destroy()
        scene.until(lambda: not scene.worker.connections)
    with socket.create_connection(("::1", spec.port), 10):
        six = only(scene)
        assert (six.get_remote_ip(), six.is_ipv6()) == ("::1", True)
    listener.stop()


def test_nobody_is_accepted_before_the_start_nor_in_a_pause_nor_after_the_end(scene: Scene) -> None:
    listener = scene.listen(start=False)
    with dial(listener):
        scene.turn()
        assert scene.worker.stats.accepted == 0
        listener.start()
        scene.until(lambda: scene.worker.stats.accepted == 1)
        listener.pause()
        assert listener.paused
        with dial(listener):
            scene.turn()
            assert scene.worker.stats.accepted == 1
            listener.resume()
            scene.until(lambda: scene.worker.stats.accepted == 2)
    listener.stop()
    listener.start()
    listener.resume()
    assert not listener.paused
    with pytest.raises(ConnectionRefusedError):
        dial(listener)


def test_stopping_closes_our_copy_alone(scene: Scene) -> None:
    """The master's socket goes on listening, and keeps those in its backlog for another child."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    spec = ListenSpec(uri="test://", transport="tcp", protocol="text", port=sock.getsockname()[1])
    first = Listener(scene.worker, spec, [sock.dup()], Text)
    with dial(first):
        first.start()
        first.stop()
        second = Listener(scene.worker, spec, [sock], Text)
        second.start()
        scene.until(lambda: scene.worker.stats.accepted == 1)
    second.stop()


def test_connections_stay_when_the_listener_stops(scene: Scene) -> None:
    scene.on(on_message=echo)
    listener = scene.listen()
    with dial(listener) as client:
        only(scene)
        listener.stop()
        client.sendall(b"still\n")
        scene.until(lambda: scene.worker.stats.total_request)
        assert client.recv(10) == b"still\n"


def test_another_socket_of_the_same_address(scene: Scene) -> None:
    """reuse_port: a surplus slot's socket is handed to one that goes on."""
    listener = scene.listen()
    more = socket.socket()
    more.bind(("127.0.0.1", 0))
    more.listen()
    port = more.getsockname()[1]
    listener.add_sockets([more])
    with socket.create_connection(("127.0.0.1", port), 10):
        scene.until(lambda: scene.worker.stats.accepted == 1)


def test_a_burst_is_taken_in_portions_and_none_is_left(scene: Scene) -> None:
    listener = scene.listen()
    clients = [dial(listener) for _ in range(3 * BATCH + 1)]
    scene.until(lambda: len(scene.worker.connections) == len(clients))
    for client in clients:
        client.close()
    scene.until(lambda: not scene.worker.connections)


def test_what_the_socket_says_is_inherited_by_each_connection(scene: Scene) -> None:
    scene.worker.keepalive = Keepalive(idle=7.4, interval=3, count=2)
    listener = scene.listen()
    with dial(listener):
        sock = only(scene).get_socket()
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_NODELAY)
        assert [sock.getsockopt(socket.IPPROTO_TCP, option) for option in options] == [7, 3, 2, 1]


def test_without_keepalive_and_with_delay(scene: Scene) -> None:
    scene.worker.keepalive = Keepalive(idle=0)
    scene.worker.tcp_nodelay = False
    listener = scene.listen()
    with dial(listener):
        sock = only(scene).get_socket()
        assert not sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert not sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize("error", [ValueError("not today"), SystemExit("not today")])
def test_a_protocol_that_cannot_be_made_costs_its_client_alone(scene: Scene, error: BaseException) -> None:
    class Picky(Text):
        made = 0

        def __init__(self, max_package: int) -> None:
            Picky.made += 1
            if Picky.made == 2:
                raise error
            super().__init__(max_package)

    scene.on(on_message=echo)
    listener = scene.listen(Picky, start=False)
    with dial(listener) as first, dial(listener) as unlucky, dial(listener) as last:
        listener.start()
        scene.until(lambda: scene.worker.stats.accepted == 2)
        scene.turn()
        assert unlucky.recv(10) == b""
        for client in (first, last):
            client.sendall(b"x\n")
        scene.until(lambda: scene.worker.stats.total_request == 2)
        assert first.recv(10) == last.recv(10) == b"x\n"
    assert scene.failures == [("a new connection on test://", f"{type(error).__name__}: not today")]
    assert listener.pending == 0


@pytest.mark.parametrize("error", [BlockingIOError(), InterruptedError()])
def test_a_client_that_another_child_has_taken_is_nothing_to_speak_of(
    scene: Scene, error: OSError, caplog: pytest.LogCaptureFixture
) -> None:
    class Fails:
        def accept(self) -> None:
            raise error

    listener = scene.listen()
    listener._readable(Fails())  # type: ignore[arg-type]
    assert caplog.text == "" and not listener.paused


def test_one_who_is_gone_keeps_nobody_waiting(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    listener = scene.listen(start=False)
    (sock,) = listener._socks

    class FirstIsGone:
        calls = 0

        def accept(self) -> Any:
            self.calls += 1
            if self.calls == 1:
                raise ConnectionAbortedError
            return sock.accept()

    with dial(listener):
        listener._readable(FirstIsGone())  # type: ignore[arg-type]
        scene.until(lambda: scene.worker.stats.accepted == 1)
        assert caplog.text == "" and not listener.paused


def test_who_is_accepted_is_served_even_if_the_listener_stops_just_then(scene: Scene) -> None:
    """A drain waits for what is pending."""
    scene.on(on_message=echo)
    listener = scene.listen(start=False)
    with dial(listener) as client:
        listener._readable(listener._socks[0])
        assert listener.pending == 1 and not scene.worker.connections
        listener.stop()
        client.sendall(b"x\n")
        scene.until(lambda: scene.worker.stats.total_request)
        assert client.recv(10) == b"x\n" and listener.pending == 0


def test_connections_keep_the_callbacks_that_were_in_force(scene: Scene) -> None:
    scene.on(on_message=echo)
    listener = scene.listen()
    with dial(listener) as old:
        only(scene)
        scene.on(on_message=lambda connection, data: connection.send("new " + data))
        with dial(listener) as new:
            scene.until(lambda: len(scene.worker.connections) == 2)
            for client in (old, new):
                client.sendall(b"x\n")
            scene.until(lambda: scene.worker.stats.total_request == 2)
            assert (old.recv(10), new.recv(10)) == (b"x\n", b"new x\n")


def test_an_async_on_close_is_pending_until_it_is_done(scene: Scene) -> None:
    gone = scene.loop.create_future()

    async def on_close(connection: Connection) -> None:
        await gone

    scene.on(on_close=on_close)
    listener = scene.listen()
    dial(listener).close()
    scene.until(lambda: scene.worker.stats.accepted and not scene.worker.connections)
    assert listener.pending == 1
    gone.set_result(None)
    scene.until(lambda: listener.pending == 0)
