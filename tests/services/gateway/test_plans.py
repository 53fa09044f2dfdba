"""plans: what a call asks of gateways, and what their answers come to."""

from __future__ import annotations

from typing import Any

import pytest

from workermand.services.gateway import plans
from workermand.services.gateway.plans import LOST, Delivery

A, B = "a" * 20, "b" * 20


def test_a_delivery() -> None:
    plan = plans.send_to_all("x", None, (), raw=False)
    assert plan.tolerant
    assert plan.combine([(3, 1), LOST, (2, 0)]) == Delivery(5, 1, 1)
    assert plan.combine([(3, 1)])
    assert not plan.combine([(0, 1)])
    assert plan.combine([]) == Delivery(0, 0, 0)


def test_who_gets_it() -> None:
    assert plans.send_to_client(A, "x", raw=False).clients == (A,)
    assert plans.send_to_client("nobody", "x", raw=False).clients == ()
    assert plans.send_to_all("x", [], (), raw=False).clients == ()
    assert plans.send_to_all("x", [A, B, A], [B], raw=False).clients == (A,)
    assert plans.send_to_all("x", None, [B], raw=False).arguments == ((B,), "x", False)
    assert plans.send_to_uid([7, "7", "x"], "x", raw=False).keys == ("7", "x")


@pytest.mark.parametrize(
    ("message", "encoded"),
    [("é", "é"), (b"\xff", b"\xff"), (bytearray(b"a"), b"a"), ({"a": [1, None]}, '{"a":[1,null]}'), (7, "7")],
)
def test_messages(message: Any, encoded: str | bytes) -> None:
    assert plans.encoded(message) == encoded


@pytest.mark.parametrize("bad", [None, 1.5, True, b"x"])
def test_keys_of_a_wrong_kind(bad: Any) -> None:
    with pytest.raises(TypeError, match="a uid is str or int"):
        plans.bind_uid(A, bad)


def test_empty_keys() -> None:
    with pytest.raises(ValueError, match="an empty group"):
        plans.join_group(A, "")
    assert plans.join_group(A, 0).arguments == ("0",)


def test_answers_are_taken_together() -> None:
    assert plans.is_online(A).combine([[], [A]]) is True
    assert plans.is_online(A).combine([]) is False
    assert plans.get_session(A).combine([{}, {A: {"x": 1}}]) == {"x": 1}
    assert plans.get_session(A).combine([{A: []}]) == {}
    assert plans.get_session(A).combine([]) is None
    assert plans.uid_by_client_id(A).combine([{A: "7"}]) == "7"
    assert plans.uid_by_client_id(A).combine([{}]) is None
    assert plans.client_ids_by_uids(["1", "2"]).combine([{"1": [A]}, {"1": [B]}]) == {"1": [A, B], "2": []}
    assert plans.client_ids_by_uid(1).combine([{}, {"1": [B]}]) == [B]
    assert plans.are_uids_online([1, 2]).combine([{}, {"1": [B]}]) == {"1": True, "2": False}
    assert plans.is_uid_online(1).combine([{}, {"1": [B]}]) is True
    assert plans.count_groups(["g", "h"]).combine([{"g": 1}, {"g": 2}]) == {"g": 3, "h": 0}
    assert plans.count_groups(None).combine([{"g": 1}, {"h": 2}]) == {"g": 1, "h": 2}
    assert plans.count_group("g").combine([{"g": 1}, {}]) == 1
    assert plans.count_clients().combine([3, 4]) == 7
    assert plans.ungroup("g").combine([3, 4]) == 7
    assert plans.list_clients().combine([[A], [B]]) == [A, B]
    assert plans.list_uids().combine([["1"], ["1", "2"]]) == ["1", "2"]
    assert plans.count_uids().combine([["1"], ["1", "2"]]) == 2
    assert plans.clients_of_groups(["g", "h"]).combine([{"g": [A], "h": [A, B]}]) == [A, B]
    assert plans.uids_of_groups("g").combine([{"g": ["1"]}, {"g": ["1", "2"]}]) == ["1", "2"]
    assert plans.count_uids_of_groups("g").combine([{"g": ["1"]}, {"g": ["1", "2"]}]) == 2
    assert plans.all_group_uids().combine([{"g": ["1"]}, {"g": ["1", "2"]}]) == {"g": ["1", "2"]}
    assert plans.all_group_uid_counts().combine([{"g": ["1"]}, {"g": ["1", "2"]}]) == {"g": 2}
    assert plans.all_group_clients().combine([{"g": [A]}, {"h": [B]}]) == {"g": [A], "h": [B]}
    assert plans.sessions(None).combine([{A: [{"x": 1}]}, {B: [[]]}]) == {A: {"x": 1}, B: {}}
