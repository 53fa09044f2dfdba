"""A body that comes while it is read, and the ways it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

from workermand.errors import ConnectionLost
from workermand.http.body import MOST_WAITING, Body


class Network:
    """A Source; ``regulated`` counts."""

    def __init__(self) -> None:
        self.asked: list[asyncio.Future[None]] = []
        self.regulated = 0

    def more(self) -> Awaitable[None]:
        self.asked.append(asyncio.get_running_loop().create_future())
        return self.asked[-1]

    def regulate(self) -> None:
        self.regulated += 1


async def all_of(body: Body) -> list[bytes]:
    return [piece async for piece in body]


def test_what_is_there_already_is_one_piece() -> None:
    assert asyncio.run(all_of(Body(whole=b"all"))) == [b"all"]
    assert asyncio.run(all_of(Body())) == []


def test_pieces_that_wait_are_joined() -> None:
    body = Body(Network())
    for piece in (b"a", b"b", b"c"):
        body.put(piece)
    assert (body.waiting, body.is_open) == (b"abc", True)
    body.end()
    body.end(ConnectionLost("only the first end counts"))
    assert asyncio.run(all_of(body)) == [b"abc"]


def test_the_reader_waits_for_what_is_to_come() -> None:
    async def scene() -> None:
        network = Network()
        body = Body(network)
        reader = asyncio.create_task(all_of(body))
        await asyncio.sleep(0)
        body.put(b"a")
        body.put(b"b")  # before the reader has had its turn
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        body.put(b"c")
        body.end()
        assert await reader == [b"ab", b"c"]
        assert network.regulated == 0

    asyncio.run(scene())


def test_too_much_that_waits_is_full_until_it_is_taken() -> None:
    async def scene() -> None:
        network = Network()
        body = Body(network)
        body.put(bytes(MOST_WAITING))
        assert not body.is_full
        body.put(b"x")
        assert body.is_full
        assert len(await anext(body)) == MOST_WAITING + 1
        assert (body.is_full, network.regulated) == (False, 1)
        body.put(bytes(MOST_WAITING + 1))
        body.end()
        assert not body.is_full
        assert len((await all_of(body))[0]) == MOST_WAITING + 1

    asyncio.run(scene())


def test_an_error_comes_behind_what_had_come_and_comes_again() -> None:
    async def scene() -> None:
        body = Body(Network())
        body.put(b"half")
        body.end(ConnectionLost("gone"))
        assert await anext(body) == b"half"
        for _ in range(2):
            with pytest.raises(ConnectionLost, match="gone"):
                await anext(body)

    asyncio.run(scene())


def test_what_is_dropped_cannot_be_read() -> None:
    body = Body(Network())
    body.put(b"half")
    body.drop()
    with pytest.raises(RuntimeError, match="is answered"):
        asyncio.run(all_of(body))


def test_one_task_reads() -> None:
    async def scene() -> None:
        body = Body(Network())
        reader = asyncio.create_task(all_of(body))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="one task at a time"):
            await anext(body)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        body.put(b"still there")
        assert await anext(body) == b"still there"

    asyncio.run(scene())
