"""Sessions: where request.session comes from and goes to: the store that the TOML file names, and the cookie.

With files a session is read when a handler asks for it, and saved before its answer is encoded: a store that fails
makes it a 503. What changes after the answer is saved when the handler returns or awaits. The store of redis has to be
awaited, and a handler should not notice: ``around`` reads the session before on_message, and keeps back what the
handler sends until the session is saved, so that the browser's next request finds it there.

An id that the store does not know is refused: the session gets another, so that nobody can prepare one for his victim.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

from workermand.errors import LoadError
from workermand.http import answers
from workermand.http.policy import Refusal
from workermand.http.request import HEAD, OPEN, Request
from workermand.http.response import Response
from workermand.http.session import Changes, Session, is_id
from workermand.worker.session_files import FileStore, Found, StoreFailed
from workermand.worker.status import ESTABLISHED

if TYPE_CHECKING:
    from workermand.worker.connection import Connection
    from workermand.worker.session_redis import RedisStore
    from workermand.worker.wire import Wire
    from workermand.worker.worker import Worker

logger = logging.getLogger(__name__)

PAUSE = 0.05
"""Seconds between two slices of a sweep."""
NO_SWEEP = 60.0
"""Seconds after which a process that is not to sweep looks whether a reload says otherwise."""
LOUD = 10.0
"""Seconds between two lines of the log about a store that fails; each failure is counted."""


class Sessions:
    """Those of one process. Thread: the one that runs the loop."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._loop = worker.loop
        self._files: FileStore | None = None
        self._remote: RedisStore | None = None
        self.failures = 0
        """How often the store has failed."""
        self._next_line = 0.0
        self._is_sweeping = False

    @property
    def is_awaited(self) -> bool:
        """The store has to be awaited. It stays as the process began, whatever a reload says."""
        if self._files is None and self._remote is None:
            self.make_store()
        return self._remote is not None

    def make_store(self) -> None:
        """It opens nothing yet. Raises LoadError."""
        store = self._worker.session.store
        if store == "file":
            self._files = FileStore(os.path.join(self._worker.state_dir or os.devnull, "sessions"))
            return
        try:
            from workermand.worker.session_redis import RedisStore  # noqa: PLC0415 -- an extra, which may not be there
        except ModuleNotFoundError:
            raise LoadError(
                'session.store: redis wants its client, pip install "workermand[redis]"; or set it to "file"'
            ) from None
        try:
            self._remote = RedisStore(store, self._worker.session.cookie)
        except ValueError:  # its message may have a part of the password
            raise LoadError(
                'session.store is no address of a redis: expected "redis://[user:password@]host:port/database"'
            ) from None

    # ------------------------------------------------------------------ what a request asks

    def open(self, request: Request) -> Session:
        """The session of ``request``, which has none yet. Raises Refusal, or RuntimeError where it must be awaited."""
        id = self._id_of(request)
        if not id:
            return self._begin(request, id, None)
        if self.is_awaited:
            raise RuntimeError("this session is not read yet: `await request.load_session()` does it")
        assert self._files is not None
        try:
            return self._begin(request, id, self._files.load(id, self._worker.session.lifetime))
        except StoreFailed as error:
            raise self._refusal(error) from None

    async def load(self, request: Request) -> Session:
        """The same with any store."""
        id = self._id_of(request)
        if not id or not self.is_awaited:
            return self.open(request)
        assert self._remote is not None
        try:
            return self._begin(request, id, await self._remote.load(id, self._worker.session.lifetime))
        except StoreFailed as error:
            raise self._refusal(error) from None

    def settle(self, request: Request, session: Session) -> list[str]:
        """Before the answer: saves it, and gives the values of Set-Cookie. Raises Refusal."""
        changes = session.changes()
        if changes is not None and self.is_awaited:
            self._saving(session)
        elif changes is not None and not self._write(session, changes):
            changes = None
        news = session.news(changes)
        session.is_answered = True
        return [self._cookie(request, news)] if news is not None else []

    def _id_of(self, request: Request) -> str:
        id = request.cookie(self._worker.session.cookie, "")
        return id if is_id(id) else ""

    def _begin(self, request: Request, id: str, found: Found | None) -> Session:
        settings = self._worker.session
        session = Session(id, found.values if found is not None else None, limit=settings.size, keeper=self)
        session.is_answered = not _is_owed(request)
        request.begin_session(session)
        if found is not None and found.age >= settings.lifetime / 2:
            session.refresh()
        return session

    def _cookie(self, request: Request, id: str) -> str:
        settings = self._worker.session
        response = Response().cookie(
            settings.cookie,
            id,
            int(settings.lifetime) if id else 0,
            settings.path,
            settings.domain,
            request.is_secure if settings.secure == "auto" else settings.secure,
            settings.http_only,
            settings.same_site,
        )
        return str(response.header("set-cookie"))

    # ------------------------------------------------------------------ what a session asks

    def changed(self, session: Session) -> None:
        """It is saved when the handler returns or awaits, if no answer has done so by then."""
        self._loop.call_soon(self._save_late, session)

    def save(self, session: Session) -> Awaitable[None]:
        """See Session.save()."""
        if self.is_awaited:
            return self._saved(session)
        if (changes := session.changes()) is not None:
            self._write(session, changes)
        return _DONE

    def _save_late(self, session: Session) -> None:
        if not session.is_told:
            return
        if self.is_awaited:
            self._saving(session)
            return
        try:
            if (changes := session.changes()) is not None:
                self._write(session, changes)
        except Refusal:  # logged and counted, and the answer is out
            pass
        except (TypeError, ValueError) as error:
            session.dropped()
            self._worker.failed("what a handler has left in a session", None, error)

    def _write(self, session: Session, changes: Changes) -> bool:
        """False: somebody else has ended it. Raises Refusal."""
        assert self._files is not None
        try:
            is_there = self._files.save(changes, self._worker.session.lifetime)
        except StoreFailed as error:
            session.dropped()
            raise self._refusal(error) from None
        session.saved(changes, is_there=is_there)
        return is_there

    def _refusal(self, error: StoreFailed) -> Refusal:
        """It is logged and counted; the client learns that it was not its fault."""
        self.failures += 1
        self._worker.stats.exceptions += 1
        now = self._loop.time()
        if now >= self._next_line:
            self._next_line = now + LOUD
            logger.error("sessions: %s (%d failures so far)", error, self.failures)
        return Refusal("session", "sessions cannot be kept now; try again later")

    # ------------------------------------------------------------------ a store that is awaited

    def _saving(self, session: Session) -> asyncio.Task[Refusal | None]:
        """The task that saves all that has changed; there is one at a time."""
        if session.saving is None or session.saving.done():
            session.saving = self._loop.create_task(self._write_remote(session))
        task: asyncio.Task[Refusal | None] = session.saving
        return task

    async def _write_remote(self, session: Session) -> Refusal | None:
        assert self._remote is not None
        try:
            while (changes := session.changes()) is not None:
                is_there = await self._remote.save(changes, self._worker.session.lifetime)
                session.saved(changes, is_there=is_there)
        except StoreFailed as error:
            session.dropped()
            return self._refusal(error)
        except (TypeError, ValueError) as error:
            session.dropped()
            self._worker.failed("what a handler has left in a session", None, error)
        return None

    async def _saved(self, session: Session) -> None:
        task = self._saving(session)
        await asyncio.wait({task})  # whoever waits may be cancelled, saving goes on
        if (refusal := task.result()) is not None:
            raise refusal

    async def around(self, callback: Callable[..., Any], connection: Connection, request: Any) -> None:
        """on_message of an http listener."""
        if not isinstance(request, Request):
            result = callback(connection, request)
            if isinstance(result, Awaitable):
                await result
            return
        if self._id_of(request):
            await self.load(request)
        wire = connection.wire
        wire.flush()
        kept = _Kept(self, wire, request)
        result = callback(connection, request)
        if isinstance(result, Awaitable):
            await _Steps(result.__await__(), kept.settle)
        await kept.settle()

    # ------------------------------------------------------------------ files that have expired

    def start(self) -> None:
        """A listener of http is there. One process sweeps for all of its worker."""
        if self._worker.id == 0 and not self._is_sweeping and not self.is_awaited:
            self._is_sweeping = True
            self._loop.call_soon(self._sweep, None)

    def _sweep(self, steps: Iterator[int] | None) -> None:
        """A slice of files, and the next one in a moment."""
        assert self._files is not None
        settings = self._worker.session
        if settings.sweep:
            try:
                steps = steps or self._files.sweep(settings.lifetime)
                steps = steps if next(steps, None) is not None else None
            except StoreFailed as error:
                steps = None
                self._refusal(error)
        self._loop.call_later(PAUSE if steps is not None else settings.sweep or NO_SWEEP, self._sweep, steps)


class _Kept:
    """The answer of one request, kept back while its session is being saved."""

    def __init__(self, sessions: Sessions, wire: Wire, request: Request) -> None:
        self._sessions = sessions
        self._wire = wire
        self._request = request
        self._sent_before = self._sent

    @property
    def _sent(self) -> int:
        """Bytes that the transport has."""
        return self._wire.bytes_written - sum(map(len, self._wire.out or ()))

    async def settle(self) -> None:
        session = self._request.session_if_read
        if session is None or not (session.is_told or (session.saving is not None and not session.saving.done())):
            return
        wire, out = self._wire, self._wire.out
        kept = list(out or ())
        is_whole = self._sent == self._sent_before
        if out is not None:
            out.clear()
        try:
            await self._sessions.save(session)
        except Refusal as refusal:
            if kept and is_whole and wire.status is ESTABLISHED:
                self._replace(kept, refusal)
        finally:
            if wire.status is ESTABLISHED and wire.out is not None:
                wire.out[:0] = kept

    def _replace(self, kept: list[bytes], refusal: Refusal) -> None:
        """Nobody has seen the answer yet."""
        connection = self._wire.connection
        self._wire.bytes_written -= sum(map(len, kept))
        kept.clear()
        head_only = bool(self._request.demands & HEAD)
        connection.send(answers.error(refusal.status, refusal.why, head_only=head_only), raw=True)
        connection.end()


class _Steps:
    """Awaits a handler, and ``settle`` whenever it is about to wait."""

    def __init__(self, steps: Generator[Any, Any, Any], settle: Callable[[], Awaitable[None]]) -> None:
        self._steps = steps
        self._settle = settle

    def __await__(self) -> Generator[Any, Any, None]:
        error: BaseException | None = None
        while True:
            try:
                waits_for = self._steps.send(None) if error is None else self._steps.throw(error)
            except StopIteration:
                return
            error = None
            try:
                yield from self._settle().__await__()
                yield waits_for
            except BaseException as another:
                error = another


class _Done:
    """Awaited for nothing."""

    def __await__(self) -> Generator[Any, Any, None]:
        yield from ()


_DONE = _Done()


def _is_owed(request: Request) -> bool:
    """Its answer is still to come."""
    owed = getattr(request.connection.protocol, "owed", ())
    return not request.demands & OPEN and any(each is request for each in owed)
