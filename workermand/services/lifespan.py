"""The lifespan of an ASGI application: started before anything is accepted, ended when all clients have gone."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from workermand import LoadError
from workermand.services.scope import LIFESPAN, Application, Message

logger = logging.getLogger(__name__)


class Lifespan:
    """One application's. ``must``: one that knows no lifespan is an error; else it does without."""

    def __init__(self, application: Application, state: dict[str, Any], *, must: bool) -> None:
        """``state``: what the application puts there, each of its requests has."""
        self._application = application
        self._state = state
        self._must = must
        self._to_come: asyncio.Queue[Message] = asyncio.Queue()
        self._said: asyncio.Queue[Message] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns when the startup is complete, or there is none. Raises LoadError with the application's words when it
        has failed."""
        scope = {"type": "lifespan", "asgi": LIFESPAN.copy(), "state": self._state}
        work: Any = self._application(scope, self._to_come.get, self._said.put)
        self._task = asyncio.get_running_loop().create_task(work)
        answer = await self._ask("lifespan.startup")
        if answer["type"] == "lifespan.startup.failed":
            raise LoadError(f"the application's startup has failed: {answer.get('message', '')}".rstrip(": "))
        if answer["type"] != "lifespan.startup.complete":
            self._do_without()

    def _do_without(self) -> None:
        """Its task has ended without a word."""
        task, self._task = self._task, None
        assert task is not None
        error = task.exception()
        if self._must:
            raise LoadError('the application has no lifespan (options.lifespan = "on")') from error
        logger.info("the application has no lifespan: %r", error)

    async def stop(self) -> None:
        """Raises RuntimeError with the application's words when its shutdown has failed, or what it has raised."""
        if self._task is None:
            return
        answer = await self._ask("lifespan.shutdown")
        if answer["type"] == "lifespan.shutdown.failed":
            raise RuntimeError(f"the application's shutdown has failed: {answer.get('message', '')}".rstrip(": "))
        if self._task.done():
            self._task.result()

    async def _ask(self, event: str) -> Message:
        """What the application answers; type "" when its task ends instead."""
        assert self._task is not None
        self._to_come.put_nowait({"type": event})
        saying = asyncio.get_running_loop().create_task(self._said.get())
        await asyncio.wait({saying, self._task}, return_when=asyncio.FIRST_COMPLETED)
        if not saying.done():
            saying.cancel()
            return {"type": ""} if self._said.empty() else self._said.get_nowait()
        return saying.result()
