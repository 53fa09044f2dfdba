"""A browser of a test's own: headless Chromium, which opens one page. What the page logs is what the test hears."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import re
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

PATIENCE = 90.0
"""Seconds: a browser takes its time to start."""
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
    "--no-default-browser-check", "--no-proxy-server", "--enable-logging=stderr",
)  # fmt: skip
_LOGGED = re.compile(rb'CONSOLE[^"]*"(?P<said>.*)", source: ')


class Browser:
    """What ``open_page`` gives."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._read = b""

    def hears(self) -> Any:
        """The next line of the page's console, which is JSON. AssertionError when none comes."""
        assert self._process.stderr is not None
        deadline = time.monotonic() + PATIENCE
        while True:
            for line in self._lines():
                if found := _LOGGED.search(line):
                    return json.loads(found["said"])
            readable, _, _ = select.select([self._process.stderr], [], [], deadline - time.monotonic())
            piece = os.read(self._process.stderr.fileno(), 65536) if readable else b""
            assert piece, f"the page says nothing; the browser: {self._read.decode(errors='replace')}"
            self._read += piece

    def _lines(self) -> Iterator[bytes]:
        while b"\n" in self._read:
            line, self._read = self._read.split(b"\n", 1)
            yield line


@contextlib.contextmanager
def open_page(url: str, profile: Path, certificate: Path | None = None) -> Iterator[Browser]:
    """``profile``: a directory for its files; ``certificate``: believed, whoever has signed it."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("Debian's chromium is not installed")
    trust = [f"--ignore-certificate-errors-spki-list={_fingerprint(certificate)}"] if certificate else []
    process = subprocess.Popen(
        [program, *QUIET, f"--user-data-dir={profile}", *trust, url],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        env={**os.environ, "HOME": str(profile)},
        start_new_session=True,  # its processes end together
    )  # fmt: skip
    try:
        yield Browser(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def _fingerprint(certificate: Path) -> str:
    key = x509.load_pem_x509_certificate(certificate.read_bytes()).public_key()
    info = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(hashlib.sha256(info).digest()).decode()
