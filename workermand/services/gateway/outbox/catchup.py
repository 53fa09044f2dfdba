"""Catching up: on a gateway, what an outbox has for a uid goes to its clients as soon as there are any.

While that is under way, what is sent to the uid waits behind it, so that the order is kept. It ends when the outboxes
have no more, and nobody was told within the last GRACE that the uid is not here: what such a sender puts into an outbox
may still be on its way. A letter is deleted when a client's connection has taken it: at least once.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from typing import Final

from workermand import Connection, ConnectionStatus
from workermand.services.gateway import messages
from workermand.services.gateway.commands import Commands
from workermand.services.gateway.outbox.posting import Outboxes, Taken, Way
from workermand.services.gateway.table import Client, Table
from workermand.services.links.errors import ServiceError

logger = logging.getLogger(__name__)

GRACE: Final = 1.0
"""Seconds from an answer "nobody here" to the letter that comes of it, and to the end of its precedence."""
BEHIND: Final = 1024 * 1024
"""Bytes that wait behind the letters of one uid; more goes to the outbox."""
EACH: Final = 100
"""Bytes that one of them is counted as, beside its message."""
RETRY: Final = 1.0
"""Seconds after which full clients are tried again, if they do not say themselves that they have room."""
PAGE: Final = 1000
"""Uids of one LOOK."""


class Behind:
    """A uid that is being caught up, and what waits for the end of that."""

    __slots__ = ("bytes", "is_stuck", "messages", "more", "room", "task")

    def __init__(self) -> None:
        self.messages: deque[tuple[str | bytes, bool]] = deque()
        self.bytes = 0
        self.is_stuck = False
        """Its clients had no room: what is sent goes to the outbox, until all that is there has been taken."""
        self.more = asyncio.Event()
        """There may be letters,"""
        self.room = asyncio.Event()
        """or room for them."""
        self.task: asyncio.Task[None] | None = None


class CatchUp:
    """Of one gateway process. Thread: the one that runs the loop."""

    def __init__(self, table: Table, commands: Commands, outboxes: Outboxes) -> None:
        self._table = table
        self._commands = commands
        self._outboxes = outboxes
        outboxes.on_back, outboxes.on_kept = self.look_at_all, self.look
        self._loop = asyncio.get_running_loop()
        self._behind: dict[str, Behind] = {}
        self._missed: dict[str, float] = {}
        """When it was last said that nobody here has this uid, the latest at the end."""
        self._looks: set[asyncio.Task[None]] = set()

    # ------------------------------------------------------------------ what is sent meanwhile

    def post(self, uids: list[str], message: str | bytes, raw: bool) -> tuple[int, int, list[str]]:
        """As send_to_uids(), with the uids of which somebody took it."""
        delivered = dropped = 0
        took = []
        for uid in dict.fromkeys(uids):
            clients = self._table.uids.get(uid)
            if clients is None:
                self._miss(uid)
                continue
            if (behind := self._behind.get(uid)) is None:
                taken, refused = self._commands.send(list(clients.values()), message, raw)
            elif self._put_behind(uid, behind, message, raw):
                taken, refused = len(clients), 0
            else:
                taken, refused = 0, len(clients)
                self._commands.dropped += refused
            delivered += taken
            dropped += refused
            if taken:
                took.append(uid)
            else:
                self._miss(uid)
        return delivered, dropped, took

    def _put_behind(self, uid: str, behind: Behind, message: str | bytes, raw: bool) -> bool:
        if behind.is_stuck:
            return False
        size = len(message) + EACH
        if behind.bytes + size > BEHIND:
            self._spill(uid, behind)
            return False
        behind.messages.append((message, raw))
        behind.bytes += size
        return True

    def _spill(self, uid: str, behind: Behind) -> None:
        """They are letters now."""
        for message, raw in behind.messages:
            self._outboxes.put([uid], message, raw)
        behind.messages.clear()
        behind.bytes = 0
        self._miss(uid)

    def _miss(self, uid: str) -> None:
        now = self._loop.time()
        missed = self._missed
        missed.pop(uid, None)
        missed[uid] = now
        while (first := next(iter(missed))) != uid and missed[first] < now - GRACE:
            del missed[first]

    # ------------------------------------------------------------------ what begins it, and moves it on

    def look(self, uid: str) -> None:
        """Somebody here has it now, or there may be letters for it."""
        if (behind := self._behind.get(uid)) is not None:
            behind.more.set()
        elif self._outboxes.ways and uid in self._table.uids:
            behind = self._behind[uid] = Behind()
            behind.task = self._loop.create_task(self._catch_up(uid, behind))

    def wake(self, uid: str) -> None:
        """A client of it has room, or has gone."""
        if (behind := self._behind.get(uid)) is not None:
            behind.room.set()
            behind.more.set()

    def look_at_all(self, way: Way) -> None:
        """This outbox is back."""
        if self._table.uids:
            task = self._loop.create_task(self._look_at_all(way))
            self._looks.add(task)
            task.add_done_callback(self._looks.discard)

    async def _look_at_all(self, way: Way) -> None:
        uids = list(self._table.uids)
        for start in range(0, len(uids), PAGE):
            try:
                for uid in await way.request(messages.LOOK, uids[start : start + PAGE]):
                    self.look(uid)
            except ServiceError as error:
                logger.warning("outbox: %s", error)
                return

    async def close(self) -> None:
        """What waits goes to the outbox."""
        tasks = [behind.task for behind in self._behind.values() if behind.task is not None]
        tasks += self._looks
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._outboxes.idle()

    # ------------------------------------------------------------------ one uid

    async def _catch_up(self, uid: str, behind: Behind) -> None:
        try:
            while uid in self._table.uids:
                behind.more.clear()
                letters = await self._outboxes.take(uid)
                if letters:
                    await self._deliver(uid, behind, letters)
                    continue
                behind.is_stuck = False
                if (rest := self._missed.get(uid, -math.inf) + GRACE - self._loop.time()) > 0:
                    await _wait(behind.more, rest)
                elif not behind.more.is_set():
                    break
        except ServiceError as error:  # they come again, at the latest when the uid is bound the next time
            logger.warning("outbox: letters for %s: %s", uid, error)
        finally:
            del self._behind[uid]
            self._release(uid, behind)

    async def _deliver(self, uid: str, behind: Behind, letters: list[Taken]) -> None:
        """In order, until nobody has room for one. What the clients' protocol cannot say, which is logged, is given
        up."""
        taken = 0
        for (_number, _at, message, raw), _way in letters:
            if not (clients := self._roomy(uid)):
                break
            self._commands.send(clients, message, raw)
            taken += 1
        if taken:
            await self._outboxes.acknowledge(letters[:taken])
        behind.is_stuck = taken < len(letters)
        if behind.is_stuck:
            self._spill(uid, behind)
        while behind.is_stuck and uid in self._table.uids and not self._roomy(uid):
            behind.room.clear()
            await _wait(behind.room, RETRY)

    def _roomy(self, uid: str) -> list[Client]:
        """Its clients that have room."""
        return [client for client in self._table.uids.get(uid, {}).values() if _has_room(client)]

    def _release(self, uid: str, behind: Behind) -> None:
        """What has waited goes out, or if nobody is there any more, to the outbox."""
        while behind.messages:
            clients = list(self._table.uids.get(uid, {}).values())
            message, raw = behind.messages[0]
            if not clients or not self._commands.send(clients, message, raw)[0]:
                self._spill(uid, behind)
                return
            behind.messages.popleft()


def _has_room(client: Client) -> bool:
    connection: Connection = client.connection
    return (
        connection.status is ConnectionStatus.ESTABLISHED
        and connection.get_send_buffer_size() < connection.max_send_buffer_size
    )


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        pass
