"""apps.chat.messages: what a client may say, and what it is told instead."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.chat.messages import ALL, CONTENT, NAME, Login, People, Pong, Refused, Say, read


def login(**fields: object) -> str:
    return json.dumps({"type": "login", "client_name": "Anne", "room_id": "1", **fields})


def say(**fields: object) -> str:
    return json.dumps({"type": "say", "to_client_id": "all", "to_client_name": "everybody", "content": "hi", **fields})


def test_each_kind() -> None:
    assert read(login()) == Login("Anne", "1")
    assert read(say()) == Say("hi", ALL)
    assert read('{"type": "say", "content": "hi"}') == Say("hi", ALL)
    assert read(b'{"type": "people"}') == People()
    assert read(b'{"type": "pong"}') == Pong()


@pytest.mark.parametrize("name", ["<b>Anne</b>", 'O\'Neill & "Co"', "游客", "👩‍💻", "&lt;", "x" * NAME])
def test_a_name_is_passed_on_as_it_was_written(name: str) -> None:
    assert read(login(client_name=name)) == Login(name, "1")


def test_what_cannot_be_seen_is_taken_out() -> None:
    assert read(login(client_name=" \u202eAn\x00ne\n\t  Bert\u2066 ")) == Login("Anne Bert", "1")
    assert read(say(content="\r\n a\x1b[31m\r\n\tb\u202e \n")) == Say("a[31m\n\tb", ALL)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "not understood"),
        ("{", "not understood"),
        ("[]", "not understood"),
        ("null", "not understood"),
        (b"\xff", "not understood"),
        ('"\\ud800"', "not understood"),
        ("{}", "type"),
        ('{"type": "shout"}', "shout"),
        ('{"type": "login"}', "client_name"),
        ("[" * 100_000, "not understood"),
        (login(client_name=7), "client_name"),
        (login(client_name=""), "letter"),
        (login(client_name=" \u200d\u202e "), "letter"),
        (login(client_name="x" * (NAME + 1)), "30 characters"),
        (login(room_id=1), "room_id"),
        (login(room_id=""), "room_id"),
        (login(room_id="a b"), "room_id"),
        (login(room_id="../1"), "room_id"),
        (login(room_id="x" * 33), "room_id"),
        (say(content=" \n\t\u200d"), "nothing"),
        (say(content=["x"]), "content"),
        (say(content="x" * (CONTENT + 1)), "2,000 characters"),
    ],
)
def test_what_is_refused(text: str | bytes, complaint: str) -> None:
    with pytest.raises(Refused, match=complaint):
        read(text)


@given(st.one_of(st.binary(), st.text(), st.text().map(lambda text: say(content=text)), st.text().map(
    lambda text: login(client_name=text))))  # fmt: skip
def test_anything_is_read_or_refused(data: str | bytes) -> None:
    try:
        message = read(data)
    except Refused:
        return
    json.dumps(str(message), ensure_ascii=False).encode()
