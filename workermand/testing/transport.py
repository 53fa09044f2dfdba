"""MemoryTransport: an asyncio transport without a socket, for unit tests of connections."""

from __future__ import annotations

import asyncio
import collections
import errno
from collections.abc import Callable, Iterable, Mapping
from typing import Any


class MemoryTransport(asyncio.Transport):
    """A transport without a socket, for unit tests of connections. The test plays the network and the kernel:

    ``receive``, ``receive_eof`` and ``lose`` are what the peer does. ``writes`` has one entry for each write call,
    ``sent`` the bytes that the kernel took. After ``stall()`` it takes none, until ``drain()``; the flow control
    callbacks come as from a real transport. connection_lost is never called from inside close(): a loop calls it if
    there is one, else the next of these methods does, or ``settle()``.
    """

    def __init__(
        self, *, loop: asyncio.AbstractEventLoop | None = None, extra: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__({"peername": ("127.0.0.1", 50000), "sockname": ("127.0.0.1", 2347), **(extra or {})})
        self.writes: list[bytes] = []
        self.sent = bytearray()
        self.eof_sent = False
        self.aborted = False
        self._loop = loop
        self._protocol: Any = None
        self._later: collections.deque[Callable[[], None]] = collections.deque()
        self._unread: list[bytes] = []
        self._unsent = bytearray()
        self._stalled = self._write_paused = self._reading_paused = False
        self._closing = self._eof_asked = self._lost = False
        self.set_write_buffer_limits()

    def connect(self, protocol: asyncio.BaseProtocol) -> None:
        """Calls connection_made."""
        self._protocol = protocol
        protocol.connection_made(self)
        self.settle()

    # What the peer and the kernel do.

    def receive(self, data: bytes) -> None:
        """Bytes arrive: data_received, unless reading is paused."""
        self._unread.append(data)
        self._deliver()
        self.settle()

    def receive_eof(self) -> None:
        """The peer sends no more: eof_received; a false answer closes, as asyncio has it."""
        if not self._closing and not self._protocol.eof_received():
            self.close()
        self.settle()

    def lose(self, error: Exception | None = None) -> None:
        """The connection breaks, with ECONNRESET unless told otherwise."""
        self._end(error or ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"))
        self.settle()

    def stall(self) -> None:
        """From now on the kernel takes nothing."""
        self._stalled = True

    def drain(self, size: int | None = None) -> None:
        """The kernel takes ``size`` more bytes; None: everything, and from now on again."""
        self._stalled = size is not None
        self._take(len(self._unsent) if size is None else size)
        self.settle()

    def settle(self) -> None:
        """Runs what a loop would have run by now."""
        while self._later:
            self._later.popleft()()

    # What the connection does: asyncio.Transport.

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data must be bytes-like, not {type(data).__name__}")
        if self._closing or self._eof_asked:
            return
        self.writes.append(bytes(data))
        self._unsent += data
        self._take(0 if self._stalled else len(self._unsent))
        if len(self._unsent) > self._high and not self._write_paused:
            self._write_paused = True
            self._protocol.pause_writing()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview[Any]]) -> None:
        self.write(b"".join(list_of_data))

    def write_eof(self) -> None:
        self._eof_asked = True
        self._take(0)

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._take(0)

    def abort(self) -> None:
        self.aborted = True
        self._end(None)

    def is_closing(self) -> bool:
        return self._closing

    def is_reading(self) -> bool:
        return not self._reading_paused and not self._closing

    def pause_reading(self) -> None:
        self._reading_paused = True

    def resume_reading(self) -> None:
        self._reading_paused = False
        self._soon(self._deliver)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = 64 * 1024 if high is None else high
        self._low = self._high // 4 if low is None else low

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low, self._high

    def get_write_buffer_size(self) -> int:
        return len(self._unsent)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        protocol: asyncio.BaseProtocol = self._protocol
        return protocol

    def _deliver(self) -> None:
        while self._unread and self.is_reading():
            self._protocol.data_received(self._unread.pop(0))

    def _take(self, size: int) -> None:
        """``size`` bytes leave; with the last of them goes what waited for that."""
        self.sent += self._unsent[:size]
        del self._unsent[:size]
        if self._write_paused and len(self._unsent) <= self._low:
            self._write_paused = False
            self._protocol.resume_writing()
        if not self._unsent:
            self.eof_sent = self._eof_asked
            if self._closing:
                self._end(None)

    def _end(self, error: Exception | None) -> None:
        self._closing = True
        self._unsent.clear()
        if not self._lost:
            self._lost = True
            self._soon(lambda: self._protocol.connection_lost(error))

    def _soon(self, callback: Callable[[], None]) -> None:
        if self._loop is not None:
            self._loop.call_soon(callback)
        else:
            self._later.append(callback)
