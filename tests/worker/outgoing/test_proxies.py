"""Through proxies: the steps without I/O, those of Debian, and one that stalls or hangs up at each step."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import wait_until
from tests.worker.outgoing.conftest import ClientScene, playing
from workermand.errors import ConnectError
from workermand.worker.outgoing import proxies
from workermand.worker.outgoing.target import Proxy

HTTP = Proxy("http", "proxy", 3128)
HTTP_USER = Proxy("http", "proxy", 3128, "user", "pass:word")
SOCKS = Proxy("socks5", "proxy", 1080)
SOCKS_USER = Proxy("socks5", "proxy", 1080, "user", "password")
BOUND = b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00"


def converse(steps: proxies.Steps, answer: bytes) -> tuple[bytes, bytes]:
    """What was sent, and what of ``answer`` was not read."""
    sent = b""
    wish = next(steps)
    with contextlib.suppress(StopIteration):
        while True:
            if isinstance(wish, bytes):
                sent += wish
                wish = next(steps)
                continue
            size = answer.index(b"\r\n\r\n") + 4 if wish is proxies.HEAD else wish
            taken, answer = answer[:size], answer[size:]
            wish = steps.send(taken)
    return sent, answer


# ---------------------------------------------------------------------------------------------------- without I/O


def test_connect() -> None:
    sent, rest = converse(
        proxies.steps(HTTP, "::1", 443), b"HTTP/1.1 200 Connection established\r\nX: 1\r\n\r\nSSH-2.0"
    )
    assert sent == b"CONNECT [::1]:443 HTTP/1.1\r\nHost: [::1]:443\r\n\r\n"
    assert rest == b"SSH-2.0"


def test_connect_with_authorization_and_an_interim_answer() -> None:
    answer = b"HTTP/1.1 103 Early\r\n\r\nHTTP/1.0 200 OK\r\n\r\n"
    sent, rest = converse(proxies.steps(HTTP_USER, "example.com", 80), answer)
    assert b"Proxy-Authorization: Basic dXNlcjpwYXNzOndvcmQ=\r\n" in sent
    assert not rest


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "it refuses: 407 Proxy Authentication Required"),
        (b"HTTP/1.1 302 Found\r\n\r\n", "it refuses: 302"),
        (b"hello\r\n\r\n", "no answer in HTTP"),
    ],
)
def test_connect_refused(answer: bytes, complaint: str) -> None:
    with pytest.raises(ConnectError, match=complaint):
        converse(proxies.steps(HTTP, "a", 1), answer)


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("example.com", b"\x03\x0bexample.com"),
        ("192.0.2.1", b"\x01\xc0\x00\x02\x01"),
        ("2001:db8::1", b"\x04\x20\x01\x0d\xb8" + bytes(11) + b"\x01"),
    ],
)
def test_socks_leaves_names_to_the_proxy(host: str, address: bytes) -> None:
    sent, rest = converse(proxies.steps(SOCKS, host, 443), b"\x05\x00" + BOUND + b"SSH")
    assert sent == b"\x05\x01\x00" + b"\x05\x01\x00" + address + b"\x01\xbb"
    assert rest == b"SSH"


@pytest.mark.parametrize("bound", [b"\x01" + bytes(4), b"\x04" + bytes(16), b"\x03\x04host"])
def test_socks_bound_addresses(bound: bytes) -> None:
    _sent, rest = converse(proxies.steps(SOCKS, "a", 1), b"\x05\x00\x05\x00\x00" + bound + b"\x00\x50SSH")
    assert rest == b"SSH"


def test_socks_with_a_user() -> None:
    sent, _rest = converse(proxies.steps(SOCKS_USER, "a", 1), b"\x05\x02\x01\x00" + BOUND)
    assert sent.startswith(b"\x05\x02\x00\x02\x01\x04user\x08password\x05\x01\x00")


@pytest.mark.parametrize(
    ("proxy", "answer", "complaint"),
    [
        (SOCKS, b"HT", "does not speak SOCKS5"),
        (SOCKS, b"\x05\xff", "wants a user"),
        (SOCKS_USER, b"\x05\xff", "takes no way"),
        (SOCKS, b"\x05\x02", "not offered"),
        (SOCKS_USER, b"\x05\x01", "not offered"),
        (SOCKS_USER, b"\x05\x02\x01\x01", "refuses the user"),
        (SOCKS, b"\x05\x00\x04\x00\x00\x01", "does not speak SOCKS5"),
        (SOCKS, b"\x05\x00\x05\x05\x00\x01", "it refuses: connection refused"),
        (SOCKS, b"\x05\x00\x05\x63\x00\x01", "it refuses: error 99"),
        (SOCKS, b"\x05\x00\x05\x00\x00\x09", "address of type 9"),
    ],
)
def test_socks_refused(proxy: Proxy, answer: bytes, complaint: str) -> None:
    with pytest.raises(ConnectError, match=complaint):
        converse(proxies.steps(proxy, "a", 1), answer)


# ---------------------------------------------------------------------------------------------------- at every step

SOCKS_STEPS = [(3, b"\x05\x00"), (10, BOUND)]
HTTP_STEPS = [(1, b"HTTP/1.1 200 "), (0, b"OK\r\n\r\n")]


@pytest.mark.parametrize("scheme", ["http", "socks5"])
@pytest.mark.parametrize("step", [0, 1])
@pytest.mark.parametrize("how", ["stalls", "hangs up", "byte by byte"])
def test_a_proxy_that(scene: ClientScene, scheme: str, step: int, how: str) -> None:
    """``step`` answers are good; a loop that was held up would not get to the deadline."""

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers = SOCKS_STEPS if scheme == "socks5" else HTTP_STEPS
        for size, answer in answers if how == "byte by byte" else answers[:step]:
            await reader.readexactly(size)
            for at in range(len(answer)):
                writer.write(answer[at : at + 1])
                await asyncio.sleep(0)
        if how == "byte by byte":
            writer.write(b"the server speaks first\n")
        if how != "hangs up":
            await reader.read()
            await asyncio.sleep(1000)

    async def play() -> None:
        async with playing(proxy) as port:
            via = f"{scheme}://127.0.0.1:{port}"
            client = scene.client("text://127.0.0.1:1111", proxy=via, timeout=5 if how == "byte by byte" else 0.2)
            if how == "byte by byte":
                await client.connect()
                await scene.see(["on_connect", "the server speaks first"])
                client.destroy()
                return
            why = "no answer within" if how == "stalls" else "closed the connection|Connection reset"
            with pytest.raises(ConnectError, match=rf"proxy {via}: .*({why})"):
                await client.connect()

    scene.run(play())
    scene.until(lambda: not scene.worker.outgoing)


def test_an_endless_answer(scene: ClientScene) -> None:
    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n" + b"X: 1\r\n" * 100_000)
        await reader.read()

    async def play() -> None:
        async with playing(proxy) as port:
            with pytest.raises(ConnectError, match="more than"):
                await scene.client("tcp://a:1", proxy=f"http://127.0.0.1:{port}").connect()

    scene.run(play())


# ---------------------------------------------------------------------------------------------------- real ones


class RealProxies:
    """Those of Debian, on ports of their own."""

    def __init__(self, directory: Path, free_port: Callable[[], int]) -> None:
        self._directory = directory
        self._free_port = free_port
        self._processes: list[subprocess.Popen[bytes]] = []

    def microsocks(self, *arguments: str) -> int:
        port = self._free_port()
        return self._start(port, "microsocks", "-i", "127.0.0.1", "-p", str(port), *arguments)

    def tinyproxy(self, *lines: str) -> int:
        port = self._free_port()
        file = self._directory / "tinyproxy.conf"
        log = self._directory / "tinyproxy.log"
        file.write_text("\n".join([f"Port {port}", "Listen 127.0.0.1", f'LogFile "{log}"', *lines, ""]))
        return self._start(port, "tinyproxy", "-d", "-c", str(file))

    def dante(self) -> int:
        port = self._free_port()
        file = self._directory / "danted.conf"
        rules = "{ from: 0/0 to: 0/0 }"
        file.write_text(
            f"internal: 127.0.0.1 port = {port}\nexternal: lo\nsocksmethod: none\nclientmethod: none\n"
            f"logoutput: {self._directory}/danted.log\nuser.privileged: root\nuser.unprivileged: nobody\n"
            f"client pass {rules}\nsocks block {{ from: 0/0 to: 127.0.0.9/32 }}\nsocks pass {rules}\n"
        )
        return self._start(port, "danted", "-f", str(file), "-p", str(self._directory / "danted.pid"))

    def _start(self, port: int, *command: str) -> int:
        if shutil.which(command[0]) is None:
            pytest.skip(f"there is no {command[0]} here")
        self._processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        wait_until(f"{command[0]} listens", lambda: socket.create_connection(("127.0.0.1", port)).close() or True)
        return port

    def close(self) -> None:
        for process in self._processes:
            process.terminate()
            process.wait(10)


@pytest.fixture
def real(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[RealProxies]:
    made = RealProxies(tmp_path, free_port)
    yield made
    made.close()


async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The server speaks first, as MariaDB and SSH do."""
    writer.write(b"welcome\n")
    while line := await reader.readline():
        writer.write(line)


def talk_through(scene: ClientScene, proxy: str, **options: Any) -> None:
    async def play() -> None:
        async with playing(greet, **options) as port:
            host = {"::1": "[::1]"}.get(options.get("host", ""), "localhost")
            client = scene.client(f"text://{host}:{port}", proxy=proxy)
            client.send("hello")
            await client.connect()
            await scene.see(["on_connect", "welcome", "hello"])
            client.destroy()

    scene.run(play())


@pytest.mark.real
def test_microsocks(scene: ClientScene, real: RealProxies) -> None:
    talk_through(scene, f"socks5://127.0.0.1:{real.microsocks()}")


@pytest.mark.real
def test_microsocks_over_ipv6(scene: ClientScene, real: RealProxies) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("there is no IPv6 here")
    talk_through(scene, f"socks5://127.0.0.1:{real.microsocks()}", host="::1")


@pytest.mark.real
def test_microsocks_with_a_user(scene: ClientScene, real: RealProxies, free_port: Callable[[], int]) -> None:
    port = real.microsocks("-u", "user", "-P", "p@ss")
    talk_through(scene, f"socks5://user:p%40ss@127.0.0.1:{port}")
    for credentials, complaint in (("", "wants a user"), ("user:wrong@", "refuses the user")):
        with pytest.raises(ConnectError, match=complaint):
            scene.run(awaited(scene.client("tcp://127.0.0.1:1", proxy=f"socks5://{credentials}127.0.0.1:{port}")))
    uri = f"tcp://127.0.0.1:{free_port()}"
    with pytest.raises(ConnectError, match="it refuses: connection refused"):
        scene.run(awaited(scene.client(uri, proxy=f"socks5://user:p%40ss@127.0.0.1:{port}")))


@pytest.mark.real
def test_dante(scene: ClientScene, real: RealProxies) -> None:
    port = real.dante()
    talk_through(scene, f"socks5://127.0.0.1:{port}")
    with pytest.raises(ConnectError, match="it refuses: not allowed by its rules"):
        scene.run(awaited(scene.client("tcp://127.0.0.9:1", proxy=f"socks5://127.0.0.1:{port}")))


@pytest.mark.real
def test_tinyproxy(scene: ClientScene, real: RealProxies, free_port: Callable[[], int]) -> None:
    port = real.tinyproxy("BasicAuth user secret")
    talk_through(scene, f"http://user:secret@127.0.0.1:{port}")
    with pytest.raises(ConnectError, match="it refuses: 407"):
        scene.run(awaited(scene.client("tcp://127.0.0.1:1", proxy=f"http://127.0.0.1:{port}")))
    uri = f"tcp://127.0.0.1:{free_port()}"
    with pytest.raises(ConnectError, match="it refuses: 50"):
        scene.run(awaited(scene.client(uri, proxy=f"http://user:secret@127.0.0.1:{port}")))


async def awaited(client: Any) -> None:
    await client.connect()
