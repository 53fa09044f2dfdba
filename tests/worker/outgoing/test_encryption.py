"""TLS of a client, against a real server of Python's own OpenSSL, and against a real daemon."""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import Any

import pytest

from tests.certs import Authority
from tests.worker.outgoing.conftest import ClientScene, echo, playing, silence
from workermand import ConfigError, ConnectError
from workermand.worker.outgoing.encryption import Encryption


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def server_context(authority: Authority, *hosts: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue(*hosts))
    return context


@pytest.mark.parametrize("scheme", ["tls", "ssl", "text", "wss"])
def test_it_talks(scene: ClientScene, authority: Authority, scheme: str) -> None:
    async def play() -> None:
        async with playing(echo, ssl=server_context(authority)) as port:
            tls = {"ca": str(authority.file)}
            client = scene.client(f"{scheme}://localhost:{port}", tls=tls, timeout=5)
            if scheme == "wss":  # the echo of our own request is no answer
                with pytest.raises(ConnectError, match="no answer in HTTP"):
                    await client.connect()
                return
            await client.connect()
            assert client.tls is not None and client.tls.version == "TLSv1.3"
            assert client.get_peer_certificate() and client.row().transport == "ssl"
            message: Any = "x" * 100_000 if scheme == "text" else b"x" * 1000
            client.send(message)
            await scene.see(["on_connect", message])
            client.close()

    scene.run(play())


def test_the_server_is_verified(scene: ClientScene, authority: Authority) -> None:
    async def play() -> None:
        async with playing(echo, ssl=server_context(authority, "other.example")) as port:
            with pytest.raises(ConnectError, match=r"TLS: the server's certificate is refused: .*issuer"):
                await scene.client(f"tls://localhost:{port}").connect()
            tls = {"ca": str(authority.file)}
            with pytest.raises(ConnectError, match="Hostname mismatch"):
                await scene.client(f"tls://localhost:{port}", tls=tls).connect()
            with pytest.raises(ConnectError, match="IP address mismatch"):
                await scene.client(f"tls://127.0.0.1:{port}", tls=tls).connect()
            right = scene.client(f"tls://127.0.0.1:{port}", tls={**tls, "server_name": "other.example"})
            await right.connect()
            right.close()

    scene.run(play())


def test_not_to_verify_is_said_aloud(
    scene: ClientScene, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    async def play() -> None:
        async with playing(echo, ssl=server_context(authority)) as port:
            client = scene.client(f"tls://127.0.0.1:{port}", tls={"verify": False})
            await client.connect()
            client.close()

    scene.run(play())
    assert "is not verified" in caplog.text


def test_sni_and_a_certificate_of_ours(scene: ClientScene, authority: Authority) -> None:
    context = server_context(authority)
    asked: list[str | None] = []
    context.sni_callback = lambda _tls, name, _context: asked.append(name)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(str(authority.file))
    cert, key = authority.issue("client.example", name="client")

    async def play() -> None:
        async with playing(echo, ssl=context) as port:
            tls = {"ca": str(authority.file), "cert": str(cert), "key": str(key)}
            client = scene.client(f"tls://localhost:{port}", tls=tls)
            await client.connect()
            client.send(b"x")
            await scene.see(["on_connect", b"x"])
            client.close()

    scene.run(play())
    assert asked == ["localhost"]


def test_a_context_of_the_users_own(scene: ClientScene, authority: Authority) -> None:
    async def play() -> None:
        async with playing(echo, ssl=server_context(authority)) as port:
            context = ssl.create_default_context(cafile=str(authority.file))
            client = scene.client(f"tcp://localhost:{port}", tls=context)
            await client.connect()
            client.close()

    scene.run(play())


def test_a_server_that_speaks_no_tls_and_one_that_is_silent(scene: ClientScene) -> None:
    async def babble(reader: Any, writer: Any) -> None:
        writer.write(b"220 hello\r\n")
        await reader.read()

    async def hang_up(reader: Any, writer: Any) -> None:
        await reader.read(1)

    async def play() -> None:
        async with playing(babble) as port:
            with pytest.raises(ConnectError, match=r"TLS: WRONG_VERSION_NUMBER|TLS: .*wrong version"):
                await scene.client(f"tls://localhost:{port}").connect()
        async with playing(hang_up) as port:
            with pytest.raises(ConnectError, match="TLS: "):
                await scene.client(f"tls://localhost:{port}").connect()
        async with playing(silence) as port:
            with pytest.raises(ConnectError, match=r"TLS: no answer within 0\.1 s"):
                await scene.client(f"tls://localhost:{port}", timeout=0.1).connect()

    scene.run(play())


def test_contexts_are_shared_until_a_file_changes(authority: Authority) -> None:
    settings = {"ca": str(authority.file)}
    first, second = (Encryption(settings, "tls://a", "a") for _ in range(2))
    assert first.context() is second.context()
    before = first.context()
    os.utime(authority.file, (1, 1))
    assert first.context() is not before
    assert Encryption(True, "tls://a", "a").context() is Encryption(True, "tls://b", "b").context()


@pytest.fixture
def wrong(authority: Authority) -> dict[str, dict[str, Any]]:
    cert, _key = authority.issue()
    _other, other_key = authority.issue(name="other")
    return {
        "did you mean": {"verfy": True},
        "there are": {"zzz": 1},
        "expected bool": {"verify": "no"},
        "min_version": {"min_version": "1.0"},
        "No such file": {"ca": "/nonexistent"},
        "MISMATCH": {"cert": str(cert), "key": str(other_key)},
    }


def test_settings_that_cannot_be_used(wrong: dict[str, dict[str, Any]]) -> None:
    for complaint, settings in wrong.items():
        with pytest.raises(ConfigError, match=complaint):
            Encryption(settings, "tls://a", "a")
