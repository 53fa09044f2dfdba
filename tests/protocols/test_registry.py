"""Names to classes: built-in, schemes, "module:Class", and the sentence that a wrong one gets."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from workermand.errors import LoadError
from workermand.protocols.base import Protocol
from workermand.protocols.custom import ThreeFunctions
from workermand.protocols.frame import Frame
from workermand.protocols.raw import Raw
from workermand.protocols.registry import BUILT_IN, resolve
from workermand.protocols.text import Text

KNOWN = "raw, text, frame, http, websocket"
SOURCE = """
    from workermand.protocols.base import Delimited

    class Lines(Delimited):
        name = "lines"

    class Three:
        @staticmethod
        def input(buffer, connection): return len(buffer)
        @staticmethod
        def decode(package, connection): return package
        @staticmethod
        def encode(message, connection): return message
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module "own_protocols" to be imported, gone again after the test."""
    path = tmp_path / "own_protocols.py"
    path.write_text(textwrap.dedent(SOURCE))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_protocols", raising=False)
    yield path
    sys.modules.pop("own_protocols", None)


@pytest.mark.parametrize("cls", [Raw, Text, Frame])
def test_the_built_in_ones(cls: type[Protocol]) -> None:
    assert resolve(cls.name, {}) is cls
    assert resolve(cls.name, {})(123).max_package == 123


def test_a_built_in_name_cannot_be_taken() -> None:
    assert resolve("text", {"text": "own_protocols:Lines"}) is Text


def test_a_scheme_is_imported_when_it_is_asked_for(module: Path) -> None:
    cls = resolve("lines", {"lines": "own_protocols:Lines"})
    assert cls(50).feed(b"a\nb\n") == [b"a", b"b"]
    assert cls(50).max_package == 50


def test_module_and_class_without_a_scheme(module: Path) -> None:
    cls = resolve("own_protocols:Three", {})
    assert issubclass(cls, ThreeFunctions)
    assert cls.name == "Three"
    assert resolve("three", {"three": "own_protocols:Three"}).name == "three"


def test_nothing_is_imported_for_a_built_in_name(module: Path) -> None:
    resolve("text", {"three": "own_protocols:Three"})
    assert "own_protocols" not in sys.modules


@pytest.mark.parametrize(
    ("name", "schemes", "text"),
    [
        (
            "tetx",
            {},
            f'unknown protocol "tetx"; there is {KNOWN}, or "module:Class"; did you mean "text"\\?',
        ),
        (
            "mqtt",
            {"jsonnl": "a:B"},
            f'unknown protocol "mqtt"; there is {KNOWN}, jsonnl, or "module:Class"$',
        ),
        ("mine", {"mine": "own_protocols"}, 'protocol mine: \\[protocols\\] must name it as "module:Class", not "own_'),
        (":Lines", {}, "unknown protocol"),
        ("no_such_module:Lines", {}, "importing no_such_module failed: ModuleNotFoundError"),
        ("own_protocols:Lnies", {}, "protocol own_protocols:Lnies: own_protocols has no Lnies$"),
        ("own_protocols:SOURCE", {}, "has no SOURCE"),
    ],
)
def test_a_wrong_name_gets_a_sentence(module: Path, name: str, schemes: dict[str, str], text: str) -> None:
    with pytest.raises(LoadError, match=text):
        resolve(name, schemes)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("def f(:", "importing own_protocols failed: SyntaxError"),
        ("import sys; sys.nothing", "importing own_protocols failed: AttributeError: module 'sys' has no attribute"),
        ("import sys; sys.exit(3)", "importing own_protocols failed: SystemExit: 3"),
        ("1 / 0", "importing own_protocols failed: ZeroDivisionError"),
    ],
)
def test_a_module_that_fails_says_how_and_keeps_its_cause(module: Path, source: str, text: str) -> None:
    module.write_text(source)
    with pytest.raises(LoadError, match=text) as failure:
        resolve("own_protocols:Lines", {})
    assert failure.value.__cause__ is not None


def test_the_names_are_the_classes_own() -> None:
    assert [cls.name for cls in BUILT_IN.values()] == list(BUILT_IN) == ["raw", "text", "frame", "http", "websocket"]
