"""A user's handler, "apps.chat" or "apps.chat:Chat", made into plain callables that are checked before they are used.

What is wrong with a callback (its name, its arguments) is a LoadError at load or an error at the assignment, never a
surprise at the thousandth message. Whether a callback is ``async def`` is decided here, once. process.py loads,
connections take the callables over; nothing else knows modules.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import operator
from collections.abc import Callable
from typing import Any

from workermand.errors import LoadError

PARAMETERS: dict[str, tuple[str, ...]] = {
    "on_worker_start": ("worker",),
    "on_worker_stop": ("worker",),
    "on_worker_reload": ("worker",),
    "on_worker_check": ("worker",),
    "on_connect": ("connection",),
    "on_message": ("connection", "data"),
    "on_close": ("connection",),
    "on_error": ("connection", "code", "message"),
    "on_buffer_full": ("connection",),
    "on_buffer_drain": ("connection",),
    "on_websocket_connect": ("connection", "request"),
    "on_websocket_connected": ("connection", "request"),
    "on_websocket_ping": ("connection", "data"),
    "on_websocket_pong": ("connection", "data"),
    "on_websocket_close": ("connection", "code", "reason"),
}
"""Every callback and what it is called with, by position."""

CALLBACKS: dict[str, int] = {name: len(parameters) for name, parameters in PARAMETERS.items()}
CONNECTION_CALLBACKS = tuple(name for name in CALLBACKS if not name.startswith("on_worker_"))
_websocket = operator.attrgetter(*[name for name in CALLBACKS if name.startswith("on_websocket_")])

Callback = Callable[..., Any]


class Handlers:
    """The callbacks of one worker or of one listener; None where the user has none."""

    __slots__ = (*CALLBACKS, "stream_body")

    on_worker_start: Callback | None
    on_worker_stop: Callback | None
    on_worker_reload: Callback | None
    on_worker_check: Callback | None
    on_connect: Callback | None
    on_message: Callback | None
    on_close: Callback | None
    on_error: Callback | None
    on_buffer_full: Callback | None
    on_buffer_drain: Callback | None
    on_websocket_connect: Callback | None
    on_websocket_connected: Callback | None
    on_websocket_ping: Callback | None
    on_websocket_pong: Callback | None
    on_websocket_close: Callback | None

    stream_body: bool
    """Long bodies of HTTP requests are handed over as they come: see Request.stream()."""

    def __init__(self, owner: object = None) -> None:
        """Takes the ``on_*`` attributes of ``owner``, a module or an object, and its ``stream_body``. Raises
        LoadError."""
        self.stream_body = getattr(owner, "stream_body", False)
        if not isinstance(self.stream_body, bool):
            raise LoadError(f"stream_body must be True or False, not {self.stream_body!r} (in {_name_of(owner)})")
        for name in CALLBACKS:
            setattr(self, name, None)
        for name in dir(owner):
            if not name.startswith("on_"):
                continue
            value = getattr(owner, name)
            if name in CALLBACKS:
                self.assign(name, value)
            elif callable(value):
                raise LoadError(f"{unknown(name)} (in {_name_of(owner)})")

    @property
    def have_websocket(self) -> bool:
        """There is an on_websocket_*: connections that speak HTTP may be upgraded."""
        return any(_websocket(self))

    def assign(self, name: str, callback: Callback | None) -> None:
        """Sets one callback. Raises AttributeError for an unknown name, LoadError for one that cannot be called so."""
        check(name, callback)
        setattr(self, name, callback)


def load(target: str) -> Handlers:
    """Imports "package.module" or "package.module:Class" (made once, without arguments).

    Raises LoadError when the target or one of its callbacks is wrong; what the module itself raises passes through, for
    its traceback.
    """
    module_name, _, class_name = target.partition(":")
    module = _import(module_name, target)
    if not class_name:
        return Handlers(module)
    handler_class = getattr(module, class_name, None)
    if not inspect.isclass(handler_class):
        names = [name for name, value in vars(module).items() if inspect.isclass(value)]
        raise LoadError(f'handler "{target}": {module_name} has no class {class_name}{did_you_mean(class_name, names)}')
    if not _takes(handler_class, 0):
        raise LoadError(f'handler "{target}": {class_name}() must take no arguments: it is made once in each process')
    return Handlers(handler_class())


def check(name: str, callback: Callback | None) -> None:
    """Raises AttributeError when no callback has this name, LoadError when ``callback`` cannot serve as it."""
    if name not in CALLBACKS:
        raise AttributeError(unknown(name))
    if callback is None:
        return
    if not callable(callback):
        raise LoadError(f"{name} must be a function, not {type(callback).__name__}")
    if inspect.isgeneratorfunction(callback) or inspect.isasyncgenfunction(callback):
        raise LoadError(f"{name} contains yield: calling it would run none of it")
    if name == "on_worker_check" and is_async(callback):
        raise LoadError("on_worker_check cannot be async: it is called where no loop runs")
    if not _takes(callback, CALLBACKS[name]):
        wanted = ", ".join(PARAMETERS[name])
        raise LoadError(
            f"{name}{inspect.signature(callback)} cannot be called as {name}({wanted}) (in {_name_of(callback)})"
        )


def is_async(callback: Callback) -> bool:
    """Whether calling it gives a coroutine: functions, methods, partials of them, objects with an async __call__."""
    while isinstance(callback, functools.partial):
        callback = callback.func
    return inspect.iscoroutinefunction(callback) or inspect.iscoroutinefunction(type(callback).__call__)


def unknown(name: str) -> str:
    """What to tell somebody who wrote an ``on_*`` that does not exist."""
    return f"unknown callback {name}{did_you_mean(name, CALLBACKS)}"


def did_you_mean(word: str, words: Any) -> str:
    nearest = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return f'; did you mean "{nearest[0]}"?' if nearest else ""


def _import(name: str, target: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # Only when the handler itself is not there: a missing module that it imports is told by the traceback.
        if error.name is None or not (name == error.name or name.startswith(error.name + ".")):
            raise
        raise LoadError(f'handler "{target}": no module named {error.name} on the app_path') from None


def _takes(function: Callback, count: int) -> bool:
    try:
        inspect.signature(function).bind(*[None] * count)
    except TypeError:
        return False
    except ValueError:  # a builtin without a signature: only the call itself can tell
        return True
    return True


def _name_of(thing: object) -> str:
    if inspect.ismodule(thing):
        return thing.__name__
    module, name = getattr(thing, "__module__", ""), getattr(thing, "__qualname__", type(thing).__qualname__)
    return f"{module}.{name}" if module else name
