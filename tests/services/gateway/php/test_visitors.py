"""Sessions of GatewayClient and of a GatewayWorker BusinessWorker, byte for byte, against real gateways of ours.

What PHP sends is built here from its own pieces, pack() and serialize(), and not by wire.py.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from tests.services.gateway.conftest import Client, cluster, ports, register_of
from tests.services.gateway.test_gateway import handshake, read_frame
from workermand.services.gateway import BlockingGatewayClient
from workermand.services.gateway.php.visitors import ANSWER, DO
from workermand.services.gateway.wire import Command
from workermand.testing import RunningServer, ServerFailed


@contextlib.contextmanager
def php_cluster(key: str = "", gateways: int = 1, **more: Any) -> Iterator[tuple[RunningServer, int, int]]:
    """With the ports of the Register and of the first gateway, for PHP."""
    with ports(gateways + 1) as first:
        door = {"start_port": first + 1, "secret_key": key}
        register = {"php": {"listen": f"text://127.0.0.1:{first}", "secret_key": key}}
        options = {"php": door, **more.pop("gateway", {})}
        with cluster(gateways=gateways, gateway=options, register=register, **more) as server:
            yield server, first, first + 1


def pack(command: int, body: bytes = b"", extra: bytes = b"", connection: int = 0, flag: int = 1) -> bytes:
    """GatewayProtocol::encode(): pack("NCNnNnNCnN", ...) . $ext_data . $body"""
    head = struct.pack(">IBIHIHIBHI", 28 + len(extra) + len(body), command, 0, 0, 0, 0, connection, flag, 0, len(extra))
    return head + extra + body


class Php:
    """One connection of GatewayClient's."""

    def __init__(self, port: int, key: str = "") -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), 60)
        self._file = self.sock.makefile("rb")
        if key:  # generateAuthBuffer()
            self.send(202, json.dumps({"secret_key": key}).encode())

    def send(self, *package: Any, **fields: Any) -> None:
        self.sock.sendall(pack(*package, **fields))

    def ask(self, *package: Any, **fields: Any) -> bytes:
        """unserialize() would get this."""
        self.send(*package, **fields)
        return self.answer()

    def answer(self) -> bytes:
        (length,) = struct.unpack(">I", self._file.read(4))
        return self._file.read(length)

    def package(self) -> tuple[tuple[Any, ...], bytes, bytes]:
        """Header, extra data and body, for a business worker."""
        head = struct.unpack(">IBIHIHIBHI", self._file.read(28))
        extra = self._file.read(head[9])
        return head, extra, self._file.read(head[0] - 28 - head[9])

    def is_closed(self) -> bool:
        return self._file.read(1) == b""

    def __enter__(self) -> Php:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self.sock.close()


def addresses(port: int, key: str) -> Any:
    """getAllGatewayAddressesFromRegister()"""
    with socket.create_connection(("127.0.0.1", port), 60) as sock, sock.makefile("rb") as file:
        sock.sendall(b'{"event":"worker_connect","secret_key":"' + key.encode() + b'"}\n')
        return file.readline()


def number_of(client_id: str) -> int:
    return int(client_id[12:], 16)


def test_what_gateway_client_does() -> None:
    with (
        php_cluster("swordfish", secret="another") as (server, register, port),
        Client(server) as a,
        Client(server) as b,
    ):
        a_id, b_id = (client.hear().removeprefix("id ") for client in (a, b))
        one, two = number_of(a_id), number_of(b_id)
        # Context::clientIdToAddress(): pack("NnN")
        assert bytes.fromhex(a_id) == struct.pack(">IHI", 0x7F000001, port, one)
        assert addresses(register, "swordfish") == (
            b'{"event":"broadcast_addresses","addresses":["127.0.0.1:' + str(port).encode() + b'"]}\n'
        )
        with Php(port, "swordfish") as php:
            # isOnline
            assert php.ask(11, connection=one) == b"i:1;"
            assert php.ask(11, connection=7) == b"i:0;"
            # sendToClient, sendToAll, with connections, with exclude, raw
            php.send(5, "zu a: é".encode(), connection=one)
            assert a.hear() == "zu a: é"
            php.send(6, b"to all")
            php.send(6, b"to a", b'{"connections":{"%d":%d}}' % (one, one))
            php.send(6, b"but a", b'{"exclude":{"%d":%d}}' % (one, one))
            php.send(6, b"raw\n", flag=3)
            assert [a.hear() for _ in range(3)] == ["to all", "to a", "raw"]
            assert [b.hear() for _ in range(3)] == ["to all", "but a", "raw"]
            # bindUid, getClientIdByUid, batchGetClientIdByUid, sendToUid, unbindUid
            php.send(12, b"", b"7", one)
            assert php.ask(15, b"", b"7") == b"a:1:{i:0;i:%d;}" % one
            assert php.ask(15, b"", b"8") == b"a:0:{}"
            assert php.ask(16, b"", b'["7","8"]') == b"a:2:{i:7;a:1:{i:0;i:%d;}i:8;a:0:{}}" % one
            php.send(14, b"to 7", b"[7,8]")
            assert a.hear() == "to 7"
            php.send(13, b"", b"7", one)
            assert php.ask(15, b"", b"7") == b"a:0:{}"
            # joinGroup, counts, lists, sendToGroup, leaveGroup, ungroup
            php.send(20, b"", b"g", one)
            php.send(20, b"", b"g", two)
            php.send(20, b"", b"1", two)
            assert php.ask(24, b"", b"g") == b"i:2;"
            assert php.ask(24) == b"i:2;"
            assert php.ask(28, b"", b'["g","1","x"]') == b'a:3:{s:1:"g";i:2;i:1;i:1;s:1:"x";i:0;}'
            assert php.ask(26) == b'a:2:{i:0;s:1:"g";i:1;s:1:"1";}'
            php.send(22, b"to g", b'{"group":["g"],"exclude":null}')
            php.send(22, b"but b", b'{"group":["g","1"],"exclude":{"%d":%d}}' % (two, two))
            assert [a.hear() for _ in range(2)] == ["to g", "but b"]
            assert b.hear() == "to g"
            php.send(21, b"", b"g", one)
            assert php.ask(24, b"", b"g") == b"i:1;"
            php.send(27, b"", b"g")
            assert php.ask(24, b"", b"g") == b"i:0;"
            # setSession, updateSession, getSession, and of all
            assert php.ask(203, connection=one) == b'a:1:{s:8:"connects";i:1;}'
            php.send(204, b"", b'a:1:{s:1:"x";a:1:{s:1:"p";i:1;}}', one)
            php.send(9, b"", b'a:1:{s:1:"x";a:1:{s:1:"q";d:1.5;}}', one)
            merged = b'a:1:{s:1:"x";a:2:{s:1:"p";i:1;s:1:"q";d:1.5;}}'
            assert php.ask(203, connection=one) == merged
            assert php.ask(203, connection=7) == b"N;"
            php.send(204, b"", b"", two)
            assert php.ask(203, connection=two) == b"a:0:{}"
            everybody = b'a:2:{i:%d;s:%d:"%s";i:%d;s:0:"";}' % (one, len(merged), merged, two)
            assert php.ask(10) == everybody
            assert php.ask(23, b"", b"1") == b'a:1:{i:%d;s:0:"";}' % two
            assert a.ask("session") == "{'x': {'p': 1, 'q': 1.5}}"
            # select
            php.send(12, b"", b"7", one)
            assert php.ask(25, b"", b'{"fields":["uid"],"where":[]}') == (
                b'a:2:{i:%d;a:1:{s:3:"uid";s:1:"7";}i:%d;a:1:{s:3:"uid";N;}}' % (one, two)
            )
            assert php.ask(25, b"", b'{"fields":["groups","session"],"where":{"groups":["1"]}}') == (
                b'a:1:{i:%d;a:2:{s:6:"groups";a:1:{i:1;s:1:"1";}s:7:"session";s:0:"";}}' % two
            )
            assert php.ask(25, b"", b'{"fields":[],"where":{"connection_id":{"%d":%d}}}' % (one, one)) == (
                b"a:1:{i:%d;a:0:{}}" % one
            )
            assert php.ask(25, b"", b'{"fields":[],"where":{"uid":["8"]}}') == b"a:0:{}"
            # closeClient with words, destoryClient
            php.send(7, b"bye", connection=one)
            assert a.hear() == "bye"
            assert a.is_closed()
            php.send(8, connection=two)
            assert b.is_closed()


def test_closing_without_words() -> None:
    """closeClient($id): its message is null, and so serialized."""
    with php_cluster() as (server, _register, port), Client(server) as a, Php(port) as php:
        number = number_of(a.hear().removeprefix("id "))
        php.send(7, b"N;", connection=number, flag=0)
        assert a.is_closed()


def test_our_clients_reach_the_same_gateway() -> None:
    with php_cluster() as (server, _register, _port), Client(server) as a:
        id = a.hear().removeprefix("id ")
        with BlockingGatewayClient(register_of(server)) as gateway:
            assert gateway.is_online(id) is True
            assert gateway.update_session(id, {"x": [1]}) is True
            assert gateway.get_session(id) == {"connects": 1, "x": [1]}
            assert gateway.send_to_client(id, "ours").delivered == 1
        assert a.hear() == "ours"
        assert a.ask("count").startswith("1 ")


def test_a_business_worker_in_php() -> None:
    with php_cluster("swordfish", listen="websocket://127.0.0.1:0", business=1) as (server, register, port):
        with Php(port) as worker, contextlib.ExitStack() as stack:
            with socket.create_connection(("127.0.0.1", register), 60) as sock:
                sock.sendall(b'{"event":"worker_connect","secret_key":"swordfish"}\n{"event":"ping"}\n')
                assert b"broadcast_addresses" in sock.makefile("rb").readline()
            # Ours has one client already: the next one is PHP's.
            first = stack.enter_context(contextlib.closing(server.connect("gateway")))
            handshake(first, "/")
            assert read_frame(first)[1].startswith(b"id ")
            worker.send(200, b'{"worker_key":"YourAppBusinessWorker:0","secret_key":"swordfish"}')
            assert worker.ask(24) == b"i:1;"
            client = stack.enter_context(contextlib.closing(server.connect("gateway")))
            handshake(client, "/chat?room_id=7", "Cookie: a=b")
            head, extra, body = worker.package()
            local = client.getsockname()
            number = head[6]
            assert head[1:] == (1, 0x7F000001, port, 0x7F000001, local[1], number, 1, client.getpeername()[1], 0)
            assert (extra, body) == (b"", b"")
            head, extra, body = worker.package()
            assert (head[1], head[7]) == (205, 0)
            assert body.startswith(b'a:3:{s:3:"get";a:1:{s:7:"room_id";s:1:"7";}s:6:"server";a:')
            assert b's:9:"HTTP_HOST";s:1:"x";' in body
            assert body.endswith(b's:6:"cookie";a:1:{s:1:"a";s:1:"b";}}')
            worker.send(204, b"", b'a:1:{s:1:"x";i:1;}', number)
            assert worker.ask(203, connection=number) == b'a:1:{s:1:"x";i:1;}'
            client.sendall(b"\x81\x85\0\0\0\0hello")
            head, extra, body = worker.package()
            assert (head[1], head[6], head[7]) == (3, number, 1)
            assert (extra, body) == (b'a:1:{s:1:"x";i:1;}', b"hello")
            worker.send(5, b"answer", connection=number)
            assert read_frame(client) == (1, b"answer")
            worker.send(5, b"\xff\xfe", connection=number)
            assert read_frame(client) == (2, b"\xff\xfe")
            client.close()
            head, extra, body = worker.package()
            assert (head[1], head[6]) == (4, number)
            # Two with one name are refused, as GatewayWorker does.
            with Php(port) as double:
                double.send(200, b'{"worker_key":"YourAppBusinessWorker:0","secret_key":"swordfish"}')
                assert double.is_closed()


def test_gateways_in_php_are_told_to_php_and_to_us() -> None:
    with php_cluster() as (_server, register, port), socket.create_connection(("127.0.0.1", register), 60) as worker:
        lines = worker.makefile("rb")
        worker.sendall(b'{"event":"worker_connect","secret_key":""}\n')
        ours = b"127.0.0.1:%d" % port
        assert ours in lines.readline()
        with socket.create_connection(("127.0.0.1", register), 60) as gateway:
            gateway.sendall(b'{"event":"gateway_connect", "address":"10.0.0.9:2900", "secret_key":""}\n')
            line = lines.readline()
            assert json.loads(line)["addresses"] == [ours.decode(), "10.0.0.9:2900"]
        assert json.loads(lines.readline())["addresses"] == [ours.decode()]


@pytest.mark.parametrize(
    "sent",
    [
        pack(11, connection=1),
        pack(202, b'{"secret_key":"wrong"}') + pack(24),
        pack(200, b'{"worker_key":"x","secret_key":""}'),
        pack(202, b"not json"),
        pack(202, b"[]"),
    ],
)
def test_without_the_key_nothing_is_done(sent: bytes) -> None:
    with php_cluster("swordfish") as (server, _register, port), Php(port) as php:
        php.sock.sendall(sent)
        assert php.is_closed()
        server.wait_for("refused")
        assert "swordfish" not in server.output


BAD = [
    pack(99),
    pack(5, b'O:8:"stdClass":0:{}', flag=0),
    pack(5, b"a:0:{}", connection=1, flag=0),
    pack(9, b"", b"i:7;", 1),
    pack(204, b"", b"O:1", 1),
    pack(6, b"x", b"{"),
    pack(6, b"x", b'{"connections":"x"}'),
    pack(22, b"x", b""),
    pack(22, b"x", b'{"group":{"a":[]}}'),
    pack(14, b"x", b'{"a":1}'),
    pack(15, b"", b"\xff"),
    pack(25, b"", b'{"where":[]}'),
    pack(25, b"", b'{"fields":["uid"],"where":{"groups":5}}'),
    b"\0\0\0\x1c" + b"\xff" * 24,
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"GET / HTTP/1.1\r\n\r\n",
]


def test_bad_input_ends_its_connection_and_nothing_else() -> None:
    with php_cluster() as (server, _register, port), Client(server) as a:
        a.hear()
        for sent in BAD:
            with Php(port) as php:
                php.sock.sendall(sent)
                assert php.is_closed()
        with Php(port) as php:
            php.send(201)
            assert php.ask(24) == b"i:1;"
        assert a.ask("hello") == "HELLO"


def test_others_than_those_allowed_are_not_let_in() -> None:
    closed = {"php": {"allow": ["192.0.2.0/24"]}}
    with ports(1) as first:
        closed["php"]["start_port"] = first  # type: ignore[assignment]
        with cluster(gateway=closed) as server, Php(first) as php:
            assert php.is_closed()
            server.wait_for(re.escape("is none of options.php.allow"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lan_ip": "::1"}, '"::1" is no IPv4 address'),
        ({"allow": ["home"]}, "options.php.allow: 'home' does not appear"),
        ({"key": "x"}, "options.php: Object contains unknown field key"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ServerFailed, match=re.escape(words)), cluster(gateway={"php": options}):
        pass


def test_every_command_is_understood() -> None:
    events = {Command.ON_CONNECT, Command.ON_MESSAGE, Command.ON_CLOSE, Command.ON_WEBSOCKET_CONNECT}
    others = {Command.WORKER_CONNECT, Command.GATEWAY_CLIENT_CONNECT, Command.PING}
    assert DO.keys() | ANSWER.keys() == set(Command) - events - others
