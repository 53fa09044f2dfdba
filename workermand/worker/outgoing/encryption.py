"""TLS of an outgoing connection: ``tls={...}`` -> ssl.SSLContext, and the client's side of a TlsStream.

The server's certificate is verified, and that it is the server's, unless ``verify`` is False. The files are read by
this process, with its user's rights, once for all connections; again when they have changed.
"""

from __future__ import annotations

import asyncio
import difflib
import functools
import logging
import os
import ssl
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from workermand.errors import ConfigError
from workermand.worker.tls_stream import TlsStream

if TYPE_CHECKING:
    from workermand.worker.outgoing.wire import ClientWire

logger = logging.getLogger(__name__)

KINDS: dict[str, type] = {
    "verify": bool,
    "ca": str,
    "cert": str,
    "key": str,
    "password": str,
    "server_name": str,
    "min_version": str,
}
"""verify: whether the server has to be who it says; ca: the PEM file of those who vouch for it, in the place of the
system's; cert, key, password: what we show (PEM files; the key may stand in the file of the certificate); server_name:
who it should be, if not the host of the URI; min_version: "1.2" or "1.3"."""
VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}

TlsSettings = Mapping[str, Any] | ssl.SSLContext | bool


class Encryption:
    """Of one AsyncTcpConnection. Files are read when it is made, and again, if they have changed, by each connect()."""

    def __init__(self, settings: TlsSettings, uri: str, host: str) -> None:
        """Raises ConfigError."""
        self._context: ssl.SSLContext | None = None
        self._settings: tuple[tuple[str, Any], ...] = ()
        self._uri = uri
        self.server_name = host
        if isinstance(settings, ssl.SSLContext):
            self._context = settings
        elif isinstance(settings, Mapping):
            _check(settings, uri)
            self.server_name = str(settings.get("server_name", host))
            self._settings = tuple(sorted((name, value) for name, value in settings.items() if name != "server_name"))
            if settings.get("verify") is False:
                logger.warning("%s: the server's certificate is not verified (tls verify = False)", uri)
        self.context()

    def context(self) -> ssl.SSLContext:
        """For the next connection. Raises ConfigError."""
        if self._context is not None:
            return self._context
        settings = dict(self._settings)
        try:
            times = tuple(os.stat(settings[name]).st_mtime_ns for name in ("ca", "cert", "key") if settings.get(name))
            return _make(self._settings, times)
        except (OSError, ValueError) as error:
            raise ConfigError(self._uri, f"tls: {_words(error, settings)}") from error


def _check(settings: Mapping[str, Any], uri: str) -> None:
    for name, value in settings.items():
        if name not in KINDS:
            near = difflib.get_close_matches(name, KINDS, 1)
            hint = f'did you mean "{near[0]}"?' if near else f"there are {', '.join(KINDS)}"
            raise ConfigError(uri, f"tls: unknown key {name!r}", hint)
        if not isinstance(value, KINDS[name]):
            raise ConfigError(uri, f"tls: {name} is {type(value).__name__}", f"expected {KINDS[name].__name__}")
    if settings.get("min_version", "1.2") not in VERSIONS:
        raise ConfigError(uri, f"tls: min_version {settings['min_version']!r}", 'expected "1.2" or "1.3"')


@functools.lru_cache(maxsize=64)
def _make(settings: tuple[tuple[str, Any], ...], _times: tuple[int, ...]) -> ssl.SSLContext:
    """Reading the system's authorities takes 15 ms."""
    given = dict(settings)
    context = ssl.create_default_context(cafile=given.get("ca"))
    context.minimum_version = VERSIONS[given.get("min_version", "1.2")]
    if given.get("verify") is False:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if "cert" in given:
        # An empty password, for without one OpenSSL asks the terminal.
        context.load_cert_chain(given["cert"], given.get("key"), given.get("password", ""))
    return context


def _words(error: Exception, settings: dict[str, Any]) -> str:
    if isinstance(error, ssl.SSLError):
        files = " and ".join(str(settings[name]) for name in ("ca", "cert", "key") if name in settings)
        return f"{files}: {error.reason or error}"
    return str(error)


class ClientStream(TlsStream):
    """Process: the child; thread: the one that runs the loop."""

    __slots__ = ("_tell",)

    wire: ClientWire

    def __init__(self, wire: ClientWire, encryption: Encryption, tell: Callable[[str], None]) -> None:
        """``tell`` gets the reason when the handshake fails; when it does not, the wire begins. Raises ConfigError."""
        super().__init__(wire, encryption.context(), None, encryption.server_name)
        self._tell = tell

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self._send = transport.write
        self.get_write_buffer_size = transport.get_write_buffer_size
        self.set_write_buffer_limits = transport.set_write_buffer_limits
        self._shake_hands()

    def connection_lost(self, error: Exception | None) -> None:
        if self._has_begun:
            super().connection_lost(error)
        else:
            self._tell(_failure(self._error or error))
            del self.wire

    def _end_handshake(self, *, failed: bool) -> None:
        """The deadline is connecting.py's."""


def _failure(error: Exception | None) -> str:
    if error is None:
        return "the connection was closed"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate is refused: {error.verify_message}"
    return str(getattr(error, "reason", None) or error)
