"""Embedded: the engine over a link to our own server, server.py.

What only reads is asked again when the link breaks, as long as its deadline allows; what writes is not, for it may have
been done: it fails with Unreachable, and who wrote it knows best what that means.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from workermand.services.globaldata import wire
from workermand.services.globaldata.chaining import all_of, named, then
from workermand.services.globaldata.engine import Entry, Promise, Receiver
from workermand.services.links.address import Address
from workermand.services.links.client import Link
from workermand.services.links.errors import ServiceError, Unreachable
from workermand.services.links.later import Later

logger = logging.getLogger(__name__)

KEPT: Final = frozenset(Promise) - {Promise.PERSISTENCE}
"""Whatever the server's options; persistence is one of them."""


class Embedded:
    """One server. Thread: the one that runs the loop."""

    def __init__(self, address: Address, *, secret: str = "", tls: Any = None, timeout: float = 10.0) -> None:
        """``timeout``: seconds for the first connection, and for each call."""
        self.promises: frozenset[Promise] = KEPT
        self._timeout = timeout
        self._receiver: Receiver | None = None
        self._watched: set[str] = set()
        self._was_up = False
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self._link = Link(
            address, wire.SERVICE, secret=secret, tls=tls, timeout=timeout,
            on_message=self._hear, on_up=self._up, on_down=self._down,
        )  # fmt: skip

    async def start(self, receiver: Receiver) -> None:
        self._receiver = receiver
        await self._link.open()
        try:
            kept = await self._link.request(wire.ABOUT)
        except ServiceError:
            await self.close()
            raise
        self.promises |= {Promise(name) for name in kept}

    async def close(self) -> None:
        self._closed = True
        await self._link.close()

    # ------------------------------------------------------------------ reading

    def get(self, key: str) -> Later[Entry | None]:
        return self._read(f"get {key}", _entry, wire.GET, key)

    def get_many(self, keys: Sequence[str]) -> Later[dict[str, Entry]]:
        """Asked for in pieces only if the answer would be too long."""
        what = f"get {len(keys)} keys"
        result: Later[dict[str, Entry]] = Later(what)
        found: dict[str, Entry] = {}
        unique = list(dict.fromkeys(keys))

        def ask(start: int) -> None:
            piece = wire.piece(unique[start:], len)
            asked = self._read(what, _as_it_is, wire.GET_MANY, piece)
            asked.add_done_callback(lambda asked: take(start, piece, asked))

        def take(start: int, piece: Sequence[str], asked: Any) -> None:
            if (error := asked.exception()) is not None:
                result.fail(error)
                return
            entries = asked.result()
            found.update((key, Entry(*entry)) for key, entry in zip(piece, entries, strict=False) if entry is not None)
            if start + len(entries) < len(unique):
                ask(start + len(entries))
            else:
                result.fulfil(found)

        if unique:
            ask(0)
        else:
            result.fulfil(found)
        return result

    def exists(self, key: str) -> Later[bool]:
        return self._read(f"exists {key}", _as_it_is, wire.EXISTS, key)

    def keys(self, prefix: str = "") -> Later[list[str]]:
        """Page after page."""
        what = f"keys {prefix}"
        result: Later[list[str]] = Later(what)
        found: list[str] = []

        def ask() -> None:
            after = found[-1] if found else ""
            self._read(what, _as_it_is, wire.KEYS, prefix, after).add_done_callback(take)

        def take(asked: Any) -> None:
            if (error := asked.exception()) is not None:
                result.fail(error)
            elif page := asked.result():
                found.extend(page)
                ask()
            else:
                result.fulfil(found)

        ask()
        return result

    def ttl(self, key: str) -> Later[float | None]:
        return self._read(f"ttl {key}", _as_it_is, wire.TTL, key)

    # ------------------------------------------------------------------ writing

    def set(self, key: str, value: bytes, ttl: float | None = None) -> Later[int]:
        return self._write(f"set {key}", wire.SET, key, value, ttl)

    def set_many(self, values: Mapping[str, bytes], ttl: float | None = None) -> Later[None]:
        what = f"set {len(values)} keys"
        pairs: Sequence[tuple[str, bytes]] = list(values.items())
        asked = []
        while pairs:
            piece = wire.piece(pairs, lambda pair: len(pair[0]) + len(pair[1]))
            asked.append(self._write(what, wire.SET_MANY, piece, ttl))
            pairs = pairs[len(piece) :]
        return all_of(asked, what, lambda _results: None)

    def add(self, key: str, value: bytes, ttl: float | None = None) -> Later[int]:
        return self._write(f"add {key}", wire.ADD, key, value, ttl)

    def cas(self, key: str, old: bytes, new: bytes) -> Later[int]:
        return self._write(f"cas {key}", wire.CAS, key, old, new)

    def cas_version(self, key: str, version: int, value: bytes) -> Later[int]:
        return self._write(f"cas_version {key}", wire.CAS_VERSION, key, version, value)

    def increment(self, key: str, step: int | float) -> Later[int | float | None]:
        return self._write(f"increment {key}", wire.INCREMENT, key, step)

    def delete(self, key: str, old: bytes | None = None) -> Later[bool]:
        return self._write(f"delete {key}", wire.DELETE, key, old)

    def expire(self, key: str, ttl: float | None, old: bytes | None = None) -> Later[bool]:
        return self._write(f"expire {key}", wire.EXPIRE, key, ttl, old)

    # ------------------------------------------------------------------ watching

    def watch(self, key: str) -> Later[None]:
        """It is watched again whenever the server comes back."""
        self._watched.add(key)
        return self._watch(key, is_again=False)

    def _watch(self, key: str, is_again: bool) -> Later[None]:
        """That there is nothing is news only to who may have seen something."""

        def tell(held: Any) -> None:
            if is_again or held[0] is not None:
                self._tell(key, *held)

        return then(self._read(f"watch {key}", _as_it_is, wire.WATCH, key), f"watch {key}", tell)

    def unwatch(self, key: str) -> Later[None]:
        """A connection that has broken watches nothing any more: that is no failure."""
        self._watched.discard(key)
        result: Later[None] = Later(f"unwatch {key}")

        def answered(asked: Any) -> None:
            error = asked.exception()
            if error is None or isinstance(error, Unreachable):
                result.fulfil(None)
            else:
                result.fail(error)

        self._link.request(wire.UNWATCH, key).add_done_callback(answered)
        return result

    def _hear(self, message: list[Any]) -> None:
        match message:
            case [wire.CHANGED, _, str(key), bytes() | None as value, int(version)] if key in self._watched:
                self._tell(key, value, version)

    def _tell(self, key: str, value: bytes | None, version: int) -> None:
        """The answer to a WATCH may come behind a change that followed it: it is the facade's to compare versions."""
        if self._receiver is not None and key in self._watched:
            self._receiver.on_change(key, value, version)

    def _up(self) -> None:
        if not self._was_up:
            self._was_up = True
            return
        watches = [self._watch(key, is_again=True) for key in sorted(self._watched)]
        again = all_of(watches, "watch again", lambda _results: None)
        again.add_done_callback(self._regained)

    def _regained(self, again: Any) -> None:
        error = again.exception()
        if isinstance(error, Unreachable):  # it has gone again
            return
        if error is not None:
            logger.error("%s: not everything is watched any more: %s", self._link.address, error)
        if self._receiver is not None:
            self._receiver.on_regained()

    def _down(self, why: str) -> None:
        if self._receiver is not None and not self._closed:
            self._receiver.on_lost()

    # ------------------------------------------------------------------ asking

    def _read(self, what: str, convert: Callable[[Any], Any], *message: Any) -> Later[Any]:
        result: Later[Any] = Later(what)
        deadline = self._loop.time() + self._timeout

        def ask() -> None:
            left = deadline - self._loop.time()
            self._link.request(*message, timeout=max(left, 0.0)).add_done_callback(answered)

        def answered(asked: Any) -> None:
            error = asked.exception()
            if error is None:
                result.fulfil(convert(asked.result()))
            elif isinstance(error, Unreachable) and not self._closed and not result.done():
                ask()
            else:
                result.fail(named(error, what))

        ask()
        return result

    def _write(self, what: str, *message: Any) -> Later[Any]:
        result: Later[Any] = Later(what)

        def answered(asked: Any) -> None:
            error = asked.exception()
            if error is None:
                result.fulfil(asked.result())
            else:
                result.fail(named(error, what) if isinstance(error, ServiceError) else error)

        self._link.request(*message).add_done_callback(answered)
        return result


def _as_it_is(result: Any) -> Any:
    return result


def _entry(result: Any) -> Entry | None:
    return None if result is None else Entry(*result)
