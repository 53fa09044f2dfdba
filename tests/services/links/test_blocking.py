"""Links without a loop, to a real server."""

from __future__ import annotations

import contextlib
import socket
import threading

import pytest

from tests.services.links.conftest import serving
from workermand.services.links import wire
from workermand.services.links.address import Address
from workermand.services.links.blocking import BlockingLink
from workermand.services.links.errors import ServiceError, TimedOut, Unauthorized, Unreachable


def test_requests_and_news() -> None:
    with serving("swordfish") as (_server, address), BlockingLink(address, "echo", secret="swordfish") as link:
        assert link.request(16, "hello", {"a": [1, b"x"]}) == ["hello", {"a": [1, b"x"]}]
        with pytest.raises(ServiceError, match="not today"):
            link.request(18)
        link.send(19, "news")
        assert link.request(16) == []
        assert link.receive() == [19, 0, "news"]
        with pytest.raises(TimedOut):
            link.receive(0.01)
        big = "x" * 1_000_000
        assert link.request(16, big) == [big]
        assert link.connects == 1


def test_an_answer_that_does_not_come() -> None:
    with serving() as (_server, address), BlockingLink(address, "echo") as link:
        with pytest.raises(TimedOut):
            link.request(17, timeout=0.05)
        assert link.request(16, 1) == [1]
        assert link.connects == 2  # a late answer goes to nobody


def test_it_connects_again() -> None:
    with serving() as (_server, address), BlockingLink(address, "echo") as link:
        with pytest.raises(Unreachable, match=r"echo at 127\.0\.0\.1:\d+"):
            link.request(20)
        assert link.request(16, 1) == [1]


def test_threads_take_turns() -> None:
    with serving() as (_server, address), BlockingLink(address, "echo") as link:
        answers: dict[int, list[int]] = {}

        def ask(number: int) -> None:
            answers[number] = [link.request(16, number, turn)[1] for turn in range(50)]

        threads = [threading.Thread(target=ask, args=[number]) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == {number: list(range(50)) for number in range(4)}


@pytest.mark.parametrize(("secret", "words"), [("wrong", "wrong secret"), ("", "asks for a secret")])
def test_secrets(secret: str, words: str) -> None:
    with serving("right") as (_server, address):
        with pytest.raises(Unauthorized, match=rf"echo at 127\.0\.0\.1:\d+: .*{words}"):
            BlockingLink(address, "echo", secret=secret).connect()


def test_nobody_there(free_port: int) -> None:
    with pytest.raises(Unreachable, match="refused"):
        BlockingLink(Address("127.0.0.1", 1, ""), "echo").connect()


@pytest.mark.parametrize(
    ("bytes_sent", "error", "words"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", ServiceError, "no server of ours"),
        (wire.pack([wire.OK, 0]), ServiceError, "no echo server"),
        (b"", Unreachable, "no answer within"),
    ],
)
def test_who_answers_is_no_server_of_ours(bytes_sent: bytes, error: type[Exception], words: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            client, _ = listener.accept()
            with client:
                client.sendall(bytes_sent)
                with contextlib.suppress(ConnectionResetError):
                    client.recv(1024)
                    client.recv(1024)

        thread = threading.Thread(target=serve)
        thread.start()
        link = BlockingLink(Address("127.0.0.1", listener.getsockname()[1], ""), "echo", timeout=0.3)
        with pytest.raises(error, match=words):
            link.connect()
        thread.join()
