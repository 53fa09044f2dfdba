"""Signals sent to real children."""

from __future__ import annotations

import signal

from tests.worker.conftest import Spawn, ask
from workermand.link import Draining

ECHO = """
def on_message(connection, data):
    connection.send(data)
"""


def test_the_masters_signals_do_no_harm_and_are_not_ignored_by_subprocesses(spawn: Spawn) -> None:
    code = """
import asyncio, sys
async def on_message(connection, data):
    program = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=-1)
    out, _ = await process.communicate()
    connection.send(out.decode().strip())
"""
    child = spawn.ready(code, listen="text")
    for signum in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        child.signal(signum)
        child.signal(signum)
    with child.connect() as client:
        assert ask(client, b"x\n") == b"True\n"


def test_term_drains_one_child(spawn: Spawn) -> None:
    child = spawn.ready(ECHO + "\ndef on_worker_stop(worker): print('stop')\n", listen="text")
    with child.connect() as client:
        assert ask(client, b"x\n") == b"x\n"
        child.signal(signal.SIGTERM)
        assert child.hear(Draining) == Draining("TERM")
        assert client.recv(100) == b""
    assert child.wait() == 0
    assert child.lines() == ["stop"]


def test_term_reaches_a_blocked_child_once_it_returns(spawn: Spawn) -> None:
    code = """
import time
def on_message(connection, data):
    print("blocked")
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        pass
    connection.send("returned")
"""
    child = spawn.ready(code, listen="text")
    with child.connect() as client:
        client.sendall(b"x\n")
        child.prints("blocked")
        child.signal(signal.SIGTERM)
        assert client.recv(100) == b"returned\n"
        assert child.hear(Draining) == Draining("TERM")
    assert child.wait() == 0


def test_term_while_the_handler_is_imported_just_ends_it(spawn: Spawn) -> None:
    child = spawn("import time\nprint('importing', flush=True)\ntime.sleep(1000)\n")
    child.prints("importing")
    child.signal(signal.SIGTERM)
    assert child.wait() == -signal.SIGTERM


def test_the_loop_is_the_users_too(spawn: Spawn) -> None:
    code = """
import asyncio, os, signal
def on_worker_start(worker):
    loop = asyncio.get_running_loop()
    def alarm():
        print("alarm")
        loop.remove_signal_handler(signal.SIGALRM)
        reader, writer = os.pipe()
        loop.add_reader(reader, readable, reader)
        os.write(writer, b"x")
    def readable(reader):
        loop.remove_reader(reader)
        print("readable")
    loop.add_signal_handler(signal.SIGALRM, alarm)
    signal.setitimer(signal.ITIMER_REAL, 0.01)
"""
    child = spawn.ready(code)
    child.prints("readable")
    child.signal(signal.SIGTERM)
    assert child.wait() == 0
    assert child.lines() == ["alarm", "readable"]


def test_processes_that_user_code_forks_have_signals_of_their_own(spawn: Spawn) -> None:
    code = """
import multiprocessing, time
def on_message(connection, data):
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(1000,))
    process.start()
    process.terminate()
    process.join()
    connection.send(str(process.exitcode))
"""
    child = spawn.ready(code, listen="text")
    with child.connect() as client:
        assert ask(client, b"x\n") == b"-15\n"
        assert ask(client, b"x\n") == b"-15\n"


def test_abort_shows_where_it_is_blocked(spawn: Spawn) -> None:
    code = """
import time
def dig_a_hole():
    time.sleep(1000)
def on_message(connection, data):
    print("blocked")
    dig_a_hole()
"""
    child = spawn.ready(code, listen="text")
    with child.connect() as client:
        client.sendall(b"x\n")
        child.prints("blocked")
        child.signal(signal.SIGABRT)
        assert child.wait() == -signal.SIGABRT
    assert "on_message" in child.output()
