"""Certificates of a test's own: an authority that clients believe, and what it has signed."""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path

import trustme


class Authority:
    """Files go into ``directory``, which a worker's user may not be able to read: that is the master's business."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._ca = trustme.CA()
        self.file = directory / "ca.pem"
        self._ca.cert_pem.write_to_path(str(self.file))

    def issue(
        self, *hosts: str, name: str = "server", days: float = 365, whole: bool = False, common_name: str | None = None
    ) -> tuple[Path, Path]:
        """(certificate and chain, key); ``whole``: both in the one file, which is both paths."""
        until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
        issued = self._ca.issue_cert(
            *(hosts or ("localhost", "127.0.0.1")),
            not_before=until - datetime.timedelta(days=400),
            not_after=until,
            common_name=common_name,
        )
        cert, key = self.directory / f"{name}.pem", self.directory / f"{name}.key"
        chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
        if whole:
            key = cert
            chain = issued.private_key_pem.bytes() + chain
        else:
            _write(key, issued.private_key_pem.bytes(), 0o600)
        _write(cert, chain, 0o600 if whole else 0o644)
        return cert, key

    def client(self, certificate: tuple[Path, Path] | None = None) -> ssl.SSLContext:
        """Believes this authority; shows ``certificate``."""
        context = ssl.create_default_context(cafile=str(self.file))
        if certificate is not None:
            context.load_cert_chain(*map(str, certificate))
        return context


def _write(path: Path, content: bytes, mode: int) -> None:
    """In the place of what was there: a renewal replaces files."""
    new = path.with_suffix(".new")
    new.write_bytes(content)
    new.chmod(mode)
    new.rename(path)
