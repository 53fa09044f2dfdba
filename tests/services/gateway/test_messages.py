"""messages: what comes from a link is what it should be, or an error in words."""

from __future__ import annotations

from typing import Any

import pytest

from workermand.services.gateway import messages
from workermand.services.gateway.messages import Place
from workermand.services.links import wire
from workermand.services.links.errors import ServiceError


def test_places_on_the_wire() -> None:
    some = [Place("tcp://127.0.0.1:2000", "00112233"), Place("tcp://[::1]:2001", "44556677", "10.0.0.1:2900")]
    message = wire.unpack(wire.body([messages.GATEWAYS, 0, some]))
    assert messages.places(message[2]) == some
    assert messages.place(message[2][0]) == some[0]


@pytest.mark.parametrize("said", [None, [["x"]], [[1, 2, 3]], {"a": 1}, [["a", "b", "c", "d"]]])
def test_what_is_no_list_of_places(said: Any) -> None:
    with pytest.raises(ServiceError, match="no list of gateways"):
        messages.places(said)


@pytest.mark.parametrize("said", [None, ["", "00112233", ""], ["x"]])
def test_what_is_no_place(said: Any) -> None:
    with pytest.raises(ServiceError, match="gateway"):
        messages.place(said)
