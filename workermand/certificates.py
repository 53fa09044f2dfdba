"""The files that `tls` names: read, and looked at without OpenSSL.

The master reads them while it still may, at the start and at every reload, and hands them to its children: the key of
a server is root's, and its worker is not root. Whether a key fits its certificate only OpenSSL can tell, in a child;
when a certificate expires stands at a fixed place in it.
"""

from __future__ import annotations

import base64
import datetime
import os
import re
import stat
import time
from collections.abc import Iterator

from workermand.errors import ConfigError
from workermand.spec import TlsSpec

Files = dict[str, bytes]
"""Path -> content."""

SOON = 14
"""Days before a certificate expires, from which on it is said. A renewal a month before has failed by then."""
LARGEST = 1024 * 1024
"""Bytes: what is larger is something else; all the authorities of Debian are 220 KB."""
DAY = 86_400
CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----\s+([A-Za-z0-9+/=\s]+?)-----END CERTIFICATE-----")
PRIVATE = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----")


def read(where: str, tls: TlsSpec) -> Files:
    """All files of ``tls``. ``where`` is its place, "worker.chat.tls". Raises ConfigError for one that cannot be read,
    is no PEM, or is a private key that everybody may read."""
    files: Files = {}
    for key, path, holds_key in _named(tls):
        at = f"{where}.{key}"
        content, mode = _content(at, path)
        if key.endswith(("cert", "ca")) and not CERTIFICATE.search(content):
            raise ConfigError(at, f"{path} holds no certificate", "expected a PEM file: -----BEGIN CERTIFICATE-----")
        if holds_key and not PRIVATE.search(content):
            hint = "name the key's file with `key`" if key.endswith("cert") else "expected a PEM file"
            raise ConfigError(at, f"{path} holds no private key", hint)
        if PRIVATE.search(content) and mode & stat.S_IROTH:
            raise ConfigError(at, f"{path} holds a private key that everybody may read", f"chmod o= {path}")
        files[path] = content
    return files


def _named(tls: TlsSpec) -> Iterator[tuple[str, str, bool]]:
    """(key in the TOML, path, whether a private key must be in it)."""
    for host, pair in tls.pairs.items():
        prefix = f"sni.{host}." if host else ""
        yield f"{prefix}cert", pair.cert, pair.key is None
        if pair.key is not None:
            yield f"{prefix}key", pair.key, True
    if tls.ca is not None:
        yield "ca", tls.ca, False


def _content(where: str, path: str) -> tuple[bytes, int]:
    """And its mode."""
    try:
        with open(path, "rb") as file:
            content, mode = file.read(LARGEST + 1), os.fstat(file.fileno()).st_mode
    except OSError as error:
        hint = "make it readable for whom the daemon runs as" if isinstance(error, PermissionError) else "name another"
        raise ConfigError(where, f"cannot read {path}: {error.strerror}", hint) from error
    if len(content) > LARGEST:
        raise ConfigError(where, f"{path} is no PEM file: it has more than {LARGEST} bytes", "name another")
    return content, mode


# ---------------------------------------------------------------------- when they expire


def expires(tls: TlsSpec, files: Files) -> tuple[float, str]:
    """When the first one of the servers' certificates expires (Unix time), its chain included, and in which file."""
    found = [(until, pair.cert) for pair in tls.pairs.values() for until in not_after(files[pair.cert])]
    return min(found, default=(float("inf"), ""))


def warning(until: float, file: str, now: float | None = None) -> str:
    """A sentence for the operator, or ""."""
    left = until - (time.time() if now is None else now)
    if left < 0:
        return f"the certificate {file} has expired"
    if left < SOON * DAY:
        days = int(left / DAY)
        return f"the certificate {file} expires {f'in {days} days' if days > 1 else 'within two days'}"
    return ""


def not_after(pem: bytes) -> list[float]:
    """Of every certificate in it, as Unix time; of one that is malformed nothing: OpenSSL will say so."""
    found = []
    for match in CERTIFICATE.finditer(pem):
        try:
            found.append(_not_after(base64.b64decode(match[1])))
        except (ValueError, IndexError):
            continue
    return found


def _not_after(der: bytes) -> float:
    """RFC 5280 4.1: Certificate, TBSCertificate: [0] version, serialNumber, signature, issuer, validity."""
    body = _elements(_elements(der)[0][1])[0][1]
    fields = [field for tag, field in _elements(body) if tag != 0xA0]
    _not_before, (tag, moment) = _elements(fields[3])
    text = moment.decode("ascii")
    if tag == 0x17:  # UTCTime: two digits of the year, 50 to 99 are the last century's
        text = f"{'19' if text[0] >= '5' else '20'}{text}"
    return datetime.datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=datetime.UTC).timestamp()


def _elements(der: bytes) -> list[tuple[int, bytes]]:
    """The (tag, content) of each element."""
    found = []
    at = 0
    while at < len(der):
        tag, length = der[at], der[at + 1]
        at += 2
        if length & 0x80:
            size = length & 0x7F
            length = int.from_bytes(der[at : at + size], "big")
            at += size
        found.append((tag, der[at : at + length]))
        at += length
    return found
