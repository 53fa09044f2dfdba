"""Real processes through worker.process.run: what becomes of them, their user, signals, exits and output."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

import pytest

from tests.worker.conftest import Nursery, Spawn, ask
from workermand.errors import ExitCode
from workermand.link import Draining, LinkClosed, Ready, Words
from workermand.spec import Timeouts

ECHO = """
def on_message(connection, data):
    connection.send(data)
"""


# ---------------------------------------------------------------------- a life


def test_an_echo_from_ready_to_exit_0(spawn: Spawn) -> None:
    child = spawn.ready(ECHO, listen="text")
    client = child.connect()
    assert ask(client, b"hello\n") == b"hello\n"
    child.stop()
    assert child.hear(Draining) == Draining("drain")
    assert client.recv(100) == b""
    assert child.wait() == ExitCode.OK


def test_it_shows_its_name_and_has_its_own_environment(spawn: Spawn) -> None:
    code = """
import os
def on_worker_start(worker):
    print(worker.name, worker.id, worker.count, worker.options, os.environ["GREETING"], worker.state_dir)
    assert worker.pid == os.getpid()
"""
    child = spawn.ready(code, slot=3, count=4, options={"a": [1]}, env={"GREETING": "hi"})
    title = Path(f"/proc/{child.pid}/cmdline").read_bytes().rstrip(b"\0")
    assert title == b"workermand: worker echo#3"
    child.stop()
    assert child.lines() == [f"echo 3 4 {{'a': [1]}} hi {spawn.directory}/echo"]


def test_the_masters_notify_socket_is_not_the_childs(spawn: Spawn, monkeypatch: pytest.MonkeyPatch) -> None:
    masters = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "LISTEN_FDS"]
    for variable in masters:
        monkeypatch.setenv(variable, "1")
    nursery = Nursery()
    code = f"import os\ndef on_worker_start(worker): print([v for v in os.environ if v in {masters}])"
    child = spawn(code, nursery=nursery)
    child.hear(Ready)
    child.stop()
    assert child.lines() == ["[]"]
    child.close(wait=False)
    nursery.close()


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_on_worker_start_has_returned_before_anybody_is_served(spawn: Spawn, kind: str) -> None:
    wait = "time.sleep(0.1)" if kind == "def" else "await asyncio.sleep(0.1)"
    code = f"""
import asyncio, time
started = False
{kind} on_worker_start(worker):
    global started
    assert asyncio.get_running_loop() is worker.loop
    {wait}
    started = True
def on_connect(connection):
    print("connected, started:", started)
"""
    child = spawn(code, listen="text")
    with child.connect():
        child.hear(Ready)
        child.prints("connected, started: True")


def test_a_class_as_handler_is_made_once(spawn: Spawn) -> None:
    code = """
class Echo:
    def __init__(self):
        print("made")
    def on_worker_start(self, worker):
        worker.on_connect = self.hello
    def hello(self, connection):
        connection.send("hello")
    async def on_message(self, connection, data):
        connection.send(data)
"""
    child = spawn.ready(code, listen="text", handler="handler:Echo")
    for _ in range(2):
        with child.connect() as client:
            assert client.recv(100) == b"hello\n"
            assert ask(client, b"x\n") == b"x\n"
    child.stop("fast")
    assert child.lines() == ["made"]


def test_udp(spawn: Spawn) -> None:
    child = spawn.ready(ECHO, listen="udp text")
    with child.connect(0) as datagrams, child.connect(1) as lines:
        assert ask(datagrams, b"ping") == b"ping"
        assert ask(lines, b"x\n") == b"x\n"
    child.stop()
    assert child.wait() == 0


def test_exit_functions_of_user_code_run_and_only_those(spawn: Spawn) -> None:
    code = """
import atexit, logging
atexit.register(print, "bye")
def on_worker_stop(worker):
    logging.getLogger("mine").warning("stopping")
"""
    child = spawn.ready(code)
    child.stop()
    assert child.lines()[-1] == "bye"
    assert child.wait() == 0


def test_a_process_pool_that_nobody_has_ended_does_not_hold_up_the_end(spawn: Spawn) -> None:
    code = """
import atexit, concurrent.futures
atexit.register(print, "bye")
def on_worker_start(worker):
    worker.pool = concurrent.futures.ProcessPoolExecutor(1)
    print("sum", worker.pool.submit(sum, [1, 2]).result())
"""
    child = spawn.ready(code)
    child.prints("sum 3")
    child.stop()
    assert child.lines()[-1] == "bye"
    assert child.wait() == 0


# ---------------------------------------------------------------------- what keeps it from starting


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("def on_message(connection, data:\n", "SyntaxError"),
        ("import no_such_module_here\n", "No module named 'no_such_module_here'"),
        ("def on_mesage(connection, data): ...\n", 'unknown callback on_mesage; did you mean "on_message"?'),
        ("def on_message(connection): ...\n", "cannot be called as on_message(connection, data)"),
        ("import sys\nsys.exit(0)\n", "SystemExit: 0"),
        ("1 / 0\n", "ZeroDivisionError"),
    ],
)
def test_import_failures(spawn: Spawn, code: str, words: str) -> None:
    child = spawn(code)
    said = child.hear(Words)
    assert said.reason == "import failed" and words in said.text
    assert "workermand/worker" not in said.text, "the author must see his own lines, not ours"
    assert child.wait() == ExitCode.LOAD_FAILED


def test_a_missing_handler(spawn: Spawn) -> None:
    child = spawn(handler="apps.ecko")
    assert 'handler "apps.ecko": no module named apps' in child.hear(Words).text
    assert child.wait() == ExitCode.LOAD_FAILED


def test_an_unknown_protocol(spawn: Spawn) -> None:
    child = spawn(ECHO, listen="txet")
    assert 'unknown protocol "txet"' in child.hear(Words).text
    assert child.wait() == ExitCode.LOAD_FAILED


@pytest.mark.parametrize(
    "code",
    [
        "def on_worker_start(worker):\n    raise ValueError('not today')\n",
        "async def on_worker_start(worker):\n    raise ValueError('not today')\n",
        "import sys\ndef on_worker_start(worker):\n    sys.exit('not today')\n",
        "import sys\nasync def on_worker_start(worker):\n    sys.exit('not today')\n",
        "import asyncio\nasync def on_worker_start(worker):\n    raise asyncio.CancelledError('not today')\n",
    ],
)
def test_a_failing_on_worker_start(spawn: Spawn, code: str) -> None:
    child = spawn(code + "\ndef on_worker_stop(worker): print('stop')\n", listen="text")
    said = child.hear(Words)
    assert said.reason == "on_worker_start failed"
    assert "not today" in said.text or "CancelledError" in said.text
    assert child.wait() == ExitCode.LOAD_FAILED
    assert child.output() == "", "what never started is not stopped; the master tells the words"
    assert not any(isinstance(message, Ready) for message, _fds in child.received)


def test_what_nothing_of_ours_caught(spawn: Spawn) -> None:
    child = spawn("class Odd(BaseException): ...\nraise Odd('very')\n")
    said = child.hear(Words)
    assert said.reason == "uncaught exception" and "Odd: very" in said.text
    assert child.wait() == ExitCode.CRASHED


def test_a_master_that_is_dead_already(spawn: Spawn) -> None:
    child = spawn(ECHO, master_pid=1 if os.getppid() != 1 else 2)
    assert child.wait() == ExitCode.FAILED
    assert child.output() == ""


# ---------------------------------------------------------------------- the newest code


def test_ten_edits_within_a_second_each_serve_the_newest_code(spawn: Spawn) -> None:
    for number in range(10):
        (spawn.directory / "part.py").write_text(f"NUMBER = {number}\n")
        child = spawn.ready(f"import part\ndef on_connect(c): c.send(f'{number} {{part.NUMBER}}')\n", listen="text")
        with child.connect() as client:
            assert client.recv(100) == b"%d %d\n" % (number, number)
        child.stop("fast")
    assert not list(spawn.directory.rglob("*.pyc"))


# ---------------------------------------------------------------------- the master's death


def test_no_child_outlives_its_master(spawn: Spawn, mortal: Nursery) -> None:
    code = ECHO + "\ndef on_close(c): print('close')\ndef on_worker_stop(worker): print('stop')\n"
    child = spawn(code, listen="text", nursery=mortal)
    child.hear(Ready)
    with child.connect() as client:
        assert ask(client, b"x\n") == b"x\n"
        mortal.process.kill()
        assert client.recv(100) == b""
    printed = child.output()
    assert printed.index("close") < printed.index("stop")
    child.close(wait=False)


def test_the_end_of_the_link_is_the_masters_end(spawn: Spawn) -> None:
    child = spawn.ready(ECHO + "\ndef on_worker_stop(worker): print('stop')\n", listen="text")
    child.link.sock.shutdown(socket.SHUT_RDWR)
    assert child.wait() == 0
    assert "the master is gone" in child.output() and "stop" in child.printed


@pytest.mark.parametrize(
    "blocked", ["time.sleep(1000)", "while True: pass", "os.read(os.pipe()[0], 1)", "threading.Semaphore(0).acquire()"]
)
def test_not_even_a_blocked_child_outlives_its_master(spawn: Spawn, mortal: Nursery, blocked: str) -> None:
    code = f"import os, threading, time\ndef on_message(connection, data):\n    print('blocked')\n    {blocked}\n"
    child = spawn(code, listen="text", nursery=mortal, timeouts=Timeouts(stop=0.1))
    child.hear(Ready)
    with child.connect() as client:
        client.sendall(b"x\n")
        child.prints("blocked")
        mortal.process.kill()
        assert "on_message" in child.output(), "it shows where it was blocked"
    child.close(wait=False)


def test_nor_one_that_hangs_in_its_import(spawn: Spawn, mortal: Nursery) -> None:
    child = spawn("import time\nprint('importing')\ntime.sleep(1000)\n", nursery=mortal)
    child.prints("importing")
    mortal.process.kill()
    child.output()
    child.close(wait=False)


# ---------------------------------------------------------------------- output


def test_what_is_printed_appears_at_once_with_worker_and_pid(spawn: Spawn) -> None:
    code = """
import logging, sys
def on_message(connection, data):
    print("got", data)
    print("stray", file=sys.stderr)
    sys.stdout.write("no end")
    logging.getLogger("mine").warning("logged")
"""
    child = spawn.ready(code, listen="text", slot=2)
    with child.connect() as client:
        client.sendall(b"x\n")
        child.prints("no end")
    tag = f"[echo#2 {child.pid}] "
    lines = child.printed.splitlines()
    assert lines[:2] == [f"{tag}got x", f"{tag}stray"]
    assert f"{tag}no end" in lines, "once a second what has no newline is written out too"


def test_output_that_nobody_reads_blocks_nobody_for_ever(spawn: Spawn) -> None:
    code = """
def on_message(connection, data):
    for _ in range(100):
        print("x" * 5000)
    connection.send(data)
"""
    child = spawn.ready(code, listen="text")
    with child.connect() as client:
        assert ask(client, b"x\n") == b"x\n"
        assert ask(client, b"y\n") == b"y\n"


# ---------------------------------------------------------------------- probe


@pytest.mark.parametrize(
    ("code", "answer"),
    [
        ("from workermand import Timer\nclass C:\n    def __init__(self): Timer.add(1, print)\nC()\n", "fine"),
        ("def on_mesage(c, d): ...", 'unknown callback on_mesage; did you mean "on_message"?'),
        ("import sys; sys.exit(5)", "SystemExit: 5"),
        ("def on_worker_check(worker): return f': {worker.name} is strange'", "fine: echo is strange"),
        ("def on_worker_check(worker): return [':', worker.name]", "fine: echo"),
        ("def on_worker_check(worker): pass", "fine"),
        ("import workermand\ndef on_worker_check(worker): raise workermand.LoadError('no room')", "no room"),
        ("def on_worker_check(worker): 1 / 0", "ZeroDivisionError"),
        ("async def on_worker_check(worker): pass", "on_worker_check cannot be async"),
    ],
)
def test_probe(spawn: Spawn, code: str, answer: str) -> None:
    child = spawn(code, probe=True)
    assert re.search(re.escape(answer), child.output())
    assert child.wait() == 0


def test_probe_looks_at_user_and_protocol_too(spawn: Spawn) -> None:
    assert spawn(ECHO, probe=True, user="no-such-user").output() == 'no user "no-such-user" on this machine'
    assert 'unknown protocol "txet"' in spawn(ECHO, probe=True, listen="txet").output()


def test_the_link_is_closed_with_the_process(spawn: Spawn) -> None:
    child = spawn.ready(ECHO)
    child.stop()
    assert child.wait() == 0
    child.link.receive()
    with pytest.raises(LinkClosed):
        child.link.receive()
