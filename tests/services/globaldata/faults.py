"""What engines have to do when their server is killed, the same for each of them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from tests.services.servers import Server
from workermand.services.globaldata.engine import Engine
from workermand.services.globaldata.wire import pack_value
from workermand.services.links.errors import ServiceError
from workermand.testing.globaldata_suite import Watcher, clients, value_of
from workermand.testing.probes import fresh, soon


async def watches_go_on(make: Callable[[], Engine], server: Server) -> None:
    """What changes after the server is back is seen; what is asked for meanwhile waits."""
    key, ends = fresh("key"), fresh("key")
    async with clients(make, 2) as (writer, watcher):
        await watcher.engine.watch(key)
        await writer.engine.set(key, pack_value("before"))
        await watcher.sees(key, pack_value("before"))
        server.kill()
        await soon("on_lost", watcher.lost.wait())
        await soon("on_lost", writer.lost.wait())
        waiting = [writer.engine.set(key, pack_value("meanwhile")), writer.engine.get(key)]
        watching = watcher.engine.watch(ends)
        server.start()
        await soon("what waited", asyncio.gather(*waiting))
        await soon("watch", watching)
        await watcher.sees(key, pack_value("meanwhile"))
        await soon("on_regained", watcher.regained.wait())
        await writer.engine.set(ends, pack_value("after"))
        await watcher.sees(ends, pack_value("after"))


async def confirmed_values_survive(make: Callable[[], Engine], server: Server, rounds: int) -> None:
    """kill -9 while several write: a key holds what was confirmed last, or something newer; a counter has counted every
    confirmed step, and no step twice."""
    async with clients(make, 3) as members:
        writers = [_Writer(member) for member in members]
        counter = fresh("counter")
        await members[0].engine.set(counter, pack_value(0))
        for _ in range(rounds):
            enough = [writer.confirmed + random.randint(10, 60) for writer in writers]
            working = [asyncio.create_task(writer.write(counter)) for writer in writers]
            for writer, number in zip(writers, enough, strict=True):
                await soon("writes are confirmed", writer.reaches(number))
            server.kill()
            for member in members:
                await soon("on_lost", member.lost.wait())
                member.lost.clear()
                member.regained.clear()
            for task in working:
                task.cancel()
            await asyncio.wait(working)
            server.start()
            for member in members:
                await soon("on_regained", member.regained.wait())
            for writer in writers:
                value = value_of(await writer.member.engine.get(writer.key))
                possible = [pack_value(number) for number in range(writer.confirmed, writer.tried + 1)]
                assert value in possible, f"{value!r}: {writer.confirmed} was confirmed, {writer.tried} was tried"
        value = value_of(await members[0].engine.get(counter))
        possible = [
            pack_value(number)
            for number in range(sum(writer.counted for writer in writers), sum(writer.steps for writer in writers) + 1)
        ]
        assert value in possible, "a confirmed step was lost, or one was counted twice"


class _Writer:
    """One client, a key of its own, and what it knows of it."""

    def __init__(self, member: Watcher) -> None:
        self.member = member
        self.key = fresh("key")
        self.confirmed = self.tried = self.counted = self.steps = 0
        self._changed = asyncio.Event()

    async def write(self, counter: str) -> None:
        while True:
            try:
                self.tried += 1
                number = self.tried
                await self.member.engine.set(self.key, pack_value(number))
                self.confirmed = number
                self.steps += 1
                await self.member.engine.increment(counter, 1)
                self.counted += 1
                self._changed.set()
            except ServiceError:
                await asyncio.sleep(0.01)

    async def reaches(self, number: int) -> None:
        while self.confirmed < number:
            self._changed.clear()
            await self._changed.wait()
