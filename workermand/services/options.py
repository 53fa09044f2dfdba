"""``worker.options`` held to a struct: what a service is told is checked before it serves.

The TOML file's own keys are checked by the daemon; what stands below ``options`` is the handler's to understand. A
complaint is a LoadError that names the worker and the key, and ends the start.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, TypeVar

import msgspec

from workermand import LoadError, Worker

T = TypeVar("T", bound=msgspec.Struct)
Complaint = Callable[[str, str], LoadError]
"""complaint() for one worker."""


def read(worker: Worker, kind: type[T]) -> T:
    """The options as ``kind`` has them: its fields are the keys, its defaults theirs. Raises LoadError."""
    keys = [field.encode_name for field in msgspec.structs.fields(kind)]
    for key in worker.options:
        if key not in keys:
            near = difflib.get_close_matches(key, keys, 1)
            remedy = f'did you mean "{near[0]}"?' if near else f"there are {', '.join(keys)}"
            raise complaint(worker, key, f"unknown key; {remedy}")
    try:
        return msgspec.convert(worker.options, kind, str_keys=True)
    except msgspec.ValidationError as error:
        raise _in_words(worker, str(error)) from None


def _in_words(worker: Worker, error: str) -> LoadError:
    """ "Expected `str`, got `int` - at `$.roots[...]`" in the words of the TOML file."""
    what, _, where = error.partition(" - at ")
    what = what.replace("`", "").replace("Expected", "expected")
    what = re.sub(r"\bobject\b", "a table", re.sub(r"\barray\b", "a list", what))
    if where.startswith("`key`"):
        what = f"{what.partition(', got')[0]} for a key"
    place = re.search(r"\$\.(\w+)", where)
    return complaint(worker, place[1] if place else "", what)


def complaint(worker: Worker, key: str, what: str) -> LoadError:
    """ "worker web: options.root: ..." """
    return LoadError(f"worker {worker.name}: options{f'.{key}' if key else ''}: {what}")


def imported(worker: Worker, key: str, name: str) -> ModuleType:
    """The module that an option names. Raises LoadError when there is none; what it raises itself passes through."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(error.name + ".")):
            raise
        raise complaint(worker, key, f"no module named {error.name} on the app_path") from None


def callbacks(worker: Worker, key: str, name: str, known: Mapping[str, int]) -> dict[str, Callable[..., Any]]:
    """The ``on_...`` functions of the module that an option names, by their names. ``known``: with how many arguments
    each is called. Raises LoadError for one that is unknown or takes other arguments, and when there is none at all."""
    module = imported(worker, key, name)
    found = {}
    for callback, function in vars(module).items():
        if not callback.startswith("on_") or not callable(function):
            continue
        if callback not in known:
            raise complaint(worker, key, f"{name} has {callback}: there are {', '.join(known)}")
        try:
            inspect.signature(function).bind(*[None] * known[callback])
        except TypeError as error:
            raise complaint(worker, key, f"{name}.{callback}: {error}") from None
        found[callback] = function
    if not found:
        raise complaint(worker, key, f"{name} has none of {', '.join(known)}")
    return found
