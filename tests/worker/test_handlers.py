"""Handlers: what is found in a module or an object, and what each mistake is told."""

from __future__ import annotations

import functools
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from workermand.errors import LoadError
from workermand.worker import handlers
from workermand.worker.handlers import Handlers, check, is_async, load


def module(**names: Any) -> types.ModuleType:
    made = types.ModuleType("apps.made")
    vars(made).update(names)
    return made


def on_message(connection: object, data: object) -> None: ...


@pytest.fixture
def apps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory on the import path; what is imported from it is forgotten again."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_takes_the_callbacks_of_a_module_and_leaves_the_rest_none() -> None:
    found = Handlers(module(on_message=on_message, only_mine=3, on_duty="no function: no callback"))
    assert found.on_message is on_message
    assert found.on_connect is None
    assert [name for name in handlers.CALLBACKS if getattr(found, name)] == ["on_message"]


def test_takes_bound_methods_of_an_object() -> None:
    class Chat:
        def on_connect(self, connection: object) -> object:
            return connection

        async def on_message(self, connection: object, data: object) -> None: ...

    found = Handlers(Chat())
    assert found.on_connect is not None and found.on_connect("x") == "x"
    assert found.on_message is not None and is_async(found.on_message)


def test_nothing_at_all_is_fine() -> None:
    assert all(getattr(Handlers(module()), name) is None for name in handlers.CALLBACKS)


def test_an_unknown_callback_is_named_with_the_nearest() -> None:
    with pytest.raises(LoadError, match=r'unknown callback on_mesage; did you mean "on_message"\? \(in apps.made\)'):
        Handlers(module(on_mesage=on_message))


@pytest.mark.parametrize(
    ("name", "callback", "words"),
    [
        (
            "on_message",
            lambda connection: None,
            r"on_message\(connection\) cannot be called as on_message\(connection, data\)",
        ),
        ("on_close", lambda: None, r"on_close\(\) cannot be called as on_close\(connection\)"),
        ("on_connect", lambda connection, *, token: None, r"on_connect\(connection, \*, token\) cannot be"),
        ("on_error", on_message, r"cannot be called as on_error\(connection, code, message\) \(in .*on_message\)"),
        ("on_message", "print", "must be a function, not str"),
    ],
)
def test_what_cannot_be_called_so_is_refused(name: str, callback: Any, words: str) -> None:
    with pytest.raises(LoadError, match=words):
        check(name, callback)


@pytest.mark.parametrize(
    "callback",
    [
        on_message,
        lambda *everything: None,
        lambda connection, data, more=None: None,
        functools.partial(on_message, "first"),
        print,
        dict.get,
        None,
    ],
)
def test_what_can_be_called_so_is_taken(callback: Any) -> None:
    check("on_connect" if isinstance(callback, functools.partial) else "on_message", callback)


def test_generators_are_refused_because_calling_one_runs_nothing() -> None:
    def stream(connection: object, data: object) -> Any:
        yield data

    async def astream(connection: object, data: object) -> Any:
        yield data

    for callback in (stream, astream):
        with pytest.raises(LoadError, match="contains yield"):
            check("on_message", callback)


def test_assigning() -> None:
    found = Handlers()
    found.assign("on_message", on_message)
    assert found.on_message is on_message
    found.assign("on_message", None)
    assert found.on_message is None
    with pytest.raises(AttributeError, match='did you mean "on_message"'):
        found.assign("on_messages", on_message)
    with pytest.raises(LoadError):
        found.assign("on_message", lambda: None)


def test_is_async_looks_through_methods_partials_and_objects() -> None:
    class Handler:
        async def method(self, connection: object) -> None: ...

        async def __call__(self, connection: object) -> None: ...

    def plain() -> None: ...

    async def coroutine(connection: object) -> None: ...

    asyncs = [coroutine, Handler().method, Handler(), functools.partial(functools.partial(coroutine), 1)]
    assert all(is_async(callback) for callback in asyncs)
    assert not any(is_async(callback) for callback in (plain, functools.partial(plain), print, Handler))


# ---------------------------------------------------------------------- load


def test_loads_a_module(apps: Path) -> None:
    (apps / "one_echo.py").write_text("def on_message(connection, data): return data\n")
    found = load("one_echo")
    assert found.on_message is not None and found.on_message(None, 7) == 7


def test_loads_a_class_and_makes_it_once(apps: Path) -> None:
    (apps / "one_chat.py").write_text(
        "class Chat:\n    made = 0\n"
        "    def __init__(self): Chat.made += 1\n"
        "    def on_connect(self, connection): return Chat.made\n"
        "    def on_close(self, connection): return self\n"
    )
    found = load("one_chat:Chat")
    assert found.on_connect is not None and found.on_connect(None) == 1


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("no_such_app", r'handler "no_such_app": no module named no_such_app on the app_path'),
        ("no_such.app", r'handler "no_such.app": no module named no_such on the app_path'),
        ("one_bad:Chatt", r'one_bad has no class Chatt; did you mean "Chat"\?'),
        ("one_bad:thing", r"one_bad has no class thing"),
        ("one_bad:Needs", r"Needs\(\) must take no arguments"),
        ("one_bad:Typo", r'unknown callback on_conect; did you mean "on_connect"\?'),
    ],
)
def test_load_errors(apps: Path, target: str, words: str) -> None:
    (apps / "one_bad.py").write_text(
        "thing = 1\nclass Chat: pass\n"
        "class Needs:\n    def __init__(self, this): pass\n"
        "class Typo:\n    def on_conect(self, connection): pass\n"
    )
    with pytest.raises(LoadError, match=words):
        load(target)


def test_what_the_module_itself_raises_passes_through(apps: Path) -> None:
    (apps / "one_import.py").write_text("import no_such_module_of_mine\n")
    (apps / "one_syntax.py").write_text("def on_message(connection, data:\n")
    with pytest.raises(ModuleNotFoundError, match="no_such_module_of_mine"):
        load("one_import")
    with pytest.raises(SyntaxError):
        load("one_syntax")
