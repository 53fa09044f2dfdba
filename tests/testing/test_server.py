"""running_server: what it starts, what it says when it cannot, and that nothing of it is left."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import textwrap
from pathlib import Path

import pytest

from workermand.testing import RunningServer, ServerFailed, running_server

TELLS = textwrap.dedent(
    """
    import os

    def on_worker_start(worker):
        print("starting", worker.name)

    def on_message(connection, data):
        print("got", data)
        connection.send(f"{worker_says()} {os.environ.get('COLOUR', '')}")

    def worker_says():
        return "first"
    """
)

TWO = """
[server]
name = "two"  # a comment
[worker.lines]
listen = ["text://127.0.0.1:0", 'text://[::1]:0']
handler = "tells"
[worker.packets]
listen = "udp://127.0.0.1:0"
handler = "apps.udp_echo"
[worker.local]
listen = "unix://local.sock"
handler = "apps.unix_echo"
"""


def ask(server: RunningServer, worker: str | None = None) -> str:
    with server.connect(worker) as client:
        client.sendall(b"hello\n")
        return client.makefile("r").readline().strip()


def test_one_worker_from_keywords() -> None:
    with running_server("tells", files={"tells.py": TELLS}, count=2, env={"COLOUR": "blue"}) as server:
        assert ask(server) == "first blue"
        server.wait_for("got hello")
        assert server.addresses == {"main": [("127.0.0.1", server.port)]}
        assert server.address == ("127.0.0.1", server.port)
        assert len(server.processes()) == 3
        assert server.pid in server.processes()
        assert [process["worker"] for process in server.status()["processes"]] == ["main", "main"]
        assert (server.run_dir / "control.sock").is_socket()


def test_a_toml_text_with_everything() -> None:
    with running_server(TWO, files={"tells.py": TELLS}) as server:
        assert server.spec.name == "two"
        (_, first), (host, second) = server.addresses["lines"]
        assert host == "::1"
        assert first != second
        assert ask(server, "lines") == "first"
        with server.connect("packets") as client:
            client.send(b"packet")
            assert client.recv(100) == b"packet"
        with server.connect("local") as client:
            assert client.getpeername() == server.addresses["local"][0] == str(server.run_dir / "local.sock")
        assert '"workers"' in server.ctl("status", "--json").stdout


def test_a_file_where_it_is(tmp_path: Path) -> None:
    with running_server("apps.echo") as other:
        port = other.port
    file = tmp_path / "mine.toml"
    file.write_text(
        f'[worker.main]\nlisten = "text://127.0.0.1:{port}"\nhandler = "tells"\n[server]\napp_path = ["."]\n'
    )
    (tmp_path / "tells.py").write_text(TELLS)
    with running_server(file) as server:
        assert server.file == file
        assert server.port == port
        assert ask(server) == "first"


def test_a_toml_text_may_have_its_own_app_path() -> None:
    text = '[worker.main]\nhandler = "tells"\n[server]\napp_path = ["handlers"]\n'
    with running_server(text, files={"handlers/tells.py": TELLS}) as server:
        server.wait_for("starting main")


def test_a_changed_handler_is_reloaded() -> None:
    with running_server("tells", files={"tells.py": TELLS}) as server:
        (server.directory / "tells.py").write_text(TELLS.replace('"first"', '"second"'))
        server.reload()
        assert ask(server) == "second"
        (server.directory / "tells.py").write_text("def on_message(:")
        with pytest.raises(ServerFailed, match=r"(?s)workermanctl reload: exit code 1.*SyntaxError"):
            server.reload()
        assert server.ctl("reload", check=False).returncode == 1
        assert ask(server) == "second"


def test_a_daemon_that_does_not_start_shows_its_output() -> None:
    words = r"(?s)server.toml: exit code \d+.*no_such_module"
    with pytest.raises(ServerFailed, match=words), running_server("no_such_module"):
        pass


def test_one_that_is_not_ready_in_time_is_killed() -> None:
    slow = "import threading\nthreading.Event().wait()\n"
    with pytest.raises(ServerFailed, match="not ready"), running_server("slow", files={"slow.py": slow}, timeout=2):
        pass


def test_one_that_does_not_end_in_time_is_killed() -> None:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(running_server("apps.echo"))
        os.kill(server.pid, signal.SIGSTOP)
        server.timeout = 0.2
        with pytest.raises(ServerFailed, match="still running"):
            stack.close()
    assert server.processes() == []


def test_what_is_not_printed_is_waited_for_in_vain() -> None:
    with running_server("tells", files={"tells.py": TELLS}) as server:
        assert server.wait_for("starting (.*)")[1] == "main"
        server.timeout = 0.1
        with pytest.raises(ServerFailed, match=r"no 'nonsense' in the output"):
            server.wait_for("nonsense")
        server.timeout = 60


def test_a_refused_request_is_an_error() -> None:
    with running_server("apps.echo") as server, pytest.raises(ServerFailed, match=r".+"):
        server.ask("no such verb")


def test_the_end_is_the_end_of_every_process() -> None:
    with running_server("apps.echo", count=2) as server:
        assert len(server.processes()) == 3
    assert server.processes() == []
    assert not server.directory.exists()


def test_a_killed_master_leaves_nothing_either() -> None:
    with running_server("apps.echo") as server:
        assert server.stop(signal.SIGKILL) == -signal.SIGKILL
    assert server.processes() == []


def test_it_may_be_stopped_in_the_middle() -> None:
    with running_server("apps.echo") as server:
        assert server.stop() == 0
        assert server.stop() == 0
        with contextlib.suppress(ConnectionRefusedError), server.connect():
            pytest.fail("somebody still listens")


def test_a_failing_test_shows_the_output_and_ends_the_daemon(capfd: pytest.CaptureFixture[str]) -> None:
    servers = []

    def fail() -> None:
        with running_server("tells", files={"tells.py": TELLS}) as server:
            servers.append(server)
            server.wait_for("starting")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert servers[0].processes() == []
    assert "starting main" in capfd.readouterr().err


def test_ports_are_held_and_lie_below_the_ephemeral_ones() -> None:
    with running_server("apps.echo") as one, running_server("apps.echo") as two:
        assert one.port != two.port
        one.stop()
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", one.port))


def test_a_worker_without_a_port_has_no_address() -> None:
    with running_server("apps.clock", listen=None, options={"every": 9, "deep": {"a b": [1, True]}}) as server:
        assert server.addresses == {"main": []}
        assert server.spec.workers["main"].options == {"every": 9, "deep": {"a b": [1, True]}}


def test_the_environment_of_the_test_is_untouched() -> None:
    before = dict(os.environ)
    with running_server("apps.echo", env={"COLOUR": "red"}):
        assert dict(os.environ) == before
