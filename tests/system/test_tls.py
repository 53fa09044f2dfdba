"""TLS with real daemons and real clients: Python's ssl, and openssl."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pwd
import select
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import websockets.sync.client

from tests.certs import Authority
from tests.conftest import PATIENCE, wait_until
from workermand.errors import ExitCode
from workermand.testing import RunningServer, ServerFailed, running_server


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def tls(pair: tuple[Path, Path], **more: Any) -> dict[str, Any]:
    return {"cert": str(pair[0]), "key": str(pair[1]), **more}


def connect(server: RunningServer, context: ssl.SSLContext, host: str = "localhost", which: int = 0) -> ssl.SSLSocket:
    _host, port = server.addresses["main"][which]
    client = socket.create_connection(("127.0.0.1", int(port)), PATIENCE)
    try:
        return context.wrap_socket(client, server_hostname=host)
    except BaseException:
        client.close()
        raise


def ask(client: socket.socket, line: bytes) -> bytes:
    client.sendall(line + b"\n")
    return read_line(client)


def read_line(client: socket.socket) -> bytes:
    line = b""
    while not line.endswith(b"\n") and (byte := client.recv(1)):
        line += byte
    return line.rstrip(b"\n")


def serial(client: ssl.SSLSocket) -> str:
    certificate: Any = client.getpeercert()
    return str(certificate["serialNumber"])


def rows(server: RunningServer) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = server.ask("connections")["connections"]
    return found


def closed(server: RunningServer, reason: str = "TLS handshake failed") -> int:
    return sum(process["closed"].get(reason, 0) for process in server.status()["processes"])


# ---------------------------------------------------------------------------------------------------- serving


def test_a_text_listener_speaks_tls(authority: Authority) -> None:
    with running_server("apps.echo", tls=tls(authority.issue())) as server:
        with connect(server, authority.client()) as client:
            assert client.version() == "TLSv1.3"
            assert ask(client, b"hello") == b"hello"
            (row,) = rows(server)
            assert (row["transport"], row["protocol"]) == ("ssl", "text")


def test_openssl_as_client(authority: Authority) -> None:
    """Which at the end of its input says close_notify, and waits for ours."""
    with running_server("apps.echo", tls=tls(authority.issue())) as server:
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{server.port}", "-CAfile", str(authority.file)]
        flags = ["-verify_return_error", "-quiet", "-no_ign_eof", "-servername", "localhost"]
        done = subprocess.run(
            [*command, *flags], input=b"one\ntwo\n", capture_output=True, timeout=PATIENCE, check=False
        )
        assert done.returncode == 0, done.stderr.decode()
        with connect(server, authority.client()) as client:
            assert ask(client, b"still there") == b"still there"


def test_http_beside_https(authority: Authority) -> None:
    handler = "def on_message(connection, request):\n    connection.send(connection.transport)\n"
    listen = ["http://127.0.0.1:0", "https://127.0.0.1:0"]
    with running_server("app", files={"app.py": handler}, listen=listen, tls=tls(authority.issue())) as server:
        get = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        context = authority.client()
        context.set_alpn_protocols(["h2", "http/1.1"])
        with server.connect() as plain, connect(server, context, which=1) as encrypted:
            assert encrypted.selected_alpn_protocol() == "http/1.1"
            for client, transport in ((plain, b"tcp"), (encrypted, b"ssl")):
                client.sendall(get)
                with client.makefile("rb") as answer:
                    assert answer.read().endswith(b"\r\n\r\n" + transport)


def test_websockets_over_tls(authority: Authority) -> None:
    handler = "def on_message(connection, data):\n    connection.send(data)\n"
    settings: dict[str, Any] = {"listen": "wss://127.0.0.1:0", "tls": tls(authority.issue())}
    with running_server("app", files={"app.py": handler}, **settings) as server:
        uri = f"wss://localhost:{server.port}/"
        with websockets.sync.client.connect(uri, ssl=authority.client()) as client:
            for message in ("text", b"bytes", "x" * 300_000):
                client.send(message)
                assert client.recv(PATIENCE) == message


def test_a_listener_added_at_run_time(authority: Authority, free_port: Callable[[], int]) -> None:
    """The worker's certificates are for https:// and wss://, and its inner port stays plain."""
    handler = """
async def on_worker_start(worker):
    for uri in worker.options["inner"]:
        await worker.listen(uri)
def on_message(connection, data):
    connection.send(connection.transport)
"""
    https, text = free_port(), free_port()
    inner = [f"https://127.0.0.1:{https}", f"text://127.0.0.1:{text}"]
    settings: dict[str, Any] = {"listen": None, "tls": tls(authority.issue()), "options": {"inner": inner}}
    with running_server("app", files={"app.py": handler}, **settings):
        with socket.create_connection(("127.0.0.1", text), PATIENCE) as client:
            assert ask(client, b"?") == b"tcp"
        client = socket.create_connection(("127.0.0.1", https), PATIENCE)
        with authority.client().wrap_socket(client, server_hostname="localhost") as encrypted:
            encrypted.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            with encrypted.makefile("rb") as answer:
                assert answer.read().endswith(b"ssl")


def test_host_names_and_client_certificates(authority: Authority) -> None:
    handler = """
def on_message(connection, data):
    shown = connection.get_peer_certificate()
    connection.send(dict(entry[0] for entry in shown["subject"])["commonName"] + " " + connection.tls.version)
"""
    b = authority.issue("b.example", name="b")
    settings = tls(authority.issue(), ca=str(authority.file), verify_client=True, sni={"b.example": tls(b)})
    alice = authority.issue("alice@example.com", name="alice", common_name="Alice")
    with running_server("app", files={"app.py": handler}, tls=settings) as server:
        for host in ("localhost", "b.example"):
            with connect(server, authority.client(alice), host) as client:
                assert ask(client, b"who am I?") == b"Alice TLSv1.3"
        for host in ("localhost", "b.example"):
            with pytest.raises(OSError, match=r"alert|reset"), connect(server, authority.client(), host) as client:
                ask(client, b"nobody")
        wait_until("two refusals", lambda: closed(server) == 2)


def test_scanners_leave_a_count_and_no_traceback(authority: Authority) -> None:
    with running_server("apps.echo", tls=tls(authority.issue()), timeouts={"handshake": "0.2s"}) as server:
        server.wait_for(r"started: .*\n")
        said = len(server.output)
        with server.connect() as silent:
            assert silent.recv(1) == b""
        for greeting in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", os.urandom(100), b""):
            with server.connect() as client:
                client.sendall(greeting)
                client.shutdown(socket.SHUT_WR)
                with contextlib.suppress(ConnectionResetError):
                    while client.recv(100):
                        pass
        old = authority.client()
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        old.set_ciphers("DEFAULT:@SECLEVEL=0")
        with pytest.raises(ssl.SSLError):
            connect(server, old)
        wait_until("five refusals", lambda: closed(server) == 5)
        assert server.output[said:] == ""
        with connect(server, authority.client()) as client:
            assert ask(client, b"hello") == b"hello"


# ---------------------------------------------------------------------------------------------------- keys


@pytest.mark.real
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can have a key of his own and a worker of another user")
def test_the_workers_user_need_not_be_able_to_read_the_key(authority: Authority) -> None:
    """Nor when it is started anew, and when a reload brings another."""
    pair = authority.issue()
    authority.directory.chmod(0o700)
    assert pair[1].stat().st_uid == 0 and pair[1].stat().st_mode & 0o777 == 0o600
    handler = "import os\ndef on_message(connection, data):\n    connection.send(f'{os.getuid()} {os.getpid()}')\n"
    settings: dict[str, Any] = {"tls": tls(pair), "user": "nobody", "reloadable": False}
    with running_server("app", files={"app.py": handler}, **settings) as server:
        with connect(server, authority.client()) as client:
            uid, pid = ask(client, b"?").split()
            first = serial(client)
        assert int(uid) == pwd.getpwnam("nobody").pw_uid
        authority.issue()
        server.reload()
        with connect(server, authority.client()) as client:
            assert ask(client, b"?").split()[1] == pid
            second = serial(client)
        os.kill(int(pid), signal.SIGKILL)
        with connect(server, authority.client()) as client:
            assert ask(client, b"?").split()[1] != pid
            assert serial(client) == second != first


@pytest.mark.parametrize("reloadable", [True, False])
def test_a_reload_brings_a_new_certificate_and_cuts_nobody_off(authority: Authority, reloadable: bool) -> None:
    with running_server("apps.echo", tls=tls(authority.issue()), reloadable=reloadable, count=2) as server:
        with connect(server, authority.client()) as before:
            assert ask(before, b"one") == b"one"
            authority.issue()
            server.reload()
            for _ in range(6):
                with connect(server, authority.client()) as after:
                    assert serial(after) != serial(before) and ask(after, b"two") == b"two"
            assert ask(before, b"three") == b"three"


def test_a_reload_with_a_wrong_key_is_refused(authority: Authority) -> None:
    pair = authority.issue()
    with running_server("apps.echo", tls=tls(pair)) as server:
        other = authority.issue(name="other")
        pair[1].write_bytes(other[1].read_bytes())
        with pytest.raises(ServerFailed, match="the key is of another certificate"):
            server.reload()
        pair[1].unlink()
        with pytest.raises(ServerFailed, match=r"worker.main.tls.key: cannot read .*server.key: No such file"):
            server.reload()
        with connect(server, authority.client()) as client:
            assert ask(client, b"hello") == b"hello"
        assert "tls.key: cannot read" in server.status()["server"]["note"]


def test_a_process_that_stays_keeps_what_works(authority: Authority) -> None:
    pair = authority.issue()
    with running_server("apps.echo", tls=tls(pair), reloadable=False) as server:
        key = pair[1].read_bytes()
        pair[1].write_bytes(authority.issue(name="other")[1].read_bytes())
        server.reload()
        note = wait_until("a note", lambda: server.status()["workers"][0]["note"])
        assert "the former certificate stays" in note and "the key is of another certificate" in note
        with connect(server, authority.client()) as client:
            assert ask(client, b"hello") == b"hello"
        pair[1].write_bytes(key)
        server.reload()
        wait_until("no note", lambda: server.status()["workers"][0]["note"] == "")


def test_a_wrong_key_at_the_start(authority: Authority) -> None:
    pair = (authority.issue(name="one")[0], authority.issue(name="two")[1])
    with pytest.raises(ServerFailed, match=r"exit code 3(.|\n)*the key is of another certificate"):
        with running_server("apps.echo", tls=tls(pair)):
            pass


def check(file: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "workermand", "check", "-c", str(file)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)


def test_what_check_says(authority: Authority, tmp_path: Path) -> None:
    file = tmp_path / "workers.toml"

    def says(pair: tuple[Path, Path]) -> tuple[int, str]:
        text = f'tls = {{cert = "{pair[0]}", key = "{pair[1]}"}}'
        file.write_text(f'[server]\napp_path = "{Path.cwd()}"\n[worker.x]\nhandler = "apps.echo"\n{text}\n')
        done = check(file)
        return done.returncode, done.stderr

    good = authority.issue()
    assert says(good) == (0, "")
    code, said = says(authority.issue(name="soon", days=9.5))
    assert code == 0 and "worker.x.tls: the certificate" in said and "soon.pem expires in 9 days" in said
    code, said = says(authority.issue(name="late", days=-1))
    assert code == ExitCode.FAILED and "late.pem has expired" in said
    code, said = says((good[0], authority.issue(name="other")[1]))
    assert code == ExitCode.FAILED and "the key is of another certificate" in said
    good[1].chmod(0o644)
    code, said = says(good)
    assert code == ExitCode.CONFIG and f"chmod o= {good[1]}" in said


def test_a_certificate_that_expires_is_noted(authority: Authority) -> None:
    cert, key = authority.issue(days=3.5)
    with running_server("apps.echo", tls=tls((cert, key))) as server:
        assert server.status()["workers"][0]["note"] == f"the certificate {cert} expires in 3 days"
        assert f"worker main: the certificate {cert} expires in 3 days" in server.output
        authority.issue(days=90)
        server.reload()
        assert server.status()["workers"][0]["note"] == ""


def test_a_password_is_told_to_nobody(authority: Authority, tmp_path: Path) -> None:
    pair = authority.issue()
    command = ["openssl", "pkey", "-aes256", "-in", str(pair[1]), "-out", str(tmp_path / "locked.key"), "-passout"]
    subprocess.run([*command, "pass:swordfish"], check=True, capture_output=True)
    (tmp_path / "password").write_text("swordfish\n")
    settings = {"cert": str(pair[0]), "key": str(tmp_path / "locked.key"), "password": f"${{file:{tmp_path}/password}}"}
    with running_server("apps.echo", tls=settings) as server:
        with connect(server, authority.client()) as client:
            assert ask(client, b"hello") == b"hello"
        server.reload()
        assert "swordfish" not in f"{server.status()} {server.output}"


# ---------------------------------------------------------------------------------------------------- streams


def test_a_large_transfer_with_back_pressure(authority: Authority) -> None:
    """In both directions at once; the handler reads no more while the client does not."""
    handler = """
def on_connect(connection):
    connection.pipe(connection)
"""
    size = 24 * 1024 * 1024
    options: dict[str, Any] = {"listen": "tcp://127.0.0.1:0", "limits": {"send_buffer": "128KiB"}}
    with running_server("app", files={"app.py": handler}, tls=tls(authority.issue()), **options) as server:
        with connect(server, authority.client()) as client:
            client.setblocking(False)
            chunk = os.urandom(1 << 20)
            sent, received = hashlib.sha256(), hashlib.sha256()
            unsent, to_send, to_come = b"", size, size
            while to_come:
                readable, writable, _ = select.select([client], [client] if unsent or to_send else [], [], PATIENCE)
                assert readable or writable, f"nothing moves, {to_come} bytes before the end"
                if writable:
                    unsent = unsent or to_send.to_bytes(8, "big") + chunk[8:]
                    with contextlib.suppress(ssl.SSLWantWriteError, ssl.SSLWantReadError):
                        count = client.send(unsent)
                        sent.update(unsent[:count])
                        unsent, to_send = unsent[count:], to_send - count
                with contextlib.suppress(ssl.SSLWantReadError):
                    while data := client.recv(1 << 16):
                        received.update(data)
                        to_come -= len(data)
            assert sent.digest() == received.digest()


def test_the_last_answer_is_whole_for_a_slow_reader(authority: Authority) -> None:
    """close() behind 8 MiB: close_notify comes last, however long it takes."""
    handler = "def on_message(connection, data):\n    connection.close('x' * (8 << 20))\n"
    with running_server("app", files={"app.py": handler}, tls=tls(authority.issue())) as server:
        with connect(server, authority.client()) as client:
            client.sendall(b"go\n")
            wait_until("a full buffer", lambda: any(row["send_queue"] for row in rows(server)))
            got = 0
            while data := client.recv(1 << 16):  # SSLEOFError if it were cut off
                got += len(data)
            assert got == (8 << 20) + 1


def test_a_drain_lets_answers_out(authority: Authority) -> None:
    handler = """
import asyncio
async def on_message(connection, data):
    print("asked", flush=True)
    await asyncio.sleep(0.3)
    connection.send("answer")
"""
    with running_server("app", files={"app.py": handler}, tls=tls(authority.issue())) as server:
        with connect(server, authority.client()) as client:
            client.sendall(b"question\n")
            server.wait_for("asked")
            os.kill(server.pid, signal.SIGTERM)
            assert read_line(client) == b"answer"
            assert client.recv(1) == b""
            client.unwrap().close()
        assert server.wait() == 0


def test_a_fast_stop_does_not_wait_for_handshakes(authority: Authority) -> None:
    settings = {"handshake": "60s", "stop": "60s"}
    with running_server("apps.echo", tls=tls(authority.issue()), timeouts=settings) as server:
        with server.connect() as half_open:
            wait_until("a connection", lambda: _is_taken(server))
            assert server.stop(signal.SIGINT) == 0
            assert select.select([half_open], [], [], PATIENCE)[0]


def _is_taken(server: RunningServer) -> bool:
    """The child has a socket of the client's, of which it tells nobody yet."""
    (process,) = server.status()["processes"]
    names = [os.readlink(f"/proc/{process['pid']}/fd/{fd}") for fd in os.listdir(f"/proc/{process['pid']}/fd")]
    return sum(name.startswith("socket:") for name in names) >= 3


def test_a_request_and_its_session_know_that_they_are_encrypted(authority: Authority) -> None:
    handler = """
def on_message(connection, request):
    request.session["visits"] = 1
    connection.send({"secure": request.is_secure})
"""
    with running_server(
        "web",
        files={"web.py": handler},
        listen=["https://127.0.0.1:0", "http://127.0.0.1:0"],
        tls=tls(authority.issue()),
    ) as server:
        answers = []
        for context, which in ((authority.client(), 0), (None, 1)):
            address = ("127.0.0.1", int(server.addresses["main"][which][1]))
            plain = socket.create_connection(address, PATIENCE)
            with context.wrap_socket(plain, server_hostname="localhost") if context is not None else plain as client:
                client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                answers.append(client.makefile("rb").read())
    assert b'{"secure":true}' in answers[0] and b"; Secure" in answers[0]
    assert b'{"secure":false}' in answers[1] and b"; Secure" not in answers[1]
