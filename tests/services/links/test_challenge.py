"""Who knows the secret: both sides, as one conversation."""

from __future__ import annotations

from typing import Any

import pytest

from workermand.services.links import wire
from workermand.services.links.challenge import Asked, Asking, sign
from workermand.services.links.errors import ServiceError, Unauthorized


def converse(asked: Asked, asking: Asking) -> list[list[Any]]:
    """All that is said, to the end."""
    said: list[list[Any]] = []
    word: list[Any] | None = asked.hello()
    while word is not None:
        answer = asking.hear(word)
        said += [word, answer]
        word = asked.hear(answer)
    return said


@pytest.mark.parametrize("secret", ["", "swordfish", "пароль"])
def test_both_know_it(secret: str) -> None:
    asked, asking = Asked("channel", secret), Asking("channel", secret)
    said = converse(asked, asking)
    assert asked.is_done and asking.is_done
    assert [word[0] for word in said] == [wire.HELLO, wire.CHALLENGE, wire.PROOF, wire.WELCOME]
    assert not secret or secret.encode() not in wire.body(said)


def test_no_two_conversations_are_alike() -> None:
    one, two = (converse(Asked("channel", "x"), Asking("channel", "x")) for _ in range(2))
    assert one[1] != two[1] and one[2] != two[2] and one[3] != two[3]


@pytest.mark.parametrize(
    ("clients", "servers", "words"),
    [
        ("right", "wrong", "wrong secret"),
        ("", "secret", "the server asks for a secret"),
        ("secret", "", "the server does not know the secret"),
    ],
)
def test_they_know_different_ones(clients: str, servers: str, words: str) -> None:
    with pytest.raises(Unauthorized, match=words):
        converse(Asked("channel", clients), Asking("channel", servers))


def test_a_server_that_pretends() -> None:
    asked = Asked("channel", "secret")
    asked.hello()
    proof = asked.hear([wire.CHALLENGE, 0, wire.VERSION, b"n" * 32])
    assert proof is not None
    for answer in (b"", b"x" * 32, proof[3]):  # its own proof, sent back
        with pytest.raises(Unauthorized, match="does not know the secret"):
            asked.hear([wire.WELCOME, 0, answer])
    assert not asked.is_done


def test_a_client_that_pretends() -> None:
    asking = Asking("channel", "secret")
    nonce = asking.hear([wire.HELLO, 0, wire.VERSION, "channel"])[3]
    for proof in (b"", sign("secret", b"server", "channel", nonce, b"n" * 32)):
        with pytest.raises(Unauthorized, match="wrong secret"):
            asking.hear([wire.PROOF, 0, b"n" * 32, proof])
    with pytest.raises(Unauthorized, match="wrong secret"):  # a nonce that is none
        asking.hear([wire.PROOF, 0, b"", sign("secret", b"client", "channel", nonce, b"")])


@pytest.mark.parametrize(
    "words",
    [
        [[wire.PROOF, 0, b"n" * 32, b""]],
        [[wire.HELLO, 0, wire.VERSION, "globaldata"]],
        [[wire.HELLO, 0, wire.VERSION + 1, "channel"]],
        [[wire.HELLO, 0, wire.VERSION, "channel"], [wire.HELLO, 0, wire.VERSION, "channel"]],
        [[wire.FIRST, 0]],
        [[wire.HELLO, 0]],
    ],
)
def test_what_a_server_refuses(words: list[list[Any]]) -> None:
    asking = Asking("channel", "secret")
    for word in words[:-1]:
        asking.hear(word)
    with pytest.raises(ServiceError, match="this is channel"):
        asking.hear(words[-1])


@pytest.mark.parametrize(
    ("word", "error"),
    [
        ([wire.FAIL, 0, "wrong secret"], "wrong secret"),
        ([wire.CHALLENGE, 0, wire.VERSION + 1, b""], "speaks version 2 of channel, this client 1"),
        ([wire.OK, 0], "what answers is no channel server"),
        ([wire.CHALLENGE, 0, "1", b""], "what answers is no channel server"),
    ],
)
def test_what_a_client_refuses(word: list[Any], error: str) -> None:
    with pytest.raises(ServiceError, match=error):
        Asked("channel", "secret").hear(word)
