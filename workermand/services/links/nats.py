"""NatsLink: one connection to a nats server, with what its engines need beside publish and subscribe.

nats-py connects, and connects again. Messages are taken where it makes them, one after the other: by its own ways each
subscription would have a task, and what one publisher has sent to two subjects would change its order. Requests are
pipelined: written in order, answered whenever.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from workermand import ConfigError
from workermand.services.links.backlog import Call
from workermand.services.links.errors import ServiceError, TimedOut, Unauthorized, Unreachable, Unsupported
from workermand.services.links.later import Later

try:
    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.errors import Error as NatsError
except ImportError:
    raise ConfigError("nats://", "the package nats-py is missing", 'pip install "workermand[nats]"') from None

logger = logging.getLogger(__name__)

TIMEOUT: Final = 10.0
"""Seconds for a connection, and for the answers to a batch."""
PING: Final = 10
"""Seconds between two signs of life."""
FAREWELL: Final = 2.0
"""Seconds that close() has for its last words."""
WAIT: Final = 0.2
"""Seconds between two attempts to connect again."""

Handler = Callable[[str, str, bytes, Mapping[str, str]], None]
"""subject, reply, data, headers"""


Answer = asyncio.Future[tuple[bytes, Mapping[str, str]]]
"""Data and headers, to come."""


class ApiError(ServiceError):
    """What JetStream refuses; ``code``: its err_code."""

    def __init__(self, words: str, code: int) -> None:
        super().__init__(words)
        self.code = code


class NatsLink:
    """Thread: the one that runs the loop. The callbacks don't raise."""

    def __init__(
        self,
        url: str,
        *,
        on_up: Callable[[], None],
        on_down: Callable[[], None],
        on_given_up: Callable[[], None] = lambda: None,
    ) -> None:
        """``url``: nats://[user:password@]host:port, tls:// for TLS; several with commas. ``on_given_up``: it will not
        connect again. Raises ConfigError."""
        self._urls = [part if "://" in part else f"nats://{part}" for part in url.split(",")]
        self.where = ",".join(urlsplit(part).netloc.rpartition("@")[2] for part in self._urls)
        try:
            for part in self._urls:
                assert urlsplit(part).hostname, "a host is missing"
                _ = urlsplit(part).port
        except (ValueError, AssertionError) as error:
            raise ConfigError(self.where, str(error), "as in nats://127.0.0.1:4222") from None
        self._on_up, self._on_down, self._on_given_up = on_up, on_down, on_given_up
        self.client_id = secrets.token_hex(8)
        self.inbox = f"wm.c.{self.client_id}"
        """Subjects below it are this client's."""
        self.up = False
        self.reason = ""
        self._client: Any = Client()
        self._handlers: dict[str, Handler] = {}
        """See route()."""
        self._subscriptions: dict[tuple[str, str], Any] = {}
        self._answers: dict[str, Answer] = {}
        self._number = 0
        self._ahead = 0.0
        """The server's clock less ours, in seconds."""
        self._failed: asyncio.Future[Exception] | None = None
        self._closed = False

    # ------------------------------------------------------------------ the connection

    async def open(self) -> None:
        """Raises Unreachable, Unauthorized."""
        self._client.msg_class = self._take  # in the order in which they come
        self._failed = asyncio.get_running_loop().create_future()
        connecting = asyncio.ensure_future(
            self._client.connect(
                self._urls,
                name="workermand",
                error_cb=self._failing,
                disconnected_cb=self._disconnected,
                reconnected_cb=self._reconnected,
                closed_cb=self._ended,
                max_reconnect_attempts=-1,
                reconnect_time_wait=WAIT,
                connect_timeout=TIMEOUT,
                ping_interval=PING,
                max_outstanding_pings=2,
            )
        )
        try:
            await asyncio.wait([connecting, self._failed], timeout=TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            connecting.cancel()
            await asyncio.wait([connecting])
            raise
        if not connecting.done() or connecting.exception() is not None:
            error = connecting.exception() if connecting.done() else None
            if error is None:
                error = self._failed.result() if self._failed.done() else TimeoutError("no answer")
            connecting.cancel()
            await asyncio.wait([connecting])
            await self.close()
            words = f"nats at {self.where}: {type(error).__name__}: {error}"
            raise (Unauthorized if "uthorization" in words else Unreachable)(words) from error
        self.up = True
        self.route(f"{self.inbox}.r.", self._answered)
        await self.listen(f"{self.inbox}.r.*")

    async def close(self) -> None:
        """Unsubscribed first: what comes next for a queue group is for others."""
        if self.up:
            with contextlib.suppress(ServiceError, TimeoutError):
                async with asyncio.timeout(FAREWELL):
                    answers = f"{self.inbox}.r.*"
                    for subject, queue in list(self._subscriptions):
                        if subject != answers:
                            await self.forget(subject, queue)
                    await self.flush()
        self._closed = True
        self.up = False
        if self._failed is not None:  # it was opened
            with contextlib.suppress(NatsError, OSError, asyncio.TimeoutError):
                await self._client.close()
        self._fail_answers()

    async def _failing(self, error: Exception) -> None:
        self.reason = f"{type(error).__name__}: {error}"
        if self._failed is not None and not self._failed.done():
            self._failed.set_result(error)
        logger.debug("nats at %s: %s", self.where, self.reason)

    async def _disconnected(self) -> None:
        if self.up and not self._closed:
            self.up = False
            self._fail_answers()
            self._on_down()

    async def _reconnected(self) -> None:
        self.up = True
        self._on_up()

    async def _ended(self) -> None:
        if not self._closed and self.reason:
            # Refused while it came back, with a password that has been changed: nats-py does not try again.
            logger.error("nats at %s: given up: %s", self.where, self.reason)
        if not self._closed:
            self._on_given_up()

    def _fail_answers(self) -> None:
        for answer in list(self._answers.values()):
            if not answer.done():
                answer.set_exception(Unreachable(f"nats at {self.where} is gone: it may not have arrived"))
                answer.exception()  # nobody has to fetch it

    @property
    def max_payload(self) -> int:
        """Bytes of the largest message that the server takes."""
        return int(self._client.max_payload)

    # ------------------------------------------------------------------ messages

    async def publish(self, subject: str, data: bytes, reply: str = "", headers: dict[str, str] | None = None) -> None:
        """Raises Unreachable; ServiceError for what is too large."""
        try:
            await self._client.publish(subject, data, reply, headers)
        except (NatsError, OSError) as error:
            if "ayload" in str(error):
                raise ServiceError(f"{len(data)} bytes are more than nats takes (max_payload)") from error
            raise Unreachable(f"nats at {self.where}: {error}") from error

    async def flush(self) -> None:
        """Until the server has all that was written. Raises Unreachable, TimedOut."""
        # Not nats-py's flush(): its PING overtakes what it has not written yet, and one whose PONG was lost with a
        # connection takes that of the next. A message to ourselves goes the way of all others.
        answer = await self._written(lambda inbox: self.publish(inbox, b""))
        try:
            await asyncio.wait_for(answer, TIMEOUT)
        except TimeoutError:
            raise TimedOut(f"nats at {self.where}: no answer within {TIMEOUT:g} s: it may not have arrived") from None

    async def request(self, subject: str, data: bytes, headers: dict[str, str] | None = None) -> Answer:
        """Written now; the answer is what the future gives."""
        return await self._written(lambda inbox: self.publish(subject, data, inbox, headers))

    async def _written(self, write: Callable[[str], Awaitable[None]]) -> Answer:
        """``write(inbox)``: what makes somebody send to ``inbox``."""
        self._number += 1
        inbox = f"{self.inbox}.r.{self._number}"
        answer: Answer = asyncio.get_running_loop().create_future()
        answer.add_done_callback(lambda answer: self._answers.pop(inbox, None))
        self._answers[inbox] = answer
        try:
            await write(inbox)
        except BaseException:
            answer.cancel()
            raise
        return answer

    async def ask(self, subject: str, data: bytes, headers: dict[str, str] | None = None) -> dict[str, Any]:
        """A request to JetStream. Raises ApiError, Unreachable, TimedOut."""
        return await answered(await self.request(subject, data, headers))

    async def api(self, verb: str, **arguments: Any) -> dict[str, Any]:
        """``verb``: "STREAM.CREATE.name". Likewise."""
        return await self.ask(f"$JS.API.{verb}", msgspec.json.encode(arguments) if arguments else b"")

    async def listen(self, subject: str, queue: str = "") -> None:
        """Subscribes; route() says who gets it. Raises Unreachable."""
        try:
            if (subject, queue) not in self._subscriptions:
                self._subscriptions[(subject, queue)] = await self._client.subscribe(subject, queue)
        except (NatsError, OSError) as error:
            raise Unreachable(f"nats at {self.where}: {error}") from error

    async def forget(self, subject: str, queue: str = "") -> None:
        """The opposite."""
        if (subscription := self._subscriptions.pop((subject, queue), None)) is not None:
            with contextlib.suppress(NatsError, OSError):
                await subscription.unsubscribe()

    def route(self, beginning: str, handler: Handler) -> None:
        """Who gets the messages whose subjects begin so: "wm.e.", or all but the last token of one below the inbox.
        What comes from a stream has the subject that it was published to."""
        self._handlers[beginning] = handler

    def _take(self, *, subject: str, reply: str, data: bytes, headers: Any, _client: Any, _sid: int) -> Msg | None:
        # In place of nats-py's class of messages: None ends what it does with one.
        end = subject.find(".", 3) + 1  # "wm.e."
        handler = self._handlers.get(subject[:end])
        if handler is None or subject.startswith("wm.c."):
            handler = self._handlers.get(subject[: subject.rfind(".") + 1])
        if handler is None:
            return Msg(_client=_client, subject=subject, reply=reply, data=data, headers=headers, _sid=_sid)
        try:
            handler(subject, reply, data, headers or {})
        except Exception:
            logger.exception("nats at %s: a message to %s could not be handled", self.where, subject)
        return None

    def _answered(self, subject: str, reply: str, data: bytes, headers: Mapping[str, str]) -> None:
        answer = self._answers.get(subject)
        if answer is not None and not answer.done():
            answer.set_result((data, headers))

    # ------------------------------------------------------------------ JetStream, and its clock

    async def has_jetstream(self) -> bool:
        """Raises Unreachable, TimedOut."""
        try:
            await self.api("INFO")
        except ApiError:
            return False
        return True

    async def create_stream(self, name: str, subjects: Sequence[str], **settings: Any) -> None:
        """Unless there is one of that name, whatever its settings. Raises ApiError, Unreachable, TimedOut."""
        try:
            await self.api(f"STREAM.CREATE.{name}", name=name, subjects=subjects, **settings)
        except ApiError as error:
            if error.code != 10058:  # an administrator has changed it
                raise

    async def set_clock(self) -> None:
        """Asks for the server's time: JetStream tells when it has stored a message. Raises as api()."""
        await self.create_stream("wm_clock", ["wm.clock"], storage="memory", max_msgs=1000)
        before = time.time()
        stored = await self.ask("wm.clock", b"")
        middle = (before + time.time()) / 2
        found = await self.api("STREAM.MSG.GET.wm_clock", seq=stored["seq"])
        self._ahead = seconds_of(found["message"]["time"]) - middle

    def now(self) -> float:
        """Seconds since the epoch, by the server's clock."""
        return time.time() + self._ahead


async def answered(answer: Answer) -> dict[str, Any]:
    """What JetStream says. Raises ApiError, Unreachable, TimedOut."""
    try:
        data, headers = await asyncio.wait_for(answer, TIMEOUT)
    except TimeoutError:
        raise TimedOut(f"nats: no answer within {TIMEOUT:g} s") from None
    if not data:
        status = headers.get("Status", "")
        if status == "503":
            raise ApiError("nats: nobody answers: is JetStream switched on (nats-server --jetstream)?", 503)
        return {}
    found: dict[str, Any] = msgspec.json.decode(data)
    if (error := found.get("error")) is not None:
        raise ApiError(f"nats: {error.get('description')}", error.get("err_code", 0))
    return found


def seconds_of(timestamp: str) -> float:
    """Of RFC 3339 with nanoseconds, which datetime has none of."""
    head, _, rest = timestamp.rstrip("Z").partition(".")
    whole = datetime.datetime.fromisoformat(head).replace(tzinfo=datetime.UTC).timestamp()
    return whole + (float(f"0.{rest}") if rest else 0.0)


# ---------------------------------------------------------------------------------------------------- calls


class Send(Call):
    """What is written in its turn; ``do`` gives JetStream's answers to come, or None: it is done when the server has
    it."""

    __slots__ = ("do", "finish")

    def __init__(
        self,
        later: Later[Any],
        do: Callable[[], Awaitable[Sequence[Answer] | None]],
        finish: Callable[[list[dict[str, Any]]], Any] = lambda answers: None,
        **options: Any,
    ) -> None:
        super().__init__(later, **options)
        self.do = do
        self.finish = finish


class Step(Call):
    """What takes more than one round trip, and is done by itself: its outcome is what ``do`` gives."""

    __slots__ = ("do",)

    def __init__(self, later: Later[Any], do: Callable[[], Awaitable[Any]], **options: Any) -> None:
        super().__init__(later, **options)
        self.do = do


async def perform(link: NatsLink, calls: Sequence[Call], refused: type[ServiceError]) -> None:
    """For a Backlog: all are written in order, then their answers are waited for. What the server refuses is a
    ``refused``. Raises Unreachable."""
    written: list[tuple[Send, Sequence[Answer] | None]] = []
    for call in calls:
        try:
            if isinstance(call, Send):
                written.append((call, await call.do()))
            elif isinstance(call, Step):
                call.later.fulfil(await call.do())
        except Unreachable:
            raise
        except ServiceError as error:
            call.later.fail(
                error if isinstance(error, refused | TimedOut | Unsupported) else refused(f"{call.later.what}: {error}")
            )
    if any(answers is None for _, answers in written):
        await link.flush()
    for call, answers in written:
        try:
            call.later.fulfil(call.finish([await answered(answer) for answer in answers or ()]))
        except Unreachable:
            raise
        except ServiceError as error:
            call.later.fail(
                error if isinstance(error, refused | TimedOut | Unsupported) else refused(f"{call.later.what}: {error}")
            )


def _as(refused: type[ServiceError], what: str, error: ServiceError) -> ServiceError:
    """What is said by its own kind stays as it is."""
    return error if isinstance(error, refused | TimedOut | Unsupported) else refused(f"{what}: {error}")
