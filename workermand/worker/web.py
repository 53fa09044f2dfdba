"""HTTP as a listener serves it: protocols/http.py with what only a process can do."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from workermand.errors import CloseReason
from workermand.http.policy import Limits
from workermand.http.response import File, FileFacts, FilePart
from workermand.protocols.base import UNLIMITED, Protocol
from workermand.protocols.handshake import Upgrading
from workermand.protocols.http import Http
from workermand.spec import HttpLimits
from workermand.worker import intake, sending
from workermand.worker.status import ESTABLISHED

if TYPE_CHECKING:
    from workermand.worker.handlers import Handlers
    from workermand.worker.wire import Wire
    from workermand.worker.worker import Worker

NO_FILE = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO}
)
"""Errors of open that say something about the name, and not about us."""


class Web(Http):
    """Process: the child; thread: the one that runs the loop."""

    __slots__ = ()

    def _by_parts(self, data: bytes) -> list[Any]:
        messages = super()._by_parts(data)
        if self.waits_for:
            self.connection.worker.reading.add(self.connection)
        return messages

    def open_file(self, file: File) -> FileFacts | None:
        """None, and so 404, for what is no plain file, or not ours to read. OSError when we are out of descriptors, or
        the disk fails."""
        if self.connection is None or self.connection.status is not ESTABLISHED:
            return None
        try:
            fd = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        except ValueError:  # a NUL in the name
            return None
        except OSError as error:
            if error.errno in NO_FILE:
                return None
            raise
        facts = os.fstat(fd)
        if not stat.S_ISREG(facts.st_mode):
            os.close(fd)
            return None
        return FileFacts(fd, facts.st_size, facts.st_mtime_ns)

    def send_file(self, part: FilePart) -> bytes:
        connection = self.connection
        if connection is None or connection.status is not ESTABLISHED:  # the answer is refused
            sending.close(part)
            return b""
        wire: Wire = connection.wire
        if wire.sending is None:
            data = sending.at_once(part)
            if data is not None:
                return data
            wire.sending = sending.Sending(wire)
        wire.sending.note(part)
        return b""

    def close_file(self, facts: FileFacts) -> None:
        os.close(facts.fd)

    def future(self) -> asyncio.Future[None]:
        future: asyncio.Future[None] = self.connection.worker.loop.create_future()
        return future

    def regulate(self) -> None:
        intake.regulate(self.connection.wire)

    def give_up(self) -> None:
        wire = self.connection.wire
        wire.end_input(wire.ending or CloseReason.CLOSED)


class UpgradingWeb(Web, Upgrading):
    """Of a websocket listener."""

    __slots__ = ()


def serve(protocol: type[Protocol], worker: Worker, handlers: Handlers) -> Callable[[int], Protocol]:
    """What makes the protocol objects of a listener; Http gets the settings of its worker, as they are then."""
    if not issubclass(protocol, Http):
        return protocol
    made_of = UpgradingWeb if issubclass(protocol, Upgrading) else Web
    worker.sessions.start()
    around = worker.sessions.around if worker.sessions.is_awaited else None
    limits = (worker.limits.http, head_limits(worker.limits.http))

    def make(package: int) -> Protocol:
        nonlocal limits
        settings = worker.limits.http
        if limits[0] is not settings:
            limits = (settings, head_limits(settings))
        protocol = made_of(
            settings.body or package,
            limits=limits[1],
            requests=settings.requests or UNLIMITED,
            upgrades=handlers.on_message is None or handlers.have_websocket,
            gzip=worker.gzip,
            streams=handlers.stream_body,
            trusted=worker.trusted_proxies,
        )
        protocol.around = around
        return protocol

    return make


def head_limits(limits: HttpLimits) -> Limits:
    return Limits(
        line=limits.line or UNLIMITED,
        field=limits.field or UNLIMITED,
        fields=limits.fields or UNLIMITED // 2,
        head=limits.head or UNLIMITED,
    )
