"""The files of `tls`: what is refused, and when a certificate expires, against OpenSSL's own opinion."""

from __future__ import annotations

import datetime
import time
from pathlib import Path

import pytest
from cryptography import x509

from tests.certs import Authority
from workermand import certificates
from workermand.errors import ConfigError
from workermand.spec import KeyPair, TlsSpec

DAY = certificates.DAY


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def settings(pair: tuple[Path, Path], **more: object) -> TlsSpec:
    cert, key = map(str, pair)
    return TlsSpec(cert=cert, key=None if key == cert else key, **more)  # type: ignore[arg-type]


def complaint(tls: TlsSpec) -> str:
    with pytest.raises(ConfigError) as refused:
        certificates.read("worker.x.tls", tls)
    return str(refused.value)


def test_all_files_are_read_whoever_names_them(authority: Authority) -> None:
    first, other = authority.issue(), authority.issue("b.example", name="b", whole=True)
    tls = settings(first, sni={"b.example": KeyPair(cert=str(other[0]))}, ca=str(authority.file))
    files = certificates.read("worker.x.tls", tls)
    assert files == {str(path): path.read_bytes() for path in (*first, other[0], authority.file)}


def test_a_file_that_is_not_there(authority: Authority) -> None:
    cert, _key = authority.issue()
    tls = TlsSpec(cert=str(cert), key="/nowhere.key")
    assert complaint(tls) == "worker.x.tls.key: cannot read /nowhere.key: No such file or directory; name another"


def test_a_file_that_is_something_else(authority: Authority) -> None:
    cert, key = authority.issue()
    huge = authority.directory / "huge"
    huge.write_bytes(bytes(certificates.LARGEST + 1))
    by_host = settings((cert, key), sni={"a.b": KeyPair(cert=str(key))})
    assert f"tls.sni.a.b.cert: {key} holds no certificate; expected" in complaint(by_host)
    assert "tls.ca: " in complaint(settings((cert, key), ca=str(key)))
    no_key = f"{cert} holds no private key"
    assert f"tls.cert: {no_key}; name the key's file with `key`" in complaint(TlsSpec(cert=str(cert)))
    assert f"tls.key: {no_key}; expected a PEM file" in complaint(TlsSpec(cert=str(cert), key=str(cert)))
    assert "tls.cert: " in complaint(TlsSpec(cert=str(huge))) and "more than" in complaint(TlsSpec(cert=str(huge)))


@pytest.mark.parametrize("whole", [False, True])
def test_a_key_that_everybody_may_read(authority: Authority, whole: bool) -> None:
    cert, key = authority.issue(whole=whole)
    key.chmod(0o644)
    said = complaint(settings((cert, key)))
    assert said.endswith(f"{key} holds a private key that everybody may read; chmod o= {key}")
    key.chmod(0o640)
    assert certificates.read("worker.x.tls", settings((cert, key)))


def test_when_certificates_expire(authority: Authority) -> None:
    """The date as `cryptography` reads it, for UTCTime and, from 2050 on, GeneralizedTime; of the chain the first."""
    for days in (3, 365 * 40):
        cert, _key = authority.issue(days=days, name=f"c{days}")
        parsed = x509.load_pem_x509_certificates(cert.read_bytes())
        expected = [one.not_valid_after_utc.timestamp() for one in parsed]
        assert certificates.not_after(cert.read_bytes()) == expected
    near, far = authority.issue(days=3, name="near"), authority.issue(days=300, name="far")
    tls = settings(far, sni={"x": KeyPair(cert=str(near[0]), key=str(near[1]))})
    until, file = certificates.expires(tls, certificates.read("", tls))
    assert file == str(near[0]) and abs(until - time.time() - 3 * DAY) < 60


def test_a_malformed_certificate_is_left_to_openssl() -> None:
    broken = b"-----BEGIN CERTIFICATE-----\n%s\n-----END CERTIFICATE-----\n"
    for body in (b"AAAA", b"MIIB", b"MAA=", b"A"):
        assert certificates.not_after(broken % body) == []
    assert certificates.expires(TlsSpec(cert="x"), {"x": b""}) == (float("inf"), "")


def test_the_last_centurys_dates() -> None:
    """RFC 5280 4.1.2.5.1: YY of 50 and above is 19YY."""
    time_ = bytes([0x17, 13]) + b"991231235959Z"
    validity = bytes([0x30, 2 * len(time_)]) + 2 * time_
    body = bytes([0x02, 1, 1, 0x30, 0, 0x30, 0]) + validity
    inner = bytes([0x30, len(body)]) + body
    moment = certificates._not_after(bytes([0x30, len(inner)]) + inner)
    assert moment == datetime.datetime(1999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC).timestamp()


@pytest.mark.parametrize(
    ("days", "words"),
    [
        (-1, "the certificate c.pem has expired"),
        (0.5, "the certificate c.pem expires within two days"),
        (13.5, "the certificate c.pem expires in 13 days"),
        (14.5, ""),
    ],
)
def test_what_the_operator_is_told(days: float, words: str) -> None:
    assert certificates.warning(1000 + days * DAY, "c.pem", 1000) == words
