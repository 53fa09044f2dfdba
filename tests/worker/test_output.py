"""Lines that print() writes: tagged, whole, at once."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from workermand import log
from workermand.worker import output
from workermand.worker.output import Lines, text_over


class Pipe:
    """What goes through Lines, read from the other end."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)
        self.lines = Lines("<stdout>", self.writer, lambda text: f"[tag] {text}")
        self.stream = text_over(self.lines)

    def read(self) -> bytes:
        try:
            return os.read(self.reader, 1 << 20)
        except BlockingIOError:
            return b""


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    os.close(made.reader)
    os.close(made.writer)


def test_a_line_appears_at_once(pipe: Pipe) -> None:
    print("hello", 7, file=pipe.stream)
    assert pipe.read() == b"[tag] hello 7\n"


def test_every_line_of_one_print_is_tagged(pipe: Pipe) -> None:
    print("one\ntwo\n", file=pipe.stream)
    assert pipe.read() == b"[tag] one\n[tag] two\n[tag] \n"


def test_pieces_make_one_line(pipe: Pipe) -> None:
    for piece in ("a", "b", "c"):
        print(piece, end="", file=pipe.stream)
        assert pipe.read() == b""
    print(file=pipe.stream)
    assert pipe.read() == b"[tag] abc\n"


def test_what_is_flushed_unfinished_ends_there(pipe: Pipe) -> None:
    print("working ...", end="", flush=True, file=pipe.stream)
    assert pipe.read() == b"[tag] working ...\n"
    print(" done", file=pipe.stream)
    assert pipe.read() == b"[tag]  done\n"


def test_the_newline_of_a_flushed_line_is_not_another_line(pipe: Pipe) -> None:
    print("x", end="", flush=True, file=pipe.stream)
    print(file=pipe.stream)
    print(file=pipe.stream)
    pipe.stream.flush()
    assert pipe.read() == b"[tag] x\n[tag] \n"


def test_a_line_without_end_is_not_held_back_for_ever(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "PATIENCE", 60)
    threading.Thread(target=pipe.stream.write, args=("x" * (output.LONGEST + 1),)).start()
    os.set_blocking(pipe.reader, True)
    got = b""
    while not got.endswith(b"\n"):
        got += os.read(pipe.reader, 1 << 20)
    assert got == b"[tag] " + b"x" * (output.LONGEST + 1) + b"\n"


def test_bytes_pass_as_they_are_and_surrogates_readably(pipe: Pipe) -> None:
    pipe.stream.buffer.write(b"\xff\xfe\n")
    assert pipe.read() == b"[tag] \xff\xfe\n"
    print("\udcff", file=pipe.stream)
    assert pipe.read() == b"[tag] \\udcff\n"


def test_it_is_a_file_like_any_other(pipe: Pipe) -> None:
    assert pipe.stream.fileno() == pipe.writer
    assert not pipe.stream.isatty() and pipe.stream.writable()
    assert pipe.stream.encoding == "utf-8" and pipe.lines.name == "<stdout>"
    subprocess.run([sys.executable, "-c", "print('child')"], stdout=pipe.stream, check=True, timeout=60)
    assert pipe.read() == b"child\n"


def test_threads_do_not_mix_within_lines(pipe: Pipe) -> None:
    def work(letter: str) -> None:
        for _ in range(100):
            pipe.stream.write(letter * 20 + "\n")

    threads = [threading.Thread(target=work, args=(letter,)) for letter in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = pipe.read().splitlines()
    assert len(lines) == 200
    assert set(lines) == {b"[tag] " + b"a" * 20, b"[tag] " + b"b" * 20}


def test_install_takes_over_both_streams() -> None:
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from workermand import log
from workermand.worker import output
flush = output.install()
print("out")
print("err", file=sys.stderr)
print("no end", end="")
flush()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "out\nno end\n"
    assert done.stderr == "err\n"
