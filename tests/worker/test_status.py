"""The states of a connection are Workerman's."""

from __future__ import annotations

from workermand.worker.status import ConnectionStatus


def test_workermans_numbers() -> None:
    numbers = {"INITIAL": 0, "CONNECTING": 1, "ESTABLISHED": 2, "ENDING": 4, "CLOSING": 8, "CLOSED": 16}
    assert {status.name: status.value for status in ConnectionStatus} == numbers
