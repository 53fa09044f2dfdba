"""apps.events: who hears what, and who does not."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

import pytest

from tests.apps.chat.conftest import Chat, events
from tests.apps.chat.fakes import Client
from workermand import WorkermandError


def kinds(client: Client) -> list[str]:
    return [message["type"] for message in client.told]


def lines(client: Client) -> list[str]:
    return [message["content"] for message in client.told if message["type"] == "say"]


def last(client: Client) -> dict[str, Any]:
    return client.told[-1]


def test_coming_in_and_leaving(chat: Chat) -> None:
    async def main() -> None:
        anne, bert, carl = chat.come("a", "b", "c")
        await chat.log_in("a", "<b>Anne</b>")
        assert kinds(anne) == ["login", "history"]
        assert anne.told[0]["client_list"] == {"a": "<b>Anne</b>"} and anne.told[0]["client_id"] == "a"
        await chat.log_in("c", "Carl", "2")
        await chat.log_in("b", "Bert")
        assert bert.told[0]["client_list"] == {"a": "<b>Anne</b>", "b": "Bert"}
        time = anne.told[2].pop("time")
        assert datetime.fromisoformat(time).tzinfo is not None
        assert anne.told[2] == {"type": "login", "client_id": "b", "client_name": "Bert"}, "without the list"
        await chat.leave("b")
        assert last(anne)["type"] == "logout" and last(anne)["from_client_id"] == "b"
        assert kinds(carl) == ["login", "history"], "another room"

    asyncio.run(main())


def test_who_has_not_come_in_leaves_unnoticed(chat: Chat) -> None:
    async def main() -> None:
        anne, bert = chat.come("a", "b")
        await chat.log_in("a", "Anne")
        await chat.say("b", "hello?")
        assert last(bert) == {"type": "error", "message": "come in first: log in"}
        await chat.leave("b")
        assert kinds(anne) == ["login", "history"]

    asyncio.run(main())


def test_who_is_there_by_now(chat: Chat) -> None:
    async def main() -> None:
        anne, _ = chat.come("a", "b")
        await chat.hear("a", {"type": "people"})
        assert last(anne)["type"] == "error"
        await chat.log_in("a", "Anne")
        await chat.log_in("b", "Bert")
        del chat.gateway.clients["b"]  # with its gateway
        await chat.hear("a", {"type": "people"})
        assert last(anne) == {"type": "people", "client_list": {"a": "Anne"}}

    asyncio.run(main())


def test_lines_and_the_history(chat: Chat) -> None:
    async def main() -> None:
        anne, bert, carl, dora = chat.come("a", "b", "c", "d")
        await chat.log_in("a", "Anne")
        await chat.log_in("b", "Bert")
        await chat.log_in("c", "Carl", "2")
        await chat.say("a", "<script>1 & 2</script>")
        await chat.say("b", "for you alone", to="a")
        assert lines(anne) == ["<script>1 & 2</script>", "for you alone"]
        assert lines(carl) == []
        assert last(anne) == last(bert) and last(bert)["to_client_name"] == "Anne"
        await chat.log_in("d", "Dora")
        assert [line["content"] for line in dora.told[1]["lines"]] == ["<script>1 & 2</script>"]
        assert dora.told[1]["lines"][0]["id"] == anne.told[-3]["id"]

    asyncio.run(main())


def test_a_private_line_to_oneself_comes_once(chat: Chat) -> None:
    async def main() -> None:
        (anne,) = chat.come("a")
        await chat.log_in("a", "Anne")
        await chat.say("a", "remember", to="a")
        assert lines(anne) == ["remember"]

    asyncio.run(main())


@pytest.mark.parametrize("to", ["c", "d", "nobody", ""])
def test_private_lines_stay_within_the_room(chat: Chat, to: str) -> None:
    async def main() -> None:
        anne, carl, dora = chat.come("a", "c", "d")
        await chat.log_in("a", "Anne")
        await chat.log_in("c", "Carl", "2")
        await chat.say("a", "psst", to=to)
        assert last(anne)["message"] == "whom you are talking to is not in this room"
        assert not lines(anne) + lines(carl) + lines(dora)

    asyncio.run(main())


def test_one_comes_in_once(chat: Chat) -> None:
    async def main() -> None:
        (anne,) = chat.come("a")
        await chat.log_in("a", "Anne")
        await chat.log_in("a", "Bert", "2")
        assert last(anne)["message"] == "you are in room 1 already"
        assert anne.groups == {"chat.1"} and anne.session["client_name"] == "Anne"

    asyncio.run(main())


def test_a_room_is_full(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setattr(events, "PEOPLE", 1)
        _, bert = chat.come("a", "b")
        await chat.log_in("a", "Anne")
        await chat.log_in("b", "Bert")
        assert bert.told == [{"type": "error", "message": "this room is full"}]
        await chat.log_in("b", "Bert", "2")
        assert kinds(bert) == ["error", "login", "history"]

    asyncio.run(main())


def test_who_sends_too_much_is_refused_then_closed(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(events.time, "time", lambda: now)

    async def main() -> None:
        nonlocal now
        (anne,) = chat.come("a")
        await chat.log_in("a", "Anne")
        for number in range(12):
            await chat.say("a", str(number))
        assert lines(anne) == [str(number) for number in range(9)], "the login was the first of ten"
        assert last(anne)["message"] == "not so fast: wait a few seconds"
        now += 3
        await chat.say("a", "after a while")
        assert lines(anne)[-1] == "after a while"
        while not anne.is_closed:
            await chat.hear("a", {"type": "pong"})
        assert len(anne.told) < 80

    asyncio.run(main())


def test_what_is_not_understood_ends_nothing(chat: Chat) -> None:
    async def main() -> None:
        (anne,) = chat.come("a")
        for nonsense in ("", "{", b"\xff", '{"type": "login"}', '{"type": "dance"}'):
            await chat.hear("a", nonsense)
        assert kinds(anne) == ["error"] * 5
        await chat.hear("a", {"type": "pong"})
        await chat.log_in("a", "Anne")
        assert kinds(anne) == ["error"] * 5 + ["login", "history"]

    asyncio.run(main())


def test_it_goes_on_without_a_history(chat: Chat) -> None:
    async def main() -> None:
        chat.data.error = WorkermandError("gone")
        (anne,) = chat.come("a")
        await chat.log_in("a", "Anne")
        await chat.say("a", "hello")
        assert kinds(anne) == ["login", "history", "say"]
        assert chat.data.calls == 1, "then it is let alone for a while"

    asyncio.run(main())


def test_a_cluster_that_does_not_answer(chat: Chat) -> None:
    """The page is sent away and comes back; half a login is nothing that it could go on with."""

    async def main() -> None:
        chat.gateway.error = WorkermandError("no answer")
        (anne,) = chat.come("a")
        await chat.log_in("a", "Anne")
        assert anne.is_closed and not anne.told
        chat.gateway.error = None
        (bert,) = chat.come("b")
        await chat.log_in("b", "Bert")
        chat.gateway.error = WorkermandError("no answer")
        await chat.hear("b", {"type": "people"})
        assert not bert.is_closed and last(bert)["message"] == "that did not work: try again"

    asyncio.run(main())
