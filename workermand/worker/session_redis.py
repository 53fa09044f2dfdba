"""Sessions in redis: a hash for each, whose fields are the keys of the session; redis itself drops what has expired.

A script merges the changes, so that no other request comes in between. Every field has a "=" before its name; the one
without is there so that an empty session is not nothing.
"""

from __future__ import annotations

import contextlib
import logging
from typing import Any

import msgspec
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, RedisError

from workermand.http.session import Changes
from workermand.worker.session_files import Found, StoreFailed

logger = logging.getLogger(__name__)

TIMEOUT = 2.0
"""Seconds for a connection, and for an answer."""
CONNECTIONS = 16
"""Of one process: the next request waits for one of them, as long as for an answer."""
MARK = b""
SAVE = """
local key, former = KEYS[1], KEYS[2]
local lifetime, is_new, is_cleared, is_ended, deleted = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
if is_new == '0' and redis.call('EXISTS', former) == 0 then
  return 0
end
if is_ended == '1' then
  redis.call('DEL', former)
  return 1
end
if is_cleared == '1' then
  redis.call('DEL', former)
elseif key ~= former then
  redis.call('RENAME', former, key)
end
for i = 6, 5 + deleted do
  redis.call('HDEL', key, ARGV[i])
end
redis.call('HSET', key, '', '')
for i = 6 + deleted, #ARGV, 2 do
  redis.call('HSET', key, ARGV[i], ARGV[i + 1])
end
redis.call('PEXPIRE', key, lifetime)
return 1
"""


class RedisStore:
    """Process: the child; thread: the one that runs the loop. It connects when it is needed, and again after a failure.
    Workers whose cookies have one name share their sessions."""

    def __init__(self, url: str, name: str) -> None:
        """``url``: redis://[user:password@]host:port/database, rediss:// for TLS, unix://path; ``name``: the
        cookie's."""
        pool = redis.asyncio.BlockingConnectionPool.from_url(
            url,
            max_connections=CONNECTIONS,
            timeout=TIMEOUT,
            socket_timeout=TIMEOUT,
            socket_connect_timeout=TIMEOUT,
            health_check_interval=30,
            retry=Retry(NoBackoff(), 1, (ConnectionError,)),  # a connection that went while it was idle
        )
        self._client = redis.asyncio.Redis.from_pool(pool)
        self._script = self._client.register_script(SAVE)
        self._name = name
        self.unreadable = 0
        """Hashes that were no sessions."""
        settings = pool.connection_kwargs
        self._where = settings.get("path") or f"{settings.get('host')}:{settings.get('port', 6379)}"

    async def load(self, id: str, lifetime: float) -> Found | None:
        """Raises StoreFailed."""
        with self._failing():
            async with self._client.pipeline(transaction=True) as pipeline:
                pipeline.hgetall(self._key(id))
                pipeline.pttl(self._key(id))
                fields, left = await pipeline.execute()
        if not fields:
            return None
        try:
            values = {field[1:].decode(): value for field, value in fields.items() if field != MARK}
            for value in values.values():
                msgspec.msgpack.decode(value)
        except (msgspec.MsgspecError, ValueError) as error:
            self.unreadable += 1
            logger.warning("a session in redis at %s cannot be read and counts as none: %s", self._where, error)
            return None
        return Found(values, max(0.0, lifetime - left / 1000) if left >= 0 else lifetime)

    async def save(self, changes: Changes, lifetime: float) -> bool:
        """False: the session is no more, and nothing was written. Raises StoreFailed."""
        flags = (changes.is_new, changes.is_cleared, changes.is_ended)
        arguments: list[Any] = [int(lifetime * 1000), *map(int, flags), len(changes.deleted)]
        arguments += [f"={key}" for key in changes.deleted]
        for key, value in changes.values.items():
            arguments += [f"={key}", value]
        with self._failing():
            keys = [self._key(changes.id), self._key(changes.stored_as)]
            return bool(await self._script(keys=keys, args=arguments))

    async def close(self) -> None:
        await self._client.aclose()
        await self._client.connection_pool.disconnect()

    def _key(self, id: str) -> str:
        return f"workermand:{self._name}:{id}"

    @contextlib.contextmanager
    def _failing(self) -> Any:
        try:
            yield
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreFailed(f"redis at {self._where}: {type(error).__name__}: {error}") from error
