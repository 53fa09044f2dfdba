"""The server: its settings, garbage, subscribers that do not read, and who sits beside them."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any

import pytest

from tests.conftest import PATIENCE, wait_until
from tests.services.channel.conftest import HANDLER, connected, play, serving
from workermand.services.channel import ChannelError, wire
from workermand.services.links import wire as links
from workermand.services.links.address import Address
from workermand.services.links.blocking import BlockingLink
from workermand.services.links.errors import ServiceError, Unreachable
from workermand.testing import RunningServer, running_server
from workermand.testing.server import ServerFailed


def link(server: RunningServer) -> BlockingLink:
    """A client that says what it likes."""
    address = server.address
    found = Address("", 0, address) if isinstance(address, str) else Address(address[0], address[1], "")
    return BlockingLink(found, "channel", timeout=PATIENCE)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"count": 2}, "count = 2, write 1"),
        ({"listen": "tcp://0.0.0.0:0"}, "there is no options.secret"),
        ({"options": {"slow": "later"}}, r"options\.slow"),
        ({"options": {"subscriptions": 0}}, r"options\.subscriptions"),
        ({"options": {"perist": True}}, r"options\.perist: unknown key"),
    ],
)
def test_settings_that_cannot_be(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ServerFailed, match=words):
        with serving(**keys):
            pass


def test_without_an_address() -> None:
    with pytest.raises(ServerFailed, match=r'listens nowhere: add listen = "unix://channel\.sock"'):
        with running_server(f'[worker.main]\nhandler = "{HANDLER}"\n'):
            pass


@pytest.mark.parametrize(
    "message",
    [[99, 1], [wire.PUBLISH, 1], [wire.PUBLISH, 1, "event", b"", False], [wire.EVENT, 0, "event", b""]],
)
def test_garbage_ends_the_connection_in_words(server: RunningServer, message: list[Any]) -> None:
    with link(server) as client:
        client.send(*message[:1], *message[2:])
        with pytest.raises(Unreachable):
            client.receive(PATIENCE)
    server.wait_for(f"no message of a channel: op {message[0]}")


def test_names_are_checked_here_too() -> None:
    with serving(options={"subscriptions": 2}) as server, link(server) as client:
        with pytest.raises(ServiceError, match="control character"):
            client.request(wire.SUBSCRIBE, ["a\n"])
        with pytest.raises(ServiceError, match="more than 2 subscriptions"):
            client.request(wire.SUBSCRIBE, ["a", "b", "c"])
        client.request(wire.SUBSCRIBE, ["a", "b"])
        client.request(wire.UNSUBSCRIBE, ["a", "never"])
        assert "order" in client.request(wire.ABOUT)


def test_what_the_facade_says_of_a_refusal() -> None:
    async def scene() -> None:
        async with connected(server) as channel:
            with pytest.raises(ChannelError, match="more than 1 subscriptions"):
                await channel.subscribe(["a", "b"], print)

    with serving(options={"subscriptions": 1}) as server:
        play(scene)


def read_nothing(server: RunningServer, event: str) -> socket.socket:
    """A subscriber that is let in, subscribes, and then does not read."""
    host, port = server.address
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(PATIENCE)
    client.connect((host, int(port)))
    client.sendall(links.pack([links.HELLO, 0, links.VERSION, "channel"]))
    heard = b""
    while links.pack([links.WELCOME, 0, b""]) not in heard:
        heard += client.recv(4096)
        if heard.startswith(links.pack([links.CHALLENGE, 0, links.VERSION, b""])):
            client.sendall(links.pack([links.PROOF, 0, b"", b""]))
            heard = heard[len(links.pack([links.CHALLENGE, 0, links.VERSION, b""])) :]
    client.sendall(links.pack([wire.SUBSCRIBE, 7, [event]]))
    assert client.recv(4096) == links.pack([links.OK, 7, None])
    return client


LIMITS = {"send_buffer": "64KiB"}
"""Of each client."""
PART = b"x" * 60_000


async def flood(channel: Any, count: int, takers: int) -> list[int]:
    """Counts, until somebody has not taken it any more ``count`` times."""
    counts = []
    while sum(number < takers for number in counts) < count:
        counts.append(await channel.publish("flood", PART))
    return counts


def test_a_subscriber_that_does_not_read_misses_and_the_others_do_not() -> None:
    async def scene() -> None:
        async with connected(server) as publisher, connected(server) as quick:
            heard: list[bytes] = []
            await quick.on("flood", heard.append)
            slow = read_nothing(server, "flood")
            counts = await flood(publisher, 5, takers=2)
            await quick.on("end", lambda data: "end")
            assert await publisher.request("end") == "end"
            assert len(heard) == len(counts)
            await asyncio.to_thread(told_of, slow, counts.count(2), counts.count(1))
            slow.close()

    with serving(limits=LIMITS) as server:
        play(scene)
        assert "does not read: its events are dropped until it does" in server.output


def told_of(slow: socket.socket, taken: int, missed: int) -> None:
    """It reads again: what it took is whole, and it is told of the rest."""
    events, buffer = 0, b""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        buffer += slow.recv(65536)
        while len(buffer) >= 4 and len(buffer) >= (length := int.from_bytes(buffer[:4], "big")):
            message, buffer = links.unpack(buffer[4:length]), buffer[length:]
            if message[0] == wire.DROPPED:
                assert (events, message[2]) == (taken, missed)
                return
            events += message[0] == wire.EVENT
    raise AssertionError(f"not told within {PATIENCE} s; {events} events")


def test_by_the_other_policy_it_is_closed() -> None:
    async def scene() -> None:
        async with connected(server) as publisher:
            slow = read_nothing(server, "flood")
            await flood(publisher, 2, takers=1)
            assert await publisher.publish("flood", "") == 0
            slow.close()

    with serving(limits=LIMITS, options={"slow": "close"}) as server:
        play(scene)
        wait_until("it is said", lambda: "does not read: closed, by options.slow" in server.output)
