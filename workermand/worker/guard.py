"""User code may raise, exit and stop the loop; the process goes on. What it may do is contained here.

Workerman ended the whole process at the first exception, and ``sys.exit`` in an asyncio task or callback ends a loop.
Here both are counted exceptions: the task factory turns an exit into an ordinary exception of its task, run_until
enters the loop again when one came through a bare callback, and the exception handler gets what nobody caught.
process.py installs all of it; ``failed`` is Worker.failed, where every such exception is reported.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import signal
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Generator
from types import TracebackType
from typing import Any, NoReturn

from workermand.errors import LoadError

Failed = Callable[[str, None, BaseException], None]

EXITS = (SystemExit, KeyboardInterrupt)
USERS = (Exception, *EXITS)
"""What to catch around a call into user code."""

OUR_FILES = os.path.join(os.path.dirname(os.path.dirname(__file__)), "")
BARE_CALLBACK = "a callback of the event loop"


class ExitInTask(RuntimeError):
    """User code called sys.exit() in a task: whoever awaits the task gets this, and the process stays."""


class _Contained(Coroutine[Any, Any, Any]):
    """A task's coroutine whose exits come out as ExitInTask.

    A wrapping ``async def`` would not do: a task cancelled before its first step would leave the wrapped coroutine
    never awaited, with a warning.
    """

    __slots__ = ("_coroutine",)

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine = coroutine

    def send(self, value: Any) -> Any:
        try:
            return self._coroutine.send(value)
        except EXITS as error:
            _refuse(error)

    def throw(self, *error: Any) -> Any:
        try:
            return self._coroutine.throw(*error)
        except EXITS as exit_error:
            _refuse(exit_error)

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._coroutine.__await__()

    def __getattr__(self, name: str) -> Any:
        """Its name and its cr_* attributes: tasks show those."""
        return getattr(self._coroutine, name)


def _refuse(error: BaseException) -> NoReturn:
    raise ExitInTask(f"{error!r} in a task: a handler cannot end its process so; worker.stop() does") from error


def task_factory(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
    return asyncio.Task(_Contained(coroutine), loop=loop, **options)


def install(loop: asyncio.AbstractEventLoop, failed: Failed) -> None:
    def handle(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if error is None:
            loop.default_exception_handler(context)
        else:
            failed(_where(context), None, error)

    loop.set_task_factory(task_factory)
    loop.set_exception_handler(handle)


def _where(context: dict[str, Any]) -> str:
    """asyncio's context in our words."""
    future = context.get("future")
    if isinstance(future, asyncio.Task):
        return f"task {getattr(future.get_coro(), '__qualname__', future.get_name())}, which nobody awaited"
    if future is not None:
        return "something that nobody awaited"
    return BARE_CALLBACK if "handle" in context else str(context.get("message"))


def run_until(loop: asyncio.AbstractEventLoop, future: asyncio.Future[Any], failed: Failed) -> None:
    """Runs the loop until ``future`` is done, whatever user code does to the loop meanwhile."""
    future.add_done_callback(lambda _future: loop.stop())
    while not future.done():
        loop.call_soon(_tell_missed_signals)
        try:
            loop.run_forever()
        except EXITS as error:
            failed(BARE_CALLBACK, None, error)


def _tell_missed_signals() -> None:
    """uvloop only notes a signal that comes while it is not running, between two phases of our life, and tells of it
    when the next one writes to its wakeup descriptor. A zero stands for no signal."""
    wakeup = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
    with contextlib.suppress(BlockingIOError):
        os.write(wakeup, b"\0")


async def call(callback: Callable[..., Any], *arguments: Any) -> None:
    """Calls a user's callback, sync or async, and waits for its end."""
    result = callback(*arguments)
    if isinstance(result, Awaitable):
        await result


def users_traceback(error: BaseException) -> TracebackType | None:
    """The traceback from the first frame of the user's own; all of it when the fault is ours. A syntax error has no
    such frame, and says itself where it is."""
    found = error.__traceback__
    while found is not None and _is_ours(found.tb_frame.f_code.co_filename):
        found = found.tb_next
    return found if found or isinstance(error, SyntaxError) else error.__traceback__


def last_words(error: BaseException) -> str:
    """For the exit table and `reload`: what the handler's author must read."""
    if isinstance(error, LoadError):
        return str(error)
    return "".join(traceback.format_exception(type(error), error, users_traceback(error))).rstrip()


def _is_ours(filename: str) -> bool:
    return filename.startswith((OUR_FILES, "<frozen importlib")) or filename == importlib.__file__
