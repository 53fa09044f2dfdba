"""What a service says about options that it cannot use."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest

from workermand import LoadError, Worker
from workermand.services import options
from workermand.spec import WorkerSpec


class Settings(msgspec.Struct):
    root: str = "/srv"
    pages: dict[Annotated[int, msgspec.Meta(ge=400)], str] = {}
    depth: int = 1


@pytest.fixture
def told() -> Callable[..., Worker]:
    def told(**given: Any) -> Worker:
        loop = asyncio.new_event_loop()
        loop.close()
        return Worker(WorkerSpec(name="web", handler="apps.web", options=given), loop=loop)

    return told


def test_they_are_the_fields_of_a_struct(told: Callable[..., Worker]) -> None:
    assert options.read(told(), Settings) == Settings()
    assert options.read(told(root="/a", pages={"404": "x"}), Settings) == Settings("/a", {404: "x"})


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"rooot": "/a"}, 'worker web: options.rooot: unknown key; did you mean "root"?'),
        ({"zebra": 1}, "worker web: options.zebra: unknown key; there are root, pages, depth"),
        ({"root": 1}, "worker web: options.root: expected str, got int"),
        ({"depth": "1"}, "worker web: options.depth: expected int, got str"),
        ({"pages": {"200": "x"}}, "worker web: options.pages: expected int >= 400 for a key"),
        ({"pages": {"404": 7}}, "worker web: options.pages: expected str, got int"),
        ({"pages": []}, "worker web: options.pages: expected a table, got a list"),
    ],
)
def test_a_complaint_names_worker_and_key(told: Callable[..., Worker], given: dict[str, Any], complaint: str) -> None:
    with pytest.raises(LoadError) as caught:
        options.read(told(**given), Settings)
    assert str(caught.value) == complaint


def test_a_module_that_an_option_names(
    told: Callable[..., Worker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "hooks_of_a_test.py").write_text("ANSWER = 42\n")
    (tmp_path / "hooks_that_need.py").write_text("import something_that_is_not_there\n")
    assert options.imported(told(), "hooks", "hooks_of_a_test").ANSWER == 42
    with pytest.raises(LoadError, match=r"^worker web: options\.hooks: no module named nowhere on the app_path$"):
        options.imported(told(), "hooks", "nowhere.hooks")
    with pytest.raises(ModuleNotFoundError, match="something_that_is_not_there"):
        options.imported(told(), "hooks", "hooks_that_need")
