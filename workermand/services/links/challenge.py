"""Who knows the secret: HMAC-SHA256 over two nonces, both ways, before anything else is said. Pure.

The secret itself never travels. Each side signs both nonces with its own role in front, so that an answer cannot be
sent back to whom it came from; the client checks the server as well, or whoever took over its port would be told
everything. Without a secret on either side there is nothing to prove: door.py lets that happen on this machine only.

    client   HELLO version service
    server   CHALLENGE version nonce
    client   PROOF nonce hmac
    server   WELCOME hmac
"""

from __future__ import annotations

import hmac
import secrets
from typing import Any, Final

from workermand.services.links import wire
from workermand.services.links.errors import ServiceError, Unauthorized, Unreachable

NONCE: Final = 32
"""Bytes."""


def sign(secret: str, role: bytes, service: str, *nonces: bytes) -> bytes:
    """32 bytes. Every part has a length of its own before it: no two readings of one text."""
    parts = (role, service.encode(), *nonces)
    text = b"".join(len(part).to_bytes(2, "big") + part for part in parts)
    return hmac.digest(secret.encode(), text, "sha256")


class Asked:
    """The client's side of one connection."""

    def __init__(self, service: str, secret: str) -> None:
        self._service = service
        self._secret = secret
        self._nonces = (b"", b"")
        self._greeted = False
        self.is_done = False

    def hello(self) -> list[Any]:
        return [wire.HELLO, 0, wire.VERSION, self._service]

    def hear(self, message: list[Any]) -> list[Any] | None:
        """What to answer; None: nothing, look at ``is_done``. Raises Unreachable when it is another service that is
        there, Unauthorized, and ServiceError with the server's words or for what cannot be an answer."""
        match message:
            case [wire.FAIL, 0, str(words)]:
                raise Unauthorized(words) if self._greeted else Unreachable(words)
            case [wire.CHALLENGE, 0, int(version), bytes(nonce)]:
                return self._prove(version, nonce)
            case [wire.WELCOME, 0, bytes(proof)]:
                self._check(proof)
                return None
        raise ServiceError(f"what answers is no {self._service} server")

    def _prove(self, version: int, nonce: bytes) -> list[Any]:
        if version != wire.VERSION:
            raise ServiceError(f"the server speaks version {version} of {self._service}, this client {wire.VERSION}")
        if nonce and not self._secret:
            raise Unauthorized("the server asks for a secret: give the one of its options")
        self._greeted = True
        if not nonce:
            return [wire.PROOF, 0, b"", b""]
        self._nonces = (nonce, secrets.token_bytes(NONCE))
        return [wire.PROOF, 0, self._nonces[1], sign(self._secret, b"client", self._service, *self._nonces)]

    def _check(self, proof: bytes) -> None:
        """A server that asked for no secret proves nothing: no good for a client that has one."""
        if self._secret:
            expected = sign(self._secret, b"server", self._service, *self._nonces)
            if not (self._nonces[0] and hmac.compare_digest(proof, expected)):
                raise Unauthorized("the server does not know the secret: give it the same in its options")
        self.is_done = True


class Asking:
    """The server's side of one connection."""

    def __init__(self, service: str, secret: str) -> None:
        self._service = service
        self._secret = secret
        self._nonce = secrets.token_bytes(NONCE) if secret else b""
        self._greeted = False
        self.is_done = False

    def hear(self, message: list[Any]) -> list[Any]:
        """What to answer. Raises Unauthorized, ServiceError: the words go to the client, and it is closed."""
        match message:
            case [wire.HELLO, 0, int(version), str(service)] if not self._greeted:
                if (version, service) != (wire.VERSION, self._service):
                    raise ServiceError(
                        f"this is {self._service}, version {wire.VERSION}, not {service[:40]}, {version}"
                    )
                self._greeted = True
                return [wire.CHALLENGE, 0, wire.VERSION, self._nonce]
            case [wire.PROOF, 0, bytes(nonce), bytes(proof)] if self._greeted:
                return self._judge(nonce, proof)
        raise ServiceError(f"this is {self._service}: its client would have said hello")

    def _judge(self, nonce: bytes, proof: bytes) -> list[Any]:
        if not self._secret:
            self.is_done = True
            return [wire.WELCOME, 0, b""]
        expected = sign(self._secret, b"client", self._service, self._nonce, nonce)
        if len(nonce) != NONCE or not hmac.compare_digest(proof, expected):
            raise Unauthorized("wrong secret")
        self.is_done = True
        return [wire.WELCOME, 0, sign(self._secret, b"server", self._service, self._nonce, nonce)]
