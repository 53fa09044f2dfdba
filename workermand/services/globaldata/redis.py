"""The redis:// engine of GlobalData: a hash for each variable, changed by scripts (redis_scripts.py), ended by redis.

A watch learns by wm:k:KEY that something has changed, and then looks: of changes that follow each other fast it sees
the last. Redis tells nobody that a key has ended, unless it is set to: a watch looks when the key's time has come.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from workermand.services.globaldata.counting import plus
from workermand.services.globaldata.engine import Entry, GlobalDataError, Promise, Receiver
from workermand.services.globaldata.redis_scripts import SCRIPTS
from workermand.services.links.backlog import Backlog, Call
from workermand.services.links.errors import ServiceError
from workermand.services.links.later import Later
from workermand.services.links.redis import Command, RedisLink, Send, Step, is_durable, perform

logger = logging.getLogger(__name__)

PROMISES: Final = frozenset({Promise.VERSIONS, Promise.TTL, Promise.WATCH, Promise.EXPIRED, Promise.ATOMIC_MANY})
BUFFER: Final = 16 * 1024 * 1024
"""Bytes of calls that wait for redis."""
PAGE: Final = 1000
"""Keys that redis looks through at a time."""


class _Watched:
    __slots__ = ("again", "looks", "timer", "version")

    def __init__(self) -> None:
        self.version = 0
        """What the facade knows; 0: there is no such key."""
        self.looks = False
        """An answer is on its way ..."""
        self.again = False
        """... and there has been a change since."""
        self.timer: asyncio.TimerHandle | None = None


class RedisEngine:
    """Process: any; thread: the one that runs the loop. ``promises`` is complete when start() is."""

    def __init__(self, url: str, *, timeout: float = 10.0) -> None:
        """``timeout``: seconds that a call waits for redis. Raises ConfigError."""
        self.promises = PROMISES
        self._link = RedisLink(
            url,
            scripts=SCRIPTS,
            on_push=self._on_push,
            on_connect=self._restore,
            on_up=self._on_up,
            on_down=self._on_down,
        )
        self._receiver: Receiver
        self._watched: dict[str, _Watched] = {}
        self._backlog = Backlog(self._run, limits={"calls": BUFFER}, timeout=timeout)

    async def start(self, receiver: Receiver) -> None:
        self._receiver = receiver
        await self._link.open()
        if await is_durable(self._link):
            self.promises |= {Promise.PERSISTENCE}
        self._backlog.resume()

    async def close(self) -> None:
        for watched in self._watched.values():
            _cancel(watched)
        self._watched.clear()
        await self._backlog.close("it is closed")
        await self._link.close()

    # ------------------------------------------------------------------ reading

    def get(self, key: str) -> Later[Entry | None]:
        return self._read(f"get {key}", ("HMGET", f"wm:g:{key}", "v", "n"), _entry)

    def get_many(self, keys: Sequence[str]) -> Later[dict[str, Entry]]:
        def finish(found: Any) -> dict[str, Entry]:
            return {key: Entry(entry[0], entry[1]) for key, entry in zip(keys, found, strict=True) if entry}

        return self._read("get_many", self._script("look", *keys), finish)

    def exists(self, key: str) -> Later[bool]:
        return self._read(f"exists {key}", ("EXISTS", f"wm:g:{key}"), bool)

    def ttl(self, key: str) -> Later[float | None]:
        return self._read(f"ttl of {key}", ("PTTL", f"wm:g:{key}"), _seconds)

    def keys(self, prefix: str = "") -> Later[list[str]]:
        return self._step(f"keys {prefix}", lambda: self._scan(prefix))

    async def _scan(self, prefix: str) -> list[str]:
        pattern = "wm:g:" + re.sub(r"[\\?*\[\]^]", r"\\\g<0>", prefix) + "*"
        found: set[str] = set()
        cursor: Any = 0
        while True:
            (answer,) = await self._link.run([("SCAN", cursor, "MATCH", pattern, "COUNT", PAGE)])
            if not isinstance(answer, list):
                raise GlobalDataError(f"keys: redis: {answer}")
            cursor, keys = answer
            found.update(key[5:].decode() for key in keys)
            if int(cursor) == 0:
                return sorted(found)

    # ------------------------------------------------------------------ writing

    def set(self, key: str, value: bytes, ttl: float | None = None) -> Later[int]:
        return self._write(f"set {key}", "set", _milliseconds(ttl), key, value)

    def set_many(self, values: Mapping[str, bytes], ttl: float | None = None) -> Later[None]:
        flat = [part for pair in values.items() for part in pair]
        return self._write("set_many", "set", _milliseconds(ttl), *flat, finish=lambda version: None)

    def add(self, key: str, value: bytes, ttl: float | None = None) -> Later[int]:
        return self._write(f"add {key}", "add", _milliseconds(ttl), key, value)

    def cas(self, key: str, old: bytes, new: bytes) -> Later[int]:
        return self._write(f"cas {key}", "cas", key, old, new)

    def cas_version(self, key: str, version: int, value: bytes) -> Later[int]:
        return self._write(f"cas_version {key}", "cas_version", key, version, value)

    def delete(self, key: str, old: bytes | None = None) -> Later[bool]:
        return self._write(f"delete {key}", "delete", key, *([] if old is None else [old]), finish=bool)

    def expire(self, key: str, ttl: float | None, old: bytes | None = None) -> Later[bool]:
        milliseconds = "0" if ttl is not None and not ttl > 0 else _milliseconds(ttl)
        return self._write(f"expire {key}", "expire", milliseconds, key, *([] if old is None else [old]), finish=bool)

    def increment(self, key: str, step: int | float) -> Later[int | float | None]:
        later: Later[int | float | None] = Later(f"increment {key}")
        quick = str(step) if type(step) is int and abs(step) < 2**52 else ""
        self._increment(later, key, step, quick)
        return later

    def _increment(self, later: Later[Any], key: str, step: int | float, quick: str) -> None:
        def answered(outcome: Later[Any]) -> None:
            try:
                found = outcome.result()
            except ServiceError as error:
                later.fail(error)
                return
            if len(found) != 1:
                later.fulfil(found[1] if found else None)
                return
            try:
                number, value = plus(key, found[0], step)
            except GlobalDataError as refused:
                later.fail(refused)
                return
            replaced = self.cas(key, found[0], value)
            replaced.add_done_callback(lambda replaced: replacing(replaced, number))

        def replacing(replaced: Any, number: int | float) -> None:
            try:
                if replaced.result():
                    later.fulfil(number)
                else:
                    self._increment(later, key, step, quick)  # somebody was faster
            except ServiceError as error:
                later.fail(error)

        self._write(later.what, "increment", key, quick).add_done_callback(answered)

    # ------------------------------------------------------------------ watching

    def watch(self, key: str) -> Later[None]:
        watched = self._watched.setdefault(key, _Watched())
        watched.version = 0  # so that it is told again
        return self._step(f"watch {key}", lambda: self._begin([key]))

    def unwatch(self, key: str) -> Later[None]:
        if (watched := self._watched.pop(key, None)) is not None:
            _cancel(watched)
        return self._step(f"unwatch {key}", lambda: self._end(key))

    async def _begin(self, keys: Sequence[str]) -> None:
        await self._link.listen("SUBSCRIBE", [f"wm:k:{key}" for key in keys])
        for start in range(0, len(keys), PAGE):
            some = keys[start : start + PAGE]
            (found,) = await self._link.run([self._script("look", *some)])
            if not isinstance(found, list):
                raise GlobalDataError(f"watch: redis: {found}")
            for key, entry in zip(some, found, strict=True):
                self._report(key, entry)

    async def _end(self, key: str) -> None:
        if key not in self._watched:  # nor is again
            await self._link.listen("UNSUBSCRIBE", [f"wm:k:{key}"])

    def _on_push(self, message: list[Any]) -> None:
        if message[0] == b"message":
            self._look(message[1][5:].decode())

    def _look(self, key: str) -> None:
        watched = self._watched.get(key)
        if watched is None:
            return
        if watched.looks:
            watched.again = True
            return
        watched.looks, watched.again = True, False
        look = self._read(f"look at {key}", self._script("look", key), lambda found: found[0])
        look.add_done_callback(lambda look: self._looked(key, watched, look))

    def _looked(self, key: str, watched: _Watched, look: Any) -> None:
        watched.looks = False
        if self._watched.get(key) is not watched:
            return
        if (error := look.exception()) is None:
            self._report(key, look.result())
        else:
            logger.warning("%s", error)
        if watched.again:
            self._look(key)

    def _report(self, key: str, entry: list[Any]) -> None:
        watched = self._watched.get(key)
        if watched is None:
            return
        _cancel(watched)
        if not entry:
            if watched.version:
                watched.version = 0
                self._receiver.on_change(key, None, 0)
            return
        value, version, milliseconds = entry
        if milliseconds >= 0:
            loop = asyncio.get_running_loop()
            watched.timer = loop.call_later(milliseconds / 1000 + 0.002, self._look, key)
        if version != watched.version:
            watched.version = version
            self._receiver.on_change(key, value, version)

    # ------------------------------------------------------------------ calls, and the connection

    def _script(self, name: str, *arguments: Any) -> Command:
        return self._link.script(name, (), *arguments)

    def _read(self, what: str, command: Command, finish: Callable[[Any], Any]) -> Later[Any]:
        later: Later[Any] = Later(what)
        self._backlog.add(Send(later, lambda: [command], lambda answers: finish(answers[0]), repeats=True))
        return later

    def _write(
        self, what: str, name: str, *arguments: Any, finish: Callable[[Any], Any] = lambda answer: answer
    ) -> Later[Any]:
        later: Later[Any] = Later(what)
        command = self._script(name, *arguments)
        size = sum(len(argument) for argument in arguments if isinstance(argument, (str, bytes)))
        self._backlog.add(Send(later, lambda: [command], lambda answers: finish(answers[0]), kind="calls", size=size))
        return later

    def _step(self, what: str, do: Callable[[], Any]) -> Later[Any]:
        later: Later[Any] = Later(what)
        self._backlog.add(Step(later, do))
        return later

    async def _run(self, calls: list[Call]) -> None:
        await perform(self._link, calls, GlobalDataError)

    async def _restore(self) -> None:
        if self._watched:
            await self._begin(list(self._watched))

    def _on_up(self) -> None:
        self._backlog.resume()
        self._receiver.on_regained()

    def _on_down(self) -> None:
        logger.warning("redis at %s is gone: %s", self._link.where, self._link.reason)
        self._backlog.pause()
        self._receiver.on_lost()


def _entry(found: Any) -> Entry | None:
    return None if found[0] is None else Entry(found[0], int(found[1]))


def _seconds(milliseconds: int) -> float | None:
    return None if milliseconds == -2 else math.inf if milliseconds == -1 else milliseconds / 1000


def _milliseconds(ttl: float | None) -> str:
    if ttl is None or ttl == math.inf:
        return ""
    if not ttl > 0:
        raise GlobalDataError(f"a ttl of {ttl:g} seconds: more than 0, or none")
    return str(max(1, round(ttl * 1000)))


def _cancel(watched: _Watched) -> None:
    if watched.timer is not None:
        watched.timer.cancel()
        watched.timer = None
