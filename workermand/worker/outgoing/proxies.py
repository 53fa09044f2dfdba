"""The way through a proxy: HTTP CONNECT (RFC 9110 9.3.6) and SOCKS5 (RFC 1928, 1929), each a generator without I/O.

A generator yields bytes, which are to be sent; an int, for exactly so many bytes of the answer; or HEAD, for an answer
up to its empty line. Nothing is read beyond that: what follows is the server's, who may be the first to speak. It
returns when the way is free, and raises ConnectError with the proxy's reason when it is not.

Not python-socks: it reads the answer to CONNECT once, so that one in two pieces fails and what the server said behind
it is lost, and it looks names up and connects by itself, with the loop's four threads and without Happy Eyeballs. Its
states without I/O are private.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import socket
from collections.abc import Generator

from workermand.errors import ConnectError
from workermand.worker.outgoing.target import Proxy, join
from workermand.worker.outgoing.websocket import END, Answer
from workermand.worker.outgoing.websocket import HEAD as LONGEST

HEAD = None
Wish = bytes | int | None
Steps = Generator[Wish, bytes, None]

NO_AUTHENTICATION, USER_AND_PASSWORD, NONE_OF_THEM = 0x00, 0x02, 0xFF
REFUSALS = {
    1: "general failure",
    2: "not allowed by its rules",
    3: "network unreachable",
    4: "host unreachable",
    5: "connection refused",
    6: "time to live expired",
    7: "command not supported",
    8: "address type not supported",
}


def steps(proxy: Proxy, host: str, port: int) -> Steps:
    """What is to be said to ``proxy`` for a way to ``host``, a name or an address."""
    return socks5(proxy, host, port) if proxy.kind == "socks5" else http_connect(proxy, host, port)


def http_connect(proxy: Proxy, host: str, port: int) -> Steps:
    authority = join(host, port)
    lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}"]
    if proxy.user is not None:
        credentials = base64.b64encode(f"{proxy.user}:{proxy.password}".encode()).decode()
        lines.append(f"Proxy-Authorization: Basic {credentials}")
    yield "\r\n".join([*lines, "", ""]).encode()
    while True:
        try:
            head = Answer((yield HEAD))
        except ValueError as error:
            raise ConnectError(str(error)) from error
        if head.status >= 200:
            break
    if head.status >= 300:
        raise ConnectError(f"it refuses: {head}")


def socks5(proxy: Proxy, host: str, port: int) -> Steps:
    methods = [NO_AUTHENTICATION] if proxy.user is None else [NO_AUTHENTICATION, USER_AND_PASSWORD]
    yield bytes([5, len(methods), *methods])
    version, method = yield 2
    if version != 5:
        raise ConnectError("it does not speak SOCKS5")
    if method == USER_AND_PASSWORD and proxy.user is not None:
        user, password = proxy.user.encode(), proxy.password.encode()
        yield bytes([1, len(user)]) + user + bytes([len(password)]) + password
        _version, failed = yield 2
        if failed:
            raise ConnectError("it refuses the user or the password")
    elif method == NONE_OF_THEM:
        raise ConnectError(
            "it wants a user and a password" if proxy.user is None else "it takes no way to say who we are"
        )
    elif method != NO_AUTHENTICATION:
        raise ConnectError(f"it chose the authentication {method}, which was not offered")
    yield b"\x05\x01\x00" + _address(host) + port.to_bytes(2)
    version, refusal, _reserved, kind = yield 4
    if version != 5:
        raise ConnectError("it does not speak SOCKS5")
    if refusal:
        raise ConnectError(f"it refuses: {REFUSALS.get(refusal, f'error {refusal}')}")
    if kind == 3:
        (length,) = yield 1
    elif kind in (1, 4):
        length = 4 if kind == 1 else 16
    else:
        raise ConnectError(f"it answers with an address of type {kind}, which there is not")
    yield length + 2


def _address(host: str) -> bytes:
    """A name is the proxy's to look up."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return bytes([3, len(host)]) + host.encode()
    return bytes([1 if address.version == 4 else 4]) + address.packed


async def negotiate(loop: asyncio.AbstractEventLoop, sock: socket.socket, steps: Steps) -> None:
    """Goes through the steps, over ``sock``. Raises ConnectError, OSError. The deadline is the caller's."""
    wish = next(steps)
    try:
        while True:
            if isinstance(wish, bytes):
                await loop.sock_sendall(sock, wish)
                wish = next(steps)
            elif wish is HEAD:
                wish = steps.send(await _head(loop, sock))
            else:
                wish = steps.send(await _exactly(loop, sock, wish))
    except StopIteration:
        return


async def _exactly(loop: asyncio.AbstractEventLoop, sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = await loop.sock_recv(sock, size - len(data))
        if not piece:
            raise ConnectError("it closed the connection")
        data += piece
    return data


async def _head(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> bytes:
    """Looks before it takes."""
    data = b""
    while not data.endswith(END):
        await _readable(loop, sock)
        try:
            seen = sock.recv(LONGEST, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            continue
        if not seen:
            raise ConnectError("it closed the connection")
        end = (data + seen).find(END)
        size = len(seen) if end < 0 else end + len(END) - len(data)
        data += sock.recv(size)
        if len(data) > LONGEST:
            raise ConnectError(f"its answer has more than {LONGEST} bytes")
    return data


async def _readable(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(sock.fileno(), _settle, ready)
    try:
        await ready
    finally:
        loop.remove_reader(sock.fileno())


def _settle(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
