"""The last lines of each room, in GlobalData: whoever comes in reads what was said before.

A room is a ring of keys, chat.ROOM.0 to chat.ROOM.99, and a counter, chat.ROOM.next: no line is ever written twice, and
two processes that add one at the same time do not wait for each other. What is not said in again for a day is gone.

A chat without GlobalData, or whose GlobalData is away, goes on without a history.
"""

import asyncio
import math
import time
from typing import Any

from workermand import ConfigError, WorkermandError
from workermand.services.globaldata import GlobalData

LINES = 100
KEPT = 86_400.0
"""Seconds. The counter is kept for twice as long, so that a ring never begins anew among older lines."""
TIMEOUT = 2.0
"""Seconds that a line may be held up by a GlobalData that has gone; then it is let alone for PAUSE."""
PAUSE = 10.0


class History:
    """One for each process."""

    def __init__(self) -> None:
        self._data: GlobalData | None = None
        self._connecting = asyncio.Lock()
        self._away_until = 0.0

    async def add(self, room: str, line: dict[str, Any]) -> None:
        try:
            if (data := await self._connected()) is not None:
                counter = f"chat.{room}.next"
                number = await data.increment(counter)
                if number is None:
                    await data.add(counter, 0, ttl=2 * KEPT)  # unless somebody else has just done it
                    number = await data.increment(counter)
                data.expire(counter, 2 * KEPT)
                await data.set(f"chat.{room}.{int(number or 0) % LINES}", [number, line], ttl=KEPT)
        except WorkermandError as error:
            self._leave_alone(error)

    async def lines(self, room: str) -> list[dict[str, Any]]:
        """Oldest first."""
        try:
            if (data := await self._connected()) is None:
                return []
            found = await data.get_many([f"chat.{room}.{place}" for place in range(LINES)])
        except WorkermandError as error:
            self._leave_alone(error)
            return []
        return [line for _, line in sorted(found.values(), key=lambda numbered: int(numbered[0]))]

    async def close(self) -> None:
        if self._data is not None:
            await self._data.close()

    async def _connected(self) -> GlobalData | None:
        async with self._connecting:
            if time.monotonic() < self._away_until:
                return None
            if self._data is None:
                self._data = await GlobalData.connect(timeout=TIMEOUT)
        return self._data

    def _leave_alone(self, error: WorkermandError) -> None:
        pause = math.inf if isinstance(error, ConfigError) else PAUSE  # this daemon has none
        print(f"no history for {pause:g} s: {error}")
        self._away_until = time.monotonic() + pause
