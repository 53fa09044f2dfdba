"""Worker: attributes, assignable callbacks, counters, and that it passes its wishes on."""

from __future__ import annotations

import ast
import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import uvloop

from workermand.errors import CloseReason, LoadError
from workermand.spec import Limits, WorkerSpec
from workermand.testing import running_server
from workermand.worker.worker import Worker

SPEC = WorkerSpec(name="echo", handler="apps.echo", count=4, options={"colour": "blue"}, limits=Limits(package=100))


class Connection:
    id = 17

    def get_remote_address(self) -> str:
        return "192.0.2.1:5555"


@pytest.fixture
def worker() -> Iterator[Worker]:
    loop = uvloop.new_event_loop()
    yield Worker(SPEC, 2, state_dir="/var/lib/workermand/echo", loop=loop)
    loop.close()


def test_says_who_it_is(worker: Worker) -> None:
    assert (worker.name, worker.id, worker.count) == ("echo", 2, 4)
    assert worker.options == {"colour": "blue"} and worker.state_dir.endswith("/echo")
    assert worker.limits.package == 100
    assert repr(worker) == f"<Worker echo#2 pid {worker.pid}>"


def test_attributes_of_the_users_own(worker: Worker) -> None:
    worker.rooms = {"lobby": 1}
    assert worker.rooms == {"lobby": 1}
    with pytest.raises(AttributeError, match="no attribute 'room'"):
        _ = worker.room


def test_callbacks_may_be_assigned_and_are_checked(worker: Worker) -> None:
    def on_message(connection: object, data: object) -> None: ...

    assert worker.on_message is None
    worker.on_message = on_message
    assert worker.on_message is on_message and worker.handlers.on_message is on_message
    with pytest.raises(AttributeError, match='unknown callback on_mesage; did you mean "on_message"'):
        worker.on_mesage = on_message
    with pytest.raises(AttributeError, match="unknown callback on_mesage"):
        _ = worker.on_mesage
    with pytest.raises(LoadError, match="cannot be called as on_connect"):
        worker.on_connect = on_message


def test_failed_is_logged_with_its_connection_and_counted(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise ValueError("broken")
    except ValueError as error:
        worker.failed("on_message", Connection(), error)  # type: ignore[arg-type]
        worker.failed("timer tick", None, error)
    assert worker.stats.exceptions == 2
    first, second = caplog.records
    assert first.getMessage() == "exception in on_message, connection 17 from 192.0.2.1:5555"
    assert second.getMessage() == "exception in timer tick"
    assert first.levelno == logging.ERROR
    assert first.exc_text is not None and "ValueError: broken" in first.exc_text


def test_connections_are_numbered_counted_and_forgotten(worker: Worker) -> None:
    empty: list[str] = []
    worker.when_empty(lambda: empty.append("empty"))
    numbers = [worker.next_connection_id() for _ in range(2)]
    assert numbers == [1, 2]
    for number in numbers:
        worker.connections[number] = Connection()  # type: ignore[assignment]
    assert worker.stats.connection_count == 2
    worker.forget(1, CloseReason.PEER_CLOSED)
    assert empty == []
    worker.forget(2, CloseReason.PEER_CLOSED)
    assert empty == ["empty"] and worker.stats.connection_count == 0
    assert worker.stats.closed == {CloseReason.PEER_CLOSED: 2}


class Runtime:
    def __init__(self) -> None:
        self.asked: list[Any] = []

    def leave(self, reason: str) -> None:
        self.asked.append(reason)

    def listen(self, uri: str, handler: object) -> Any:
        self.asked.append(("listen", uri, handler))

    def unlisten(self, uri: str) -> Any:
        self.asked.append(("unlisten", uri))

    def ask_server(self, verb: str) -> Any:
        self.asked.append(verb)


def test_what_it_wants_is_asked_of_its_process(worker: Worker) -> None:
    runtime = Runtime()
    worker.belong_to(runtime)
    worker.stop()
    worker.stop_all()
    worker.listen("text://127.0.0.1:1234", handler="apps.echo")
    worker.unlisten("text://127.0.0.1:1234")
    worker.stop_server()
    worker.reload_server()
    worker.server_status()
    assert runtime.asked == [
        "stop()",
        "stop()",
        ("listen", "text://127.0.0.1:1234", "apps.echo"),
        ("unlisten", "text://127.0.0.1:1234"),
        "stop",
        "reload",
        "status",
    ]


def test_a_worker_without_a_process_says_so(worker: Worker) -> None:
    with pytest.raises(RuntimeError, match="has no process of its own"):
        worker.stop()


def test_the_running_loop_is_the_default() -> None:
    async def main() -> bool:
        return Worker(SPEC).loop is asyncio.get_running_loop()

    assert uvloop.run(main())


NEIGHBOURLY = {
    "app.py": """
from workermand import Worker

def on_message(connection, data):
    worker = Worker.current()
    assert worker is connection.worker
    connection.send(repr([tuple(sibling) for sibling in worker.siblings]))
"""
}
NEIGHBOURS = """
[worker.a]
handler = "app"
listen = "text://127.0.0.1:0"
[worker.b]
handler = "app"
listen = ["unix://b.sock", "udp://127.0.0.1:0"]
options = {colour = "blue"}
"""


def test_a_process_knows_itself_and_the_workers_beside_it() -> None:
    with running_server(NEIGHBOURS, files=NEIGHBOURLY) as server, server.connect("a") as client:
        (a,), (b, _udp) = server.addresses["a"], server.addresses["b"]
        client.sendall(b"?\n")
        with client.makefile() as lines:
            found = ast.literal_eval(lines.readline())
    assert found[0] == ("a", "app", (f"text://127.0.0.1:{a[1]}",), {})
    assert found[1][:2] == ("b", "app") and found[1][2][0] == f"unix://{b}" and found[1][3] == {"colour": "blue"}
