"""The connection to nats: pipelined requests, its clock, and what the server refuses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from tests.services.servers import Server, nats_server
from workermand.services.links.errors import ServiceError, Unreachable
from workermand.services.links.nats import ApiError, NatsLink, answered, seconds_of
from workermand.testing.probes import soon

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with nats_server() as running:
        yield running


def link_to(url: str) -> NatsLink:
    return NatsLink(url, on_up=lambda: None, on_down=lambda: None)


def test_answers_find_their_requests(server: Server) -> None:
    async def main() -> None:
        link = link_to(server.url)
        await link.open()
        await link.create_stream("order", ["order.>"], storage="memory")
        answers = [await link.request(f"order.{number}", b"x") for number in range(100)]
        found = [(await answered(answer))["seq"] for answer in answers]
        assert found == list(range(1, 101))
        await link.create_stream("order", ["order.>"], storage="memory", max_msgs=7)  # there already
        with pytest.raises(ApiError, match="not found") as caught:
            await link.api("STREAM.INFO.missing")
        assert caught.value.code == 10059
        await link.close()

    asyncio.run(main())


def test_what_is_flushed_has_been_taken(server: Server) -> None:
    """Also a subscription that nats-py has not written yet."""

    async def main() -> None:
        listener, publisher = link_to(server.url), link_to(server.url)
        await listener.open()
        await publisher.open()
        heard: list[str] = []
        listener.route("wm.e.", lambda subject, *_: heard.append(subject))
        for number in range(200):
            await listener.listen(f"wm.e.{number}")
            await listener.flush()
            await publisher.publish(f"wm.e.{number}", b"")
            await publisher.flush()
        await listener.flush()
        assert heard == [f"wm.e.{number}" for number in range(200)]
        await listener.close()
        await publisher.close()

    asyncio.run(main())


def test_the_servers_clock(server: Server) -> None:
    async def main() -> None:
        link = link_to(server.url)
        await link.open()
        await link.set_clock()
        assert abs(link.now() - time.time()) < 5.0
        await link.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("words", "seconds"),
    [
        ("1970-01-01T00:00:01Z", 1.0),
        ("1970-01-01T00:00:01.5Z", 1.5),
        ("2026-11-21T13:00:00.123456789Z", 1795266000.123456789),
    ],
)
def test_timestamps(words: str, seconds: float) -> None:
    assert seconds_of(words) == pytest.approx(seconds, abs=1e-6)


def test_what_is_too_large_is_no_lost_connection(server: Server) -> None:
    async def main() -> None:
        link = link_to(server.url)
        await link.open()
        with pytest.raises(ServiceError, match="max_payload") as caught:
            await link.publish("news", b"x" * 2_000_000)
        assert not isinstance(caught.value, Unreachable)
        await link.flush()
        await link.close()

    asyncio.run(main())


def test_requests_fail_when_the_connection_breaks() -> None:
    async def main(server: Server) -> None:
        link = link_to(server.url)
        await link.open()
        answer = await link.request(f"{link.inbox}.nobody", b"")
        with pytest.raises(ApiError, match="nobody answers"):
            await answered(answer)
        await link.listen("silent")
        answer = await link.request("silent", b"")
        server.kill()
        with pytest.raises(Unreachable):
            await soon("an outcome", answer)
        await link.close()

    with nats_server() as running:
        asyncio.run(main(running))
