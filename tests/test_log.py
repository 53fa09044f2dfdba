"""Log lines in their three shapes, and what happens when they cannot be written."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from workermand import log
from workermand.errors import ConfigError
from workermand.log import Journal, Json, Outlet, Shape, Text
from workermand.spec import LogSpec

RECORD = logging.LogRecord("workermand.x", logging.WARNING, __file__, 1, "%s is %d", ("one", 1), None)


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger; what setup() has put there is taken away again."""
    logger = logging.getLogger()
    level = logger.level
    yield logger
    logger.setLevel(level)
    if (handler := log.installed()) is not None:
        logger.removeHandler(handler)
        handler.close()


def shaped(shape: Shape, record: logging.LogRecord = RECORD, worker: str = "") -> str:
    shape.worker = worker
    return shape.format(record)


def with_traceback() -> logging.LogRecord:
    try:
        raise ValueError("broken")
    except ValueError:
        return logging.LogRecord("x", logging.ERROR, __file__, 1, "two\nlines", (), sys.exc_info())


# ---------------------------------------------------------------------- shapes


def test_text_has_a_time_and_names_worker_and_pid() -> None:
    line = shaped(Text(), worker="echo#0")
    assert line[10] == " " and line[23] == " "
    assert line[24:] == f"warning [echo#0 {os.getpid()}] one is 1"
    assert shaped(Text()).endswith("warning one is 1")


def test_the_journal_gets_priorities_and_no_time() -> None:
    assert shaped(Journal(), worker="echo#0") == f"<4>[echo#0 {os.getpid()}] one is 1"
    numbers = {}
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
        numbers[level] = Journal().format(logging.LogRecord("x", level, "", 1, "m", (), None))[:3]
    assert list(numbers.values()) == ["<7>", "<6>", "<4>", "<3>", "<2>"]


def test_every_line_of_a_traceback_keeps_its_priority_in_the_journal() -> None:
    lines = shaped(Journal(), with_traceback()).split("\n")
    assert len(lines) > 4
    assert all(line.startswith("<3>") for line in lines)


def test_json_is_one_object_a_line() -> None:
    line = shaped(Json(), with_traceback(), worker="echo#0")
    assert "\n" not in line
    fields = json.loads(line)
    assert fields["level"] == "error" and fields["worker"] == "echo#0" and fields["pid"] == os.getpid()
    assert fields["message"] == "two\nlines"
    assert "ValueError: broken" in fields["traceback"]


def test_a_record_may_name_the_process_it_speaks_of() -> None:
    record = logging.makeLogRecord({**vars(RECORD), "worker": "chat#3", "pid": 4711})
    assert "[chat#3 4711] one is 1" in shaped(Text(), record)
    assert json.loads(shaped(Json(), record))["pid"] == 4711


def test_printed_lines() -> None:
    text, as_json = Text(), Json()
    text.worker = as_json.worker = "echo#0"
    assert text.line("hello", "stdout") == f"[echo#0 {os.getpid()}] hello"
    fields = json.loads(as_json.line("hello", "stderr"))
    assert (fields["message"], fields["stream"], fields["worker"]) == ("hello", "stderr", "echo#0")


def test_what_utf8_cannot_encode_is_logged_all_the_same(tmp_path: Path, root: logging.Logger) -> None:
    for number, format in enumerate(("text", "json")):
        file = tmp_path / str(number)
        handler = log.setup(LogSpec(file=str(file), format=format))  # type: ignore[arg-type]
        # Not through the logger: pytest keeps what it logs, and cannot encode it either.
        handler.handle(logging.LogRecord("x", logging.WARNING, "", 1, "broken: %s", ("\udcff",), None))
        assert "broken: \\udcff" in file.read_text()


# ---------------------------------------------------------------------- setup


def test_setup_takes_the_place_of_an_earlier_one(tmp_path: Path, root: logging.Logger) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    log.setup(LogSpec(file=str(first), level="info"))
    root.info("to the first")
    log.setup(LogSpec(file=str(second), level="warning"))
    root.info("to nobody")
    root.warning("to the second")
    assert first.read_text().endswith("to the first\n")
    assert second.read_text().count("\n") == 1
    assert sum(isinstance(handler, log.Handler) for handler in root.handlers) == 1


def test_a_log_file_is_appended_to_private_and_not_inherited(tmp_path: Path, root: logging.Logger) -> None:
    file = tmp_path / "log"
    file.write_text("before\n")
    log.setup(LogSpec(file=str(file)))
    root.info("after")
    assert file.read_text().startswith("before\n") and file.read_text().endswith("after\n")
    fd = log.descriptor()
    assert fd is not None and not os.get_inheritable(fd)
    new = tmp_path / "new"
    os.close(log.open_append(str(new), "x"))
    assert new.stat().st_mode & 0o027 == 0


def test_a_file_that_cannot_be_opened_changes_nothing(tmp_path: Path, root: logging.Logger) -> None:
    good = tmp_path / "good"
    log.setup(LogSpec(file=str(good)))
    with pytest.raises(ConfigError, match=r"server.log.file: .*no/such/dir.*No such file"):
        log.setup(LogSpec(file=str(tmp_path / "no/such/dir")))
    root.warning("still here")
    assert "still here" in good.read_text()


def test_adopt_goes_over_to_another_file(tmp_path: Path, root: logging.Logger) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    log.setup(LogSpec(file=str(old)))
    before = log.descriptor()
    passed = log.open_append(str(new), "x")
    log.adopt(passed)
    root.warning("moved")
    assert "moved" in new.read_text() and old.read_text() == ""
    assert log.descriptor() == before
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(passed)


def test_adopt_leaves_stderr_alone(tmp_path: Path, root: logging.Logger) -> None:
    log.setup(LogSpec())
    assert log.descriptor() is None
    before = os.fstat(2)
    log.adopt(log.open_append(str(tmp_path / "new"), "x"))
    root.warning("moved")
    assert "moved" in (tmp_path / "new").read_text()
    assert os.path.samestat(os.fstat(2), before)


def test_without_setup_nobody_is_hurt() -> None:
    assert log.installed() is None or isinstance(log.installed(), log.Handler)
    log.identify("echo#0")


def test_auto_is_the_journal_only_where_stderr_is_it(monkeypatch: pytest.MonkeyPatch, root: logging.Logger) -> None:
    status = os.fstat(2)
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    assert not log.in_journal()
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino + 1}")
    assert not log.in_journal()
    assert isinstance(log.setup(LogSpec()).shape, Text)
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
    assert log.in_journal()
    assert isinstance(log.setup(LogSpec()).shape, Journal)
    assert isinstance(log.setup(LogSpec(format="text")).shape, Text)
    assert isinstance(log.setup(LogSpec(format="json")).shape, Json)


def test_a_call_with_wrong_arguments_breaks_nothing(
    tmp_path: Path, root: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "log"
    handler = log.setup(LogSpec(file=str(file)))
    handler.handle(logging.LogRecord("x", logging.WARNING, "", 1, "%d", ("no number",), None))
    root.warning("the next one")
    assert "the next one" in file.read_text()
    assert "no number" in capsys.readouterr().err


# ---------------------------------------------------------------------- what cannot be written


def test_a_full_disk_is_survived_and_counted(tmp_path: Path) -> None:
    """/dev/full refuses every write, as a full disk does."""
    fd = os.open("/dev/full", os.O_WRONLY)
    outlet = Outlet(fd)
    outlet.write(b"12345\n")
    outlet.write(b"123\n")
    good = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
    os.dup2(good, fd)
    outlet.write(b"room again\n")
    assert (tmp_path / "file").read_text() == "[10 bytes of output were lost here]\nroom again\n"
    os.close(fd)
    os.close(good)


def test_a_closed_descriptor_or_pipe_is_survived() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    Outlet(writer).write(b"into a closed pipe\n")
    os.close(writer)
    Outlet(writer).write(b"into nothing\n")


def test_a_pipe_that_nobody_reads_blocks_once_and_never_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "PATIENCE", 0.05)
    reader, writer = os.pipe()
    outlet = Outlet(writer)
    line = b"x" * 999 + b"\n"
    for _ in range(1000):  # 1 MB: sixteen times what the pipe holds; with a wait for each it would take 47 s
        outlet.write(line)
    assert os.get_blocking(writer), "O_NONBLOCK would be everybody's who shares the descriptor"
    got = os.read(reader, 1 << 20)
    assert got.replace(line, b"") == b"", "no line is torn"
    outlet.write(b"and on\n")
    rest = os.read(reader, 1 << 20)
    lost = 1000 * len(line) - len(got)
    assert rest == b"[%d bytes of output were lost here]\nand on\n" % lost
    os.close(reader)
    os.close(writer)


def test_a_long_message_arrives_whole(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    text = b"".join(b"%d\n" % number for number in range(5000))
    Outlet(writer).write(text)
    assert os.read(reader, 1 << 20) == text
    os.close(reader)
    os.close(writer)


def test_the_log_of_a_program_whose_terminal_is_gone(tmp_path: Path) -> None:
    """The whole way: stderr closed by the reader, and the program ends well."""
    code = f"""
import logging, sys, os
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from workermand import log
from workermand.spec import LogSpec
log.setup(LogSpec())
sys.stdin.readline()
logging.error("nobody reads this")
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None and process.stderr is not None
    process.stderr.close()
    process.stdin.write(b"go\n")
    process.stdin.close()
    assert process.wait(60) == 0
