"""Snapshots of callbacks: what connections accepted together share."""

from __future__ import annotations

from typing import Any

import pytest

from workermand.errors import LoadError
from workermand.worker.callbacks import Callbacks, Source
from workermand.worker.handlers import Handlers


class Handler:
    def on_message(self, connection: Any, data: Any) -> None: ...

    async def on_close(self, connection: Any) -> None: ...

    async def on_worker_start(self, worker: Any) -> None: ...


def test_a_snapshot_knows_which_are_async() -> None:
    handler = Handler()
    callbacks = Callbacks(Handlers(handler))
    assert callbacks.on_message == handler.on_message and callbacks.on_connect is None
    assert callbacks.asynchronous == {"on_close"}


def test_one_may_be_another_and_the_rest_stays() -> None:
    async def on_message(connection: Any, data: Any) -> None: ...

    shared = Callbacks(Handlers(Handler()))
    own = shared.having("on_message", on_message)
    assert own.on_message is on_message and own.asynchronous == {"on_message", "on_close"}
    assert shared.asynchronous == {"on_close"} and own.on_close == shared.on_close
    assert own.having("on_message", None).on_message is None
    with pytest.raises(LoadError, match="cannot be called as on_close"):
        shared.having("on_close", on_message)


def test_a_source_takes_a_new_one_only_when_something_was_assigned() -> None:
    handlers = Handlers(Handler())
    source = Source(handlers)
    first = source.now()
    assert source.now() is first
    handlers.assign("on_connect", lambda connection: None)
    second = source.now()
    assert second is not first and second.on_connect is handlers.on_connect and first.on_connect is None
    assert source.now() is second
