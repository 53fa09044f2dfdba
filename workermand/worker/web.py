"""HTTP as a listener serves it: protocols/http.py with what only a process can do."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from workermand.http.policy import Limits
from workermand.protocols.base import UNLIMITED, Protocol
from workermand.protocols.handshake import Upgrading
from workermand.protocols.http import Http
from workermand.spec import HttpLimits

if TYPE_CHECKING:
    from workermand.worker.handlers import Handlers
    from workermand.worker.worker import Worker


class Web(Http):
    """Process: the child; thread: the one that runs the loop."""

    __slots__ = ()

    def _by_parts(self, data: bytes) -> list[Any]:
        messages = super()._by_parts(data)
        if self.waits_for:
            self.connection.worker.reading.add(self.connection)
        return messages


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
