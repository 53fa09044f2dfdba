"""Chaining: a Later that comes from others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from workermand.services.globaldata.engine import GlobalDataError
from workermand.services.links.errors import ServiceError
from workermand.services.links.later import Later

S = TypeVar("S")
T = TypeVar("T")


def then(source: Later[S], what: str, convert: Callable[[S], T]) -> Later[T]:
    """What ``convert`` makes of the result. An error passes through; one that it raises itself is the result's."""
    target: Later[T] = Later(what)

    def arrived(source: asyncio.Future[S]) -> None:
        try:
            target.fulfil(convert(source.result()))
        except ServiceError as error:
            target.fail(error)

    source.add_done_callback(arrived)
    return target


def all_of(sources: Sequence[Later[Any]], what: str, merge: Callable[[list[Any]], T]) -> Later[T]:
    """When all are there: what ``merge`` makes of their results. The first error fails it at once; the others are then
    nobody's."""
    target: Later[T] = Later(what)
    left = len(sources)

    def arrived(source: asyncio.Future[Any]) -> None:
        nonlocal left
        left -= 1
        if isinstance(error := source.exception(), Exception):
            target.fail(error)
        elif not left and not target.done():
            target.fulfil(merge([source.result() for source in sources]))

    for source in sources:
        source.add_done_callback(arrived)
    if not sources:
        target.fulfil(merge([]))
    return target


def named(error: ServiceError, what: str) -> ServiceError:
    """Refused by the server: what, and in its words. All other errors say it themselves."""
    return GlobalDataError(f"{what}: {error}") if type(error) is ServiceError else error
