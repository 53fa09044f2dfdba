"""workermand: a daemon for long-lived connections whose user writes only callbacks.

The public names, each loaded on first use (PEP 562): ``import workermand`` costs the control tool nothing, and brings
the master no part of the runtime that it did not ask for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workermand.errors import (
        CloseReason,
        ConfigError,
        ConnectError,
        ConnectionLost,
        ControlError,
        LoadError,
        ProtocolError,
        SendError,
        WorkermandError,
    )  # fmt: skip
    from workermand.http.request import Request
    from workermand.http.response import Chunk, Response, ServerSentEvents
    from workermand.http.session import Session
    from workermand.protocols.base import Delimited, LengthPrefixed, Protocol
    from workermand.protocols.websocket import BINARY_TYPE_ARRAYBUFFER, BINARY_TYPE_BLOB
    from workermand.protocols.wsframe import Close, Ping, Pong, Prepared
    from workermand.worker.connection import Connection, ConnectionStatus
    from workermand.worker.datagram import UdpConnection
    from workermand.worker.outgoing.client import AsyncTcpConnection
    from workermand.worker.outgoing.udp import AsyncUdpConnection
    from workermand.worker.timer import Timer
    from workermand.worker.worker import Worker

__version__ = "0.1.0"

__all__ = [
    "BINARY_TYPE_ARRAYBUFFER",
    "BINARY_TYPE_BLOB",
    "AsyncTcpConnection",
    "AsyncUdpConnection",
    "Chunk",
    "Close",
    "CloseReason",
    "ConfigError",
    "ConnectError",
    "Connection",
    "ConnectionLost",
    "ConnectionStatus",
    "ControlError",
    "Delimited",
    "LengthPrefixed",
    "LoadError",
    "Ping",
    "Pong",
    "Prepared",
    "Protocol",
    "ProtocolError",
    "Request",
    "Response",
    "SendError",
    "ServerSentEvents",
    "Session",
    "Timer",
    "UdpConnection",
    "Worker",
    "WorkermandError",
]

_HOMES = {
    "workermand.http.request": ("Request",),
    "workermand.http.response": ("Chunk", "Response", "ServerSentEvents"),
    "workermand.http.session": ("Session",),
    "workermand.protocols.base": ("Delimited", "LengthPrefixed", "Protocol"),
    "workermand.protocols.websocket": ("BINARY_TYPE_ARRAYBUFFER", "BINARY_TYPE_BLOB"),
    "workermand.protocols.wsframe": ("Close", "Ping", "Pong", "Prepared"),
    "workermand.worker.connection": ("Connection", "ConnectionStatus"),
    "workermand.worker.datagram": ("UdpConnection",),
    "workermand.worker.outgoing.client": ("AsyncTcpConnection",),
    "workermand.worker.outgoing.udp": ("AsyncUdpConnection",),
    "workermand.worker.timer": ("Timer",),
    "workermand.worker.worker": ("Worker",),
}
"""Where a name lives; all others are errors."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = next((module for module, names in _HOMES.items() if name in names), "workermand.errors")
    value = globals()[name] = getattr(importlib.import_module(home), name)
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
