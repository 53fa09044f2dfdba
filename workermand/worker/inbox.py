"""Inbox: how async callbacks of one connection run: in order, one at a time, bounded.

One task per connection, made at the first message, never one per message (683,000 messages a second against 276,000).
What waits is bounded by limits.inbox: beyond it the connection is not read, so that a client faster than its handler
is slowed down by TCP. What one read brings on top is taken: a chunk is 250 kB at most.

The task runs the Inbox itself, as a coroutine: each step, from one suspension to the next, is a turn of the wire, so
that what a handler sends before it awaits goes out when it awaits, in one write. on_connect and on_close go through
here too when they are async: the one before all messages, the other after the last. A cancelled handler counts as
failed; closing a connection does not cancel the one at work.
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any

from workermand.errors import CloseReason
from workermand.protocols.base import Protocol

if TYPE_CHECKING:
    from workermand.worker.connection import Connection
    from workermand.worker.wire import Wire

Callback = Callable[..., Any]


class Inbox(Coroutine[Any, Any, None]):
    """Process: the child; thread: the one that runs the loop."""

    __slots__ = ("_bytes", "_bytes_limit", "_limit", "_queue", "_steps", "_task", "_wake", "_wire")
