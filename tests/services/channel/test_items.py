"""Items, queues, takers: the little that they decide themselves."""

from __future__ import annotations

from workermand.services.channel.items import Entry, Queue, Taker


def test_credit_is_used_by_what_is_held_and_by_what_was_held_for_too_long() -> None:
    taker = Taker("a", Queue("jobs"))
    taker.credit = 3
    taker.held[1] = 60.0
    taker.late = 1
    assert taker.has_credit
    taker.late = 2
    assert not taker.has_credit
    taker.credit = 4
    assert taker.has_credit


def test_a_queue_is_used_by_items_and_by_those_who_wait_for_them() -> None:
    queue = Queue("jobs")
    assert queue.is_unused
    queue.entries = 1
    assert not queue.is_unused
    queue.entries, queue.watches = 0, 1
    assert not queue.is_unused
    queue.watches = 0
    queue.takers[Taker("a", queue, token=1)] = None
    assert not queue.is_unused


def test_an_item_begins_in_nobodys_hands() -> None:
    entry = Entry(1, Queue("jobs"), b"data", 0.0)
    assert entry.taker is None and entry.attempt == 0 and not entry.dead
