"""GlobalData: variables that processes share, on one machine or many (Workerman's GlobalData).

client.py and blocking.py are what programs call; engine.py says what carries their values, embedded.py speaks to our
own server, server.py; table.py is the variables themselves. The names are loaded on first use: a script that blocks
has no need of asyncio.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workermand.services.globaldata.blocking import BlockingGlobalData
    from workermand.services.globaldata.client import GlobalData
    from workermand.services.globaldata.engine import GlobalDataError, Promise
    from workermand.services.globaldata.locking import Lock
    from workermand.services.globaldata.watching import Change

__all__ = ["BlockingGlobalData", "Change", "GlobalData", "GlobalDataError", "Lock", "Promise"]

_HOMES = {
    "BlockingGlobalData": "blocking",
    "Change": "watching",
    "GlobalData": "client",
    "GlobalDataError": "engine",
    "Lock": "locking",
    "Promise": "engine",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    return value
