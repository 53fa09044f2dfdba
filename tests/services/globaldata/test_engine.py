"""engine: the engines have what the protocol asks for."""

from __future__ import annotations

import inspect

import pytest

from workermand.services.globaldata.embedded import Embedded
from workermand.services.globaldata.engine import Engine, GlobalDataError
from workermand.services.globaldata.sharded import Sharded
from workermand.services.links.errors import ServiceError

VERBS = sorted(name for name in vars(Engine) if not name.startswith("_"))


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("kind", [Embedded, Sharded])
def test_every_engine_has_every_verb(kind: type, verb: str) -> None:
    asked = inspect.signature(getattr(Engine, verb)).parameters
    assert inspect.signature(getattr(kind, verb)).parameters.keys() == asked.keys()


def test_one_except_for_all() -> None:
    assert issubclass(GlobalDataError, ServiceError)
