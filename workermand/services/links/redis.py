"""RedisLink: two connections to a redis server, one for commands, one for what redis pushes; kept up, and made again.

redis-py reads and writes; when to connect again, what is subscribed again and what becomes of a command whose answer
never came is decided here and in backlog.py, for the answer is not the same for an event and for an item of a queue.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from workermand import ConfigError
from workermand.services.links.backlog import Call
from workermand.services.links.errors import ServiceError, Unauthorized, Unreachable
from workermand.services.links.later import Later

try:
    import redis.asyncio
    from redis.backoff import NoBackoff
    from redis.exceptions import AuthenticationError, AuthorizationError, NoScriptError, RedisError, ResponseError
except ImportError:
    raise ConfigError("redis://", "the package redis is missing", 'pip install "workermand[redis]"') from None

logger = logging.getLogger(__name__)

TIMEOUT: Final = 10.0
"""Seconds for a connection, and for the answers to a batch."""
PING: Final = 10.0
"""Seconds between two signs of life."""
FIRST_WAIT, LONGEST_WAIT = 0.1, 5.0
"""Seconds until it connects again: doubled each time, less up to a half by chance."""

Command = tuple[Any, ...]


class RedisLink:
    """Thread: the one that runs the loop. The callbacks don't raise."""

    def __init__(
        self,
        url: str,
        *,
        scripts: Mapping[str, str],
        on_push: Callable[[list[Any]], None],
        on_connect: Callable[[], Awaitable[None]],
        on_up: Callable[[], None],
        on_down: Callable[[], None],
    ) -> None:
        """``url``: redis://[user:password@]host:port/database, rediss:// for TLS, redis+unix:///path; ``scripts``: Lua,
        by name; ``on_push(message)``: what redis says by itself, confirmations too; ``on_connect()``: sets a connection
        up, before anything else is done with it; ``on_up()``, ``on_down()``: it is back, it has gone. Raises
        ConfigError."""
        self.where = _without_password(url)
        try:
            self._pool: Any = redis.asyncio.ConnectionPool.from_url(
                "unix" + url.removeprefix("redis+unix") if url.startswith("redis+unix:") else url,
                protocol=2,
                socket_timeout=None,
                socket_connect_timeout=TIMEOUT,
                retry=redis.asyncio.retry.Retry(NoBackoff(), 0),
            )
        except ValueError as error:
            raise ConfigError(self.where, str(error), "as in redis://127.0.0.1:6379/0") from None
        self._scripts = scripts
        self._digests = {name: hashlib.sha1(text.encode()).hexdigest() for name, text in scripts.items()}
        self._on_push, self._on_connect, self._on_up, self._on_down = on_push, on_connect, on_up, on_down
        self.up = False
        self.reason = ""
        """Why the last connection ended."""
        self._heard = 0
        self._commands: Any = None
        self._pushes: Any = None
        self._confirmations: dict[tuple[bytes, bytes], list[asyncio.Future[None]]] = {}
        self._broken: asyncio.Future[None] | None = None
        self._life: asyncio.Task[None] | None = None
        self._reader: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Raises Unreachable, Unauthorized."""
        await self._connect()
        self._life = asyncio.get_running_loop().create_task(self._live())

    async def close(self) -> None:
        self.up = False
        if self._life is not None:
            self._life.cancel()
            await asyncio.wait([self._life])
        await self._disconnect()

    def script(self, name: str, keys: Sequence[str | bytes], *arguments: Any) -> Command:
        """The command that runs it."""
        return ("EVALSHA", self._digests[name], len(keys), *keys, *arguments)

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """All at once, one caller at a time; what the server refuses is a ResponseError in the place of its answer.
        Raises Unreachable."""
        try:
            async with asyncio.timeout(TIMEOUT):
                await self._commands.send_packed_command(self._commands.pack_commands(commands))
                return [await self._answer() for _ in commands]
        except (AuthenticationError, AuthorizationError) as error:
            self._break(error)
            raise Unauthorized(f"redis at {self.where}: {_words(error)}") from error
        except (RedisError, OSError, TimeoutError, AttributeError) as error:
            self._break(error)
            raise Unreachable(f"redis at {self.where}: {_words(error)}: it may not have arrived") from error
        except asyncio.CancelledError as error:
            self._break(error)  # answers that nobody reads are in the way
            raise

    async def listen(self, verb: str, names: Iterable[str | bytes]) -> None:
        """SUBSCRIBE, PSUBSCRIBE and their opposites, until redis has confirmed. Raises Unreachable."""
        raw = [name.encode() if isinstance(name, str) else name for name in names]
        if not raw:
            return
        futures = []
        for name in raw:
            future = asyncio.get_running_loop().create_future()
            self._confirmations.setdefault((verb.lower().encode(), name), []).append(future)
            futures.append(future)
        try:
            async with asyncio.timeout(TIMEOUT):
                await self._pushes.send_command(verb, *raw)
                await asyncio.gather(*futures)
        except (RedisError, OSError, TimeoutError, AttributeError) as error:
            self._break(error)
            raise Unreachable(f"redis at {self.where}: {_words(error)}") from error

    # ------------------------------------------------------------------ connections

    async def _answer(self) -> Any:
        try:
            return await self._commands.read_response(disable_decoding=True)
        except NoScriptError as error:
            raise ConnectionError("its scripts are gone") from error  # and are loaded with the next connection
        except ResponseError as error:
            return error

    async def _connect(self) -> None:
        self._broken = asyncio.get_running_loop().create_future()
        self._commands, self._pushes = self._pool.make_connection(), self._pool.make_connection()
        try:
            async with asyncio.timeout(TIMEOUT):
                await self._commands.connect()
                await self._pushes.connect()
                for answer in await self.run([("SCRIPT", "LOAD", text) for text in self._scripts.values()]):
                    if isinstance(answer, ResponseError):
                        raise ServiceError(f"redis at {self.where} refuses a script: {answer}")
                self._reader = asyncio.get_running_loop().create_task(self._read(self._pushes))
                await self._on_connect()
        except (AuthenticationError, AuthorizationError) as error:
            await self._disconnect()
            raise Unauthorized(f"redis at {self.where}: {_words(error)}") from error
        except ServiceError:
            await self._disconnect()
            raise
        except (RedisError, OSError, TimeoutError) as error:
            await self._disconnect()
            raise Unreachable(f"redis at {self.where}: {_words(error)}") from error
        self.up = True

    async def _disconnect(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait([self._reader])
        for confirmations in self._confirmations.values():
            for future in confirmations:
                future.cancel()
        self._confirmations.clear()
        for connection in (self._commands, self._pushes):
            if connection is not None:
                await connection.disconnect(nowait=True)

    async def _live(self) -> None:
        """Waits for the connection's end, and makes the next one."""
        while True:
            await self._hold()
            self.up = False
            self._on_down()
            wait = FIRST_WAIT
            while not self.up:
                await self._disconnect()
                await asyncio.sleep(wait * random.uniform(0.5, 1.0))
                wait = min(wait * 2, LONGEST_WAIT)
                try:
                    await self._connect()
                except ServiceError as error:
                    logger.debug("%s", error)
                except Exception:
                    logger.exception("redis at %s: a connection that could not be set up", self.where)
            self._on_up()

    async def _hold(self) -> None:
        """Until the connection breaks. One that is silent is asked for a sign of life, and given up without one."""
        assert self._broken is not None
        asked = False
        while True:
            heard = self._heard
            done, _ = await asyncio.wait([self._broken], timeout=PING)
            if done:
                return
            if asked and heard == self._heard:
                self._break(TimeoutError(f"no sign of life for {2 * PING:g} s"))
                return
            asked = heard == self._heard
            if asked:
                try:
                    await self._pushes.send_command("PING")
                except (RedisError, OSError) as error:
                    self._break(error)

    def _break(self, error: BaseException) -> None:
        if self._broken is not None and not self._broken.done():
            self.reason = _words(error)
            self._broken.set_result(None)

    async def _read(self, pushes: Any) -> None:
        """What redis pushes."""
        try:
            while True:
                message = await pushes.read_response(disable_decoding=True)
                self._heard += 1
                if message[0] in (b"message", b"pmessage"):
                    self._on_push(message)
                elif message[0] != b"pong":
                    self._on_push(message)
                    for future in self._confirmations.pop((message[0], message[1]), ()):
                        if not future.done():
                            future.set_result(None)
        except (RedisError, OSError) as error:
            self._break(error)
        except Exception as error:
            logger.exception("redis at %s: what it pushed could not be handled", self.where)
            self._break(error)


class Send(Call):
    """Commands, made when it is their turn, and what becomes of their answers."""

    __slots__ = ("finish", "make")

    def __init__(
        self, later: Later[Any], make: Callable[[], list[Command]], finish: Callable[[list[Any]], Any], **options: Any
    ) -> None:
        super().__init__(later, **options)
        self.make = make
        self.finish = finish


class Step(Call):
    """What takes more than one round trip, or another connection: done by itself, and again after a reconnect."""

    __slots__ = ("do",)

    def __init__(self, later: Later[Any], do: Callable[[], Awaitable[Any]]) -> None:
        super().__init__(later, repeats=True)
        self.do = do


async def perform(link: RedisLink, calls: Sequence[Call], refused: type[ServiceError]) -> None:
    """For a Backlog: what stands between two Steps is one round trip. What redis refuses is a ``refused``. Raises
    Unreachable."""
    sends: list[Send] = []
    for call in calls:
        if isinstance(call, Send):
            sends.append(call)
        elif isinstance(call, Step):
            await _send(link, sends, refused)
            sends = []
            try:
                call.later.fulfil(await call.do())
            except refused as error:
                call.later.fail(error)
    await _send(link, sends, refused)


async def _send(link: RedisLink, sends: list[Send], refused: type[ServiceError]) -> None:
    commands = [send.make() for send in sends]
    answers = iter(await link.run([one for many in commands for one in many]) if sends else ())
    for send, sent in zip(sends, commands, strict=True):
        own = [next(answers) for _ in sent]
        said = next((answer for answer in own if isinstance(answer, ResponseError)), None)
        if said is not None:
            send.later.fail(refused(f"{send.later.what}: redis: {said}"))
            continue
        try:
            send.later.fulfil(send.finish(own))
        except refused as error:
            send.later.fail(error)


async def is_durable(link: RedisLink) -> bool:
    """Whether redis writes everything to the disk before it answers, as far as it tells."""
    (settings,) = await link.run([("CONFIG", "GET", "append*")])
    if not isinstance(settings, list):
        return False
    found = dict(zip(settings[::2], settings[1::2], strict=True))
    return found.get(b"appendonly") == b"yes" and found.get(b"appendfsync") == b"always"


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _without_password(url: str) -> str:
    split = urlsplit(url)
    return f"{split.netloc.rpartition('@')[2]}{split.path}"
