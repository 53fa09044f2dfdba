"""Events for a crowd: those of talk.py, and an inventory."""

from __future__ import annotations

from tests.system.inventory import on_worker_start
from tests.system.talk import on_connect, on_message

__all__ = ["on_connect", "on_message", "on_worker_start"]
