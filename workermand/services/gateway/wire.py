"""GatewayWorker's own wire, version 4: what PHP programs say to a gateway, and it to them. Pure.

Between the parts of our own cluster messages.py is spoken; this is for php/: its programs at our gateways, and ours
at gateways in PHP. A package, numbers big endian:

    N   length of the whole                     N   client's IPv4 address     C   flags
    C   command                                 n   client's port             n   port the client came to
    N   gateway's inner IPv4 address            N   connection's number       N   length of the extra data
    n   gateway's inner port

then the extra data, then the body. Answers to questions have no header: ``N`` length, and a serialize()d value. Nor
have they numbers: the answers on one connection come in the order of the questions.
"""

from __future__ import annotations

import json
import struct
from enum import IntEnum
from typing import Any, ClassVar, Final

import msgspec

from workermand import LengthPrefixed, ProtocolError
from workermand.services.links.serialize import SerializeError, serialize, unserialize

HEAD: Final = struct.Struct(">IBIHIHIBHI")
SIZE: Final = HEAD.size
"""28 bytes."""

SCALAR: Final = 1
"""Flag: the body is bytes as they stand, not a serialize()d value."""
NOT_ENCODED: Final = 2
"""Flag: the body goes to the client without being encoded."""


class Command(IntEnum):
    """GatewayProtocol::CMD_*."""

    ON_CONNECT = 1
    ON_MESSAGE = 3
    ON_CLOSE = 4
    SEND_TO_ONE = 5
    SEND_TO_ALL = 6
    KICK = 7
    DESTROY = 8
    UPDATE_SESSION = 9
    GET_ALL_CLIENT_SESSIONS = 10
    IS_ONLINE = 11
    BIND_UID = 12
    UNBIND_UID = 13
    SEND_TO_UID = 14
    GET_CLIENT_ID_BY_UID = 15
    BATCH_GET_CLIENT_ID_BY_UID = 16
    JOIN_GROUP = 20
    LEAVE_GROUP = 21
    SEND_TO_GROUP = 22
    GET_CLIENT_SESSIONS_BY_GROUP = 23
    GET_CLIENT_COUNT_BY_GROUP = 24
    SELECT = 25
    GET_GROUP_ID_LIST = 26
    UNGROUP = 27
    BATCH_GET_CLIENT_COUNT_BY_GROUP = 28
    WORKER_CONNECT = 200
    PING = 201
    GATEWAY_CLIENT_CONNECT = 202
    GET_SESSION_BY_CLIENT_ID = 203
    SET_SESSION = 204
    ON_WEBSOCKET_CONNECT = 205


EVENTS: Final = frozenset(
    {Command.ON_CONNECT, Command.ON_MESSAGE, Command.ON_CLOSE, Command.ON_WEBSOCKET_CONNECT},
)
TOLD: Final = EVENTS | {Command.PING}
"""What a gateway says of itself."""
LETTER: Final = 4
"""Where the byte behind the length is."""


class Package(msgspec.Struct, frozen=True):
    """One of them. Addresses are 32-bit numbers, as ip2long() has them."""

    command: int
    body: bytes = b""
    extra: bytes = b""
    connection: int = 0
    flags: int = SCALAR
    local_ip: int = 0
    local_port: int = 0
    client_ip: int = 0
    client_port: int = 0
    gateway_port: int = 0

    @property
    def value(self) -> Any:
        """The body as PHP has it. Raises SerializeError."""
        return self.body if self.flags & SCALAR else unserialize(self.body)


def pack(package: Package) -> bytes:
    """The whole, as GatewayProtocol::encode() writes it."""
    length = SIZE + len(package.extra) + len(package.body)
    head = HEAD.pack(
        length,
        package.command,
        package.local_ip,
        package.local_port,
        package.client_ip,
        package.client_port,
        package.connection,
        package.flags,
        package.gateway_port,
        len(package.extra),
    )
    return b"".join((head, package.extra, package.body))


def unpack(whole: bytes) -> Package:
    """Raises ProtocolError when the lengths in it contradict each other."""
    if len(whole) < SIZE:
        raise ProtocolError(f"gateway: a package of {len(whole)} bytes, and its header alone has {SIZE}")
    length, command, local_ip, local_port, client_ip, client_port, connection, flags, gateway_port, extra = (
        HEAD.unpack_from(whole)
    )
    if length != len(whole) or SIZE + extra > length:
        raise ProtocolError(f"gateway: lengths that contradict each other: {length}, {extra} of extra data")
    body = SIZE + extra
    return Package(
        command,
        whole[body:],
        whole[SIZE:body],
        connection,
        flags,
        local_ip,
        local_port,
        client_ip,
        client_port,
        gateway_port,
    )


class Packages(LengthPrefixed):
    """A stream of them: messages are Package, either way."""

    __slots__ = ()

    name: ClassVar[str] = "gateway"

    def decode(self, package: bytes) -> Package:
        """Behind the length."""
        return unpack((len(package) + 4).to_bytes(4) + package)

    def encode(self, message: Package) -> bytes:
        return pack(message)


def answer(value: Any) -> bytes:
    """To a question. Raises SerializeError."""
    serialized = serialize(value)
    return len(serialized).to_bytes(4) + serialized


class Talk(LengthPrefixed):
    """All that a gateway says: packages, which are messages as Package, and between them answers, as their bytes, for
    unserialize(). What goes the other way are packages.

    The byte behind the length tells them apart: a command's number, or a letter of serialize().
    """

    __slots__ = ()

    name: ClassVar[str] = "gateway"

    def feed(self, data: bytes) -> list[Any]:
        if self._held and not (data := self._join(data)):
            return []
        messages: list[bytes] = []
        start, end, wanted = 0, len(data), LETTER + 1
        while start + LETTER < end:
            total = int.from_bytes(data[start : start + LETTER])
            if data[start + LETTER] not in TOLD:
                total += LETTER
            if not LETTER < total <= self.max_package:
                self._refuse(total, messages)
            if start + total > end:
                wanted = total
                break
            messages.append(data[start : start + total])
            start += total
        self._wanted = wanted
        self._held = data[start:]
        return self._messages(messages)

    def decode(self, package: bytes) -> Package | bytes:
        """With its length."""
        return unpack(package) if package[LETTER] in TOLD else package[LETTER:]

    def encode(self, message: Package) -> bytes:
        return pack(message)


def ip_number(ip: str) -> int:
    """ip2long(): 0 for what is not IPv4, as PHP packs its false."""
    parts = ip.split(".")
    if len(parts) != 4 or not all(part.isdigit() and int(part) < 256 for part in parts):
        return 0
    return int.from_bytes(bytes(map(int, parts)))


def number_ip(number: int) -> str:
    """long2ip()."""
    return ".".join(map(str, number.to_bytes(4)))


# ---------------------------------------------------------------------------------------------------- extra data, JSON


def json_bytes(value: Any) -> bytes:
    """json_encode() as PHP writes it: no blanks, everything beyond ASCII escaped, and slashes too."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True).replace("/", "\\/").encode()


def read_json(text: bytes) -> Any:
    """Raises SerializeError."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise SerializeError(f"extra data that is no JSON: {error}") from None


# ---------------------------------------------------------------------------------------------------- Register


class Said(msgspec.Struct):
    """What is said to a Register, and by it: one JSON object to a line."""

    event: str
    address: str = ""
    addresses: list[str] | dict[str, str] = []
    """PHP's array_unique() leaves gaps, and then json_encode() makes an object of it."""
    secret_key: str = ""

    @property
    def places(self) -> list[str]:
        """The addresses, however they came."""
        return list(self.addresses.values()) if isinstance(self.addresses, dict) else self.addresses


def read_said(line: str | bytes) -> Said:
    """Raises SerializeError."""
    try:
        return msgspec.json.decode(line, type=Said)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise SerializeError(f"no line of a Register's: {error}") from None


def gateway_connect(address: str, secret: str) -> str:
    return _line({"event": "gateway_connect", "address": address, "secret_key": secret})


def worker_connect(secret: str) -> str:
    return _line({"event": "worker_connect", "secret_key": secret})


def ping() -> str:
    return _line({"event": "ping"})


def broadcast_addresses(addresses: list[str]) -> str:
    return _line({"event": "broadcast_addresses", "addresses": addresses})


def _line(said: dict[str, Any]) -> str:
    return json_bytes(said).decode()
