"""ids: unguessable, and as PHP has them."""

from __future__ import annotations

import pytest

from workermand.services.gateway import ids


def test_ids_begin_with_the_tag_and_are_random_behind_it() -> None:
    tag = ids.new_tag()
    assert len(tag) == ids.TAG
    made = {ids.new_id(tag) for _ in range(1000)}
    assert len(made) == 1000
    assert all(id.startswith(tag) and len(id) == ids.LENGTH and ids.is_id(id) for id in made)
    assert len(ids.new_id(tag, ids.LONGEST)) == ids.LONGEST


@pytest.mark.parametrize("text", ["", "7f000001", "7F0000010b5400000001", "7f0000010b540000000g", "a" * 65])
def test_what_is_no_id(text: str) -> None:
    assert not ids.is_id(text)


def test_as_php_has_them() -> None:
    # 127.0.0.1, port 18301, connection 1: seen from GatewayWorker 4.
    assert ids.php_id(0x7F000001, 18301, 1) == "7f000001477d00000001"
    assert ids.php_place("7f000001477d00000001") == ("127.0.0.1", 18301, 1)
    assert ids.php_prefix("127.0.0.1", 18301) == "7f000001477d"
    assert ids.php_place(ids.new_id(ids.php_prefix("10.1.2.3", 2900)))[:2] == ("10.1.2.3", 2900)


@pytest.mark.parametrize("ip", ["::1", "localhost", "1.2", "300.1.1.1", ""])
def test_php_has_room_for_ipv4_only(ip: str) -> None:
    with pytest.raises(ValueError, match="no IPv4 address"):
        ids.php_prefix(ip, 1)


@pytest.mark.parametrize("text", ["", "7f000001477d0000000001", "xx000001477d00000001"])
def test_what_is_none_of_phps(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 -- of fromhex, too
        ids.php_place(text)
