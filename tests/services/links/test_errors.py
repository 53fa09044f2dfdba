"""The errors of services are what a caller would catch."""

from __future__ import annotations

import pytest

from workermand import WorkermandError
from workermand.services.links import errors


@pytest.mark.parametrize(
    ("error", "kinds"),
    [
        (errors.Unreachable, (errors.ServiceError, ConnectionError, OSError)),
        (errors.TimedOut, (errors.ServiceError, TimeoutError)),
        (errors.Unauthorized, (errors.ServiceError, WorkermandError)),
        (errors.Dropped, (errors.ServiceError,)),
        (errors.Unsupported, (errors.ServiceError,)),
    ],
)
def test_kinds(error: type[Exception], kinds: tuple[type[Exception], ...]) -> None:
    for kind in kinds:
        with pytest.raises(kind, match="why"):
            raise error("why")
