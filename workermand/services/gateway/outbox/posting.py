"""Posting: the asking side of outboxes: what send_to_uid() could not deliver is put into one, and taken out again.

Letters of one process for one uid are put in the order in which they were sent, whichever gateway answers first.
"""

from __future__ import annotations

import asyncio
import logging
import operator
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, Protocol, TypeVar

import msgspec

from workermand.services.gateway import messages, plans
from workermand.services.gateway.outbox.store import Letter
from workermand.services.gateway.plans import Delivery, Plan, Posted
from workermand.services.links.errors import ServiceError
from workermand.services.links.later import Later

logger = logging.getLogger(__name__)

T = TypeVar("T")

PATIENCE: Final = 5.0
"""Seconds that an outbox has to hand out letters, and to get the last ones at the end."""
AT_ONCE: Final = 16
"""Uids for which letters are taken at a time: an outbox's answers fit into its send buffer."""
TAKEN: Final = tuple[list[Letter], bool]


class Way(Protocol):
    """To a Register that keeps an outbox, as a Kept is."""

    @property
    def up(self) -> bool: ...

    def request(self, op: int, *rest: Any, timeout: float | None = None) -> Later[Any]: ...


class Taken(NamedTuple):
    """A letter, and where it is to be acknowledged."""

    letter: Letter
    way: Way


class Outboxes:
    """Those that one process knows of. Thread: the one that runs the loop."""

    def __init__(self) -> None:
        self.ways: list[Way] = []
        """The first that is up and answers gets a letter. The list stays the same one."""
        self.on_back: Callable[[Way], object] = lambda way: None
        """One is there, or is back."""
        self.on_kept: Callable[[str], object] = lambda uid: None
        """One has new letters for this uid: gateways are told."""
        self._pending: set[Later[int]] = set()
        self._taking = asyncio.Semaphore(AT_ONCE)

    def add(self, way: Way, order: Sequence[Way]) -> None:
        """It says that it keeps one. ``order``: of all that may."""
        if way not in self.ways:
            self.ways.append(way)
            self.ways.sort(key=order.index)
        self.on_back(way)

    def hear(self, uids: list[Any]) -> None:
        """News: there are letters for these."""
        for uid in uids:
            self.on_kept(uid)

    def put(self, uids: list[str], message: str | bytes, raw: bool) -> Later[int]:
        """For how many of them it is kept; 0 when no outbox takes it, which is logged. Sent before it returns."""
        later: Later[int] = Later("outbox")
        self._pending.add(later)
        later.add_done_callback(lambda _: self._pending.discard(later))
        self._try(later, sorted(self.ways, key=lambda way: not way.up), uids, message, raw)
        return later

    def _try(self, later: Later[int], ways: list[Way], uids: list[str], message: str | bytes, raw: bool) -> None:
        if not ways:
            later.fulfil(0)
            return

        def answered(asked: asyncio.Future[Any]) -> None:
            if asked.cancelled():
                later.fulfil(0)
            elif (error := asked.exception()) is not None:
                logger.warning("outbox: a message for %s: %s", ", ".join(uids[:3]), error)
                self._try(later, ways[1:], uids, message, raw)
            else:
                later.fulfil(asked.result())

        ways[0].request(messages.PUT, uids, message, raw).add_done_callback(answered)

    async def take(self, uid: str) -> list[Taken]:
        """The first letters of a uid, of all outboxes that answer, in the order of their time; none: there are no
        more."""
        async with self._taking:
            ways = [way for way in self.ways if way.up]
            asked = [way.request(messages.TAKE, uid, timeout=PATIENCE) for way in ways]
            answers = await asyncio.gather(*asked, return_exceptions=True)
        found: list[Taken] = []
        ends: list[float] = []
        for way, answer in zip(ways, answers, strict=True):
            try:
                letters, is_all = msgspec.convert(_result(answer), TAKEN)
            except (ServiceError, msgspec.ValidationError) as error:
                logger.warning("outbox: letters for %s: %s", uid, error)
                continue
            found += [Taken(letter, way) for letter in letters]
            if letters and not is_all:
                ends.append(letters[-1].at)
        # What lies behind the end of one answer may be older than what is in another.
        end = min(ends, default=float("inf"))
        return sorted((one for one in found if one.letter.at <= end), key=operator.attrgetter("letter.at"))

    async def acknowledge(self, taken: list[Taken]) -> None:
        """Raises ServiceError: they may come again."""
        numbers: dict[Way, list[int]] = {}
        for letter, way in taken:
            numbers.setdefault(way, []).append(letter.number)
        for way, some in numbers.items():
            await way.request(messages.ACKNOWLEDGE, some)

    async def idle(self) -> None:
        """What is under way has been put, or PATIENCE is over."""
        if self._pending:
            await asyncio.wait(self._pending, timeout=PATIENCE)


class Post:
    """One send_to_uid()."""

    __slots__ = ("later", "plan", "posted")

    def __init__(self, plan: Plan[Delivery]) -> None:
        self.plan = plan
        self.later: Later[Delivery] = Later(plan.what)
        self.posted: Posted | Exception | None = None
        """What the gateways have answered."""


class Poster:
    """Of one process that sends. Thread: the one that runs the loop."""

    def __init__(self, outboxes: Outboxes) -> None:
        self._outboxes = outboxes
        self._queues: dict[str, deque[Post]] = {}
        """By uid, in the order of the calls: those of which it is not known yet who took them."""
        self._putting: dict[str, int] = {}
        """By uid: how many letters are being put."""
        self._idle: asyncio.Event | None = None

    def post(self, plan: Plan[Any], run: Callable[[Plan[Posted]], Later[Posted]]) -> Later[Any]:
        """As ``run`` would send it; and what nobody takes goes to an outbox, and what comes behind a letter that is
        just being put, too: it must not overtake it."""
        post = Post(plan)
        uids = plan.keys or ()
        for uid in uids:
            self._queues.setdefault(uid, deque()).append(post)
        asked = [uid for uid in uids if uid not in self._putting] if self._putting else uids
        run(plans.posting(plan, asked)).add_done_callback(lambda asked: self._answered(post, asked))
        return post.later

    async def idle(self) -> None:
        """Whatever was sent has been taken or put, or PATIENCE is over."""
        if self._queues:
            self._idle = asyncio.Event()
            try:
                await asyncio.wait_for(self._idle.wait(), PATIENCE)
            except TimeoutError:
                logger.warning("outbox: gateways have not answered; what became of messages to uids is not known")
        await self._outboxes.idle()

    def _answered(self, post: Post, asked: asyncio.Future[Posted]) -> None:
        post.posted = ServiceError("given up") if asked.cancelled() else asked.exception() or asked.result()  # type: ignore[assignment]
        self._settle(post)

    def _settle(self, post: Post) -> None:
        """Unless one before it is unsettled; and then those behind it."""
        waiting = [post]
        while waiting:
            post = waiting.pop()
            uids = post.plan.keys or ()
            if post.posted is None or any(uid not in self._queues or self._queues[uid][0] is not post for uid in uids):
                continue
            self._decide(post, post.posted)
            for uid in reversed(uids):
                queue = self._queues[uid]
                queue.popleft()
                if queue:
                    waiting.append(queue[0])
                else:
                    del self._queues[uid]
        if self._idle is not None and not self._queues:
            self._idle.set()

    def _decide(self, post: Post, posted: Posted | Exception) -> None:
        if isinstance(posted, Exception):
            post.later.fail(posted)
            return
        delivery, missed = posted
        if not missed:
            post.later.fulfil(delivery)
            return
        for uid in missed:
            self._putting[uid] = self._putting.get(uid, 0) + 1

        def put(kept: asyncio.Future[int]) -> None:
            for uid in missed:
                self._putting[uid] -= 1
                if not self._putting[uid]:
                    del self._putting[uid]
            post.later.fulfil(delivery._replace(kept=kept.result()))

        self._outboxes.put(missed, *post.plan.arguments).add_done_callback(put)


def _result(answer: Any) -> Any:
    if isinstance(answer, BaseException):
        raise answer
    return answer
