"""Real children doing what the master says, and what their handlers wish: stop, drain, refresh, listen, ask."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.worker.conftest import Child, Spawn, ask
from workermand.link import (
    Draining,
    Ready,
    Recycle,
    Refresh,
    Server,
    ServerAnswer,
    Status,
    Stop,
)  # fmt: skip
from workermand.spec import Limits, Timeouts, WorkerSpec

TELLING = """
def on_connect(connection): print("connect")
def on_message(connection, data): connection.send(data)
def on_close(connection): print("close:", connection.close_reason)
def on_worker_reload(worker): print("reload", worker.options)
def on_worker_stop(worker): print("stop, clients:", len(worker.connections))
"""


def talking(child: Child) -> socket.socket:
    """A client that has had an answer."""
    client = child.connect()
    assert ask(client, b"x\n") == b"x\n"
    return client


def silent(child: Child) -> socket.socket:
    """One that is connected, as the child knows, and has said nothing."""
    before = child.ask().connections
    client = child.connect()
    child.until("the connection", lambda: child.ask().connections > before)
    return client


# ---------------------------------------------------------------------- stopping


def test_retire_serves_its_clients_until_they_leave(spawn: Spawn) -> None:
    child = spawn.ready(TELLING, listen="text")
    with talking(child) as one, silent(child) as two:
        child.stop("retire")
        assert child.hear(Draining) == Draining("retire")
        assert ask(one, b"still\n") == b"still\n"
        assert ask(two, b"here\n") == b"here\n"
    assert child.wait() == 0
    assert child.lines()[-1] == "stop, clients: 0"
    assert "close: closed by peer" in child.printed


def test_a_child_that_leaves_accepts_nobody(spawn: Spawn) -> None:
    """The socket is the master's and lives on: who connects now is the next child's."""
    child = spawn.ready(TELLING, listen="text")
    with talking(child):
        child.stop("retire")
        child.hear(Draining)
        with child.connect() as late:
            assert child.ask().connections == 1
            accepted, _address = child.sockets[0].accept()
            with accepted:
                late.sendall(b"for the next\n")
                assert accepted.recv(100) == b"for the next\n"


def test_drain_spares_who_has_said_nothing_yet(spawn: Spawn) -> None:
    child = spawn.ready(TELLING, listen="text")
    with talking(child) as served, silent(child) as fresh:
        child.stop("drain")
        assert served.recv(100) == b"", "between messages: closed at once"
        assert ask(fresh, b"my first\n") == b"my first\n"
        assert fresh.recv(100) == b"", "and closed after its answer"
    assert child.wait() == 0
    assert child.printed.count("close: drained") == 2 or child.output().count("close: drained") == 2


def test_drain_lets_a_message_be_finished(spawn: Spawn) -> None:
    child = spawn.ready(TELLING, listen="text")
    with talking(child) as client:
        client.sendall(b"half a li")
        child.until("the half", lambda: child.ask_connections().rows[0].recv_queue)
        child.stop("drain")
        child.hear(Draining)
        assert ask(client, b"ne\n") == b"half a line\n"
        assert client.recv(100) == b""
    assert child.wait() == 0


def test_fast_closes_everything_and_still_runs_the_callbacks(spawn: Spawn) -> None:
    child = spawn.ready(TELLING, listen="text")
    with talking(child), silent(child):
        child.stop("fast")
        assert child.wait() == 0
    lines = child.lines()
    assert lines.count("close: fast stop") == 2
    assert lines[-1] == "stop, clients: 0"


def test_the_deadline_ends_a_drain(spawn: Spawn) -> None:
    child = spawn.ready(TELLING, listen="text")
    with silent(child) as client:
        child.stop("drain", 0.1)
        assert client.recv(100) == b""
        assert child.wait() == 0
    lines = child.lines()
    assert lines[-2:] == ["close: drain deadline", "stop, clients: 0"]


def test_a_second_stop_tightens(spawn: Spawn) -> None:
    child = spawn.ready(TELLING, listen="text")
    with talking(child), silent(child):
        child.stop("retire")
        child.hear(Draining)
        child.stop("fast")
        assert child.wait() == 0


def test_on_worker_reload_runs_before_the_drain(spawn: Spawn) -> None:
    child = spawn.ready(TELLING, listen="text", options={"n": 1})
    child.stop("retire", reload=True)
    assert child.wait() == 0
    assert child.lines() == ["reload {'n': 1}", "stop, clients: 0"]


def test_without_a_listener_it_ends_at_once_after_on_worker_stop(spawn: Spawn) -> None:
    code = """
import asyncio
async def on_worker_stop(worker):
    await asyncio.sleep(0.01)
    print("stopped")
"""
    child = spawn.ready(code)
    child.stop("retire")
    assert child.wait() == 0
    assert child.lines() == ["stopped"]


def test_on_worker_stop_is_bounded_by_the_deadline(spawn: Spawn) -> None:
    code = """
import asyncio
async def on_worker_stop(worker):
    while True:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            print("refused to go")
"""
    child = spawn.ready(code)
    child.stop("drain", 0.1)
    assert child.wait() == 0
    assert "on_worker_stop has not ended after" in child.output()
    assert "refused to go" in child.printed


def test_a_failing_on_worker_stop_is_logged(spawn: Spawn) -> None:
    child = spawn.ready("def on_worker_stop(worker): 1 / 0\n")
    child.stop()
    assert child.wait() == 0
    assert "exception in on_worker_stop" in child.output() and "ZeroDivisionError" in child.printed


def test_tasks_that_are_left_are_cancelled_and_may_clean_up(spawn: Spawn) -> None:
    code = """
import asyncio
async def work():
    try:
        await asyncio.sleep(1000)
    finally:
        print("cleaned up")
async def on_worker_start(worker):
    worker.work = asyncio.create_task(work())
    await asyncio.sleep(0)
"""
    child = spawn.ready(code)
    child.stop()
    assert child.wait() == 0
    assert child.lines() == ["cleaned up"]


@pytest.mark.parametrize("call", ["stop", "stop_all"])
def test_stop_from_a_handler_ends_this_child(spawn: Spawn, call: str) -> None:
    code = TELLING.replace("connection.send(data)", f"connection.send(data); connection.worker.{call}()")
    child = spawn.ready(code, listen="text")
    with child.connect() as client:
        assert ask(client, b"x\n") == b"x\n", "its answer comes before the end"
        assert child.hear(Draining) == Draining("stop()")
        assert client.recv(100) == b""
    assert child.wait() == 0


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_stop_in_on_worker_start(spawn: Spawn, kind: str) -> None:
    code = f"{kind} on_worker_start(worker):\n    worker.stop()\n    print('started')\n"
    child = spawn(code + "def on_worker_stop(worker): print('stopped')\n", listen="text")
    assert child.hear(Draining) == Draining("stop()")
    assert child.wait() == 0
    assert child.lines() == ["started", "stopped"]
    assert not any(isinstance(message, Ready) for message, _fds in child.received)


def test_a_fast_stop_does_not_wait_for_on_worker_start(spawn: Spawn) -> None:
    code = """
import asyncio
async def on_worker_start(worker):
    print("starting")
    await asyncio.sleep(1000)
def on_worker_stop(worker):
    print("stopped")
"""
    child = spawn(code)
    child.prints("starting")
    child.stop("fast")
    assert child.wait() == 0
    assert child.lines() == ["starting"], "what has not started is not stopped"


# ---------------------------------------------------------------------- exceptions and exits


MISCHIEF = """
import asyncio, os, sys
from workermand import Timer

async def task():
    sys.exit(1)

def on_worker_start(worker):
    worker.kept = []

def on_message(connection, data):
    worker, loop = connection.worker, asyncio.get_running_loop()
    connection.send("doing " + data)
    if data == "timer":
        Timer.add(0.001, sys.exit, persistent=False)
    elif data == "async timer":
        Timer.add(0.001, task, persistent=False)
    elif data == "task":
        loop.create_task(task())
    elif data == "call_soon":
        loop.call_soon(sys.exit)
    elif data == "add_reader":
        def readable():
            loop.remove_reader(reader)
            sys.exit(1)
        reader, writer = os.pipe()
        os.write(writer, b"x")
        loop.add_reader(reader, readable)
    elif data == "stop":
        loop.stop()
    elif data == "exit":
        sys.exit(1)
    elif data == "raise":
        raise ValueError("raised")
"""


@pytest.mark.parametrize("what", ["timer", "async timer", "task", "call_soon", "add_reader", "exit", "raise"])
def test_exits_and_exceptions_are_counted_and_the_process_stays(spawn: Spawn, what: str) -> None:
    child = spawn.ready(MISCHIEF, listen="text")
    with talkative(child) as witness:
        with child.connect() as client:
            client.sendall(what.encode() + b"\n")
            child.until("the count", lambda: child.ask().exceptions == 1)
        assert ask(witness, b"x\n") == b"doing x\n", "its other clients notice nothing"
    child.stop()
    assert child.wait() == 0
    assert "exception in" in child.output()
    assert ("ValueError" if what == "raise" else "SystemExit") in child.printed


def talkative(child: Child) -> socket.socket:
    client = child.connect()
    assert ask(client, b"hello\n") == b"doing hello\n"
    return client


def test_loop_stop_is_no_end(spawn: Spawn) -> None:
    child = spawn.ready(MISCHIEF, listen="text")
    with child.connect() as client:
        assert ask(client, b"stop\n") == b"doing stop\n"
        assert ask(client, b"x\n") == b"doing x\n"


def test_cancelling_every_task_ends_nothing_of_ours(spawn: Spawn) -> None:
    code = """
import asyncio
def on_message(connection, data):
    for task in asyncio.all_tasks():
        task.cancel()
    connection.send(data)
"""
    child = spawn.ready(code, listen="text")
    with child.connect() as client:
        for _ in range(3):
            assert ask(client, b"x\n") == b"x\n"


# ---------------------------------------------------------------------- figures


def test_a_status_every_second_and_a_fresh_one_when_asked(spawn: Spawn) -> None:
    child = spawn.ready("from workermand import Timer\nTimer.add(1000, print)\n" + TELLING, listen="text")
    with talking(child):
        fresh = child.ask()
        assert (fresh.connections, fresh.total_request, fresh.accepted, fresh.timers) == (1, 1, 1, 1)
    child.until("the end", lambda: child.hear(Status).closed == {"closed by peer": 1})


def test_the_table_of_connections(spawn: Spawn) -> None:
    child = spawn.ready(TELLING, listen="text")
    with talking(child) as client:
        (row,) = child.ask_connections().rows
        assert (row.transport, row.protocol, row.ipv4, row.ipv6) == ("tcp", "text", True, False)
        assert (row.bytes_read, row.bytes_written, row.direction) == (2, 2, "in")
        host, port = client.getsockname()
        assert row.remote == f"{host}:{port}"


def test_the_requests_limit_asks_for_a_successor_and_serves_on(spawn: Spawn) -> None:
    child = spawn.ready(TELLING, listen="text", limits=Limits(requests=3))
    with child.connect() as client:
        for _ in range(4):
            assert ask(client, b"x\n") == b"x\n"
        assert child.hear(Recycle) == Recycle("requests limit")
        assert ask(client, b"x\n") == b"x\n"


def test_the_idle_timeout(spawn: Spawn) -> None:
    child = spawn.ready(TELLING, listen="text", timeouts=Timeouts(idle=0.1))
    with child.connect() as client:
        assert client.recv(100) == b""
    child.prints("close: idle timeout")


# ---------------------------------------------------------------------- a reload in place


def test_refresh(spawn: Spawn, tmp_path: Path) -> None:
    code = """
import logging
def on_worker_reload(worker):
    print(worker.options, worker.limits.package, worker.count)
    logging.getLogger("mine").warning("logged")
def on_message(connection, data):
    connection.send(f"{connection.max_package_size} {connection.max_send_buffer_size}")
def on_connect(connection):
    connection.max_send_buffer_size = 12345
"""
    child = spawn.ready(code, listen="text", reloadable=False)
    new = WorkerSpec(name="echo", handler="handler", options={"new": True}, limits=Limits(package=777), count=9)
    with child.connect() as client:
        assert ask(client, b"x\n") == b"10485760 12345\n"
        log, out = (os.open(tmp_path / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND) for name in ("log", "out"))
        child.say(Refresh(msgspec.msgpack.encode(new), ["log", "stdout"]), log, out)
        os.close(log)
        os.close(out)
        child.until("on_worker_reload", lambda: "True" in (tmp_path / "out").read_text())
        assert ask(client, b"x\n") == b"777 12345\n", "what the handler has set itself stays"
    assert "{'new': True} 777 9" in (tmp_path / "out").read_text()


def test_an_async_on_worker_reload_that_fails_is_counted(spawn: Spawn) -> None:
    child = spawn.ready("async def on_worker_reload(worker): 1 / 0\n", reloadable=False)
    child.say(Refresh(msgspec.msgpack.encode(WorkerSpec(name="echo", handler="handler"))))
    child.until("the count", lambda: child.ask().exceptions == 1)


def test_on_worker_reload_in_place_may_take_as_long_as_a_start(spawn: Spawn) -> None:
    child = spawn.ready(
        "import asyncio\nasync def on_worker_reload(worker): await asyncio.sleep(600)\n", reloadable=False
    )
    spec = WorkerSpec(name="echo", handler="handler", timeouts=Timeouts(start=0.3))
    child.say(Refresh(msgspec.msgpack.encode(spec)))
    child.prints("on_worker_reload has not ended after 0.3 s")


# ---------------------------------------------------------------------- asking the master


def test_stop_reload_and_status_of_the_server(spawn: Spawn) -> None:
    code = """
async def on_message(connection, data):
    try:
        connection.send(str(await getattr(connection.worker, data)()))
    except Exception as error:
        connection.send(f"{type(error).__name__}: {error}")
"""
    child = spawn.ready(code, listen="text")
    with child.connect() as client:
        for call, verb in (("server_status", "status"), ("reload_server", "reload"), ("stop_server", "stop")):
            client.sendall(call.encode() + b"\n")
            asked = child.hear(Server)
            assert asked.verb == verb
            child.say(ServerAnswer(asked.request, {"version": 1}))
            assert client.recv(100) == b"{'version': 1}\n"
        client.sendall(b"stop_server\n")
        child.say(ServerAnswer(child.hear(Server).request, error="no"))
        assert client.recv(100) == b"ControlError: no\n"


def test_a_stop_crosses_an_answer(spawn: Spawn) -> None:
    """Nobody waits for what a leaving process asked."""
    code: Any = "def on_message(c, data):\n    c.worker.server_status()\n    c.send(data)\n"
    child = spawn.ready(code, listen="text")
    with talking(child):
        asked = child.hear(Server)
        child.say(Stop("fast", 10))
        child.say(ServerAnswer(asked.request, {}))
        assert child.wait() == 0
    assert child.output() == ""
