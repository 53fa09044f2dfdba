"""Contexts made of settings and files, tried in handshakes that stay in memory."""

from __future__ import annotations

import contextlib
import os
import ssl
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization

from tests.certs import Authority
from workermand import certificates
from workermand.errors import LoadError
from workermand.spec import KeyPair, TlsSpec
from workermand.worker import tls
from workermand.worker.tls import Keyring


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def settings(pair: tuple[Path, Path], **more: Any) -> TlsSpec:
    cert, key = map(str, pair)
    return TlsSpec(cert=cert, key=None if key == cert else key, **more)


def keyring(spec: TlsSpec) -> Keyring:
    return Keyring(spec, certificates.read("tls", spec))


def shake_hands(
    server: ssl.SSLContext, client: ssl.SSLContext, host: str = "localhost", session: ssl.SSLSession | None = None
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """(server's end, client's end), when both are content."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = server.wrap_bio(to_server, to_client, server_side=True)
    theirs = client.wrap_bio(to_client, to_server, server_hostname=host, session=session)
    for _ in range(3):
        for end in (theirs, ours):
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
    assert ours.version() and theirs.version()
    return ours, theirs


def subject_names(end: ssl.SSLObject) -> list[str]:
    certificate: Any = end.getpeercert()
    return [name for _kind, name in certificate["subjectAltName"]]


@pytest.mark.parametrize("whole", [False, True])
def test_a_certificate_and_its_key(authority: Authority, whole: bool) -> None:
    ring = keyring(settings(authority.issue("localhost", whole=whole)))
    ours, theirs = shake_hands(ring.context("text"), authority.client())
    assert ours.version() == "TLSv1.3" and subject_names(theirs) == ["localhost"]
    assert ours.compression() is None
    assert ring.context("text") is ring.context("raw")


def test_the_host_asked_for_decides(authority: Authority) -> None:
    first = authority.issue("localhost")
    exact = authority.issue("a.example", name="a")
    wild = authority.issue("*.b.example", name="b", whole=True)
    sni = {"A.example": KeyPair(cert=str(exact[0]), key=str(exact[1])), "*.b.example": KeyPair(cert=str(wild[0]))}
    context = keyring(settings(first, sni=sni, alpn=("x",))).context("text")
    client = authority.client()
    client.set_alpn_protocols(["x"])
    for host, names in (("a.example", ["a.example"]), ("any.b.example", ["*.b.example"]), ("localhost", ["localhost"])):
        _ours, theirs = shake_hands(context, client, host)
        assert subject_names(theirs) == names and theirs.selected_alpn_protocol() == "x"
    client.check_hostname = False
    _ours, theirs = shake_hands(context, client, "b.example")
    assert subject_names(theirs) == ["localhost"]


def test_alpn(authority: Authority) -> None:
    pair = authority.issue()
    client = authority.client()
    client.set_alpn_protocols(["h2", "http/1.1"])
    ring = keyring(settings(pair))
    for protocol, chosen in (("http", "http/1.1"), ("websocket", "http/1.1"), ("text", None)):
        assert shake_hands(ring.context(protocol), client)[1].selected_alpn_protocol() == chosen
    mine = keyring(settings(pair, alpn=("mine", "h2")))
    assert shake_hands(mine.context("http"), client)[1].selected_alpn_protocol() == "h2"
    client.set_alpn_protocols(["other"])
    assert shake_hands(mine.context("http"), client)[1].selected_alpn_protocol() is None


def test_versions(authority: Authority) -> None:
    pair = authority.issue()
    old, older = authority.client(), authority.client()
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        older.minimum_version = older.maximum_version = ssl.TLSVersion.TLSv1_1
    older.set_ciphers("DEFAULT:@SECLEVEL=0")
    ring = keyring(settings(pair))
    assert shake_hands(ring.context("text"), old)[0].version() == "TLSv1.2"
    with pytest.raises(ssl.SSLError):
        shake_hands(ring.context("text"), older)
    with pytest.raises(ssl.SSLError):
        shake_hands(keyring(settings(pair, min_version="1.3")).context("text"), old)


def test_client_certificates(authority: Authority, tmp_path: Path) -> None:
    pair = authority.issue()
    who = authority.issue("alice@example.com", name="alice", common_name="Alice")
    ca = str(authority.file)
    authority.file.write_bytes("# Autorität\n".encode() + authority.file.read_bytes())
    asks = {wanted: keyring(settings(pair, ca=ca, verify_client=wanted)) for wanted in (True, "optional")}
    for ring in asks.values():
        ours, _theirs = shake_hands(ring.context("text"), authority.client(who))
        assert ("commonName", "Alice") in [entry[0] for entry in ours.getpeercert()["subject"]]  # type: ignore[index]
    assert shake_hands(asks["optional"].context("text"), authority.client())[0].getpeercert() is None
    with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
        shake_hands(asks[True].context("text"), authority.client())
    (tmp_path / "others").mkdir()
    stranger = Authority(tmp_path / "others").issue("alice@example.com", name="alice")
    with pytest.raises(ssl.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
        shake_hands(asks["optional"].context("text"), authority.client(stranger))


def test_a_key_with_a_password(authority: Authority) -> None:
    cert, key = authority.issue()
    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    key.write_bytes(
        loaded.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    assert shake_hands(keyring(settings((cert, key), password="secret")).context("text"), authority.client())
    for password in (None, "other"):
        with pytest.raises(LoadError) as refused:
            keyring(settings((cert, key), password=password))
        remedy = "set tls.password" if password is None else "tls.password is another"
        assert str(refused.value) == f"tls: {cert} and {key}: the key has a password; {remedy}"


def test_a_key_of_another_certificate(authority: Authority) -> None:
    cert, _key = authority.issue(name="one")
    _cert, key = authority.issue(name="two")
    with pytest.raises(LoadError, match=r"one.pem and .*two.key: the key is of another certificate"):
        keyring(settings((cert, key)))


def test_what_is_no_certificate_in_the_middle(authority: Authority) -> None:
    cert, key = authority.issue()
    cert.write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    with pytest.raises(LoadError, match=r"tls: .*server.pem and .*server.key: "):
        keyring(settings((cert, key)))


def test_the_masters_descriptor(authority: Authority) -> None:
    fd = os.memfd_create("x")
    os.write(fd, msgspec.msgpack.encode({"a": b"b"}))
    assert tls.receive(fd) == {"a": b"b"}
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)


def test_nothing_stays_open(authority: Authority) -> None:
    before = os.listdir("/proc/self/fd")
    keyring(settings(authority.issue()))
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_who_comes_back_has_a_ticket(authority: Authority) -> None:
    context, client = keyring(settings(authority.issue())).context("text"), authority.client()
    client.maximum_version = ssl.TLSVersion.TLSv1_2  # of 1.3 it comes after the handshake
    _ours, first = shake_hands(context, client)
    assert not first.session_reused and first.session is not None and first.session.has_ticket
    again, _theirs = shake_hands(context, client, session=first.session)
    assert again.session_reused
