"""PROXY headers before connections: in memory cut at every byte, at real listeners, and before TLS."""

from __future__ import annotations

import contextlib
import gc
import socket
import ssl
import struct
import weakref
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.certs import Authority
from tests.worker.scene import LOCALHOST, SPEC, Scene, scene
from workermand import certificates
from workermand.errors import CloseReason
from workermand.protocols.http import Http
from workermand.protocols.proxy import SIGNATURE
from workermand.protocols.text import Text
from workermand.spec import Limits, ListenSpec, Timeouts, TlsSpec
from workermand.testing import MemoryTransport
from workermand.worker.connection import Connection
from workermand.worker.listener import Listener
from workermand.worker.proxied import Proxied
from workermand.worker.tls import Keyring
from workermand.worker.wire import Wire

__all__ = ["scene"]

LINE = b"PROXY TCP4 192.0.2.1 192.0.2.2 5555 80\r\n"
IPV6 = b"PROXY TCP6 2001:db8::1 2001:db8::2 5555 80\r\n"
UNKNOWN = b"PROXY UNKNOWN\r\n"
BINARY = SIGNATURE + b"\x21\x11\0\x0c" + bytes((192, 0, 2, 1, 192, 0, 2, 2)) + struct.pack("!HH", 5555, 80)
UNIX = SIGNATURE + b"\x21\x31\0\xd8" + b"/run/client".ljust(216, b"\0")
LOCAL = SIGNATURE + b"\x20\0\0\0"
BEHIND = msgspec.structs.replace(SPEC, proxy_protocol=True, trusted_proxies=("127.0.0.1",))


def apply(scene: Scene, **fields: Any) -> None:
    scene.worker.apply(msgspec.structs.replace(BEHIND, **fields))


@pytest.fixture
def listener(scene: Scene) -> Listener:
    """Real, with a proxy before it."""
    apply(scene)
    return scene.listen()


def dial(listener: Listener) -> socket.socket:
    return socket.create_connection(("127.0.0.1", listener.spec.port), 10)


def closed(scene: Scene, reason: CloseReason) -> int:
    return scene.worker.stats.closed[reason]


def is_cut_off(client: socket.socket) -> bool:
    with contextlib.suppress(ConnectionResetError):
        return client.recv(1) == b""
    return True


# ---------------------------------------------------------------------------------------------------- in memory


def proxied(scene: Scene, listener: Listener, protocol: Any = None) -> tuple[Connection, MemoryTransport]:
    connection = Connection(scene.worker, protocol or Text(), scene.worker.next_connection_id(), listener)
    transport = MemoryTransport()
    transport.connect(Proxied(connection.wire, connection.wire, listener))
    return connection, transport


@pytest.mark.parametrize("header", [LINE, BINARY])
def test_the_network_may_cut_it_anywhere(scene: Scene, listener: Listener, header: bytes) -> None:
    scene.on(on_connect=lambda connection: scene.log.append(connection.get_remote_address()))
    scene.on(on_message=lambda connection, line: scene.log.append(line))
    data = header + b"one\ntwo\n"
    for cut in range(1, len(data)):
        connection, transport = proxied(scene, listener)
        assert listener.pending == 1
        transport.receive(data[:cut])
        assert bool(scene.log) == (cut >= len(header)) == (connection.id in scene.worker.connections)
        transport.receive(data[cut:])
        assert scene.log == ["192.0.2.1:5555", "one", "two"]
        assert connection.bytes_read == len(b"one\ntwo\n") and listener.pending == 0
        scene.log.clear()
    _connection, transport = proxied(scene, listener)
    for byte in data:
        transport.receive(bytes([byte]))
    assert scene.log == ["192.0.2.1:5555", "one", "two"]


def test_on_connect_may_pause_or_close_before_what_follows(scene: Scene, listener: Listener) -> None:
    scene.note("on_message", "on_close")
    scene.on(on_connect=lambda connection: connection.pause_recv())
    connection, transport = proxied(scene, listener)
    transport.receive(LINE + b"one\n")
    assert scene.log == []
    connection.resume_recv()
    assert scene.log == ["one"]
    scene.on(on_connect=lambda connection: connection.close("bye"))
    _connection, transport = proxied(scene, listener)
    transport.receive(LINE + b"two\n")
    transport.settle()
    assert bytes(transport.sent) == b"bye\n" and "two" not in scene.log


def test_nothing_of_it_is_left_behind(scene: Scene, listener: Listener) -> None:
    """Neither after the header, nor after a connection that never had one."""
    gc.disable()
    try:
        for data in (LINE, b"x"):
            connection, transport = proxied(scene, listener)
            gone = weakref.ref(connection)
            transport.receive(data)
            assert isinstance(transport.get_protocol(), Wire) == (data == LINE)
            transport.lose()
            del connection, transport
            assert gone() is None
    finally:
        gc.enable()


# ---------------------------------------------------------------------------------------------------- who is there


@pytest.mark.parametrize(
    ("header", "ip", "port", "address"),
    [
        (LINE, "192.0.2.1", 5555, "192.0.2.1:5555"),
        (BINARY, "192.0.2.1", 5555, "192.0.2.1:5555"),
        (IPV6, "2001:db8::1", 5555, "[2001:db8::1]:5555"),
        (UNIX, "", 0, "unix"),
    ],
)
def test_the_client_has_the_address_of_the_header(
    scene: Scene, listener: Listener, header: bytes, ip: str, port: int, address: str
) -> None:
    scene.on(on_connect=lambda connection: scene.log.append(connection.get_remote_ip()))
    with dial(listener) as client:
        client.sendall(header)
        scene.until(lambda: scene.log)
        (connection,) = scene.worker.connections.values()
        assert scene.log == [ip] == [connection.get_remote_ip()]
        assert (connection.get_remote_port(), connection.get_remote_address()) == (port, address)
        assert (connection.is_ipv4(), connection.is_ipv6()) == ("." in ip, ":" in ip)
        assert connection.get_local_address() == f"127.0.0.1:{listener.spec.port}"
        assert (connection.transport, connection.row().remote) == ("tcp", address)
    scene.until(lambda: not scene.worker.connections)
    assert connection.get_remote_address() == address


@pytest.mark.parametrize("header", [UNKNOWN, LOCAL])
def test_a_proxy_may_speak_for_itself(scene: Scene, listener: Listener, header: bytes) -> None:
    with dial(listener) as client:
        client.sendall(header)
        scene.until(lambda: scene.worker.connections)
        (connection,) = scene.worker.connections.values()
        assert connection.get_remote_address() == f"127.0.0.1:{client.getsockname()[1]}"


def test_a_request_is_of_the_client(scene: Scene, listener: Listener) -> None:
    """Who is no proxy of ours, and so not asked whom it speaks for; behind UNKNOWN there is the proxy itself."""
    scene.on(on_message=lambda _connection, request: scene.log.append(request.remote_ip))
    for header in (LINE, UNKNOWN):
        _connection, transport = proxied(scene, listener, Http(1000, trusted=scene.worker.trusted_proxies))
        transport.receive(header + b"GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 198.51.100.7\r\n\r\n")
    assert scene.log == ["192.0.2.1", "198.51.100.7"]


def test_who_may_connect_to_a_unix_socket_is_believed(scene: Scene, short_dir: Path) -> None:
    apply(scene, trusted_proxies=())
    path = str(short_dir / "s")
    scene.listen(path=path)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        client.sendall(LINE)
        scene.until(lambda: scene.worker.connections)
        (connection,) = scene.worker.connections.values()
        assert connection.get_remote_address() == "192.0.2.1:5555"
        assert (connection.get_local_address(), connection.transport) == (path, "unix")


# ---------------------------------------------------------------------------------------------------- refused


def test_who_is_no_proxy_is_closed_at_once(scene: Scene, listener: Listener) -> None:
    apply(scene, trusted_proxies=("10.0.0.0/8", "::1"))
    scene.note("on_connect", "on_close")
    with dial(listener) as client:
        client.sendall(LINE + b"hello\n")
        scene.until(lambda: closed(scene, CloseReason.PROXY_REFUSED) == 1)
        assert is_cut_off(client)
    assert scene.log == [] and listener.pending == 0 and scene.worker.stats.accepted == 0


@pytest.mark.parametrize(
    "data", [b"hello\n", b"GET / HTTP/1.1\r\n\r\n", LINE[:-2].ljust(107), SIGNATURE + b"\x21\x11\xff\xff"]
)
def test_without_a_header_there_is_no_connection(scene: Scene, listener: Listener, data: bytes) -> None:
    scene.note("on_connect", "on_message", "on_close")
    with dial(listener) as client:
        client.sendall(data)
        scene.until(lambda: closed(scene, CloseReason.PROXY_FAILED) == 1)
        assert is_cut_off(client)
    assert scene.log == [] and not scene.worker.connections and listener.pending == 0


def test_half_a_header_is_a_failure_and_a_mere_look_is_not(scene: Scene, listener: Listener) -> None:
    with dial(listener) as client:
        client.sendall(LINE[:-1])
    scene.until(lambda: closed(scene, CloseReason.PROXY_FAILED) == 1)
    dial(listener).close()
    scene.until(lambda: closed(scene, CloseReason.PEER_CLOSED) == 1)
    assert listener.pending == 0 and scene.worker.stats.closed.total() == 2


def test_it_has_a_deadline(scene: Scene, listener: Listener) -> None:
    apply(scene, timeouts=Timeouts(header=0.05))
    with dial(listener) as client:
        client.sendall(LINE[:10])
        scene.until(lambda: closed(scene, CloseReason.HEADER_TIMEOUT) == 1)
        assert is_cut_off(client)
    assert listener.pending == 0


def test_a_fast_stop_does_not_wait_for_it(scene: Scene, listener: Listener) -> None:
    apply(scene, timeouts=Timeouts(header=0))
    with dial(listener), dial(listener):
        scene.until(lambda: listener.pending == 2)
        listener.hang_up()
        scene.until(lambda: listener.pending == 0)
    assert closed(scene, CloseReason.STOPPED) == 2


def test_per_ip_counts_the_clients_of_the_proxy(scene: Scene, listener: Listener) -> None:
    apply(scene, limits=Limits(per_ip=1))
    with dial(listener) as one, dial(listener) as other, dial(listener) as third:
        one.sendall(LINE)
        scene.until(lambda: len(scene.worker.connections) == 1)
        other.sendall(IPV6)
        scene.until(lambda: len(scene.worker.connections) == 2)
        third.sendall(LINE)
        scene.until(lambda: closed(scene, CloseReason.REFUSED_PER_IP) == 1)
        assert is_cut_off(third)
        one.close()
        scene.until(lambda: len(scene.worker.connections) == 1)
        with dial(listener) as fourth, dial(listener) as proxy, dial(listener) as again:
            fourth.sendall(LINE)
            proxy.sendall(LOCAL)
            again.sendall(LOCAL)
            scene.until(lambda: len(scene.worker.connections) == 4)
    assert closed(scene, CloseReason.REFUSED_PER_IP) == 1


def test_those_without_a_header_yet_count_as_connections(scene: Scene, listener: Listener) -> None:
    apply(scene, limits=Limits(connections=1))
    with dial(listener) as waiting:
        scene.until(lambda: listener.pending == 1)
        with dial(listener) as client:
            client.sendall(LINE)
            scene.until(lambda: listener.paused)
            assert not scene.worker.connections
            waiting.close()
            scene.until(lambda: scene.worker.connections)


# ---------------------------------------------------------------------------------------------------- before TLS


def encrypted(scene: Scene, directory: Path) -> tuple[Listener, Authority]:
    authority = Authority(directory)
    certificate, key = authority.issue()
    settings = TlsSpec(cert=str(certificate), key=str(key))
    scene.worker.keyring = Keyring(settings, certificates.read("tls", settings))
    sock = socket.socket()
    sock.bind(LOCALHOST)
    sock.listen(10)
    port = sock.getsockname()[1]
    spec = ListenSpec(uri="text://x", transport="tcp", protocol="text", host="127.0.0.1", port=port, tls=True)
    listener = Listener(scene.worker, spec, [sock], Text)
    scene._listeners.append(listener)
    listener.start()
    return listener, authority


def test_it_comes_before_tls(scene: Scene, tmp_path: Path) -> None:
    apply(scene)
    listener, authority = encrypted(scene, tmp_path)
    scene.on(on_message=lambda connection, line: connection.send(f"{line} {connection.get_remote_address()}"))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = authority.client().wrap_bio(incoming, outgoing, server_hostname="localhost")

    async def talk() -> bytes:
        reader, writer = await scene.dial(listener)
        writer.write(BINARY)  # together with the ClientHello
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                writer.write(outgoing.read())
                incoming.write(await reader.read(1 << 16))
        tls.write(b"hello\n")
        writer.write(outgoing.read())
        try:
            while True:
                try:
                    return tls.read(100)
                except ssl.SSLWantReadError:
                    incoming.write(await reader.read(1 << 16))
        finally:
            writer.close()

    assert scene.run(talk()) == b"hello 192.0.2.1:5555\n"
    assert scene.worker.stats.accepted == 1


def test_a_handshake_that_fails_behind_it_gives_the_place_back(scene: Scene, tmp_path: Path) -> None:
    apply(scene, limits=Limits(per_ip=1))
    listener, _authority = encrypted(scene, tmp_path)
    for failures in (1, 2):
        with dial(listener) as client:
            client.sendall(LINE + b"no TLS\n")
            scene.until(lambda: closed(scene, CloseReason.TLS_FAILED) == failures)  # noqa: B023
    assert listener.pending == 0 and not closed(scene, CloseReason.REFUSED_PER_IP)
