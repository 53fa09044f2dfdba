"""Both ends of a link over a real socketpair."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

import pytest

from workermand.link import (
    Adopt,
    Ask,
    ConnectionRow,
    Connections,
    Link,
    LinkClosed,
    Ready,
    ServerAnswer,
    Status,
    Stop,
)  # fmt: skip


@pytest.fixture
def pair() -> Iterator[tuple[Link, Link]]:
    ends = Link.pair()
    yield ends
    for end in ends:
        end.close()


def test_messages_arrive_whole_and_in_order(pair: tuple[Link, Link]) -> None:
    ours, theirs = pair
    said = [Ready(), Status(asked=7, total_request=3, closed={"idle timeout": 2}), Stop("retire", 10.0, reload=True)]
    for message in said:
        assert theirs.send(message)
    assert [message for message, _ in ours.receive()] == said
    assert ours.receive() == []


def test_descriptors_travel_beside_their_message(pair: tuple[Link, Link]) -> None:
    ours, theirs = pair
    listener = socket.create_server(("127.0.0.1", 0))
    ours.send(Adopt("tcp://127.0.0.1:1"), [listener.fileno()])
    [(message, [fd])] = theirs.receive()
    with socket.socket(fileno=fd) as passed:
        assert passed.getsockname() == listener.getsockname()
        assert not os.get_inheritable(passed.fileno())
    assert message == Adopt("tcp://127.0.0.1:1")
    listener.close()


def descriptors() -> set[tuple[str, str]]:
    """Number and target. There may be fewer afterwards: another test's garbage goes when it likes."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # that of the listing itself
            found.add((fd, os.readlink(f"/proc/self/fd/{fd}")))
    return found


def test_a_large_message_goes_through_a_memfd_and_leaves_no_descriptor(pair: tuple[Link, Link]) -> None:
    ours, theirs = pair
    row = ConnectionRow(1, "tcp", "text", True, False, 0, 0, 7, 8, "ESTABLISHED", "127.0.0.1:1", "127.0.0.1:2")
    before = descriptors()
    big = Connections(3, [row] * 20_000)
    assert theirs.send(big)
    assert ours.receive() == [(big, [])]
    assert descriptors() <= before


def test_a_full_link_drops_and_never_blocks(pair: tuple[Link, Link]) -> None:
    ours, theirs = pair
    sent = 0
    while theirs.send(Status(total_request=sent)):
        sent += 1
    assert sent > 10
    assert len(ours.receive()) == sent
    assert theirs.send(Status())


def test_the_end_of_the_other_side_is_an_exception(pair: tuple[Link, Link]) -> None:
    ours, theirs = pair
    theirs.send(Ready())
    theirs.close()
    assert ours.receive() == [(Ready(), [])], "what was said before the end is heard"
    with pytest.raises(LinkClosed):
        ours.receive()
    with pytest.raises(LinkClosed):
        ours.send(Ask(1, "status"))


def test_garbage_is_skipped_with_its_descriptors(pair: tuple[Link, Link]) -> None:
    ours, theirs = pair
    before = descriptors()
    socket.send_fds(theirs.sock, [b"\xc1 no msgpack"], [0])
    theirs.sock.send(b"\x80")
    theirs.send(ServerAnswer(1, {"version": 1}))
    assert [message for message, _ in ours.receive()] == [ServerAnswer(1, {"version": 1})]
    assert descriptors() <= before
