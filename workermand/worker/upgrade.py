"""Upgrade: how a connection that speaks HTTP becomes a WebSocket, and what calls its on_websocket_*.

    Http.feed -> receive -> handshake.check -> on_websocket_connect -> 101 -> the protocol is swapped
    -> on_websocket_connected -> on_message, on_websocket_ping, _pong, _close

An http worker whose handler has an on_websocket_* serves both on one port; a websocket worker answers what is no
upgrade with 426 and a word of why. The rules of the handshake are handshake.py's, the frames websocket.py's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from workermand.errors import CloseReason
from workermand.http.request import Request
from workermand.http.response import Response
from workermand.protocols import handshake
from workermand.protocols.deflate import Deflate
from workermand.protocols.handshake import Headers, Refusal, Upgrading
from workermand.protocols.websocket import Close, Ping, Pong, WebSocket
from workermand.worker import intake
from workermand.worker.status import ESTABLISHED

if TYPE_CHECKING:
    from workermand.worker.connection import Connection

PLAIN = ("Content-Type", "text/plain; charset=utf-8")


class Handshake:
    """``connection.handshake``: what on_websocket_connect decides, before the 101 is sent."""

    __slots__ = ("headers", "offered", "refusal", "subprotocol")

    def __init__(self, upgrade: handshake.Upgrade) -> None:
        self.headers: list[tuple[str, str]] = []
        """Added to the 101: (name, value)."""
        self.offered = upgrade.subprotocols
        """The sub-protocols that the client would speak, as it prefers them."""
        self.subprotocol = upgrade.subprotocol
        """The one that is answered; at first the dearest of the TOML's that the client offers. None: no one."""
        self.refusal: Refusal | None = None

    def refuse(self, status: int = 403, why: str = "Refused.", headers: Headers = ()) -> None:
        """No WebSocket: the client gets this status and this sentence, and the connection ends."""
        self.refusal = Refusal(status, why, headers)


class Socket(WebSocket):
    """A WebSocket whose control frames call the handler. Process: the child; thread: the one that runs the loop."""

    __slots__ = ("connection",)

    wants_connection: ClassVar[bool] = True
    connection: Connection

    def on_control(self, messages: list[Any], event: Ping | Pong | Close) -> None:
        connection = self.connection
        wire = connection.wire
        if messages:
            intake.deliver_all(wire, messages)
            messages.clear()
        if wire.status is not ESTABLISHED:
            return
        if isinstance(event, Close):
            call(connection, "on_websocket_close", event.code, event.reason)
        elif isinstance(event, Pong):
            call(connection, "on_websocket_pong", event.data)
        elif not call(connection, "on_websocket_ping", event.data):
            connection.send(Pong(event.data))


def receive(connection: Connection, request: Request) -> None:
    """``deliver`` of a connection that may become a WebSocket."""
    wire = connection.wire
    if request.upgrade or isinstance(wire.protocol, Upgrading):
        if wire.inbox is not None or "on_websocket_connect" in connection.callbacks.asynchronous:
            wire.open_inbox().add("on_websocket_connect", _open_later, connection, request)
        else:
            wire.attempt("on_websocket_connect", _open, connection, request)
    elif connection.callbacks.on_message is not None:
        intake.pass_on(connection, request)
    elif wire.inbox is not None:
        wire.inbox.add("on_message", _nothing_here, connection, request)
    else:
        _nothing_here(connection, request)


def _nothing_here(connection: Connection, _request: Request) -> None:
    connection.send(Response(404, [PLAIN], "404 Not Found: only WebSockets are served here\n"))


def _open(connection: Connection, request: Request) -> None:
    if upgrade := _check(connection, request):
        callback = connection.callbacks.on_websocket_connect
        if callback is not None:
            connection.handshake = Handshake(upgrade)
            callback(connection, request)
        if _accept(connection, request, upgrade):
            call(connection, "on_websocket_connected", request)


async def _open_later(connection: Connection, request: Request) -> None:
    """The same in the inbox: behind the requests that came before, or with an async on_websocket_connect."""
    if upgrade := _check(connection, request):
        if connection.callbacks.on_websocket_connect is not None:
            connection.handshake = Handshake(upgrade)
            await _run(connection, "on_websocket_connect", request)
        if _accept(connection, request, upgrade):
            await _run(connection, "on_websocket_connected", request)


async def _run(connection: Connection, name: str, request: Request) -> None:
    """Here and now: the messages that came with the request wait behind."""
    if (callback := getattr(connection.callbacks, name)) is not None:
        waiting = callback(connection, request)
        if name in connection.callbacks.asynchronous:
            await waiting


def _check(connection: Connection, request: Request) -> handshake.Upgrade | None:
    """None: it was refused."""
    settings = connection.worker.websocket
    words = [word.decode("latin-1") for word in request.fields]
    try:
        return handshake.check(
            request.method,
            request.version,
            zip(words[::2], words[1::2], strict=True),
            origins=settings.origins,
            subprotocols=settings.subprotocols,
            deflate=Deflate() if settings.deflate else None,
        )
    except Refusal as refusal:
        _refuse(connection, refusal)
        return None


def _accept(connection: Connection, request: Request, upgrade: handshake.Upgrade) -> bool:
    """Whether it is a WebSocket now."""
    decided, connection.handshake = connection.handshake or Handshake(upgrade), None
    wire = connection.wire
    if wire.status is not ESTABLISHED:
        return False
    if decided.refusal is not None:
        _refuse(connection, decided.refusal)
        return False
    if not wire.protocol.owes:  # on_websocket_connect has sent a Response
        wire.end_input(CloseReason.UPGRADE_REFUSED)
        return False
    if request.session_if_read is not None:
        request.settle_session()
    cookies = [("Set-Cookie", cookie) for cookie in request.set_cookies]
    head = upgrade.accept(decided.subprotocol or "", [*decided.headers, *cookies])
    connection.send(head, raw=True)
    limits = connection.worker.limits
    socket = Socket(
        limits.websocket.message or limits.package,
        deflate=upgrade.deflate,
        max_frame=limits.websocket.frame,
        max_fragments=limits.websocket.fragments,
    )
    if (which := connection.websocket_type) is not None:
        socket.websocket_type = which
    intake.swap(wire, socket)
    return True


def _refuse(connection: Connection, refusal: Refusal) -> None:
    headers = [PLAIN, ("Connection", "close"), *refusal.headers]
    connection.send(Response(refusal.status, headers, f"{refusal.why}\n"))
    connection.wire.end_input(CloseReason.UPGRADE_REFUSED)


def call(connection: Connection, name: str, *arguments: object) -> bool:
    """Runs a callback, behind the messages that wait. False: there is none."""
    callback = getattr(connection.callbacks, name)
    if callback is None:
        return False
    wire = connection.wire
    if wire.inbox is not None or name in connection.callbacks.asynchronous:
        wire.open_inbox().add(name, callback, connection, *arguments)
    else:
        wire.fire(name, *arguments)
    return True
