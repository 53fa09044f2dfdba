"""GlobalData: variables that all processes share, for programs with an event loop; blocking.py is for all others.

    data = await GlobalData.connect("globaldata://127.0.0.1:2207")
    await data.set("counter", 0)
    await data.increment("counter")

Values are whatever JSON or MessagePack has a form for, bytes included; a tuple comes back as a list. What a verb gives
may be awaited or not: it takes effect in order either way, and an error that nobody waits for is logged.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from workermand import ConfigError
from workermand.services.globaldata.chaining import then
from workermand.services.globaldata.embedded import Embedded
from workermand.services.globaldata.engine import Engine, Entry, Promise
from workermand.services.globaldata.locking import Doormen, Lock
from workermand.services.globaldata.sharded import Sharded
from workermand.services.globaldata.watching import Callback, Change, Watcher
from workermand.services.globaldata.wire import LOCKS, PORT, SERVICE, checked, pack_value, unpack_value
from workermand.services.links.address import of_this_daemon, parse
from workermand.services.links.errors import ServiceError, Unsupported
from workermand.services.links.later import Later

logger = logging.getLogger(__name__)

SERVER: Final = "workermand.services.globaldata.server"
OTHERS: Final = {"redis": ("redis", "RedisEngine"), "rediss": ("redis", "RedisEngine"), "nats": ("nats", "NatsEngine")}
"""By scheme: the module of the engine, which is also the name of the extra, and its class."""


class GlobalData:
    """Process: any with a running loop; thread: the one that runs it.

    All verbs raise GlobalDataError (refused: the words say why), Unreachable (the connection broke: a write may or may
    not have been done), TimedOut; TypeError and ValueError at once for keys and values that cannot be. While the server
    is away they wait for it, up to ``timeout``.
    """

    def __init__(self, engine: Engine) -> None:
        """For connect()."""
        self._engine = engine
        self._watchers: dict[str, Watcher] = {}
        self._doormen = Doormen(engine)
        self.exceptions = 0
        """Of callbacks."""
        self.on_lost: Callable[[], None] | None = None
        """Yours: the server has gone."""
        self.on_regained: Callable[[], None] | None = None
        """Yours: it is back, and everything is watched again."""

    @classmethod
    async def connect(
        cls,
        url: str | None = None,
        *,
        secret: str | None = None,
        tls: Any = None,
        require: Iterable[Promise | str] = (),
        timeout: float = 10.0,  # noqa: ASYNC109 -- of every call
    ) -> GlobalData:
        """``url``: "globaldata://host:2207", "globaldata:///run/x/globaldata.sock"; with several servers,
        "globaldata://a:2207,b:2207", each has its share of the keys: sharding, not replication. "redis://..." and
        "nats://..." need the extra of that name. None: the server of this daemon, in a worker process.

        ``secret``: the one of the server's options; None: the one that this daemon's server has, or none. ``tls``: as
        of AsyncTcpConnection. ``require``: promises without which there is nothing to be done, ["versions"].
        ``timeout``: seconds for the first connection, and for each call.

        Raises ConfigError for what cannot be, Unreachable, Unauthorized, ServiceError.
        """
        wanted = _promises(require)
        data = cls(_engine(url, secret, tls, timeout))
        await data._engine.start(data._receiver())
        missing = [promise for promise in wanted if promise not in data._engine.promises]
        if missing:
            await data.close()
            raise ConfigError(
                f"require of {url or SERVICE}", f"it does not promise: {', '.join(missing)}", "see the manual's table"
            )
        return data

    @property
    def promises(self) -> frozenset[Promise]:
        """What this connection's engine keeps."""
        return self._engine.promises

    async def close(self) -> None:
        """What has been asked for goes out; what was not answered fails."""
        for watcher in self._watchers.values():
            watcher.is_over = True
        self._watchers.clear()
        await self._engine.close()

    async def __aenter__(self) -> GlobalData:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # ------------------------------------------------------------------ reading

    def get(self, key: str, default: Any = None) -> Later[Any]:
        """``default`` when there is none; None is a value as good as any."""
        return then(
            self._engine.get(checked(key)), f"get {key}", lambda entry: default if entry is None else _value(entry)
        )

    def get_versioned(self, key: str) -> Later[tuple[Any, int] | None]:
        """(value, version), for cas_version()."""
        self._promised(Promise.VERSIONS)
        return then(
            self._engine.get(checked(key)),
            f"get_versioned {key}",
            lambda entry: None if entry is None else (_value(entry), entry.version),
        )

    def get_many(self, keys: Iterable[str]) -> Later[dict[str, Any]]:
        """Those that there are, in the order of ``keys``."""
        wanted = [checked(key) for key in keys]
        return then(
            self._engine.get_many(wanted),
            f"get {len(wanted)} keys",
            lambda entries: {key: _value(entries[key]) for key in wanted if key in entries},
        )

    def exists(self, key: str) -> Later[bool]:
        return self._engine.exists(checked(key))

    def keys(self, prefix: str = "") -> Later[list[str]]:
        """Sorted. The server looks at every key that it has: a tenth of a second for a million."""
        return then(
            self._engine.keys(prefix), f"keys {prefix}", lambda keys: [key for key in keys if not key.startswith("$")]
        )

    def ttl(self, key: str) -> Later[float | None]:
        """Seconds left; math.inf: for ever; None: there is no such key."""
        self._promised(Promise.TTL)
        return self._engine.ttl(checked(key))

    # ------------------------------------------------------------------ writing

    def set(self, key: str, value: Any, ttl: float | None = None) -> Later[int]:
        """Whatever was there before. ``ttl``: seconds until it is gone, None: it stays. The version that it has now."""
        self._promised(Promise.TTL, ttl)
        return self._engine.set(checked(key), pack_value(value), ttl)

    def set_many(self, values: Mapping[str, Any], ttl: float | None = None) -> Later[None]:
        """All of one server in one step, unless they are more than 1 MiB (Promise.ATOMIC_MANY)."""
        self._promised(Promise.TTL, ttl)
        return self._engine.set_many({checked(key): pack_value(value) for key, value in values.items()}, ttl)

    def add(self, key: str, value: Any, ttl: float | None = None) -> Later[bool]:
        """Only if there is none. Whether it did."""
        self._promised(Promise.TTL, ttl)
        return then(self._engine.add(checked(key), pack_value(value), ttl), f"add {key}", bool)

    def cas(self, key: str, old: Any, new: Any) -> Later[bool]:
        """Puts ``new`` in the place of ``old``. False: it is something else by now, or gone; get() it again. Equal is
        what packs into the same bytes: of the same types, 1 is not 1.0; dicts in whatever order."""
        return then(self._engine.cas(checked(key), pack_value(old), pack_value(new)), f"cas {key}", bool)

    def cas_version(self, key: str, version: int, value: Any) -> Later[bool]:
        """The same by the version that get_versioned() gave: also who puts the old value back in between is noticed.
        Version 0: only if there is none."""
        self._promised(Promise.VERSIONS)
        return then(self._engine.cas_version(checked(key), version, pack_value(value)), f"cas_version {key}", bool)

    def increment(self, key: str, step: int | float = 1) -> Later[int | float | None]:
        """The new value. None: there is no such key, and nothing is done (Workerman's false); a ``step`` below 0 takes
        away. Raises GlobalDataError for what is no number."""
        if isinstance(step, bool) or not isinstance(step, int | float):
            raise TypeError(f"increment: the step is a number, not {step!r}")
        return self._engine.increment(checked(key), step)

    def delete(self, key: str) -> Later[bool]:
        """Whether it was there."""
        return self._engine.delete(checked(key))

    def expire(self, key: str, ttl: float | None) -> Later[bool]:
        """Gone in ``ttl`` seconds from now; None: it stays. False: there is no such key."""
        self._promised(Promise.TTL)
        return self._engine.expire(checked(key), ttl)

    # ------------------------------------------------------------------ watching, locking

    def watch(self, key: str, callback: Callback) -> Later[None]:
        """``callback(change)``, sync or async: first with what the key holds, if it is there, then whenever that has
        become another, or is gone (change.gone), by whomever, also by this client. Of changes that follow each other
        fast some are left out, never the last; a callback that awaits gets the next one when it has returned. A second
        watch() of a key replaces the first. After a reconnect it is watched again, and told what has changed."""
        self._promised(Promise.WATCH)
        if (former := self._watchers.get(checked(key))) is not None:
            former.is_over = True
        self._watchers[key] = Watcher(key, callback, self._failed)
        return self._engine.watch(key)

    def unwatch(self, key: str) -> Later[None]:
        """The callback is not called any more, from now on."""
        if (watcher := self._watchers.pop(checked(key), None)) is None:
            return Later.of(f"unwatch {key}", None)
        watcher.is_over = True
        return self._engine.unwatch(key)

    def lock(self, name: str, ttl: float, *, wait: float = 10.0) -> Lock:
        """``async with``: one holder at a time, of all processes. ``ttl``: seconds after which it ends by itself;
        ``wait``: seconds that one waits for it, then TimedOut; 0: it is free or not. See locking.py."""
        return Lock(self._engine, self._doormen, checked(name), ttl, wait)

    # ------------------------------------------------------------------ what the engine tells

    def _receiver(self) -> _Receiver:
        return _Receiver(self)

    def _changed(self, key: str, value: bytes | None, version: int) -> None:
        if key.startswith(LOCKS):
            self._doormen.on_change(key, value is None)
        watcher = self._watchers.get(key)
        if watcher is None or not watcher.is_news(value is None, version):
            return
        try:
            change = Change(key, None if value is None else unpack_value(value), version, gone=value is None)
        except ServiceError as error:
            logger.error("watch %s: %s", key, error)
            return
        watcher.tell(change)

    def _failed(self, key: str, error: BaseException) -> None:
        self.exceptions += 1
        logger.error("exception in the callback that watches %s", key, exc_info=error)

    def _say(self, name: str) -> None:
        """on_lost, on_regained."""
        if (callback := getattr(self, name)) is not None:
            try:
                callback()
            except Exception as error:
                self.exceptions += 1
                logger.error("exception in %s", name, exc_info=error)

    def _promised(self, promise: Promise, ttl: float | None = 0.0) -> None:
        if ttl is not None and promise not in self._engine.promises:
            raise Unsupported(f"this engine does not promise {promise}: see the manual's table")


class _Receiver:
    """The engine's side of a GlobalData, not to be seen among its verbs."""

    def __init__(self, data: GlobalData) -> None:
        self._data = data

    def on_change(self, key: str, value: bytes | None, version: int) -> None:
        self._data._changed(key, value, version)

    def on_lost(self) -> None:
        self._data._say("on_lost")

    def on_regained(self) -> None:
        self._data._doormen.wake()
        self._data._say("on_regained")


def _value(entry: Entry) -> Any:
    return unpack_value(entry.value)


def _promises(names: Iterable[Promise | str]) -> list[Promise]:
    try:
        return [Promise(name) for name in names]
    except ValueError as error:
        raise ConfigError("require", str(error), f"there are {', '.join(Promise)}") from None


def _engine(url: str | None, secret: str | None, tls: Any, timeout: float) -> Engine:
    """The one that the URL's scheme stands for. Raises ConfigError."""
    if url is None:
        server = of_this_daemon(SERVER)
        return Embedded(server.address, secret=server.secret if secret is None else secret, tls=tls, timeout=timeout)
    scheme = url.partition("://")[0]
    if scheme in OTHERS:
        if secret or tls:
            raise ConfigError(url, "it has no secret and no tls of ours", "its URL says who calls, and how")
        return _foreign(url, *OTHERS[scheme], timeout)
    addresses = parse(url, SERVICE, PORT)
    engines = {str(address): Embedded(address, secret=secret or "", tls=tls, timeout=timeout) for address in addresses}
    if len(engines) < len(addresses):
        raise ConfigError(url, "a server is named twice", "name each once")
    return next(iter(engines.values())) if len(engines) == 1 else Sharded(engines)


def _foreign(url: str, name: str, kind: str, timeout: float) -> Engine:
    try:
        module = importlib.import_module(f"workermand.services.globaldata.{name}")
    except ModuleNotFoundError as error:
        raise ConfigError(url, f"no module named {error.name}", f'pip install "workermand[{name}]"') from None
    engine: Engine = getattr(module, kind)(url, timeout=timeout)
    return engine
