"""One WebSocket of an ASGI application: ``receive`` and ``send`` of the scope "websocket".

    CONNECTING   the application has not said whether it accepts; the client waits for the answer to its handshake
    REFUSING     it refuses with an answer of its own, and not all of that is there
    OPEN         the 101 is out
    ENDED        one of the two has ended it

What the client sends waits in a queue of MOST_WAITING messages; beyond that its connection is not read any further.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import enum
from collections.abc import Awaitable
from typing import Any

from workermand import Close, CloseReason, Connection, ConnectionLost, ConnectionStatus, Response
from workermand.services.scope import Message, says_client_has_gone

MOST_WAITING = 32
CODES = {
    CloseReason.RELOADED: 1012,
    CloseReason.DRAINED: 1001,
    CloseReason.DRAIN_DEADLINE: 1001,
    CloseReason.STOPPED: 1001,
    CloseReason.IDLE: 1001,
    CloseReason.PACKAGE_TOO_BIG: 1009,
    CloseReason.PROTOCOL_ERROR: 1002,
}
"""What the application is told of an end that was ours; of any other 1006."""
NORMAL, ABNORMAL, FAILED = 1000, 1006, 1011


class State(enum.Enum):
    CONNECTING = "connecting"
    REFUSING = "refusing"
    OPEN = "open"
    ENDED = "ended"


class Conversation:
    """``connection.context`` of a WebSocket. Process: the child; thread: the one that runs the loop."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._state = State.CONNECTING
        self._waiting: collections.deque[Message] = collections.deque([{"type": "websocket.connect"}])
        self._changed = asyncio.Condition()
        self._end: Message | None = None
        """websocket.disconnect"""
        loop = asyncio.get_running_loop()
        self._decided: asyncio.Future[Message | Response | Exception] = loop.create_future()
        self._opened: asyncio.Future[None] = loop.create_future()
        self._refusal: Message | None = None
        self._refusal_body = b""

    # ------------------------------------------------------------------ the application's task

    async def run(self, application: Awaitable[None]) -> None:
        try:
            await application
        except Exception as error:
            self._application_failed(error)
        else:
            self._application_ended()

    def _application_failed(self, error: Exception) -> None:
        if self._state in (State.CONNECTING, State.REFUSING):
            self._state = State.ENDED
            _settle(self._decided, error)
        elif self._state is State.OPEN:
            self._connection.worker.failed("the application's WebSocket", self._connection, error)
            self._close(FAILED, "")
        elif not says_client_has_gone(error):
            self._connection.worker.failed("the application's WebSocket, which had ended", self._connection, error)

    def _application_ended(self) -> None:
        if self._state in (State.CONNECTING, State.REFUSING):
            self._state = State.ENDED
            _settle(self._decided, RuntimeError("the application has neither accepted nor refused the WebSocket"))
        elif self._state is State.OPEN:
            self._close(NORMAL, "")

    # ------------------------------------------------------------------ the connection's callbacks

    async def decide(self) -> None:
        """Waits for the application's decision, and has it carried out. Raises what the application has raised."""
        decision = await self._decided
        handshake = self._connection.handshake
        if isinstance(decision, Exception):
            raise decision
        if isinstance(decision, Response):
            self._connection.send(decision)
        elif handshake is None:
            return
        elif decision["type"] == "websocket.close":
            handshake.refuse(403, decision.get("reason") or "Refused.")
        else:
            handshake.subprotocol = decision.get("subprotocol")
            handshake.headers += [
                (bytes(name).decode("latin-1"), bytes(value).decode("latin-1"))
                for name, value in decision.get("headers", ())
            ]

    def opened(self) -> None:
        """The 101 is out."""
        if self._state is State.CONNECTING:
            self._state = State.OPEN
        _settle(self._opened, None)

    async def put(self, message: str | bytes) -> None:
        """Waits while too many wait."""
        key = "text" if isinstance(message, str) else "bytes"
        async with self._changed:
            await self._changed.wait_for(lambda: len(self._waiting) < MOST_WAITING or self._end is not None)
            self._waiting.append({"type": "websocket.receive", key: message})
            self._changed.notify_all()

    def end(self, code: int, reason: str = "") -> None:
        """It is over; the first reason counts."""
        if self._end is None:
            self._end = {"type": "websocket.disconnect", "code": code, "reason": reason}
            self._state = State.ENDED
            self._connection.worker.loop.create_task(self._notify())

    def lost(self) -> None:
        """The connection has gone."""
        reason = self._connection.close_reason
        self.end(CODES.get(reason, ABNORMAL) if reason is not None else ABNORMAL, str(reason or ""))
        _settle(self._opened, None)
        _settle(self._decided, {"type": "websocket.close"})

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    # ------------------------------------------------------------------ receive and send

    async def receive(self) -> Message:
        async with self._changed:
            await self._changed.wait_for(lambda: self._waiting or self._end is not None)
            message = self._waiting.popleft() if self._waiting else self._end
            self._changed.notify_all()
        assert message is not None
        return message

    async def send(self, message: Message) -> None:
        kind = message["type"]
        match self._state, kind:
            case State.CONNECTING, "websocket.accept":
                _settle(self._decided, message)
                await self._opened
            case State.CONNECTING, "websocket.close":
                self._state = State.ENDED
                _settle(self._decided, message)
            case State.CONNECTING, "websocket.http.response.start":
                self._state = State.REFUSING
                self._refusal = message
            case State.REFUSING, "websocket.http.response.body":
                self._refuse_with(message)
            case State.OPEN, "websocket.send":
                text = message.get("text")
                self._connection.send(text if text is not None else message["bytes"])
                await self._connection.drain()
            case State.OPEN, "websocket.close":
                self._close(message.get("code", NORMAL), message.get("reason") or "")
            case State.ENDED, "websocket.close":
                pass
            case State.ENDED, "websocket.send":
                raise ConnectionLost("the WebSocket has ended")
            case _:
                raise RuntimeError(f"the application sends {kind}, and it is not its turn")

    def _refuse_with(self, message: Message) -> None:
        self._refusal_body += message.get("body", b"")
        if message.get("more_body", False):
            return
        assert self._refusal is not None
        response = Response(self._refusal["status"], body=self._refusal_body)
        for name, value in self._refusal.get("headers", ()):
            if name.lower() != b"transfer-encoding":
                response.add_header(name.decode("latin-1"), value.decode("latin-1"))
        self._state = State.ENDED
        _settle(self._decided, response)

    def _close(self, code: int, reason: str) -> None:
        """Ours; the client's own Close is not waited for."""
        self.end(code, reason)
        if self._connection.status is ConnectionStatus.ESTABLISHED:
            self._connection.end(Close(code, reason))


def _settle(future: asyncio.Future[Any], result: object) -> None:
    with contextlib.suppress(asyncio.InvalidStateError):
        future.set_result(result)
