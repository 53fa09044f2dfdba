"""Sending: what goes out of a connection while an answer that is a file is under way, in order.

    Web.encode -> answers.answer -> Web.send_file -> Wire.accept -> put -> transport.write, os.sendfile

A small file that is in memory is not seen here: web.py returns it as bytes, behind its head, for one write.
All else makes a Sending. It takes the place of ``Wire.write``, so that what anybody sends queues behind the file, and
pauses the input, so that a client that pipelines has one file open and not a thousand. When all is out, it goes.

The bytes before a file go through the transport. Once the kernel has them, os.sendfile sends to the socket itself, a
portion per turn of the loop; when the socket is full, the loop watches a dup of it, because the transport has the
descriptor (uvloop has no loop.sendfile). Only what is in the page cache is sent so: else sendfile would wait for the
disk, and the whole loop with it. preadv(RWF_NOWAIT) says what is there, and a thread reads what is not. For TLS, and
where sendfile cannot, a portion is read and written, and the next one when the transport has nothing left.
"""

from __future__ import annotations

import asyncio
import collections
import enum
import errno
import functools
import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from workermand.errors import CloseReason
from workermand.http.response import FilePart
from workermand.worker import intake
from workermand.worker.status import ESTABLISHED, reason_of
from workermand.worker.wire import NEVER

if TYPE_CHECKING:
    from workermand.worker.wire import Wire

logger = logging.getLogger(__name__)

SMALL: Final = 64 * 1024
"""Bytes of a part that is read and written with its head: cheaper so than in two system calls."""
PORTION: Final = 1024 * 1024
"""Bytes that one connection sends of a file before others have their turn, or that a thread brings into memory."""
COPIED: Final = 256 * 1024
"""Bytes that are read and written at a time, where that has to be."""
STALE: Final = 1.0
"""Seconds after which memory may have been taken away again from what was seen there."""
NOT_BY_KERNEL: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EOVERFLOW})
"""Errors of sendfile for a file that it cannot send."""
IN_MEMORY: Final = frozenset({"tmpfs", "ramfs", "devtmpfs", "hugetlbfs"})
"""File systems that know no RWF_NOWAIT, and never wait."""
MOST_KNOWN: Final = 1024
"""Portions of files that are remembered to be in memory: 1 GiB."""
_known: Final[dict[tuple[int, int, int], float]] = {}
"""When a portion of a file was seen in memory: to look costs twice as much as to send it."""
_scratch: Final = memoryview(bytearray(PORTION))


class _Doing(enum.Enum):
    NOTHING = "nothing: it waits for the transport, or for its turn to be called"
    GOING = "sending"
    YIELDING = "others have their turn"
    WATCHING = "the socket is full"
    READING = "a thread reads the file"


class Sending:
    """``Wire.sending``. Process: the child; thread: the one that runs the loop."""

    __slots__ = (
        "_copies",
        "_data",
        "_doing",
        "_dup",
        "_file_at",
        "_is_long",
        "_is_over",
        "_is_watching",
        "_noted",
        "_queue",
        "_ready_to",
        "_seen",
        "_socket",
        "_wire",
        "resumes",
        "size",
    )

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._queue: collections.deque[bytes | FilePart] = collections.deque()
        self._noted: list[FilePart] = []
        """They follow the bytes that encode() is about to return."""
        self.size = 0
        """Bytes that are queued here; those of files do not count."""
        transport = wire.transport
        self._socket = transport.get_extra_info("socket")
        encryption = transport.get_extra_info("ssl_object") or transport.get_extra_info("sslcontext")
        self._copies = self._socket is None or encryption is not None
        self._dup = -1
        """Of the socket, made when that was full for the first time."""
        self._doing = _Doing.NOTHING
        self._is_long = self._is_over = self._is_watching = False
        wire.write = self.write
        wire.mark = NEVER
        self.resumes = False
        """The input is read on afterwards: it was not the handler that paused it."""
        self._file_at = 0
        """Bytes that are out of the part at work."""
        self._ready_to = 0
        """So far of that part have we seen its bytes in memory."""
        self._seen = 0.0
        """When."""
        self._data = b""
        """What a thread has read for a write."""

    # ------------------------------------------------------------------ what the wire calls

    def note(self, part: FilePart) -> None:
        """It goes out behind the next ``put``."""
        self._noted.append(part)

    def put(self, data: bytes) -> None:
        """``data``, what the turn had collected before it, and the files that were noted."""
        wire, noted = self._wire, self._noted
        self._noted = []
        if wire.out:
            self._add(b"".join(wire.out))
            wire.out.clear()
        self._add(data)
        for part in noted:
            wire.bytes_written += len(part.head)
            self._add(part.head)
            self._queue.append(part)
        self.go()

    def write(self, data: bytes) -> None:
        """In place of transport.write."""
        self._add(data)
        self.go()

    def refuse(self) -> None:
        """What was noted is not sent."""
        for part in self._noted:
            close(part)
        self._noted = []
        if not self._queue:
            self._leave()

    def stop(self) -> None:
        """The connection is lost: nothing of all that is sent any more."""
        self._leave()
        if self._doing is not _Doing.READING:  # else the thread has one of the files
            self._close_files()

    def go(self) -> None:
        """Sends what can be sent now."""
        if self._doing is not _Doing.NOTHING:
            return
        self._doing = _Doing.GOING
        transport, queue = self._wire.transport, self._queue
        while queue and self._doing is _Doing.GOING and not transport.get_write_buffer_size():
            first = queue[0]
            if isinstance(first, FilePart):
                self._send_portion(first)
            else:
                queue.popleft()
                self.size -= len(first)
                transport.write(first)
        if self._doing is _Doing.GOING:
            self._doing = _Doing.NOTHING
        if self._is_over:
            return
        if not queue:
            self._finish()
        elif not self._is_long:
            self._hold_input()

    # ------------------------------------------------------------------ a file

    def _send_portion(self, part: FilePart) -> None:
        at = part.offset + self._file_at
        size = min(PORTION - at % PORTION, part.count - self._file_at)
        if not size:
            self._queue.popleft()
            self._file_at = self._ready_to = 0
            self._unwatch()
            close(part)
            return
        try:
            sent = (self._copy if self._copies else self._sendfile)(part, at, size)
        except BlockingIOError:
            self._watch(part)
        except (OSError, EOFError) as error:
            self._fail(part, error)
        else:
            self._file_at += sent
            self._wire.bytes_written += sent
            if not sent or self._is_over:
                return
            if sent < size and not self._copies:
                self._watch(part)
            elif self._file_at < part.count:
                self._yield()

    def _sendfile(self, part: FilePart, at: int, size: int) -> int:
        """Bytes sent. 0: they have to be read first."""
        now = self._wire.worker.loop.time()
        if self._file_at >= self._ready_to or now - self._seen > STALE:
            ready = in_memory(part.fd, at, size, now)
            if not ready:
                self._read(functools.partial(_bring, part.fd, at, size))
                return 0
            self._ready_to, self._seen = self._file_at + ready, now
        sent = os.sendfile(self._socket.fileno(), part.fd, at, min(size, self._ready_to - self._file_at))
        if not sent:
            raise EOFError
        return sent

    def _copy(self, part: FilePart, at: int, size: int) -> int:
        """As _sendfile."""
        size = min(size, COPIED)
        data, self._data = self._data, b""
        if not data:
            ready = read_at_once(part.fd, _scratch[:size], at)
            if not ready:
                self._read(functools.partial(os.pread, part.fd, size, at))
                return 0
            data = bytes(_scratch[:ready])
        self._wire.transport.write(data)
        return len(data)

    def _fail(self, part: FilePart, error: Exception) -> None:
        """No answer can be cut short on a connection that lives on."""
        if isinstance(error, OSError) and error.errno in NOT_BY_KERNEL and not self._copies:
            self._copies = True
            self._yield()
        elif isinstance(error, OSError) and error.errno != errno.EIO:
            self._wire.abort(reason_of(error))
        else:
            missing = part.count - self._file_at
            why = str(error) or "the file has become shorter"
            logger.warning("%s: %d bytes of a file are missing: %s", self._wire.connection, missing, why)
            self._wire.abort(CloseReason.FILE_FAILED)

    # ------------------------------------------------------------------ waiting

    def _yield(self) -> None:
        if self._is_watching:  # it is called in the loop's next turn
            self._doing = _Doing.WATCHING
        else:
            self._doing = _Doing.YIELDING
            self._wire.worker.loop.call_soon(self._again)

    def _again(self) -> None:
        if not self._is_over:
            self._doing = _Doing.NOTHING
            self.go()

    def _watch(self, part: FilePart) -> None:
        self._doing = _Doing.WATCHING
        if self._is_watching:
            return
        try:
            if self._dup < 0:
                self._dup = os.dup(self._socket.fileno())
        except OSError as error:
            self._fail(part, error)
            return
        self._is_watching = True
        self._wire.worker.loop.add_writer(self._dup, self._again)

    def _unwatch(self) -> None:
        if self._is_watching:
            self._is_watching = False
            self._wire.worker.loop.remove_writer(self._dup)

    def _read(self, work: Callable[[], bytes | int]) -> None:
        """In a thread."""
        self._unwatch()
        self._doing = _Doing.READING
        self._wire.worker.loop.run_in_executor(None, work).add_done_callback(self._was_read)

    def _was_read(self, reading: asyncio.Future[bytes | int]) -> None:
        self._doing = _Doing.NOTHING
        error = reading.exception()
        if self._is_over:
            self._close_files()
        elif error is not None or not (read := reading.result()):
            first = self._queue[0]
            assert isinstance(first, FilePart)
            self._fail(first, error if isinstance(error, OSError) else EOFError())
        else:
            if isinstance(read, int):
                self._ready_to, self._seen = self._file_at + read, self._wire.worker.loop.time()
            else:
                self._data = read
            self.go()

    # ------------------------------------------------------------------ begin and end

    def _add(self, data: bytes) -> None:
        if data:
            self.size += len(data)
            self._queue.append(data)

    def _hold_input(self) -> None:
        """It takes longer."""
        wire = self._wire
        self._is_long = True
        wire.worker.stalled.add(wire.connection)
        if wire.status is ESTABLISHED and not wire.paused:
            intake.pause(wire)
            self.resumes = True

    def _leave(self) -> None:
        self._is_over = True
        self._unwatch()
        if self._dup >= 0:
            os.close(self._dup)
        self._wire.sending = None
        self._wire.write = self._wire.transport.write

    def _finish(self) -> None:
        """All is out, or with the transport."""
        wire = self._wire
        self._leave()
        is_empty = not wire.transport.get_write_buffer_size()
        if is_empty:
            wire.worker.drained(wire.connection)
        if wire.status is not ESTABLISHED:
            wire.shut()
            return
        if self.resumes:
            intake.resume(wire)
        if self._is_long and is_empty and wire.status is ESTABLISHED:
            wire.fire("on_buffer_drain")
        if wire.out is None and wire.epilogue is not None:  # it may have been the last answer owed
            wire.epilogue(b"")

    def _close_files(self) -> None:
        for part in (*self._queue, *self._noted):
            if isinstance(part, FilePart):
                close(part)
        self._queue.clear()
        self._noted.clear()


def at_once(part: FilePart) -> bytes | None:
    """The head and the bytes of a small part, if they are in memory; it is done with then."""
    if part.count > SMALL:
        return None
    data = part.head
    if part.count:
        try:
            if read_at_once(part.fd, _scratch[: part.count], part.offset) < part.count:
                return None
        except (OSError, EOFError):  # to be met once more, and dealt with
            return None
        data += _scratch[: part.count]
    close(part)
    return data


def close(part: FilePart) -> None:
    """It was the last one of its file: nobody needs that any more."""
    if part.last:
        os.close(part.fd)


def in_memory(fd: int, at: int, size: int, now: float) -> int:
    """How many of ``size`` bytes, which are of one portion, are in the page cache, or were a moment ago."""
    facts = os.fstat(fd)
    portion = (facts.st_dev, facts.st_ino, at // PORTION)
    if now - _known.get(portion, -STALE) < STALE:
        return size
    ready = read_at_once(fd, _scratch[:size], at)
    if at % PORTION == 0 and (ready == PORTION or at + ready == facts.st_size):
        if len(_known) >= MOST_KNOWN:
            _known.clear()
        _known[portion] = now
    return ready


def read_at_once(fd: int, into: memoryview, offset: int) -> int:
    """Bytes read without waiting for a disk; 0: that cannot be done. EOFError when there are none, OSError."""
    try:
        size = os.preadv(fd, [into], offset, os.RWF_NOWAIT)
    except BlockingIOError:
        return 0
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        if not _is_in_memory(os.fstat(fd).st_dev):
            return 0
        size = os.preadv(fd, [into], offset)
    if not size:
        raise EOFError
    return size


def _bring(fd: int, offset: int, size: int) -> int:
    """Reads so much into the page cache; how much there was of it. In a thread."""
    page = bytearray(min(size, COPIED))
    os.posix_fadvise(fd, offset, size, os.POSIX_FADV_WILLNEED)
    done = 0
    while done < size and (got := os.preadv(fd, [memoryview(page)[: size - done]], offset + done)):
        done += got
    return done


@functools.lru_cache(maxsize=64)
def _is_in_memory(device: int) -> bool:
    """By /proc/self/mountinfo: "36 35 98:0 / /mnt rw - ext3 /dev/root rw"."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo") as mounts:
        lines = [line.split() for line in mounts]
    kinds = {words[words.index("-") + 1] for words in lines if words[2] == wanted}
    return bool(kinds) and kinds <= IN_MEMORY
