"""The lifespan of an application: complete, failed, absent, broken."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from workermand import LoadError
from workermand.services.lifespan import Lifespan


async def whole(scope: Any, receive: Any, send: Any) -> None:
    assert scope["asgi"] == {"version": "3.0", "spec_version": "2.0"}
    assert await receive() == {"type": "lifespan.startup"}
    scope["state"]["pool"] = "open"
    await send({"type": "lifespan.startup.complete"})
    assert await receive() == {"type": "lifespan.shutdown"}
    scope["state"]["pool"] = "closed"
    await send({"type": "lifespan.shutdown.complete"})


async def absent(scope: Any, receive: Any, send: Any) -> None:
    raise ValueError("only http here")


async def silent(scope: Any, receive: Any, send: Any) -> None:
    return


async def fails(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})
    raise RuntimeError("no database")


async def fails_at_the_end(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.failed", "message": "no goodbye"})


async def breaks_at_the_end(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    raise KeyError("broken")


async def returns_early(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})


def live(application: Any, *, must: bool = False) -> dict[str, Any]:
    state: dict[str, Any] = {}

    async def life() -> None:
        lifespan = Lifespan(application, state, must=must)
        await lifespan.start()
        state["served"] = dict(state)
        await lifespan.stop()

    asyncio.run(life())
    return state


@pytest.mark.parametrize("must", [True, False])
def test_a_whole_life(must: bool) -> None:
    assert live(whole, must=must) == {"pool": "closed", "served": {"pool": "open"}}


@pytest.mark.parametrize("application", [absent, silent])
def test_an_application_without_one(application: Any) -> None:
    assert live(application) == {"served": {}}
    with pytest.raises(LoadError, match="has no lifespan") as raised:
        live(application, must=True)
    assert (raised.value.__cause__ is not None) == (application is absent)


@pytest.mark.parametrize("must", [True, False])
def test_a_startup_that_fails(must: bool) -> None:
    with pytest.raises(LoadError, match=r"^the application's startup has failed: no database$"):
        live(fails, must=must)


def test_a_shutdown_that_fails() -> None:
    with pytest.raises(RuntimeError, match=r"^the application's shutdown has failed: no goodbye$"):
        live(fails_at_the_end)
    with pytest.raises(KeyError, match="broken"):
        live(breaks_at_the_end)
    assert live(returns_early) == {"served": {}}
