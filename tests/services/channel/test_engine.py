"""What the facade, the engines and the conformance suite agree upon."""

from __future__ import annotations

import inspect

import msgspec

from workermand.services.channel.engine import Engine, Item, Promise


def test_every_promise_has_a_name_to_ask_for() -> None:
    assert Promise("one of many") is Promise.ONE_OF_MANY
    assert {str(promise) for promise in Promise} >= {"queues", "order", "persistence"}


def test_an_item_travels_as_messagepack() -> None:
    item = Item("mail", "7", 2, b"\x91\x01")
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(item), type=Item) == item


def test_all_but_start_and_close_are_plain_functions() -> None:
    asynchronous = {name for name, member in vars(Engine).items() if inspect.iscoroutinefunction(member)}
    assert asynchronous == {"start", "close"}
