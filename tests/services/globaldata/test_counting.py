"""increment(), where the server does not do it: as table.py does it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workermand.services.globaldata.counting import plus
from workermand.services.globaldata.engine import GlobalDataError
from workermand.services.globaldata.table import Table
from workermand.services.globaldata.wire import pack_value

NUMBERS = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False)


@given(NUMBERS, NUMBERS)
def test_it_counts_as_the_table_does(number: int | float, step: int | float) -> None:
    table = Table()
    table.set("key", pack_value(number), None, 0.0)
    try:
        expected = table.increment("key", step, 0.0)
    except (GlobalDataError, OverflowError) as error:
        with pytest.raises(type(error)):
            plus("key", pack_value(number), step)
        return
    found, stored = plus("key", pack_value(number), step)
    entry = table.get("key", 0.0)
    assert entry is not None
    assert stored == entry.value
    assert found == expected or (math.isnan(found) and expected is not None and math.isnan(expected))


@pytest.mark.parametrize("value", ["1", None, True, [1], b"1"])
def test_what_is_no_number_is_refused(value: object) -> None:
    with pytest.raises(GlobalDataError, match="key holds no number"):
        plus("key", pack_value(value), 1)
