"""What JetStream delivers of GlobalData's bucket: the changes of the keys that are watched, and the names of all keys.

A consumer begins with the last message of each of its keys. Which one a message is from stands in the subject that it
could be acknowledged to.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping
from typing import Any, Final

from workermand.services.links.errors import TimedOut
from workermand.services.links.nats import TIMEOUT, NatsLink
from workermand.services.links.subjects import name, subject

ENDS: Final = "Wm-Ends"
"""Header: when the key ends, in seconds since the epoch by the server's clock."""
IDLE: Final = 30 * 1_000_000_000
"""Nanoseconds after which the server forgets a consumer that nobody listens to."""


def is_marker(headers: Mapping[str, str]) -> bool:
    """It stands for a deletion."""
    return headers.get("KV-Operation", "") in ("DEL", "PURGE") or "Nats-Marker-Reason" in headers


class _Watched:
    def __init__(self, consumer: str) -> None:
        self.consumer = consumer
        self.version = 0
        """What the facade knows; 0: there is no such key."""
        self.timer: asyncio.TimerHandle | None = None
        self.began: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class _Scan:
    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.keys: list[str] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class NatsWatching:
    """Thread: the one that runs the loop."""

    def __init__(
        self, link: NatsLink, stream: str, prefix: str, on_change: Callable[[str, bytes | None, int], None]
    ) -> None:
        """``prefix``: of the subjects of keys."""
        self._link = link
        self._stream = stream
        self._prefix = prefix
        self._on_change = on_change
        self._watched: dict[str, _Watched] = {}
        self._scans: dict[str, _Scan] = {}
        """By consumer."""
        self._numbers = itertools.count(1)
        link.route("$KV.", self._on_message)

    def close(self) -> None:
        for key in list(self._watched):
            self.forget(key)

    async def watch(self, key: str) -> None:
        """Until what the key holds has been told."""
        await self._begin(key, 0)

    def forget(self, key: str) -> None:
        """Nothing is told any more."""
        if (watched := self._watched.get(key)) is not None:
            _cancel(watched)
            watched.consumer = ""

    async def unwatch(self, key: str) -> None:
        watched = self._watched.get(key)
        if watched is not None and not watched.consumer:
            del self._watched[key]
            await self._link.forget(self._inbox(key))

    async def restore(self) -> None:
        """On a new connection. What has changed meanwhile is told."""
        for key, watched in list(self._watched.items()):
            if watched.consumer:
                await self._begin(key, watched.version)

    async def keys(self, prefix: str) -> list[str]:
        """Sorted."""
        root = prefix.rpartition(".")[0]
        consumer = self._name()
        scan = self._scans[consumer] = _Scan(prefix)
        inbox = f"{self._link.inbox}.s{consumer}"
        await self._link.listen(inbox)
        try:
            covered = f"{subject(root)}.>" if root else ">"
            pending = await self._deliver(consumer, inbox, self._prefix + covered, headers_only=True)
            if pending:
                await _within(scan.done)
            return sorted(scan.keys)
        finally:
            del self._scans[consumer]
            await self._link.forget(inbox)

    # ------------------------------------------------------------------ consumers

    async def _begin(self, key: str, version: int) -> None:
        if (former := self._watched.get(key)) is not None:
            _cancel(former)
            await self._link.forget(self._inbox(key))
        watched = self._watched[key] = _Watched(self._name())
        watched.version = version
        await self._link.listen(self._inbox(key))
        if await self._deliver(watched.consumer, self._inbox(key), self._prefix + subject(key)):
            await _within(watched.began)
        elif version:
            self._tell(key, watched, None, 0)

    async def _deliver(self, consumer: str, inbox: str, filter: str, **settings: Any) -> int:
        """How many messages are there already."""
        config = {
            "name": consumer,
            "deliver_subject": inbox,
            "deliver_policy": "last_per_subject",
            "ack_policy": "none",
            "filter_subject": filter,
            "inactive_threshold": IDLE,
            "mem_storage": True,
            **settings,
        }
        created = await self._link.api(
            f"CONSUMER.CREATE.{self._stream}.{consumer}", stream_name=self._stream, config=config
        )
        delivered = created.get("delivered", {}).get("consumer_seq", 0)
        return int(created.get("num_pending", 0)) + int(delivered)

    def _name(self) -> str:
        return f"wm_{self._link.client_id}_{next(self._numbers)}"

    def _inbox(self, key: str) -> str:
        return f"{self._link.inbox}.k.{subject(key)}"

    # ------------------------------------------------------------------ messages

    def _on_message(self, subject: str, reply: str, data: bytes, headers: Mapping[str, str]) -> None:
        tokens = reply.split(".")  # $JS.ACK.stream.consumer..., or with a domain and an account before the stream
        start = 3 if len(tokens) < 11 else 5
        consumer, version, pending = tokens[start], int(tokens[start + 2]), int(tokens[start + 5])
        key = name(subject[len(self._prefix) :])
        if (scan := self._scans.get(consumer)) is not None:
            if not is_marker(headers) and self._left(headers) > 0 and key.startswith(scan.prefix):
                scan.keys.append(key)
            if not pending and not scan.done.done():
                scan.done.set_result(None)
            return
        watched = self._watched.get(key)
        if watched is None or watched.consumer != consumer:
            return
        _cancel(watched)
        left = self._left(headers)
        if is_marker(headers) or left <= 0:
            self._tell(key, watched, None, 0)
        else:
            self._tell(key, watched, data, version)
            if ENDS in headers:
                watched.timer = asyncio.get_running_loop().call_later(left, self._tell, key, watched, None, 0)
        if not watched.began.done():
            watched.began.set_result(None)

    def _left(self, headers: Mapping[str, str]) -> float:
        return float(headers.get(ENDS, "inf")) - self._link.now()

    def _tell(self, key: str, watched: _Watched, value: bytes | None, version: int) -> None:
        if watched.version != version:
            watched.version = version
            self._on_change(key, value, version)


async def _within(future: asyncio.Future[None]) -> None:
    try:
        await asyncio.wait_for(future, TIMEOUT)
    except TimeoutError:
        raise TimedOut(f"nats: no answer within {TIMEOUT:g} s") from None


def _cancel(watched: _Watched) -> None:
    if watched.timer is not None:
        watched.timer.cancel()
        watched.timer = None
