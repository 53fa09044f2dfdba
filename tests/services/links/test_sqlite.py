"""Databases of services: made, checked, and refused with words that help."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from workermand import LoadError
from workermand.services.links import sqlite

KIND = sqlite.Kind(0x1234, 2, ("CREATE TABLE things (name TEXT)",), "thing server", "no things")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "things.sqlite3"


def complaint(path: Path, kind: sqlite.Kind = KIND) -> str:
    with pytest.raises(LoadError) as caught:
        sqlite.connect(str(path), kind, 0.05)
    return str(caught.value).removeprefix(f"{path}: ")


def test_it_is_made_once_and_for_its_user_alone(path: Path) -> None:
    with sqlite.connect(str(path), KIND) as db:
        db.execute("INSERT INTO things VALUES ('one')")
    db.close()
    assert path.stat().st_mode & 0o777 == 0o600
    with sqlite.connect(str(path), KIND) as db:
        assert db.execute("SELECT name FROM things").fetchall() == [("one",)]
    db.close()


def test_one_process_at_a_time(path: Path) -> None:
    db = sqlite.connect(str(path), KIND)
    assert complaint(path) == "another process has it: is a second thing server running with this state_dir?"
    db.close()


def test_what_is_not_ours_is_left_alone(path: Path) -> None:
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE theirs (name TEXT)")
    other.close()
    before = path.read_bytes()
    assert "it belongs to another program" in complaint(path)
    assert path.read_bytes() == before


def test_another_version_is_left_alone(path: Path) -> None:
    sqlite.connect(str(path), KIND).close()
    assert "it has version 2, of another workermand; this one knows 3" in complaint(path, KIND._replace(version=3))


def test_what_cannot_be_read_says_what_to_do(path: Path) -> None:
    path.write_bytes(b"no database" * 1000)
    assert "Move it away (with its -wal) and the server begins with no things" in complaint(path)


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert f"is {tmp_path}/none a directory" in complaint(tmp_path / "none" / "things.sqlite3")
