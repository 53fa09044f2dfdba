"""TLS settings and files become what OpenSSL works with: a context for each kind of listener.

The files come from the master, as bytes: this process, a user of its own by now, could not read them. OpenSSL's Python
face reads keys from files only, so that each goes through a memfd of ours. A reload that the process survives brings
new ones; who is connected keeps what he was shown.
"""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Iterator
from typing import Any

import msgspec

from workermand.errors import LoadError
from workermand.spec import TlsSpec

HTTP = ("http", "websocket")
"""Protocols whose clients ask for "http/1.1"."""
LARGEST = 64 * 1024 * 1024
VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}

Files = dict[str, bytes]


class Keyring:
    """The contexts of one process, made when they are asked for. Process: the child."""

    def __init__(self, tls: TlsSpec, files: Files) -> None:
        """Raises LoadError for what OpenSSL does not take: a wrong key, a broken chain, a wrong password."""
        self._tls = tls
        self._files = files
        self._contexts: dict[tuple[str, ...], ssl.SSLContext] = {}
        self.context("")

    def context(self, protocol: str) -> ssl.SSLContext:
        """For the next client of a listener that speaks ``protocol``."""
        alpn = self._tls.alpn
        if alpn is None:
            alpn = ("http/1.1",) if protocol in HTTP else ()
        context = self._contexts.get(alpn)
        if context is None:
            context = self._contexts[alpn] = make(self._tls, self._files, alpn)
        return context


def receive(fd: int) -> Files:
    """What the master has sent; closes ``fd``."""
    try:
        content = os.pread(fd, LARGEST, 0)
    finally:
        os.close(fd)
    return msgspec.msgpack.decode(content, type=Files)


def make(tls: TlsSpec, files: Files, alpn: tuple[str, ...] = ()) -> ssl.SSLContext:
    """The context for clients that ask for no host name, or for one that is not in ``sni``. Raises LoadError."""
    contexts = {host.lower(): _one(tls, files, host, alpn) for host in tls.pairs}
    first = contexts.pop("")
    if contexts:

        def choose(connection: Any, host: str | None, _context: ssl.SSLContext) -> None:
            if (found := _find(contexts, (host or "").lower())) is not None:
                connection.context = found

        first.sni_callback = choose
    return first


def _find(contexts: dict[str, ssl.SSLContext], host: str) -> ssl.SSLContext | None:
    return contexts.get(host) or contexts.get(f"*.{host.partition('.')[2]}")


def _one(tls: TlsSpec, files: Files, host: str, alpn: tuple[str, ...]) -> ssl.SSLContext:
    """Each host's is whole: to switch to another context switches certificates, authorities and ALPN."""
    pair = tls.pairs[host]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = VERSIONS[tls.min_version]
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    if alpn:
        context.set_alpn_protocols(list(alpn))
    try:
        with _as_file(files[pair.cert]) as cert, _as_file(files[pair.key or pair.cert]) as key:
            # An empty password, for without one OpenSSL asks the terminal.
            context.load_cert_chain(cert, key, tls.password or "")
        if tls.ca is not None:
            context.load_verify_locations(cadata=files[tls.ca].decode("ascii", errors="ignore"))
    except (ssl.SSLError, OSError, ValueError) as error:
        raise LoadError(_complaint(tls, files, host, error)) from error
    if tls.verify_client:
        context.verify_mode = ssl.CERT_OPTIONAL if tls.verify_client == "optional" else ssl.CERT_REQUIRED
    return context


def _complaint(tls: TlsSpec, files: Files, host: str, error: Exception) -> str:
    """OpenSSL says "PEM lib" to nearly everything."""
    pair = tls.pairs[host]
    what = str(error)
    if getattr(error, "reason", "") == "KEY_VALUES_MISMATCH":
        what = "the key is of another certificate; name the two that were made together"
    elif b"ENCRYPTED" in files[pair.key or pair.cert]:
        what = "the key has a password; " + ("set tls.password" if tls.password is None else "tls.password is another")
    return f"tls: {pair.cert if pair.key is None else f'{pair.cert} and {pair.key}'}: {what}"


@contextlib.contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """A name under which only this process can open it."""
    fd = os.memfd_create("workermand-tls", os.MFD_CLOEXEC)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(content)
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)
