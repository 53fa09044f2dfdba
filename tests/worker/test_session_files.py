"""The store of files: whole or not at all, merged between processes, bounded in age, and clear about what fails."""

from __future__ import annotations

import fcntl
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from workermand.http.session import Changes, new_id
from workermand.worker import session_files
from workermand.worker.session_files import FileStore, StoreFailed

ROOT = Path(__file__).parents[2]
ID = "0123456789abcdef" * 2
OTHER = "f" * 32
LIFETIME = 100.0


class Clock:
    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> FileStore:
    return FileStore(str(tmp_path / "state" / "sessions"), clock)


def encoded(**values: Any) -> dict[str, bytes]:
    return {key: msgspec.msgpack.encode(value) for key, value in values.items()}


def new(id: str = ID, **values: Any) -> Changes:
    return Changes(id, is_new=True, values=encoded(**values))


def content(store: FileStore, id: str = ID) -> dict[str, Any] | None:
    found = store.load(id, LIFETIME)
    return None if found is None else {key: msgspec.msgpack.decode(value) for key, value in found.values.items()}


def files(store: FileStore) -> list[str]:
    return sorted(name for name in os.listdir(store.directory) if name != session_files.LOCKS)


def test_changes_are_merged_into_what_is_there(store: FileStore) -> None:
    assert content(store) is None
    assert store.save(new(a=1, b=[2]), LIFETIME)
    assert store.save(Changes(ID, values=encoded(c="3"), deleted=frozenset({"a", "missing"})), LIFETIME)
    assert content(store) == {"b": [2], "c": "3"}
    assert files(store) == [ID]
    assert [os.stat(path).st_mode & 0o777 for path in (store.directory, f"{store.directory}/{ID}")] == [0o700, 0o600]


def test_an_empty_one_is_one(store: FileStore) -> None:
    assert store.save(new(), LIFETIME) and content(store) == {}


def test_another_id_takes_the_content_along(store: FileStore) -> None:
    store.save(new(a=1), LIFETIME)
    assert store.save(Changes(OTHER, ID, values=encoded(b=2)), LIFETIME)
    assert content(store, OTHER) == {"a": 1, "b": 2} and content(store) is None


def test_what_is_no_more_is_not_brought_back(store: FileStore) -> None:
    store.save(new(a=1), LIFETIME)
    assert store.save(Changes(OTHER, ID, True, True, is_ended=True), LIFETIME)
    assert not store.save(Changes(ID, values=encoded(b=2)), LIFETIME)
    assert not store.save(Changes(OTHER, ID), LIFETIME)
    assert store.save(Changes(OTHER, ID, True, True, is_ended=True), LIFETIME)
    assert files(store) == []


def test_a_cleared_one_begins_anew(store: FileStore) -> None:
    store.save(new(a=1), LIFETIME)
    assert store.save(Changes(OTHER, ID, True, True, values=encoded(b=2)), LIFETIME)
    assert content(store, OTHER) == {"b": 2} and files(store) == [OTHER]


# ---------------------------------------------------------------------------------------------------- age


def test_it_lives_since_its_last_change(store: FileStore, clock: Clock) -> None:
    store.save(new(a=1), LIFETIME)
    clock.now += 60
    found = store.load(ID, LIFETIME)
    assert found is not None and found.age == pytest.approx(60)
    assert store.save(Changes(ID), LIFETIME)
    clock.now += 60
    assert content(store) == {"a": 1}
    clock.now += 40
    assert content(store) is None
    assert not store.save(Changes(ID, values=encoded(b=1)), LIFETIME)


def test_a_sweep_removes_what_has_expired_and_nothing_else(
    store: FileStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_files, "SLICE", 3)
    assert list(store.sweep(LIFETIME)) == [0]
    for _ in range(7):
        store.save(new(new_id()), LIFETIME)
    left_by_a_crash = Path(store.directory, OTHER + session_files.NEW)
    left_by_a_crash.write_bytes(b"half")
    os.utime(left_by_a_crash, (clock.now, clock.now))
    foreign = Path(store.directory, "README")
    foreign.write_text("mine")
    os.utime(foreign, (0, 0))
    clock.now += LIFETIME
    store.save(new(), LIFETIME)
    steps = list(store.sweep(LIFETIME))
    assert sum(steps) == 8 and len(steps) >= 4
    assert files(store) == [ID, "README"]


def test_what_is_refreshed_while_a_sweep_looks_stays(
    store: FileStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save(new(a=1), LIFETIME)
    answers = iter([True, False])
    monkeypatch.setattr(store, "_is_expired", lambda path, lifetime: next(answers))
    assert list(store.sweep(LIFETIME)) == [0]
    assert content(store) == {"a": 1}


# ---------------------------------------------------------------------------------------------------- what is wrong


@pytest.mark.parametrize(
    "data", [b"", b"\x00" * 50, b"\x81\xa1a", b'{"a": 1}', b"\x81\x01\x02", b"\x81\xa1a\xa1\xff", b"\x80\x80"]
)
def test_a_file_that_is_no_session_counts_as_none(
    store: FileStore, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    store.save(new(a=1), LIFETIME)
    Path(store.directory, ID).write_bytes(data)
    with caplog.at_level(logging.WARNING):
        assert content(store) is None
    assert store.unreadable == 1
    assert "cannot be read and counts as none" in caplog.text and ID not in caplog.text


@pytest.mark.parametrize("id", ["", "..", "../x", "/etc/passwd", "A" * 32, "0" * 31 + "/", f"{ID}\0"])
def test_no_other_path_is_touched(store: FileStore, id: str) -> None:
    with pytest.raises(ValueError, match="no id of a session"):
        store.load(id, LIFETIME)
    with pytest.raises(ValueError, match="no id of a session"):
        store.save(new(id), LIFETIME)
    assert not os.path.exists(store.directory) or files(store) == []


def test_a_link_is_not_followed(store: FileStore, tmp_path: Path) -> None:
    store.save(new(OTHER, a=1), LIFETIME)
    os.symlink(OTHER, f"{store.directory}/{ID}")
    with pytest.raises(StoreFailed, match=r"cannot read sessions in .*: Too many levels of symbolic links"):
        store.load(ID, LIFETIME)


def test_a_directory_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = FileStore(str(tmp_path / "file" / "sessions"))
    for use in (lambda: store.load(ID, LIFETIME), lambda: store.save(new(), LIFETIME)):
        with pytest.raises(StoreFailed, match=r"cannot (read|write) sessions in .*/file/sessions: Not a directory"):
            use()
    with pytest.raises(StoreFailed, match=r"cannot remove sessions in .*: Not a directory"):
        list(store.sweep(LIFETIME))


@pytest.mark.real
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
@pytest.mark.parametrize("how", ["full", "read-only"])
def test_a_disk_that_takes_nothing(tmp_path: Path, how: str) -> None:
    """A file system of one page, or a read-only one, in a mount namespace of its own."""
    script = f"""
import os, subprocess
from workermand.http.session import Changes
from workermand.worker.session_files import FileStore, StoreFailed
store = FileStore("{tmp_path}/sessions")
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "none", "{tmp_path}"], check=True)
assert store.save(Changes("0" * 32, is_new=True, values={{"a": b"\\x01"}}), 100)
if "{how}" == "full":
    store.save(Changes("1" * 32, is_new=True, values={{"a": b"\\x00" * 10_000}}), 100)
else:
    subprocess.run(["mount", "-o", "remount,ro", "{tmp_path}"], check=True)
    store.save(Changes("0" * 32, values={{"a": b"\\x02"}}), 100)
"""
    code = "import sys\ntry:\n exec(sys.argv[1])\nexcept Exception as error:\n print(type(error).__name__, error)\n"
    code += "print(sorted(os.listdir(store.directory)), store.load('0' * 32, 100).values)"
    done = subprocess.run(
        ["unshare", "--mount", sys.executable, "-c", code, script],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no namespace to mount in: {done.stderr}")
    why = "No space left on device" if how == "full" else "Read-only file system"
    wanted = (
        f"StoreFailed cannot write sessions in {tmp_path}/sessions: {why}\n['.locks', '{'0' * 32}'] {{'a': b'\\x01'}}\n"
    )
    assert done.stdout == wanted, done.stderr


def test_a_lock_that_somebody_sits_on_is_waited_for_a_moment(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_files, "PATIENCE", 0.01)
    store.save(new(a=1), LIFETIME)
    with open(f"{store.directory}/{session_files.LOCKS}/{ID[:2]}", "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(StoreFailed, match=r"cannot write sessions in .*: Resource temporarily unavailable"):
            store.save(Changes(ID, values=encoded(a=2)), LIFETIME)
        assert content(store) == {"a": 1}
        assert store.save(new(OTHER), LIFETIME)
    assert store.save(Changes(ID, values=encoded(a=2)), LIFETIME)


# ---------------------------------------------------------------------------------------------------- processes

HAMMER = """
import sys
from workermand.http.session import Session
from workermand.worker import session_files
from workermand.worker.session_files import FileStore

session_files.PATIENCE = 60  # how long a lock is waited for is not what is tested
store, name, id = FileStore(sys.argv[1]), sys.argv[2], sys.argv[3]
print("ready", flush=True)
sys.stdin.readline()
for number in range(300):
    found = store.load(id, 1000)
    assert found is not None
    session = Session(id, found.values)
    session[f"{name}{number}"] = number
    session["last"] = name
    if number:
        assert session.pull(f"{name}{number - 1}") == number - 1  # our own, which nobody else may lose
    assert store.save(session.changes(), 1000)
"""


def test_processes_that_write_one_session_at_once_lose_nothing(store: FileStore) -> None:
    store.save(new(), LIFETIME)
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    command = [sys.executable, "-c", HAMMER, store.directory]
    processes = [subprocess.Popen([*command, name, ID], **pipes) for name in ("one", "two", "three")]
    try:
        for process in processes:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        assert [process.wait(60) for process in processes] == [0, 0, 0]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    left = content(store)
    assert left is not None and left.pop("last") in ("one", "two", "three")
    assert left == {"one299": 299, "two299": 299, "three299": 299}
