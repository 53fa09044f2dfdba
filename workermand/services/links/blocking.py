"""BlockingLink: a link for programs that have no event loop: Django, Flask, scripts, cron jobs."""

from __future__ import annotations

import contextlib
import itertools
import socket
import ssl
import struct
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

from workermand.services.links import wire
from workermand.services.links.address import Address
from workermand.services.links.challenge import Asked
from workermand.services.links.errors import ServiceError, TimedOut, Unreachable

CHUNK = 64 * 1024
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: what the kernel has not sent would arrive late, when a network that was cut is back."""


class BlockingLink:
    """Any process, outside of the daemon above all: inside of one its calls would hold up the loop. Any thread: one
    call at a time, under a lock. It connects with the first call, and again with the first after it broke."""

    def __init__(
        self,
        address: Address,
        service: str,
        *,
        secret: str = "",
        tls: ssl.SSLContext | None = None,
        timeout: float = 10.0,
        package: int = 64 * 1024 * 1024,
    ) -> None:
        """``timeout``: seconds for connecting, and for each call that says no other. ``package``: bytes of the largest
        message."""
        self.address = address
        self._service, self._secret, self._tls = service, secret, tls
        self._timeout, self._package = timeout, package
        self._lock = threading.RLock()
        self._numbers = itertools.count(1)
        self._sock: socket.socket | None = None
        self._buffer = bytearray()
        self._messages: deque[list[Any]] = deque()
        """What came while an answer was waited for."""
        self.connects = 0
        """How many connections there have been: who has to subscribe again looks at it."""

    def connect(self) -> None:
        """Unless it is. Raises Unreachable, Unauthorized, ServiceError."""
        with self._lock:
            if self._sock is None:
                self._connect(time.monotonic() + self._timeout)

    def request(self, op: int, *rest: Any, timeout: float | None = None) -> Any:
        """The answer's result. Raises ServiceError with the server's words; Unreachable: what was asked for may or may
        not have been done; TimedOut: likewise, and the connection is given up: no later call may get this answer."""
        with self._lock:
            deadline = time.monotonic() + (self._timeout if timeout is None else timeout)
            return self.answer(self.ask(op, *rest, deadline=deadline), deadline=deadline)

    def ask(self, op: int, *rest: Any, deadline: float) -> int:
        """The half of request() that sends; the number is for answer(). Who asks several servers asks all of them
        before he waits. ``deadline``: of time.monotonic()."""
        with self._lock, self._giving_up():
            number = next(self._numbers)
            self._send([op, number, *rest], deadline)
            return number

    def answer(self, number: int, *, deadline: float) -> Any:
        """The other half. What is not fetched is nobody's."""
        with self._lock:
            with self._giving_up():
                while True:
                    message = self._read(deadline)
                    if message[0] >= wire.FIRST:
                        self._messages.append(message)
                    elif message[1] == number and message[0] in (wire.OK, wire.FAIL):
                        break
            result = message[2] if len(message) > 2 else None
            if message[0] == wire.FAIL:
                raise ServiceError(str(result))
            return result

    def send(self, op: int, *rest: Any) -> None:
        """Without an answer. Raises Unreachable, TimedOut."""
        with self._lock, self._giving_up():
            self._send([op, 0, *rest], time.monotonic() + self._timeout)

    def receive(self, timeout: float | None = None) -> list[Any]:
        """The next message that is no answer. Raises TimedOut, and the connection lives on; Unreachable."""
        with self._lock:
            deadline = time.monotonic() + (self._timeout if timeout is None else timeout)
            while not self._messages:
                message = self._read(deadline)
                if message[0] >= wire.FIRST:
                    return message
            return self._messages.popleft()

    def close(self) -> None:
        with self._lock:
            self._drop()

    def __enter__(self) -> BlockingLink:
        self.connect()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------ the socket

    @contextlib.contextmanager
    def _giving_up(self) -> Iterator[None]:
        """After a failure within a call nobody knows what is under way: the connection is not used again."""
        try:
            yield
        except BaseException as error:
            if isinstance(error, TimedOut) and self._sock is not None:
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self._drop()
            raise

    def _drop(self) -> None:
        if self._sock is not None:
            self._sock.close()
        self._sock = None
        self._buffer.clear()
        self._messages.clear()

    def _connect(self, deadline: float) -> None:
        try:
            self._sock = self._dial(deadline)
        except OSError as error:
            raise Unreachable(f"{self._service} at {self.address}: {error}") from error
        with self._giving_up():
            try:
                self._shake(deadline)
            except TimedOut:
                raise Unreachable(f"{self._service} at {self.address}: no answer within {self._timeout:g} s") from None
            except ServiceError as error:
                raise type(error)(f"{self._service} at {self.address}: {error}") from None
        self.connects += 1

    def _dial(self, deadline: float) -> socket.socket:
        patience = max(0.001, deadline - time.monotonic())
        if self.address.path:
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(patience)
            try:
                sock.connect(self.address.path)
            except OSError:
                sock.close()
                raise
            return sock
        host = self.address.host.strip("[]")
        sock = socket.create_connection((host, self.address.port), patience)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls is None:
            return sock
        try:
            return self._tls.wrap_socket(sock, server_hostname=host)
        except (OSError, ValueError):
            sock.close()
            raise

    def _shake(self, deadline: float) -> None:
        asked = Asked(self._service, self._secret)
        answer: list[Any] | None = asked.hello()
        while not asked.is_done:
            if answer is not None:
                self._write(wire.pack(answer), deadline)
            answer = asked.hear(self._read(deadline))

    def _send(self, message: list[Any], deadline: float) -> None:
        if self._sock is not None and not self._is_alive():
            self._drop()
        if self._sock is None:
            self._connect(deadline)
        self._write(wire.pack(message), deadline)

    def _is_alive(self) -> bool:
        """The server may have closed it since the last call; what it has sent meanwhile stays."""
        assert self._sock is not None
        try:
            self._sock.settimeout(0)
            while chunk := self._sock.recv(CHUNK):
                self._buffer += chunk
        except (BlockingIOError, ssl.SSLWantReadError):
            return True
        except OSError:
            return False
        return False

    def _write(self, frame: bytes, deadline: float) -> None:
        assert self._sock is not None
        try:
            self._sock.settimeout(max(0.001, deadline - time.monotonic()))
            self._sock.sendall(frame)
        except TimeoutError:
            raise TimedOut(f"{self._service} at {self.address} does not read") from None
        except OSError as error:
            raise Unreachable(f"{self._service} at {self.address}: {error}") from error

    def _read(self, deadline: float) -> list[Any]:
        """The next message but pings, which are answered here."""
        while True:
            if (message := self._cut()) is None:
                self._fill(deadline)
            elif message[0] == wire.PING:
                self._write(wire.pack([wire.PONG, 0]), deadline)
            else:
                return message

    def _cut(self) -> list[Any] | None:
        if len(self._buffer) < wire.HEAD:
            return None
        length = int.from_bytes(self._buffer[: wire.HEAD], "big")
        if not wire.HEAD <= length <= self._package:
            raise ServiceError(f"a message of {length} bytes: no server of ours, or over the limit of {self._package}")
        if len(self._buffer) < length:
            return None
        packed = bytes(self._buffer[wire.HEAD : length])
        del self._buffer[:length]
        return wire.unpack(packed)

    def _fill(self, deadline: float) -> None:
        if self._sock is None:
            raise Unreachable(f"{self._service} at {self.address}: not connected")
        try:
            self._sock.settimeout(max(0.001, deadline - time.monotonic()))
            chunk = self._sock.recv(CHUNK)
        except TimeoutError:
            raise TimedOut(f"{self._service} at {self.address}: no answer in time") from None
        except OSError as error:
            self._drop()
            raise Unreachable(f"{self._service} at {self.address}: {error}") from error
        if not chunk:
            self._drop()
            raise Unreachable(f"{self._service} at {self.address} has closed the connection")
        self._buffer += chunk
