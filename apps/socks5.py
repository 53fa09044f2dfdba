"""A SOCKS5 server (RFC 1928): CONNECT and UDP ASSOCIATE by name, IPv4 or IPv6; with user and password (RFC 1929).

[worker.socks]
listen = "tcp://127.0.0.1:1080"                         # who reaches it reaches whatever this machine reaches
handler = "apps.socks5"
options = { user = "alice", password = "${env:SOCKS}" } # without them: anybody

curl --socks5-hostname alice:PASSWORD@127.0.0.1:1080 https://example.com/

The conversation is a generator: ``yield n`` gives the next n bytes, and so the protocol reads from top to bottom.
"""

import hmac
from collections.abc import Generator

from apps.socks5_udp import Relay, host_of, packed
from workermand import AsyncTcpConnection, ConfigError, Connection, SendError, Timer

SECONDS = 10
"""That the conversation may take."""
CONNECT, ASSOCIATE = 1, 3
DONE, UNREACHABLE, REFUSED, NO_COMMAND, NO_ADDRESS = 0, 4, 5, 7, 8


def on_connect(client: Connection) -> None:
    client.talk, client.context = talk(client), b""
    client.missing = next(client.talk)
    client.deadline = Timer.add(SECONDS, client.close, persistent=False)


def on_message(client: Connection, data: bytes) -> None:
    client.context += data
    while client.missing <= len(client.context):
        taken, client.context = client.context[: client.missing], client.context[client.missing :]
        try:
            client.missing = client.talk.send(taken)
        except StopIteration:
            return


def on_close(client: Connection) -> None:
    Timer.delete(client.deadline)


def talk(client: Connection) -> Generator[int, bytes, None]:
    user, password = (client.worker.options.get(name, "").encode() for name in ("user", "password"))
    method = 2 if user else 0
    version, count = yield 2
    if version != 5 or method not in (yield count):
        client.end(b"\x05\xff")
        return
    client.send(bytes([5, method]))
    if method:
        given = [(yield (yield 2)[1]), (yield (yield 1)[0])]
        if not all([hmac.compare_digest(*pair) for pair in zip(given, (user, password), strict=True)]):  # noqa: C419
            client.end(b"\x01\x01")
            return
        client.send(b"\x01\x00")
    _version, command, _reserved, kind = yield 4
    if kind not in (1, 3, 4):
        client.end(answer(NO_ADDRESS))
        return
    host = host_of(kind, (yield {1: 4, 4: 16}.get(kind) or (yield 1)[0]))
    port = int.from_bytes((yield 2), "big")
    Timer.delete(client.deadline)
    if command == CONNECT:
        connect(client, f"tcp://{host}:{port}")
    elif command == ASSOCIATE:
        relay = Relay(client)
        client.on_message = None
        client.on_close = lambda _client: relay.close()
        client.send(answer(DONE, *relay.address))
    else:
        client.end(answer(NO_COMMAND))


def connect(client: Connection, uri: str) -> None:
    try:
        upstream = AsyncTcpConnection(uri)
    except ConfigError:
        client.end(answer(UNREACHABLE))
        return
    client.pipe(upstream)
    upstream.pipe(client)
    upstream.on_connect = lambda up: client.send(answer(DONE, up.get_local_ip(), up.get_local_port()))
    upstream.on_error = lambda _, code, why: tell(client, code, why)
    upstream.connect()
    upstream.send(client.context)


def tell(client: Connection, code: SendError, why: str) -> None:
    if code is SendError.CONNECT_FAIL:
        client.end(answer(REFUSED if "refused" in why else UNREACHABLE))


def answer(code: int, host: str = "0.0.0.0", port: int = 0) -> bytes:
    return bytes([5, code, 0]) + packed(host, port)
