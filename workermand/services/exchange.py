"""One request of an ASGI application, and its answer: ``receive`` and ``send`` of the scope "http".

A body that is streamed is read when the application asks for it, an answer in pieces waits for a slow client. When the
client has gone the application is told by http.disconnect, and by the ConnectionLost (an OSError) of its next send.
"""

from __future__ import annotations

import asyncio
import contextlib
import traceback
from collections.abc import AsyncIterator
from typing import Any

from workermand import Chunk, Connection, ConnectionLost, ConnectionStatus, Request, Response, WorkermandError
from workermand.services.scope import Message, says_client_has_gone

BODILESS = (204, 304)


class Exchange:
    """The life of one request. Process: the child; thread: the one that runs the loop."""

    def __init__(self, connection: Connection, request: Request) -> None:
        self._connection = connection
        self._request = request
        self._body: AsyncIterator[bytes] | None = request.stream()
        """None once it is at its end."""
        self._start: Message | None = None
        """http.response.start, until the first piece of the body."""
        self._bodiless = False
        """What comes of the body is nothing to this client."""
        self._begun = False
        """The head of the answer is out."""
        self._complete = asyncio.get_running_loop().create_future()
        self._refusal: WorkermandError | None = None
        """The body cannot be read: what the client is told, whatever the application makes of it."""
        self._gone = False
        """The application has been told that the client has."""

    async def run(self, application: asyncio.Task[Any]) -> None:
        """Returns when the application has. Raises what is on_message's to raise."""
        try:
            await application
        except asyncio.CancelledError:
            if application.cancelled() and self._connection.status is ConnectionStatus.CLOSED:
                raise ConnectionLost("the client has gone, and the process ends") from None
            raise
        except Exception as error:
            if self._gone and says_client_has_gone(error):
                _let_go(error)
                raise ConnectionLost("the client has gone") from None
            if self._refusal is None or self._begun:
                raise
        if self._refusal is not None and not self._begun:
            raise self._refusal
        if not self._complete.done():
            if self._gone:
                raise ConnectionLost("the client has gone")
            raise RuntimeError("the application has returned without a whole answer")

    # ------------------------------------------------------------------ receive

    async def receive(self) -> Message:
        if self._body is not None and not self._complete.done():
            return await self._receive_body(self._body)
        if not self._complete.done():
            await self._until_over()
        self._gone = self._gone or not self._complete.done()
        return {"type": "http.disconnect"}

    async def _receive_body(self, body: AsyncIterator[bytes]) -> Message:
        try:
            piece = await anext(body, b"")
        except ConnectionLost:
            self._body = None
            self._gone = True
            return {"type": "http.disconnect"}
        except WorkermandError as error:
            self._refusal = error
            raise
        # Of a body that has come whole there is one piece.
        is_last = not piece or not self._request.is_streamed
        if is_last:
            self._body = None
        return {"type": "http.request", "body": piece, "more_body": not is_last}

    async def _until_over(self) -> None:
        """The answer is complete, or the client has gone."""
        closed = asyncio.get_running_loop().create_task(self._connection.wait_gone())
        try:
            await asyncio.wait({closed, self._complete}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            closed.cancel()

    # ------------------------------------------------------------------ send

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if self._refusal is not None and not self._begun:
            return
        if self._connection.status is not ConnectionStatus.ESTABLISHED and not self._complete.done():
            self._gone = True
            raise ConnectionLost(f"the connection has ended: {self._connection.close_reason}")
        if kind == "http.response.start" and self._start is None and not self._begun:
            self._start = message
        elif kind == "http.response.body" and not self._complete.done() and (self._start or self._begun):
            await self._send_body(message.get("body", b""), bool(message.get("more_body", False)))
        elif kind == "http.response.body" and self._bodiless:
            return
        elif kind == "http.response.pathsend" and self._start is not None:
            response = self._response(self._start).with_file(message["path"])
            await self._send(response, complete=True)
        elif kind != "http.response.trailers":
            raise RuntimeError(f"the application sends {kind}, and it is not its turn")

    async def _send_body(self, body: bytes, more: bool) -> None:
        start = self._start
        if start is None:
            if body:
                await self._send(Chunk(body), complete=False)
            if not more:
                await self._send(Chunk(), complete=True)
            return
        response = self._response(start)
        self._bodiless = response.status in BODILESS
        if self._bodiless or not more:
            await self._send(response.with_body(body), complete=True)
        else:
            response.add_header("Transfer-Encoding", "chunked")
            await self._send(response.with_body(body), complete=False)

    async def _send(self, message: Response | Chunk, *, complete: bool) -> None:
        self._start = None
        self._connection.send(message)
        self._begun = True
        if complete:
            self._complete.set_result(None)
        with _noting(self):
            await self._connection.drain()

    def _response(self, start: Message) -> Response:
        response = Response(start["status"])
        typed = False
        for raw_name, raw_value in start.get("headers", ()):
            name, value = bytes(raw_name).decode("latin-1"), bytes(raw_value).decode("latin-1")
            lower = name.lower()
            if lower != "transfer-encoding":
                response.add_header(name, value)
            typed = typed or lower == "content-type"
        return response if typed else response.add_header("Content-Type", "")

    def lost(self) -> None:
        self._gone = True


def _let_go(error: BaseException | None) -> None:
    """What the application held (a generator, a lock) must not wait for the garbage collector to be let go of."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__


@contextlib.contextmanager
def _noting(exchange: Exchange) -> Any:
    try:
        yield
    except ConnectionLost:
        exchange.lost()
        raise
