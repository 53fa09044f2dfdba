"""apps.storage: whatever the name, the file stays in its directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from apps.storage import safe, store


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("photo.jpg", "photo.jpg"),
        ("../../etc/passwd", "passwd"),
        ("/etc/passwd", "passwd"),
        ("C:\\Users\\me\\photo.jpg", "photo.jpg"),
        (".bashrc", "bashrc"),
        ("my photo.jpg ", "my photo.jpg"),
        ("größe.txt", "größe.txt"),
    ],
)
def test_only_the_last_part_of_a_path_counts(name: str, kept: str) -> None:
    assert safe(name) == kept


@pytest.mark.parametrize("name", ["", ".", "..", "/", "a/", "../..", "a\0b", "a\nb", "x" * 256, "ü" * 128, "\udcff"])
def test_a_name_that_leaves_nothing_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is not a name for a file"):
        safe(name)


def test_a_file_is_replaced_as_a_whole_and_a_link_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("safe")
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "link").symlink_to(outside)
    assert store(str(inside), "a/link", b"new").read_bytes() == b"new"
    assert store(str(inside), "link", b"newer") == inside / "link"
    assert (inside / "link").read_bytes() == b"newer"
    assert outside.read_text() == "safe"
    assert [path.name for path in inside.iterdir()] == ["link"]


def test_nothing_is_left_of_a_file_that_cannot_be_put_in_place(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(IsADirectoryError):
        store(str(tmp_path), "taken", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
