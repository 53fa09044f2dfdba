"""Where the body of a request goes while it comes: into the request, or into a stream that its handler reads.

The base of Http, which knows where a body begins and ends; on top of Answering, because an answer may be out before
the body is in. Then the rest is thrown away: up to SPARE bytes, so that the connection can serve the next request;
beyond that the connection ends after the answer, which says so when it can (RFC 9112 9.3).
"""

from __future__ import annotations

import io
from collections.abc import Awaitable
from typing import Final

from workermand.errors import CloseReason, ConnectionLost
from workermand.http import answers
from workermand.http.body import Body
from workermand.http.request import CLOSE, CONTINUE, OPEN, STREAMED, Request
from workermand.http.response import Response
from workermand.protocols.answering import INTERIM, Answering
from workermand.protocols.base import MAX_PACKAGE

STREAMED_FROM: Final = 64 * 1024
"""Bytes: a longer body is streamed to a handler that asks for streams, and a chunked one of any length."""
SPARE: Final = 256 * 1024
"""Bytes of a body that are thrown away behind its answer at most. Go's figure."""


class Stop(Exception):
    """No more is read: the request that is complete was the last one, or too much follows an early answer."""


class Bodies(Answering):
    """``streams``: long bodies are handed over as they come, see Request.stream()."""

    __slots__ = (
        "_body",
        "_continue",
        "_length",
        "_part",
        "_received",
        "_spare",
        "_stream",
        "cut_short",
        "request",
        "streams",
    )

    def __init__(self, max_package: int = MAX_PACKAGE, *, gzip: bool = False, streams: bool = False) -> None:
        super().__init__(max_package, gzip=gzip)
        self.streams = streams
        self.request: Request | None = None
        """Its head is complete, its body not."""
        self._part = ""
        """Of a request that is unfinished: "head" or "body"; "upgraded" when no more of them are to come."""
        self._length = self._received = 0
        """Of the body: 0 when it is chunked; what has come of it, without framing."""
        self._body: io.BytesIO | None = None
        """No bytearray: what this gives at the end is no copy."""
        self._stream: Body | None = None
        """Instead of _body: ``request`` is the handler's already."""
        self._spare = SPARE
        self._continue = False
        """The client waits for a 100."""
        self.cut_short = False

    # ------------------------------------------------------------------ in

    @property
    def waits_for(self) -> str:
        return self._part if self._part != "upgraded" else ""

    @property
    def wants_more(self) -> bool | None:  # type: ignore[override]
        """A client that waits for its 100 is not slow: it is the handler that has not begun to read."""
        return None if self._stream is None else not (self._stream.is_full or self._continue)

    def _open(self, request: Request, length: int, is_awaited: bool) -> bool:
        """Its body begins. True: it is streamed, the request is to be delivered now."""
        self.request = request
        self._part = "body"
        self._length = length
        self._continue = is_awaited
        if not self.streams or 0 < length <= STREAMED_FROM:
            self._body = io.BytesIO()
            return False
        self._stream = request.body = Body(self)
        self._spare = SPARE
        request.whole = None
        request.demands |= STREAMED
        return True

    def _keep_piece(self, piece: bytes) -> None:
        self._continue = False
        self._received += len(piece)
        stream = self._stream
        if stream is None:
            assert self._body is not None
            self._body.write(piece)
        elif stream.is_open:
            stream.put(piece)
            if stream.is_full:
                self.regulate()
        else:
            self._spare -= len(piece)
            if self._spare < 0:
                raise Stop

    def _close_body(self, error: Exception | None = None) -> None:
        """It is complete, or there is no more of it."""
        if self._stream is not None:
            self._stream.end(error)
            self._stream = None
        self._body = None
        self._length = self._received = 0
        self._continue = False
        self.request = None
        self._part = ""

    def lose(self, reason: CloseReason) -> None:
        if self._stream is not None:
            self._close_body(ConnectionLost(f"the connection has ended within the body of a request: {reason}"))

    # ------------------------------------------------------------------ 100 Continue

    @property
    def is_waited_for(self) -> bool:
        return self._part == "body" and not self._received

    @property
    def replies(self) -> bool:  # type: ignore[override]
        """With a connection a 100 is sent at once; for a body that is streamed when its handler begins to read."""
        return self.connection is None

    def take_replies(self) -> bytes:
        if not self._continue or self._stream is not None:
            return b""
        self._continue = False
        if not self.owed:
            return INTERIM
        self.owed[-1].demands |= CONTINUE
        return b""

    def more(self) -> Awaitable[None]:
        """Of Source: the handler waits for more of the body."""
        request = self.request
        if self._continue and request is not None:
            self._continue = False
            self.regulate()
            if (before := self.owed.index(request)) > 0:
                self.owed[before - 1].demands |= CONTINUE
            elif not request.demands & OPEN:
                self.connection.send(INTERIM, raw=True)
        return self.future()

    def future(self) -> Awaitable[None]:
        """For a subclass of the runtime's, as regulate and give_up are."""
        raise RuntimeError("streams are read in the runtime only")

    def regulate(self) -> None:
        """Of Source."""

    def give_up(self) -> None:
        """The rest of a body is too much to be thrown away: the connection ends with what has been sent."""
        self._spare = 0

    # ------------------------------------------------------------------ out

    def _answer(self, response: Response, request: Request) -> bytes:
        if request is self.request:
            is_whole = response.header("transfer-encoding") is None
            if self._continue or (is_whole and self._left_of_body > SPARE):
                request.demands |= CLOSE
        return super()._answer(response, request)

    def _answered(self) -> bytes:
        request = self.owed[0]
        interim = super()._answered()
        if request is self.request and self._stream is not None:
            self._stream.drop()
            if request.demands & CLOSE or self._left_of_body > SPARE:
                self.cut_short = True
                self.give_up()
            else:
                self.regulate()
        return interim

    @property
    def _left_of_body(self) -> int:
        """Bytes that are known to come."""
        return self._length - self._received if self._length else 0

    def farewell(self, reason: CloseReason) -> bytes:
        is_unanswered = self.request is not None and self.owed[:1] == [self.request] and self.open_answer is None
        if reason is CloseReason.BODY_TIMEOUT and is_unanswered:
            return answers.error(408, "the body of the request took too long")
        return super().farewell(reason)
