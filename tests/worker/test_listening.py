"""Listeners that a handler adds while it runs, in real children; the test answers in the place of the master."""

from __future__ import annotations

from tests.worker.conftest import Child, Spawn, ask, bind
from workermand.link import Adopt, Draining, Listen, Listening, Ready, Unlisten

LISTENING = """
import asyncio
worker = None
def on_worker_start(w):
    global worker
    worker = w
async def on_message(connection, data):
    verb, _, uri = data.partition(" ")
    try:
        if verb == "listen":
            await worker.listen(uri)
        elif verb == "other":
            await worker.listen(uri, handler=Other())
        elif verb == "drop":
            worker.listen(uri)
        elif verb == "unlisten":
            await worker.unlisten(uri)
        connection.send(f"{verb} done, {len(worker.connections)} clients")
    except Exception as error:
        connection.send(f"{type(error).__name__}: {error}")
class Other:
    def on_message(self, connection, data):
        connection.send("other " + data)
    def on_close(self, connection):
        print("other closed")
"""


class Doorkeeper:
    """Answers the child's Listen as the master does."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self.sock = bind("text")
        child.sockets.append(self.sock)
        host, port = self.sock.getsockname()
        self.uri = f"text://{host}:{port}"

    def open(self, *, error: str = "") -> None:
        asked = self.child.hear(Listen)
        assert asked.uri == self.uri
        fds = [] if error else [self.sock.fileno()]
        self.child.say(Listening(asked.request, asked.uri, error), *fds)


def test_a_further_listener_with_callbacks_of_its_own_shares_the_process(spawn: Spawn) -> None:
    child = spawn.ready(LISTENING, listen="text")
    door = Doorkeeper(child)
    with child.connect() as control:
        control.sendall(f"other {door.uri}\n".encode())
        door.open()
        assert control.recv(100) == b"other done, 1 clients\n"
        with child.connect(1) as client:
            assert ask(client, b"x\n") == b"other x\n"
            assert ask(control, b"count\n") == b"count done, 2 clients\n"
            assert ask(control, f"unlisten {door.uri}\n".encode()) == b"unlisten done, 2 clients\n"
            assert child.hear(Unlisten) == Unlisten(door.uri)
            assert ask(client, b"y\n") == b"other y\n", "its connections stay"
        child.prints("other closed")


def test_without_a_handler_of_its_own_it_has_the_workers(spawn: Spawn) -> None:
    child = spawn.ready(LISTENING, listen="text")
    door = Doorkeeper(child)
    with child.connect() as control:
        control.sendall(f"listen {door.uri}\n".encode())
        door.open()
        assert control.recv(100) == b"listen done, 1 clients\n"
        with child.connect(1) as client:
            assert ask(client, b"count\n") == b"count done, 2 clients\n"
        assert ask(control, f"listen {door.uri}\n".encode()) == (
            f"ControlError: this process listens on {door.uri} already\n".encode()
        )


def test_the_masters_refusal_and_ones_own_mistakes(spawn: Spawn) -> None:
    child = spawn.ready(LISTENING, listen="text")
    door = Doorkeeper(child)
    with child.connect() as control:
        control.sendall(f"listen {door.uri}\n".encode())
        door.open(error="port 80 is below 1024")
        assert control.recv(100) == b"ControlError: port 80 is below 1024\n"
        assert b"Error: " in ask(control, b"listen nonsense\n")
        assert b"unknown" in ask(control, b"listen txet://127.0.0.1:1\n")
        assert b'ConfigError: worker.echo: listen(): "wss://127.0.0.1:1" needs a certificate; set `tls`' in ask(
            control, b"listen wss://127.0.0.1:1\n"
        )
        assert b"ControlError: listen() has not opened" in ask(control, b"unlisten text://127.0.0.1:1\n")
        control.sendall(f"listen {door.uri}\n".encode())
        door.open()
        assert control.recv(100) == b"listen done, 1 clients\n", "a refusal is not for ever"


def test_where_proxies_speak_for_clients_they_must_be_known(spawn: Spawn) -> None:
    code = """
async def on_worker_start(worker):
    try:
        await worker.listen("text://127.0.0.1:1")
    except Exception as error:
        print(f"{type(error).__name__}: {error}")
"""
    child = spawn.ready(code, proxy_protocol=True)
    child.prints('ConfigError: worker.echo: listen(): "text://127.0.0.1:1" needs to know its proxies; set `trusted_')
    child.stop("fast")
    assert child.wait() == 0


def test_the_awaitable_may_be_dropped_and_an_error_is_logged_then(spawn: Spawn) -> None:
    child = spawn.ready(LISTENING, listen="text")
    door = Doorkeeper(child)
    with child.connect() as control:
        assert ask(control, f"drop {door.uri}\n".encode()) == b"drop done, 1 clients\n"
        door.open()
        with child.connect(1) as client:
            assert ask(client, b"count\n") == b"count done, 2 clients\n"
        assert ask(control, f"unlisten {door.uri}\n".encode()).startswith(b"unlisten done")
        assert child.ask().exceptions == 0
        assert ask(control, f"drop {door.uri}\n".encode()).startswith(b"drop done")
        door.open(error="not now")
        child.until("the count", lambda: child.ask().exceptions == 1)
    child.stop("fast")
    printed = child.output()
    assert "ControlError: not now" in printed and "never awaited" not in printed


def test_listening_in_on_worker_start(spawn: Spawn) -> None:
    sock = bind("text")
    host, port = sock.getsockname()
    code = f"""
async def on_worker_start(worker):
    await worker.listen("text://{host}:{port}")
def on_connect(connection):
    connection.send("hello")
"""
    child = spawn(code)
    child.sockets.append(sock)
    asked = child.hear(Listen)
    child.say(Listening(asked.request, asked.uri), sock.fileno())
    child.hear(Ready)
    with child.connect() as client:
        assert client.recv(100) == b"hello\n"


def test_a_socket_that_comes_too_late_is_closed(spawn: Spawn) -> None:
    child = spawn.ready(LISTENING, listen="text")
    door = Doorkeeper(child)
    with child.connect() as control:
        control.sendall(f"listen {door.uri}\n".encode())
        asked = child.hear(Listen)
        child.stop("retire")
        child.hear(Draining)
        child.say(Listening(asked.request, asked.uri), door.sock.fileno())
        assert control.recv(100) == b"ControlError: this process is stopping\n"
    assert child.wait() == 0


def test_adopt_accepts_from_one_more_socket_of_an_address(spawn: Spawn) -> None:
    child = spawn.ready(LISTENING, listen="text")
    uri = "text://{}:{}".format(*child.sockets[0].getsockname())
    another = bind("text")
    child.sockets.append(another)
    child.say(Adopt(uri), another.fileno())
    child.say(Adopt("text://127.0.0.1:1"), another.fileno())
    for number in (0, 1):
        with child.connect(number) as client:
            assert ask(client, b"count\n").startswith(b"count done")
