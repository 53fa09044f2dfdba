"""The way out of http: an answer for each request, in order. The base of Http, which reads.

A handler sends a str, a dict, a Response; which request it answers is no question: the oldest that has no answer. What
the bytes look like is answers.py's; here is whose turn it is, and which answer is still open.
"""

from __future__ import annotations

import sys
from typing import Any, ClassVar, Final, Literal

import msgspec

from workermand.errors import CloseReason
from workermand.http import answers
from workermand.http.policy import Refusal
from workermand.http.request import CONTINUE, HEAD, OLD, OPEN, SESSION, Request
from workermand.http.response import REASONS, Chunk, File, FileFacts, FilePart, Response, ServerSentEvents
from workermand.protocols.base import MAX_PACKAGE, Protocol, as_bytes

INTERIM: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
FAILURES: Final = {
    CloseReason.HANDLER_ERROR: (500, "the server has failed"),
    CloseReason.DRAIN_DEADLINE: (503, "the server is stopping"),
    CloseReason.RELOADED: (503, "the server is being replaced"),
    CloseReason.STOPPED: (503, "the server is stopping"),
}
"""What a request gets that will have no other answer."""
_heads = answers.heads


class Answering(Protocol):
    """str, bytes, dict, list, Response, Chunk and ServerSentEvents out. ``gzip``: text above 1 KiB is compressed for
    clients that take it."""

    __slots__ = ("around", "connection", "gzip", "gzip_above", "open_answer", "owed")

    wants_connection: ClassVar[bool] = True

    def __init__(self, max_package: int = MAX_PACKAGE, *, gzip: bool = False) -> None:
        super().__init__(max_package)
        self.connection: Any = None
        self.around = None
        self.gzip = gzip
        self.gzip_above = answers.COMPRESSED_FROM if gzip else sys.maxsize
        self.owed: list[Request] = []
        """Delivered and not yet answered, in order. No deque: that takes 600 bytes, for one request mostly."""
        self.open_answer: answers.Answer | None = None
        """The answer to the first of these is under way."""

    @property
    def owes(self) -> int:
        return 0 if self.open_answer is not None and not self.open_answer.is_open else len(self.owed)

    @property
    def moves(self) -> Literal["at once", "in turn"]:  # type: ignore[override]
        """Whoever listens to events comes back by himself, as a WebSocket does."""
        return "in turn" if self.open_answer is not None and self.open_answer.is_endless else "at once"

    def end_events(self) -> None:
        """Their listener has gone, or is to come back: that is the only end they have."""
        if self.open_answer is not None and self.open_answer.is_endless:
            self.open_answer.is_open = False

    @property
    def is_waited_for(self) -> bool:
        """A client has sent a head with Expect, and nothing of the body yet."""
        return False

    def answer_to(self, error: BaseException) -> Any:
        """Of request.json(), post() and file(): the body is not what it says."""
        if not isinstance(error, Refusal) or not self.owed or self.open_answer is not None:
            return None
        plain = [("Content-Type", "text/plain; charset=utf-8")]
        return Response(error.status, plain, f"{error.status} {REASONS[error.status]}: {error.why}\n")

    def farewell(self, reason: CloseReason) -> bytes:
        if self.owed:
            failure = FAILURES.get(reason)
            if failure is None or self.open_answer is not None:
                return b""
            return answers.error(*failure, head_only=bool(self.owed[0].demands & HEAD))
        if reason not in (CloseReason.HEADER_TIMEOUT, CloseReason.BODY_TIMEOUT):
            return b""
        return answers.error(408, f"the {self.waits_for} of the request took too long") if self.waits_for else b""

    def encode(self, message: Any) -> bytes:
        """str: text/html; dict and list: JSON; bytes: as they are. The answer is to the oldest request that has none;
        RuntimeError when there is no such request, or its answer is not at its end. TypeError for anything else."""
        if message.__class__ is str:
            body = message.encode()
            owed = self.owed
            if owed and not owed[0].demands and len(body) <= self.gzip_above:
                owed.pop(0)
                head = _heads.get(len(body))
                return (head or answers.plain_head(len(body))) + body
        if not self.owed:
            raise RuntimeError("no request waits for an answer")
        if isinstance(message, (Chunk, ServerSentEvents)):
            return self._go_on(message)
        if self.open_answer is not None:
            raise RuntimeError("the last answer is not at its end: an empty Chunk ends it")
        return self._answer(_response(message), self.owed[0])

    def _answer(self, response: Response, request: Request) -> bytes:
        if request.demands & SESSION:
            request.settle_session()
        file = response.file
        if file is not None:
            file.facts = file.facts or self.open_file(file)
        try:
            answer = answers.answer(response, request, gzip=self.gzip)
        except BaseException:
            if file is not None and file.facts is not None:
                self.close_file(file.facts)
            raise
        finally:
            if file is not None:  # the Response may be sent again
                file.facts = None
        if answer.is_open:
            request.demands |= OPEN
            self.open_answer = answer
            return answer.data
        interim = self._answered()
        if not answer.files:
            return answer.data + interim
        *parts, last = answer.files
        if interim:  # behind all of the file
            parts.append(msgspec.structs.replace(last, last=False))
            last = FilePart(last.fd, 0, 0, interim)
        return b"".join((answer.data, *map(self.send_file, parts), self.send_file(last)))

    def lost(self) -> bool:
        """The next answer would be taken for this one."""
        return False

    def open_file(self, file: File) -> FileFacts | None:
        """None when there is none. For a subclass of the runtime's, as send_file and close_file are."""
        raise RuntimeError("files are sent by the runtime only")

    def send_file(self, part: FilePart) -> bytes:
        """Takes a part that follows what encode() is about to return; what is small it gives back as bytes, to be
        returned with that."""
        raise RuntimeError("files are sent by the runtime only")

    def close_file(self, facts: FileFacts) -> None:
        """Of an answer that could not be made."""
        raise RuntimeError("files are sent by the runtime only")

    def _go_on(self, message: Chunk | ServerSentEvents) -> bytes:
        """More of an open answer."""
        answer, request = self.open_answer, self.owed[0]
        if answer is None:
            raise RuntimeError("no answer is open: a Response with Transfer-Encoding: chunked opens one")
        is_muted = bool(request.demands & HEAD)
        if answer.remaining is not None and not is_muted:
            answer.remaining -= len(message.data)
            if answer.remaining < 0 or (answer.remaining and not message.data):
                raise RuntimeError("what is sent of this answer is not as long as its Content-Length")
        if message.data:
            return b"" if is_muted else answers.chunk(message.data, is_chunked=answer.is_chunked)
        if not answer.is_chunked and answer.remaining is None and not request.demands & OLD:
            raise RuntimeError("this answer ends with its connection: close that")
        return (b"0\r\n\r\n" if answer.is_chunked and not is_muted else b"") + self._answered()

    def _answered(self) -> bytes:
        """The first request owed has its answer; what the one behind it may wait for."""
        self.open_answer = None
        request = self.owed.pop(0)
        return INTERIM if request.demands & CONTINUE and self.is_waited_for else b""


def _response(message: Any) -> Response:
    if isinstance(message, Response):
        return message
    if isinstance(message, (dict, list)):
        return Response.json(message)
    return Response(body=message if isinstance(message, str) else as_bytes(message))
