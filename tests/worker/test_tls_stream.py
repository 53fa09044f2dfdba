"""TlsStream between a wire and a transport in memory, with OpenSSL at the other end; and behind a real listener."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import socket
import ssl
import weakref
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from tests.certs import Authority
from tests.worker.scene import LOCALHOST, SPEC, Scene, scene
from workermand import certificates
from workermand.errors import CloseReason
from workermand.protocols.text import Text
from workermand.spec import Limits, ListenSpec, Timeouts, TlsSpec
from workermand.testing import MemoryTransport
from workermand.worker.connection import Connection
from workermand.worker.listener import Listener
from workermand.worker.tls import Keyring
from workermand.worker.tls_stream import CHUNK, TlsStream
from workermand.worker.wire import DISCARDED

__all__ = ["scene"]


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority(tmp_path_factory.mktemp("tls"))
    made.issue()
    return made


@pytest.fixture
def listener(scene: Scene, authority: Authority) -> Listener:
    """Encrypted, and real."""
    settings = TlsSpec(cert=str(authority.directory / "server.pem"), key=str(authority.directory / "server.key"))
    scene.worker.keyring = Keyring(settings, certificates.read("tls", settings))
    sock = socket.socket()
    sock.bind(LOCALHOST)
    sock.listen(1000)
    port = sock.getsockname()[1]
    spec = ListenSpec(uri="text://x", transport="tcp", protocol="text", host="127.0.0.1", port=port, tls=True)
    made = Listener(scene.worker, spec, [sock], Text)
    scene._listeners.append(made)
    made.start()
    return made


class Peer:
    """A client in memory: what it says arrives at once, what it gets lies in ``plain``."""

    def __init__(self, scene: Scene, listener: Listener, context: ssl.SSLContext) -> None:
        self.connection = Connection(scene.worker, Text(), scene.worker.next_connection_id(), listener)
        keyring = scene.worker.keyring
        assert keyring is not None
        self.transport = MemoryTransport()
        self.stream = TlsStream(self.connection.wire, keyring.context("text"), listener)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")
        self.plain = b""
        self.has_ended = False
        self._taken = 0
        self.transport.connect(self.stream)

    def shake_hands(self) -> None:
        for _ in range(3):
            with contextlib.suppress(ssl.SSLWantReadError):
                self.tls.do_handshake()
            self.exchange()

    def exchange(self) -> None:
        if data := self._outgoing.read():
            self.transport.receive(data)
        self.take()

    def take(self) -> None:
        new = bytes(self.transport.sent[self._taken :])
        self._taken += len(new)
        self._incoming.write(new)

    def say(self, data: bytes) -> None:
        self.tls.write(data)
        self.exchange()

    def hear(self) -> bytes:
        self.take()
        try:
            while chunk := self.tls.read(1 << 16):
                self.plain += chunk
            self.has_ended = True
        except ssl.SSLZeroReturnError:  # said to who has said goodbye himself
            self.has_ended = True
        except ssl.SSLWantReadError:
            pass
        return self.plain

    def say_goodbye(self) -> None:
        with contextlib.suppress(ssl.SSLError):
            self.tls.unwrap()
        self.exchange()

    def encrypted(self, data: bytes) -> bytes:
        self.tls.write(data)
        return self._outgoing.read()


@pytest.fixture
def fresh(scene: Scene, listener: Listener, authority: Authority) -> Callable[[], Peer]:
    """Makes a client that has not yet shaken hands."""
    return lambda: Peer(scene, listener, authority.client())


@pytest.fixture
def meet(fresh: Callable[[], Peer]) -> Callable[[], Peer]:
    """Makes one that has."""

    def make() -> Peer:
        made = fresh()
        made.shake_hands()
        return made

    return make


@pytest.fixture
def peer(meet: Callable[[], Peer]) -> Peer:
    """One of a worker without callbacks."""
    return meet()


def echo(connection: Connection, data: Any) -> None:
    connection.send(data)


# ---------------------------------------------------------------------------------------------------- the handshake


def test_the_wire_begins_after_the_handshake(scene: Scene, fresh: Callable[[], Peer], listener: Listener) -> None:
    scene.note("on_connect")
    peer = fresh()
    assert scene.log == [] and scene.worker.connections == {} and listener.pending == 1
    peer.shake_hands()
    assert scene.log == ["on_connect"] and listener.pending == 0
    assert list(scene.worker.connections.values()) == [peer.connection]


def test_what_comes_with_the_end_of_the_handshake_is_read(scene: Scene, fresh: Callable[[], Peer]) -> None:
    scene.on(on_connect=lambda connection: connection.send("welcome"), on_message=echo)
    peer = fresh()
    with contextlib.suppress(ssl.SSLWantReadError):
        peer.tls.do_handshake()
    peer.exchange()
    peer.tls.do_handshake()
    peer.say(b"early\n")
    assert peer.hear() == b"welcome\nearly\n"


def test_a_handler_that_pauses_in_on_connect_is_obeyed(scene: Scene, fresh: Callable[[], Peer]) -> None:
    scene.note("on_message")
    scene.on(on_connect=lambda connection: connection.pause_recv())
    peer = fresh()
    with contextlib.suppress(ssl.SSLWantReadError):
        peer.tls.do_handshake()
    peer.exchange()
    peer.tls.do_handshake()
    peer.say(b"early\n")
    assert scene.log == []
    peer.connection.resume_recv()
    scene.turn()
    assert scene.log == ["early"]


def test_byte_by_byte(scene: Scene, fresh: Callable[[], Peer]) -> None:
    scene.on(on_message=echo)
    peer = fresh()
    for _ in range(3):
        with contextlib.suppress(ssl.SSLWantReadError):
            peer.tls.do_handshake()
        for byte in peer._outgoing.read():
            peer.transport.receive(bytes([byte]))
        peer.take()
    for byte in peer.encrypted(b"one\ntwo\n"):
        peer.transport.receive(bytes([byte]))
    assert peer.hear() == b"one\ntwo\n"


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x00\x05abcde", b"\0" * 100])
def test_who_speaks_no_tls_is_counted_and_closed(
    scene: Scene, fresh: Callable[[], Peer], listener: Listener, garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    scene.note("on_connect", "on_close")
    peer = fresh()
    with caplog.at_level(logging.INFO):
        peer.transport.receive(garbage)
    assert scene.worker.stats.closed == {CloseReason.TLS_FAILED: 1}
    assert scene.log == [] and listener.pending == 0 and scene.failures == [] and caplog.text == ""


def test_who_goes_before_the_end_of_the_handshake(scene: Scene, fresh: Callable[[], Peer], listener: Listener) -> None:
    for end in (MemoryTransport.receive_eof, MemoryTransport.lose):
        end(fresh().transport)
    assert scene.worker.stats.closed == {CloseReason.TLS_FAILED: 2}
    assert listener.pending == 0 and scene.failures == []


# ---------------------------------------------------------------------------------------------------- in and out


def test_who_it_is(scene: Scene, peer: Peer) -> None:
    connection = peer.connection
    assert connection.transport == "ssl" and connection.row().transport == "ssl"
    assert connection.tls is not None
    assert (connection.tls.version, connection.tls.alpn) == ("TLSv1.3", None)
    assert connection.tls.cipher.startswith("TLS_")
    assert connection.get_peer_certificate() is None
    assert connection.get_remote_ip() == "127.0.0.1"
    plain, _transport = scene.connect()
    assert (plain.transport, plain.tls, plain.get_peer_certificate()) == ("tcp", None, None)


def test_one_turn_is_one_write(scene: Scene, meet: Callable[[], Peer]) -> None:
    scene.on(on_message=echo)
    peer = meet()
    before = len(peer.transport.writes)
    peer.say(b"a\n" * 16)
    assert len(peer.transport.writes) == before + 1
    assert peer.hear() == b"a\n" * 16


def test_a_message_larger_than_a_chunk(peer: Peer) -> None:
    text = "x" * (3 * CHUNK + 7)
    peer.connection.send(text)
    assert peer.hear() == text.encode() + b"\n"
    peer.say(b"y" * 100_000)
    assert peer.connection.get_recv_buffer_size() == 100_000


def test_limits_and_pauses_are_those_of_what_the_kernel_has_not_taken(scene: Scene, meet: Callable[[], Peer]) -> None:
    scene.note("on_buffer_full", "on_buffer_drain")
    peer = meet()
    peer.connection.max_send_buffer_size = 1000
    peer.transport.stall()
    assert peer.connection.send("x" * 500) is None
    assert 500 <= peer.connection.get_send_buffer_size() < 600
    assert peer.connection.send("x" * 500) is None and peer.connection.send("x") is False
    peer.transport.drain()
    assert scene.log == ["on_buffer_full", "on_buffer_drain"]
    assert peer.connection.buffer_is_empty() and len(peer.hear()) == 1002


def test_a_paused_connection_is_not_read(scene: Scene, meet: Callable[[], Peer]) -> None:
    scene.note("on_message")
    peer = meet()
    peer.connection.pause_recv()
    peer.say(b"one\n")
    assert scene.log == []
    peer.connection.resume_recv()
    peer.say(b"two\n")
    assert scene.log == ["one", "two"]


# ---------------------------------------------------------------------------------------------------- the end


def test_who_has_said_goodbye_still_gets_his_answers(scene: Scene, meet: Callable[[], Peer]) -> None:
    scene.on(on_message=lambda connection, _data: connection.pause_recv())
    peer = meet()
    peer.say(b"question\n")
    peer.say_goodbye()
    peer.transport.receive(b"not even decrypted")
    peer.connection.send("answer")
    assert peer.hear() == b"answer\n" and not peer.has_ended


def test_the_end_of_the_input_is_a_turn(scene: Scene, meet: Callable[[], Peer]) -> None:
    scene.on(on_message=echo)
    scene.note("on_close")
    peer = meet()
    peer.say(b"last\n")
    assert peer.hear() == b"last\n" and not peer.has_ended
    peer.say_goodbye()
    peer.hear()
    assert peer.has_ended
    assert scene.log == ["on_close"] and peer.connection.close_reason is CloseReason.PEER_CLOSED


def test_end_says_goodbye_behind_the_last_answer_and_discards(scene: Scene, meet: Callable[[], Peer]) -> None:
    scene.note("on_message")
    peer = meet()
    peer.transport.stall()
    peer.connection.end("bye")
    late = peer.encrypted(b"late\n")
    peer.transport.receive(late)
    assert scene.log == [] and not peer.transport.aborted
    peer.transport.drain()
    assert peer.hear() == b"bye\n" and peer.has_ended and peer.transport.eof_sent
    peer.transport.receive_eof()
    assert peer.connection.close_reason is CloseReason.CLOSED and not scene.worker.connections


def test_end_has_a_limit(scene: Scene, peer: Peer) -> None:
    peer.connection.end("bye")
    for _ in range(2):
        assert not peer.transport.aborted
        peer.transport.receive(bytes(DISCARDED // 2 + 1))
    assert peer.transport.aborted


def test_close_says_goodbye(peer: Peer) -> None:
    peer.connection.close("bye")
    assert peer.hear() == b"bye\n" and peer.has_ended
    assert peer.connection.send("more") is False


def test_destroy_says_nothing(peer: Peer) -> None:
    peer.connection.destroy()
    assert peer.hear() == b"" and not peer.has_ended and peer.transport.aborted
    peer.stream.write(b"nobody reads this")
    assert b"nobody" not in peer.hear()


def test_a_cut_is_no_end_of_input(scene: Scene, meet: Callable[[], Peer]) -> None:
    """Whoever cuts the connection must not make a message of half a one."""
    scene.note("on_message", "on_close")
    peer = meet()
    peer.say(b"hal")
    peer.transport.receive_eof()
    assert scene.log == ["on_close"] and peer.connection.close_reason is CloseReason.PEER_CLOSED


def test_what_was_good_before_a_forged_record_is_delivered(scene: Scene, meet: Callable[[], Peer]) -> None:
    scene.note("on_message", "on_close")
    peer = meet()
    good = peer.encrypted(b"good\n")
    forged = bytearray(peer.encrypted(b"forged\n"))
    forged[-1] ^= 1
    peer.transport.receive(good + forged)
    peer.transport.settle()
    assert scene.log == ["good", "on_close"]
    assert peer.connection.close_reason is CloseReason.PEER_RESET


def test_answers_to_what_came_before_a_forged_record_are_dropped_in_silence(
    scene: Scene, meet: Callable[[], Peer]
) -> None:
    scene.on(on_message=echo)
    peer = meet()
    good = peer.encrypted(b"good\n")
    forged = bytearray(peer.encrypted(b"forged\n"))
    forged[-1] ^= 1
    peer.transport.receive(good + forged)
    peer.transport.settle()
    assert peer.connection.close_reason is CloseReason.PEER_RESET and scene.failures == []


def test_the_end_waits_for_who_has_paused(scene: Scene, meet: Callable[[], Peer]) -> None:
    scene.on(on_message=lambda connection, data: (connection.send(data), connection.pause_recv()))
    peer = meet()
    peer.transport.receive(peer.encrypted(b"one\ntwo\n") + goodbye(peer))
    assert peer.hear() == b"one\n" and not peer.has_ended
    peer.connection.resume_recv()
    scene.turn()
    assert peer.hear() == b"one\ntwo\n" and not peer.has_ended
    peer.connection.resume_recv()
    scene.turn()
    peer.hear()
    assert peer.has_ended


def goodbye(peer: Peer) -> bytes:
    with contextlib.suppress(ssl.SSLError):
        peer.tls.unwrap()
    return peer._outgoing.read()


@pytest.mark.parametrize("begins", [True, False])
def test_no_cycle_keeps_it_alive(fresh: Callable[[], Peer], begins: bool, request: pytest.FixtureRequest) -> None:
    gc.disable()
    request.addfinalizer(gc.enable)
    peer = fresh()
    if begins:
        peer.shake_hands()
    kept = [weakref.ref(peer.connection), weakref.ref(peer.tls)]
    peer.transport.lose()
    transport = peer.transport
    del peer
    transport.set_protocol(asyncio.Protocol())  # as uvloop does at the end
    assert [ref() for ref in kept] == [None, None]


# ---------------------------------------------------------------------------------------------------- behind a listener


def dial(listener: Listener) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", listener.spec.port), 10)
    client.setblocking(False)
    return client


def test_half_open_handshakes_count_as_connections(scene: Scene, listener: Listener) -> None:
    scene.worker.apply(msgspec.structs.replace(SPEC, limits=Limits(connections=3)))
    clients = [dial(listener) for _ in range(5)]
    scene.until(lambda: listener.pending == 3 and listener.paused)
    clients[0].close()
    scene.until(lambda: scene.worker.stats.closed[CloseReason.TLS_FAILED] == 1)
    scene.until(lambda: listener.pending == 3)
    for client in clients[1:]:
        client.close()
    scene.until(lambda: scene.worker.stats.closed[CloseReason.TLS_FAILED] == 5)
    assert listener.pending == 0 and not scene.worker.connections


def test_per_ip_is_given_back(scene: Scene, listener: Listener) -> None:
    scene.worker.apply(msgspec.structs.replace(SPEC, limits=Limits(per_ip=1)))
    first = dial(listener)
    scene.until(lambda: listener.pending == 1)
    dial(listener).close()
    scene.until(lambda: scene.worker.stats.closed[CloseReason.REFUSED_PER_IP] == 1)
    first.close()
    scene.until(lambda: listener.pending == 0)
    with dial(listener):
        scene.until(lambda: listener.pending == 1)
    scene.until(lambda: listener.pending == 0)


def test_a_handshake_has_a_deadline(scene: Scene, listener: Listener) -> None:
    scene.worker.apply(msgspec.structs.replace(SPEC, timeouts=Timeouts(handshake=0.05)))
    with dial(listener) as client:
        scene.until(lambda: scene.worker.stats.closed[CloseReason.TLS_FAILED] == 1)
        client.setblocking(True)
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b""


def test_a_fast_stop_hangs_up(scene: Scene, listener: Listener) -> None:
    scene.worker.apply(msgspec.structs.replace(SPEC, timeouts=Timeouts(handshake=0)))
    with dial(listener), dial(listener):
        scene.until(lambda: listener.pending == 2)
        listener.hang_up()
        scene.until(lambda: listener.pending == 0)


def test_a_browser_that_was_sent_here_with_http_is_told(scene: Scene, authority: Authority) -> None:
    settings = TlsSpec(cert=str(authority.directory / "server.pem"), key=str(authority.directory / "server.key"))
    scene.worker.keyring = Keyring(settings, certificates.read("tls", settings))
    spec = ListenSpec(uri="https://x", transport="tcp", protocol="http", host="127.0.0.1", port=1, tls=True)
    peer = Peer(scene, Listener(scene.worker, spec, [], Text), authority.client())
    peer.transport.receive(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    head, _, body = bytes(peer.transport.sent).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n") and f"Content-Length: {len(body)}".encode() in head
