"""The nats:// engine of GlobalData: a bucket of JetStream's key-value store, wm_globaldata, one message for each key.

A key's version is the number of its message in the stream. Whoever changes what is there says which number that must
still be, and begins again when it is another. Servers before 2.11 know no ttl of a key: when it ends stands in a
header, by the server's clock (links.nats.NatsLink.now), and every client goes by it.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from workermand.services.globaldata.counting import plus
from workermand.services.globaldata.engine import Entry, GlobalDataError, Promise, Receiver
from workermand.services.globaldata.nats_watching import ENDS, NatsWatching, is_marker
from workermand.services.links.backlog import Backlog, Call
from workermand.services.links.errors import Unsupported
from workermand.services.links.later import Later
from workermand.services.links.nats import Answer, ApiError, NatsLink, Step, answered, perform
from workermand.services.links.subjects import subject

logger = logging.getLogger(__name__)

PROMISES: Final = frozenset({Promise.VERSIONS, Promise.TTL, Promise.WATCH, Promise.EXPIRED, Promise.PERSISTENCE})
"""Not ATOMIC_MANY: JetStream stores one message at a time."""
BUCKET: Final = "wm_globaldata"
STREAM: Final = f"KV_{BUCKET}"
BUFFER: Final = 16 * 1024 * 1024
"""Bytes of calls that wait for nats."""
TOGETHER: Final = 256
"""Requests of get_many and set_many that are on their way at once."""
AGAIN: Final = 1.0
"""Seconds until what could not be restored is tried again."""
EXPECTED: Final = "Nats-Expected-Last-Subject-Sequence"
NOT_FOUND, ANOTHER = 10037, 10071
"""JetStream's codes: no such message; the key is at another version."""


class _Stored(msgspec.Struct):
    """The last message of a key."""

    seq: int = 0
    data: bytes = b""
    hdrs: bytes = b""

    @property
    def headers(self) -> dict[str, str]:
        lines = (line.decode().partition(":") for line in self.hdrs.split(b"\r\n")[1:])
        return {key: value.strip() for key, _, value in lines if key}


class _Variable:
    """What a key holds, or ``is_there`` False."""

    def __init__(self, stored: _Stored, now: float) -> None:
        headers = stored.headers
        self.version = stored.seq
        self.value = stored.data
        self.ends = float(headers.get(ENDS, "inf"))
        self.is_there = stored.seq > 0 and not is_marker(headers) and self.ends > now


class NatsEngine:
    """Process: any; thread: the one that runs the loop."""

    def __init__(self, url: str, *, timeout: float = 10.0) -> None:
        """``timeout``: seconds that a call waits for nats. Raises ConfigError."""
        self.promises = PROMISES
        self._link = NatsLink(url, on_up=self._on_up, on_down=self._on_down)
        self._receiver: Receiver
        self._backlog = Backlog(self._run, limits={"calls": BUFFER}, timeout=timeout)
        self._watching = NatsWatching(self._link, STREAM, f"$KV.{BUCKET}.", self._on_change)

    async def start(self, receiver: Receiver) -> None:
        """Also raises Unsupported: that server has no JetStream."""
        self._receiver = receiver
        await self._link.open()
        if not await self._link.has_jetstream():
            await self._link.close()
            raise Unsupported(f"nats at {self._link.where} has no JetStream: start it with --jetstream")
        await self._prepare()
        self._backlog.resume()

    async def close(self) -> None:
        self._watching.close()
        await self._backlog.close("it is closed")
        await self._link.close()

    async def _prepare(self) -> None:
        # What a bucket of nats-py or of the nats tool with history=1 is, so that they can look into it.
        await self._link.create_stream(
            STREAM,
            [f"$KV.{BUCKET}.>"],
            max_msgs_per_subject=1,
            discard="new",
            allow_rollup_hdrs=True,
            allow_direct=True,
            storage="file",
        )
        await self._link.set_clock()

    # ------------------------------------------------------------------ reading

    def get(self, key: str) -> Later[Entry | None]:
        async def do() -> Entry | None:
            found = await self._look(key)
            return Entry(found.value, found.version) if found.is_there else None

        return self._call(f"get {key}", do, repeats=True)

    def get_many(self, keys: Sequence[str]) -> Later[dict[str, Entry]]:
        async def do() -> dict[str, Entry]:
            entries = {}
            for start in range(0, len(keys), TOGETHER):
                some = keys[start : start + TOGETHER]
                answers = [await self._request(key) for key in some]
                for key, answer in zip(some, answers, strict=True):
                    found = await self._found(answer)
                    if found.is_there:
                        entries[key] = Entry(found.value, found.version)
            return entries

        return self._call("get_many", do, repeats=True)

    def exists(self, key: str) -> Later[bool]:
        async def do() -> bool:
            return (await self._look(key)).is_there

        return self._call(f"exists {key}", do, repeats=True)

    def ttl(self, key: str) -> Later[float | None]:
        async def do() -> float | None:
            found = await self._look(key)
            return found.ends - self._link.now() if found.is_there else None

        return self._call(f"ttl of {key}", do, repeats=True)

    def keys(self, prefix: str = "") -> Later[list[str]]:
        return self._call(f"keys {prefix}", lambda: self._watching.keys(prefix), repeats=True)

    async def _request(self, key: str) -> Answer:
        asked = msgspec.json.encode({"last_by_subj": _subject(key)})
        return await self._link.request(f"$JS.API.STREAM.MSG.GET.{STREAM}", asked)

    async def _found(self, answer: Answer) -> _Variable:
        try:
            stored = msgspec.convert((await answered(answer))["message"], _Stored)
        except ApiError as error:
            if error.code != NOT_FOUND:
                raise
            stored = _Stored()
        return _Variable(stored, self._link.now())

    async def _look(self, key: str) -> _Variable:
        return await self._found(await self._request(key))

    # ------------------------------------------------------------------ writing

    def set(self, key: str, value: bytes, ttl: float | None = None) -> Later[int]:
        seconds = _seconds(ttl)

        async def do() -> int:
            stored = await self._link.ask(_subject(key), value, self._headers(seconds))
            return int(stored["seq"])

        return self._call(f"set {key}", do, len(value))

    def set_many(self, values: Mapping[str, bytes], ttl: float | None = None) -> Later[None]:
        seconds = _seconds(ttl)
        pairs = list(values.items())

        async def do() -> None:
            for start in range(0, len(pairs), TOGETHER):
                headers = self._headers(seconds)
                some = pairs[start : start + TOGETHER]
                for answer in [await self._link.request(_subject(key), value, headers) for key, value in some]:
                    await answered(answer)

        return self._call("set_many", do, sum(map(len, values.values())))

    def add(self, key: str, value: bytes, ttl: float | None = None) -> Later[int]:
        seconds = _seconds(ttl)

        def change(found: _Variable) -> tuple[bytes, float] | None:
            return None if found.is_there else (value, self._link.now() + seconds)

        return self._call(f"add {key}", lambda: self._change(key, change), len(value))

    def cas(self, key: str, old: bytes, new: bytes) -> Later[int]:
        def change(found: _Variable) -> tuple[bytes, float] | None:
            return (new, found.ends) if found.is_there and found.value == old else None

        return self._call(f"cas {key}", lambda: self._change(key, change), len(new))

    def cas_version(self, key: str, version: int, value: bytes) -> Later[int]:
        def change(found: _Variable) -> tuple[bytes, float] | None:
            if (found.version if found.is_there else 0) != version:
                return None
            return (value, found.ends if found.is_there else math.inf)

        return self._call(f"cas_version {key}", lambda: self._change(key, change), len(value))

    def increment(self, key: str, step: int | float) -> Later[int | float | None]:
        sums: list[int | float] = []

        def change(found: _Variable) -> tuple[bytes, float] | None:
            if not found.is_there:
                return None
            number, value = plus(key, found.value, step)
            sums.append(number)
            return value, found.ends

        async def do() -> int | float | None:
            return sums[-1] if await self._change(key, change) else None

        return self._call(f"increment {key}", do)

    def delete(self, key: str, old: bytes | None = None) -> Later[bool]:
        def change(found: _Variable) -> tuple[None, float] | None:
            return (None, math.inf) if found.is_there and old in (None, found.value) else None

        async def do() -> bool:
            return bool(await self._change(key, change))

        return self._call(f"delete {key}", do)

    def expire(self, key: str, ttl: float | None, old: bytes | None = None) -> Later[bool]:
        def change(found: _Variable) -> tuple[bytes | None, float] | None:
            if not found.is_there or old not in (None, found.value):
                return None
            if ttl is not None and not ttl > 0:
                return None, math.inf
            return found.value, self._link.now() + _seconds(ttl)

        async def do() -> bool:
            return bool(await self._change(key, change))

        return self._call(f"expire {key}", do)

    async def _change(self, key: str, change: Callable[[_Variable], tuple[bytes | None, float] | None]) -> int:
        """``change(found)`` gives what to put in its place and when that ends, no value for a deletion; or None, to
        leave it. The new version; 0: it was left."""
        while True:
            found = await self._look(key)
            wanted = change(found)
            if wanted is None:
                return 0
            value, ends = wanted
            headers = {EXPECTED: str(found.version)}
            if value is None:
                headers["KV-Operation"] = "DEL"
            elif ends < math.inf:
                headers[ENDS] = f"{ends:.6f}"
            try:
                return int((await self._link.ask(_subject(key), value or b"", headers))["seq"])
            except ApiError as error:
                if error.code != ANOTHER:  # else somebody was faster
                    raise

    def _headers(self, seconds: float) -> dict[str, str] | None:
        return {ENDS: f"{self._link.now() + seconds:.6f}"} if seconds < math.inf else None

    # ------------------------------------------------------------------ watching

    def watch(self, key: str) -> Later[None]:
        return self._call(f"watch {key}", lambda: self._watching.watch(key), repeats=True)

    def unwatch(self, key: str) -> Later[None]:
        self._watching.forget(key)
        return self._call(f"unwatch {key}", lambda: self._watching.unwatch(key), repeats=True)

    def _on_change(self, key: str, value: bytes | None, version: int) -> None:
        self._receiver.on_change(key, value, version)

    # ------------------------------------------------------------------ calls, and the connection

    def _call(self, what: str, do: Callable[[], Awaitable[Any]], size: int = 0, *, repeats: bool = False) -> Later[Any]:
        later: Later[Any] = Later(what)
        self._backlog.add(Step(later, do, kind="calls", size=size + len(what), repeats=repeats))
        return later

    async def _run(self, calls: list[Call]) -> None:
        await perform(self._link, calls, GlobalDataError)

    def _on_up(self) -> None:
        if not self._link.up:
            return
        later: Later[None] = Later("watch everything again")
        later.add_done_callback(self._restored)
        self._backlog.put_first(Step(later, self._restore, repeats=True))
        self._backlog.resume()

    async def _restore(self) -> None:
        await self._prepare()
        await self._watching.restore()

    def _restored(self, outcome: Any) -> None:
        if not self._link.up or outcome.cancelled():
            return
        if (error := outcome.exception()) is None:
            self._receiver.on_regained()
        else:  # a cluster that has no leader yet
            logger.error("nats at %s: %s", self._link.where, error)
            asyncio.get_running_loop().call_later(AGAIN, self._on_up)

    def _on_down(self) -> None:
        logger.warning("nats at %s is gone: %s", self._link.where, self._link.reason)
        self._backlog.pause()
        self._receiver.on_lost()


def _subject(key: str) -> str:
    return f"$KV.{BUCKET}.{subject(key)}"


def _seconds(ttl: float | None) -> float:
    if ttl is None:
        return math.inf
    if not ttl > 0:
        raise GlobalDataError(f"a ttl of {ttl:g} seconds: more than 0, or none")
    return ttl
