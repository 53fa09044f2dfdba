"""Events of a gateway in PHP, as messages.py has them. Pure.

PHP has one kind of string: what is UTF-8 becomes str, whatever the client sent it as.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlencode

from workermand.services.gateway import messages, wire
from workermand.services.gateway.plans import as_dict
from workermand.services.gateway.wire import Package
from workermand.services.links.serialize import SerializeError


def read(package: Package, client_id: str, applied: int) -> list[Any]:
    """[EVENT, ...]. Raises SerializeError."""
    body: Any = None
    if package.command == messages.ON_MESSAGE:
        body = text(package.value)
    elif package.command == messages.ON_WEBSOCKET_CONNECT:
        body = handshake(package.value)
    origin = [wire.number_ip(package.client_ip), package.client_port, package.gateway_port]
    return [messages.EVENT, 0, package.command, client_id, body, package.extra, applied, origin]


def text(value: Any) -> Any:
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    return value


def handshake(value: Any) -> list[Any]:
    """[method, target, fields] of PHP's $_GET, $_SERVER and $_COOKIE."""
    if not isinstance(value, dict):
        raise SerializeError("a handshake that is none")
    server = as_dict(value.get("server"))
    target = server.get("REQUEST_URI")
    if not isinstance(target, (str, bytes)) or not target:
        target = "/?" + urlencode(as_dict(value.get("get")), doseq=True)
    fields = [_bytes(one) for pair in _fields(server) for one in pair]
    if "HTTP_COOKIE" not in server and (cookies := as_dict(value.get("cookie"))):
        pairs = (f"{name}={quote(_bytes(cookie))}" for name, cookie in cookies.items())
        fields += [b"cookie", "; ".join(pairs).encode()]
    return [str(server.get("REQUEST_METHOD") or "GET"), _bytes(target), fields]


def _fields(server: dict[Any, Any]) -> Iterator[tuple[str, Any]]:
    """Names and values of the headers."""
    for name, value in server.items():
        if isinstance(name, str) and isinstance(value, (str, bytes, int)):
            if name.startswith("HTTP_"):
                yield name.removeprefix("HTTP_").lower().replace("_", "-"), value
            elif name == "CONTENT_TYPE" and value:
                yield "content-type", value


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()
